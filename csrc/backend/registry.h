// The table of runtimes: one row each, no plugin loader.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace headrace {

struct BackendOptions {
  ThreadStarter* threads = nullptr;  // outlives the backend; null: the runtime starts its own
  std::string onnxruntime_library;   // absolute path of libonnxruntime.so.*; "" when the package is not installed
  LogSink log_sink = nullptr;
  void* log_context = nullptr;
  std::size_t staging_bytes = std::size_t{256} << 20;  // most page-locked memory for each GPU; 0: none
};

// Opens the backend `name` ("onnxruntime", "echo", "tensorrt"). A missing runtime is FAILED_PRECONDITION and names the
// package that provides it (`pip install headrace[cpu]`); an unknown name is NOT_FOUND and lists the known ones.
Result<std::shared_ptr<Backend>> open_backend(std::string_view name, const BackendOptions& options);
std::vector<std::string_view> backend_names();

}  // namespace headrace
