#include "backend/tensorrt.h"

#include <unistd.h>

#include <fstream>

#include "model_fixture.h"
#include "temporary_folder.h"

namespace headrace::testing {
namespace {

class TensorRtTest : public BackendTest {
 protected:
  void SetUp() override {
    BackendTest::SetUp();
    plan_ = (folder_ / "model.plan").string();
    std::ofstream(plan_) << "an engine";
    const auto backend = open_backend("tensorrt", options_);
    ASSERT_TRUE(backend.ok()) << backend.status().to_string();
    backend_ = *backend;
    // A GPU number that no machine has: whatever the build, TensorRT cannot be had.
    session_.providers = {{"tensorrt", {{"device_id", "999"}}, true}};
    session_.stated.inputs = {{"x", DType::kFp32, {-1, 4}, {}}};
    session_.stated.outputs = {{"y", DType::kFp32, {-1, 4}, {}}};
  }

  TemporaryFolder folder_;
  std::string plan_;
  std::shared_ptr<Backend> backend_;
  SessionOptions session_;
};

TEST_F(TensorRtTest, WithoutTensorRtALoadSaysWhatIsMissingAndNeverFallsBack) {
  const auto session = backend_->load(plan_, folder_.string(), session_);
  ASSERT_FALSE(session.ok());
  EXPECT_EQ(session.status().code(), Code::kFailedPrecondition);
  const std::string words = session.status().message();
  EXPECT_EQ(words.rfind("Model file " + plan_ + " is a TensorRT engine, which runs on a GPU", 0), 0U) << words;
  EXPECT_NE(words.find("TensorRT: "), std::string::npos) << words;
}

TEST_F(TensorRtTest, WhatIsNotStatedIsAskedForBeforeAnyLibrary) {
  session_.stated = {};
  EXPECT_EQ(backend_->load(plan_, folder_.string(), session_).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(backend_->load((folder_ / "no").string(), folder_.string(), session_).status().code(),
            Code::kInvalidArgument);
}

TEST_F(TensorRtTest, ItsWeightsAreTheFile) {
  EXPECT_EQ(*backend_->weight_bytes(plan_, folder_.string()), 9U);
  EXPECT_FALSE(backend_->scales_with_threads());
  EXPECT_NE(backend_->version(), "");
}

}  // namespace
}  // namespace headrace::testing
