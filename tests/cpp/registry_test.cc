#include "backend/registry.h"

#include <gtest/gtest.h>

#include "model_fixture.h"

namespace headrace::testing {
namespace {

class RegistryTest : public BackendTest {};

TEST_F(RegistryTest, EveryRowOpensUnderItsOwnName) {
  ASSERT_EQ(backend_names(), (std::vector<std::string_view>{"onnxruntime", "echo", "tensorrt"}));
  for (const std::string_view name : backend_names()) {
    const auto backend = open_backend(name, options_);
    ASSERT_TRUE(backend.ok()) << backend.status().to_string();
    EXPECT_EQ((*backend)->name(), name);
  }
}

TEST_F(RegistryTest, AnUnknownNameListsTheKnownOnes) {
  const auto backend = open_backend("tensorflow", options_);
  EXPECT_EQ(backend.status().code(), Code::kNotFound);
  EXPECT_EQ(
      backend.status().message(),
      "There is no backend 'tensorflow'; the known ones are: onnxruntime, echo, tensorrt (config.pbtxt: backend).");
}

TEST_F(RegistryTest, VersionsAreTheRuntimesOwn) {
  EXPECT_NE((*open_backend("onnxruntime", options_))->version(), "");
  EXPECT_EQ((*open_backend("echo", options_))->version(), "");
}

}  // namespace
}  // namespace headrace::testing
