// ONNX Runtime as a Backend: see ort_library for the library, ort_signature for what a model says of itself,
// ort_session for a run.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "backend/registry.h"
#include "base/error.h"

namespace headrace {

Result<std::shared_ptr<Backend>> open_onnxruntime(const BackendOptions& options);

}  // namespace headrace
