#include "backend/ort_providers.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace headrace::ort {

namespace {

struct Source {
  std::string_view library;  // how its name begins
  std::string_view remedy;
};

// The packages put their libraries where the dynamic linker does not look by itself.
constexpr std::string_view kCuda =
    "pip install 'onnxruntime-gpu[cuda,cudnn]', and have the lib folders under nvidia/ in LD_LIBRARY_PATH";
constexpr std::string_view kTensorRt = "pip install tensorrt, and have its folder tensorrt_libs in LD_LIBRARY_PATH";

constexpr std::array kSources{
    Source{"libnvinfer", kTensorRt},
    Source{"libnvonnxparser", kTensorRt},
    Source{"libcublas", kCuda},
    Source{"libcudnn", kCuda},
    Source{"libcudart", kCuda},
    Source{"libcufft", kCuda},
    Source{"libcurand", kCuda},
    Source{"libnvrtc", kCuda},
    Source{"libnvJitLink", kCuda},
    Source{"libcuda.", "it comes with NVIDIA's driver"},
    Source{"libonnxruntime_providers_", "pip install headrace[gpu] (in place of headrace[cpu])"},
};

bool of_a_name(char letter) {
  return std::isalnum(static_cast<unsigned char>(letter)) != 0 || letter == '.' || letter == '_' || letter == '-' ||
         letter == '+';
}

// By our names; the runtime's are these with "ExecutionProvider".
struct Known {
  std::string_view name;
  std::string_view runtimes;
  std::string_view people;
};
constexpr std::array kKnown{Known{"tensorrt", "TensorrtExecutionProvider", "TensorRT"},
                            Known{"cuda", "CUDAExecutionProvider", "CUDA"},
                            Known{"cpu", "CPUExecutionProvider", "the CPU"}};

// One set of options for every provider that has such an object.
template <class Options, class Create, class Update, class Append, class Release>
Failure append(Api api, const Provider& provider, SessionOptions* options) {
  Owned<Options, Release> own(api);
  Failure failure = take(api, api.call<Create>(own.out()));
  std::vector<const char*> keys;
  std::vector<const char*> values;
  for (const auto& [key, value] : provider.options) {
    keys.push_back(key.c_str());
    values.push_back(value.c_str());
  }
  if (!failure && !keys.empty()) {
    failure = take(api, api.call<Update>(own.get(), static_cast<const char* const*>(keys.data()),
                                         static_cast<const char* const*>(values.data()), keys.size()));
  }
  if (!failure) failure = take(api, api.call<Append>(options, static_cast<const Options*>(own.get())));
  return failure;
}

}  // namespace

std::string missing_library(std::string_view message) {
  // The last one that is named: what cannot be opened is named after what needs it.
  std::string_view found;
  for (std::size_t at = message.find("lib"); at != std::string_view::npos; at = message.find("lib", at + 1)) {
    if (at != 0 && of_a_name(message[at - 1])) continue;
    std::size_t end = at;
    while (end < message.size() && of_a_name(message[end])) ++end;
    while (end > at && message[end - 1] == '.') --end;
    const std::string_view name = message.substr(at, end - at);
    if (name.find(".so") == std::string_view::npos) continue;
    if (message.substr(end).rfind(": cannot open", 0) == 0) found = name;
  }
  if (found.empty()) return {};
  std::string text = std::string(found) + " is missing";
  for (const Source& source : kSources) {
    if (found.rfind(source.library, 0) == 0) return text + ": " + std::string(source.remedy);
  }
  return text;
}

std::vector<std::string> available_providers(Api api) {
  std::vector<std::string> names;
  char** providers = nullptr;
  int count = 0;
  if (take(api, api.call<GetAvailableProviders>(&providers, &count))) return names;
  const std::span<char* const> all(providers, static_cast<std::size_t>(count));
  for (const Known& known : kKnown) {
    if (std::any_of(all.begin(), all.end(), [&](const char* name) { return known.runtimes == name; }))
      names.emplace_back(known.name);
  }
  static_cast<void>(take(api, api.call<ReleaseAvailableProviders>(providers, count)));
  return names;
}

std::string add_provider(const Library& library, const Provider& provider, SessionOptions* options) {
  const auto known =
      std::find_if(kKnown.begin(), kKnown.end(), [&](const Known& row) { return row.name == provider.name; });
  if (known == kKnown.end() || provider.name == "cpu") return "there is no provider '" + provider.name + "'";
  const std::string people(known->people);
  const std::vector<std::string> available = available_providers(library.api());
  if (std::find(available.begin(), available.end(), provider.name) == available.end()) {
    return people + ": ONNX Runtime " + library.version() +
           " is a build without it: pip uninstall onnxruntime, then pip install headrace[gpu]";
  }
  const Failure failure =
      provider.name == "cuda"
          ? append<CudaOptions, CreateCudaProviderOptions, UpdateCudaProviderOptions, AppendCudaProvider,
                   ReleaseCudaProviderOptions>(library.api(), provider, options)
          : append<TensorRtOptions, CreateTensorRtProviderOptions, UpdateTensorRtProviderOptions,
                   AppendTensorRtProvider, ReleaseTensorRtProviderOptions>(library.api(), provider, options);
  if (!failure) return {};
  const std::string missing = missing_library(failure.message);
  return people + ": " + (missing.empty() ? failure.message : missing);
}

}  // namespace headrace::ort
