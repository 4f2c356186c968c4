#include "backend/ort_providers.h"

#include <algorithm>

#include "model_fixture.h"

namespace headrace::testing {
namespace {

using ort::missing_library;

TEST(MissingLibraryTest, NamesWhatCannotBeOpenedAndItsPackage) {
  // As ONNX Runtime 1.31 says it on a machine without CUDA.
  const std::string cuda = missing_library(
      "/onnxruntime_src/provider_bridge_ort.cc:2272 Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
      "/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open "
      "shared object file: No such file or directory");
  EXPECT_EQ(cuda.rfind("libcublasLt.so.13 is missing: pip install 'onnxruntime-gpu[cuda,cudnn]'", 0), 0U) << cuda;
  const std::string tensorrt = missing_library("libnvinfer.so.10: cannot open shared object file");
  EXPECT_EQ(tensorrt.rfind("libnvinfer.so.10 is missing: pip install tensorrt", 0), 0U) << tensorrt;
  EXPECT_EQ(missing_library("libcuda.so.1: cannot open shared object file"),
            "libcuda.so.1 is missing: it comes with NVIDIA's driver");
  EXPECT_EQ(missing_library("/a/libother-1+2.so.3: cannot open shared object file"), "libother-1+2.so.3 is missing");
}

TEST(MissingLibraryTest, OtherMessagesNameNone) {
  for (const char* message : {"", "no CUDA-capable device is detected", "libcublas.so.12: version mismatch",
                              "glib.so: cannot open", "lib", "library: cannot open"}) {
    EXPECT_EQ(missing_library(message), "") << message;
  }
}

class ProvidersTest : public BackendTest {
 protected:
  static SessionOptions on(std::vector<Provider> providers, bool strict = false) {
    SessionOptions made;
    made.providers = std::move(providers);
    made.strict_providers = strict;
    return made;
  }
  bool built_with(const std::string& provider) {
    const auto library = ort::Library::open(options_.onnxruntime_library);
    EXPECT_TRUE(library.ok());
    const auto names = ort::available_providers((*library)->api());
    EXPECT_NE(std::find(names.begin(), names.end(), "cpu"), names.end());
    return std::find(names.begin(), names.end(), provider) != names.end();
  }
};

TEST_F(ProvidersTest, WithoutAChainASessionRunsOnTheCpu) {
  const auto session = load("mlp");
  EXPECT_EQ(session->placement(), (Placement{"cpu", ""}));
}

// A GPU number that no machine has: whatever the build, CUDA cannot be had.
TEST_F(ProvidersTest, FallsBackAndSaysWhy) {
  const Provider cuda{"cuda", {{"device_id", "999"}}, true};
  const auto session = load("mlp", on({cuda}));
  EXPECT_EQ(session->placement().provider, "cpu");
  EXPECT_EQ(session->placement().note.rfind("CUDA: ", 0), 0U) << session->placement().note;
  EXPECT_TRUE(built_with("cuda") || session->placement().note.find("pip install headrace[gpu]") != std::string::npos);
  const Provider tensorrt{"tensorrt", {{"device_id", "999"}}, true};
  const auto chain = load("mlp", on({tensorrt, cuda}));
  EXPECT_EQ(chain->placement().provider, "cpu");
  EXPECT_NE(chain->placement().note.find("TensorRT: "), std::string::npos);
  EXPECT_NE(chain->placement().note.find("; CUDA: "), std::string::npos);
  EXPECT_EQ(answers(*chain, {tensor<float>({1, 64}, std::vector<float>(64, 1))}).size(), 1U) << "and it is served";
}

TEST_F(ProvidersTest, StrictIsAnErrorInsteadThatNamesThePackage) {
  const auto session = load_file(model_file("mlp"), on({{"cuda", {{"device_id", "999"}}, true}}, true));
  ASSERT_FALSE(session.ok());
  EXPECT_EQ(session.status().code(), Code::kFailedPrecondition);
  EXPECT_NE(session.status().message().find("is not to run elsewhere: CUDA: "), std::string::npos);
}

TEST_F(ProvidersTest, ADefaultIsMissedOnlyInABuildThatHasIt) {
  const Provider cuda{"cuda", {{"device_id", "999"}}, false};
  EXPECT_EQ(load("mlp", on({cuda}))->placement().note.empty(), !built_with("cuda"));
}

TEST_F(ProvidersTest, AnUnknownProviderIsNamed) {
  EXPECT_EQ(load("mlp", on({{"npu", {}, true}}))->placement().note, "there is no provider 'npu'");
}

}  // namespace
}  // namespace headrace::testing
