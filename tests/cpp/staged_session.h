// A session of ONNX Runtime with staging, where there is no GPU: it runs on the CPU, and its staging is memory of its
// own allocator, as a GPU's is. All is as there but the name of the memory.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "backend/onnx_file.h"
#include "backend/ort_library.h"
#include "backend/ort_options.h"
#include "backend/ort_session.h"
#include "backend/ort_signature.h"
#include "backend/ort_staging.h"

namespace headrace::testing {

inline constexpr ort::MemoryKind kCpuMemory{"Cpu", ort::kDefaultMemory};

inline ort::Failure open_plain_session(const ort::Library& library, const std::string& file, ort::SessionHandle& out) {
  ort::OptionsHandle options(library.api());
  ort::Failure failure = ort::make_options(library.api(), {}, nullptr, options);
  if (failure) return failure;
  return ort::take(library.api(),
                   library.api().call<ort::CreateSession>(
                       library.env(), file.c_str(), static_cast<const ort::SessionOptions*>(options.get()), out.out()));
}

// `gpu`: whose pool it shares.
inline Result<std::unique_ptr<Session>> load_staged(const ort::Library& library, const std::string& file, int gpu,
                                                    std::size_t bytes) {
  ort::SessionHandle session(library.api());
  if (const ort::Failure failure = open_plain_session(library, file, session); failure)
    return internal_error(failure.message);
  Result<OnnxFile> parsed = read_onnx_file(file);
  if (!parsed) return parsed.status();
  Result<Signature> signature = ort::read_signature(library, session.get(), *parsed, file);
  if (!signature) return signature.status();
  std::string why;
  std::shared_ptr<Pool> staging = library.staging().of(gpu, session.get(), bytes, why, kCpuMemory);
  if (staging == nullptr) return internal_error(why);
  return make_ort_session(library, std::move(session), std::move(*signature), *parsed, {"cuda", ""},
                          std::move(staging));
}

}  // namespace headrace::testing
