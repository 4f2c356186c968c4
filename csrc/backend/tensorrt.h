// Ready-made TensorRT engines (`.plan` files), run by ONNX Runtime's TensorRT provider. They run on the GPU for which
// they were built and nowhere else: there is no falling back.
#pragma once

#include <memory>

#include "backend/registry.h"

namespace headrace {

// FAILED_PRECONDITION without ONNX Runtime. A load without TensorRT is FAILED_PRECONDITION too, and names the library
// that is missing.
Result<std::shared_ptr<Backend>> open_tensorrt(const BackendOptions& options);

}  // namespace headrace
