// Where a session of ONNX Runtime runs: the providers that were asked for, in order, and what of them can be had here.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "backend/ort_library.h"

namespace headrace::ort {

// What a message of the dynamic linker or of the runtime says is missing, and where it comes from; "" when it names no
// library: "libnvinfer.so.10 is missing: pip install tensorrt, ...".
std::string missing_library(std::string_view message);

// The providers of this build, by our names, and with the CPU: "cuda", "tensorrt", "cpu".
std::vector<std::string> available_providers(Api api);

// Adds the provider to the options of a session. "": done; else one clause that says why it cannot be had, and what to
// install.
std::string add_provider(const Library& library, const Provider& provider, SessionOptions* options);

}  // namespace headrace::ort
