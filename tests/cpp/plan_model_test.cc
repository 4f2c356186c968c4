#include "backend/plan_model.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "backend/onnx_file.h"
#include "backend/ort_options.h"
#include "backend/ort_session.h"
#include "backend/ort_signature.h"
#include "model_fixture.h"
#include "temporary_folder.h"

namespace headrace::testing {
namespace {

namespace fs = std::filesystem;

class PlanModelTest : public BackendTest {
 protected:
  std::string write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return (folder_ / name).string();
  }
  static Signature stated() {
    Signature signature;
    signature.inputs = {{"x", DType::kFp32, {-1, 3, 224}, {"batch", "", ""}}, {"mask", DType::kInt64, {-1, -1}, {}}};
    signature.outputs = {{"y", DType::kFp16, {-1, 10}, {"batch", ""}}};
    return signature;
  }

  TemporaryFolder folder_;
};

TEST_F(PlanModelTest, IsAnOnnxModelThatHoldsTheEngine) {
  std::string engine = "engine";
  for (int i = 0; i < 100'000; ++i) engine.push_back(static_cast<char>(i * 31));
  const Result<std::string> model = plan_model(write("model.plan", engine), stated());
  ASSERT_TRUE(model.ok()) << model.status().to_string();
  EXPECT_NE(model->find(engine), std::string::npos) << "byte for byte";
  const Result<OnnxFile> file = read_onnx_file(write("model.onnx", *model));
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ(file->inputs, (std::set<std::string>{"x", "mask"}));
  EXPECT_EQ(file->outputs, (std::set<std::string>{"y"}));
  EXPECT_TRUE(file->external.empty());
  EXPECT_TRUE(file->unranked.empty());
}

// The runtime takes the model in, checks the node against the operator's own schema, and finds that the CPU does not
// have it: all that can be seen without TensorRT.
TEST_F(PlanModelTest, TheRuntimeKnowsTheNodeAndOnlyLacksWhoRunsIt) {
  const Result<std::string> model = plan_model(write("model.plan", "engine"), stated());
  ASSERT_TRUE(model.ok());
  const auto library = ort::Library::open(options_.onnxruntime_library);
  ASSERT_TRUE(library.ok());
  const ort::Api api = (*library)->api();
  ort::OptionsHandle options(api);
  ASSERT_FALSE(ort::make_options(api, {}, nullptr, options));
  ort::SessionHandle session(api);
  const ort::Failure failure =
      ort::take(api, api.call<ort::CreateSessionFromArray>((*library)->env(), static_cast<const void*>(model->data()),
                                                           model->size(), options.get(), session.out()));
  EXPECT_NE(failure.message.find("EPContext"), std::string::npos) << failure.message;
  EXPECT_NE(failure.message.find("ExecutionProvider"), std::string::npos) << failure.message;
}

TEST_F(PlanModelTest, WhatCannotBeWrappedIsNamed) {
  const std::string plan = write("model.plan", "engine");
  EXPECT_EQ(plan_model((folder_ / "no.plan").string(), stated()).status().code(), Code::kNotFound);
  EXPECT_EQ(plan_model(folder_.string(), stated()).status().code(), Code::kInvalidArgument);
  const Status empty = plan_model(write("empty.plan", ""), stated()).status();
  EXPECT_NE(empty.message().find("is empty"), std::string::npos) << empty.to_string();
  const Status silent = plan_model(plan, {}).status();
  EXPECT_EQ(silent.code(), Code::kInvalidArgument);
  EXPECT_NE(silent.message().find("write its inputs and outputs"), std::string::npos) << silent.to_string();
  Signature text = stated();
  text.outputs[0].dtype = DType::kBytes;
  const Status wrong = plan_model(plan, text).status();
  EXPECT_NE(wrong.message().find("'y' has datatype BYTES, which TensorRT lacks"), std::string::npos)
      << wrong.to_string();
}

TEST_F(PlanModelTest, WhatIsTooLargeForOneMessageIsRefusedUnread) {
  const std::string large = write("large.plan", "engine");
  std::error_code error;
  fs::resize_file(large, std::uintmax_t{2} << 30, error);  // a hole: it takes no room
  ASSERT_FALSE(error) << error.message();
  const Status status = plan_model(large, stated()).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("has 2147483648 bytes"), std::string::npos) << status.to_string();
}

}  // namespace
}  // namespace headrace::testing
