// An ONNX model around a TensorRT engine: one node, EPContext of the domain com.microsoft, that holds the engine's
// bytes. This is ONNX Runtime's own way of handing a provider what was compiled before (onnxruntime.ai, "EP context
// design"). An engine does not say without TensorRT what it takes and gives, so that must be stated.
#pragma once

#include <string>

#include "backend/backend.h"
#include "base/error.h"

namespace headrace {

// The serialized model. NOT_FOUND: no such file. INVALID_ARGUMENT names the file: it is no regular file, empty, or over
// what one protobuf message can hold (2 GiB); nothing is stated; a tensor has a type that TensorRT lacks.
Result<std::string> plan_model(const std::string& plan_file, const Signature& stated);

}  // namespace headrace
