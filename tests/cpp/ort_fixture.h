// What tests of ONNX Runtime's own parts share: the library, opened.
#pragma once

#include "backend/ort_library.h"
#include "model_fixture.h"

namespace headrace::testing {

class OrtTest : public BackendTest {
 protected:
  void SetUp() override {
    BackendTest::SetUp();
    if (HasFatalFailure()) return;
    const auto opened = ort::Library::open(options_.onnxruntime_library);
    ASSERT_TRUE(opened.ok()) << opened.status().to_string();
    library_ = *opened;
  }

  ort::Library* library_ = nullptr;
};

}  // namespace headrace::testing
