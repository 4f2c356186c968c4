#include "backend/onnxruntime.h"

#include <sys/mman.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "backend/descriptor.h"
#include "backend/onnx_file.h"
#include "backend/ort_library.h"
#include "backend/ort_options.h"
#include "backend/ort_providers.h"
#include "backend/ort_session.h"
#include "backend/ort_signature.h"
#include "memory/process_memory.h"

namespace headrace {

namespace {

// Models of at least so many bytes are worth it, and the runtime writes no optimized model of 2 GiB.
constexpr std::uint64_t kFewestShared = std::uint64_t{1} << 20;
constexpr std::uint64_t kMostShared = std::uint64_t{1900} << 20;

using ort::Failure;
using ort::take;

Status load_error(const std::string& model_file, const Failure& failure) {
  Code code = Code::kInvalidArgument;
  if (failure.code == ort::Error::kNoSuchFile) code = Code::kNotFound;
  if (failure.code == ort::Error::kNotImplemented) code = Code::kUnimplemented;
  return {code, "Model file " + model_file + " cannot be loaded: " + failure.message};
}

// Of the model file and of what it refers to.
std::uint64_t bytes_on_disk(const std::string& model_file, const OnnxFile& file) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::uint64_t bytes = fs::file_size(model_file, error);
  if (error) return 0;
  for (const ExternalData& data : file.external) {
    std::uint64_t length = data.length;
    if (length == 0) {  // to the end of its file
      const std::uintmax_t size = fs::file_size(fs::path(model_file).parent_path() / data.location, error);
      if (!error && size > data.offset) length = size - data.offset;
    }
    bytes += length;
  }
  return bytes;
}

class OnnxRuntime final : public Backend {
 public:
  OnnxRuntime(ort::Library& library, const BackendOptions& options)
      : library_(library),
        receiver_{options.log_sink, options.log_context},
        threads_(options.threads),
        staging_bytes_(options.staging_bytes) {
    if (receiver_.sink != nullptr) library_.add_receiver(&receiver_);
  }
  ~OnnxRuntime() override { library_.remove_receiver(&receiver_); }
  OnnxRuntime(const OnnxRuntime&) = delete;
  OnnxRuntime& operator=(const OnnxRuntime&) = delete;

  std::string_view name() const override { return "onnxruntime"; }
  std::string version() const override { return library_.version(); }
  bool scales_with_threads() const override { return true; }
  void give_back(bool all) override { library_.give_back(all); }
  std::map<std::string, PoolStats> staging() const override { return library_.staging().stats(); }
  Result<std::uint64_t> weight_bytes(const std::string& model_file, const std::string& /*model_dir*/) override {
    const Result<OnnxFile> file = read_onnx_file(model_file);
    return file ? bytes_on_disk(model_file, *file) : std::uint64_t{0};  // load says what is wrong with it
  }

  Result<std::unique_ptr<Session>> load(const std::string& model_file, const std::string& model_dir,
                                        const SessionOptions& options) override {
    Result<OnnxFile> file = read_onnx_file(model_file);
    if (!file) return file.status();
    if (Status checked = check_external_data(*file, model_file, model_dir); !checked.ok()) return checked;
    if (options.share_weights && can_share(model_file, *file, options)) {
      // What goes wrong here goes wrong below too, with its own words, or is only of the sharing.
      if (Result<std::unique_ptr<Session>> shared = load_shared(model_file, *file, options); shared) return shared;
    }

    ort::SessionHandle session(library_.api());
    Placement placement;
    if (Status created = create(model_file, options, session, placement); !created.ok()) return created;
    Result<Signature> signature = ort::read_signature(library_, session.get(), *file, model_file);
    if (!signature) return signature.status();
    std::shared_ptr<Pool> staging =
        ort::staging_for(library_, session.get(), options.providers, placement.provider, staging_bytes_);
    return make_ort_session(library_, std::move(session), std::move(*signature), *file, std::move(placement),
                            std::move(staging));
  }

 private:
  // With as many of the providers as can be had: one that the runtime cannot open is left out, and where a session
  // cannot be made with the rest, the best of these too, until only the CPU is left.
  Status create(const std::string& model_file, const SessionOptions& options, ort::SessionHandle& session,
                Placement& placement) const {
    const ort::Api api = library_.api();
    for (std::size_t first = 0; first <= options.providers.size(); ++first) {
      ort::OptionsHandle session_options(api);
      Failure failure = ort::make_options(api, options, threads_, session_options);
      if (failure) return load_error(model_file, failure);
      placement.provider = "cpu";
      for (std::size_t i = first; i < options.providers.size(); ++i) {
        const Provider& provider = options.providers[i];
        const std::string why = ort::add_provider(library_, provider, session_options.get());
        if (why.empty()) {
          if (placement.provider == "cpu") placement.provider = provider.name;
        } else {
          note(provider, why, placement);
        }
      }
      if (options.strict_providers && !placement.note.empty())
        return {Code::kFailedPrecondition, "Model file " + model_file + " is not to run elsewhere: " + placement.note};
      if (placement.provider == "cpu") failure = ort::use_session_memory(library_, options, session_options.get());
      if (failure) return load_error(model_file, failure);
      failure = take(
          api, api.call<ort::CreateSession>(library_.env(), model_file.c_str(), session_options.get(), session.out()));
      if (!failure) return {};
      if (placement.provider == "cpu") return load_error(model_file, failure);
      while (options.providers[first].name != placement.provider) ++first;
      note(options.providers[first], failure.message, placement);
      if (options.strict_providers)
        return {Code::kFailedPrecondition, "Model file " + model_file + " is not to run elsewhere: " + placement.note};
    }
    return {};
  }

  bool can_share(const std::string& model_file, const OnnxFile& file, const SessionOptions& options) const {
    const std::vector<std::string> available = ort::available_providers(library_.api());
    for (const Provider& provider : options.providers)
      if (provider.asked_for || std::find(available.begin(), available.end(), provider.name) != available.end())
        return false;
    const std::uint64_t bytes = bytes_on_disk(model_file, file);
    return bytes >= kFewestShared && bytes <= kMostShared;
  }

  // The session of the model that the runtime's optimizer makes of this one.
  Result<std::unique_ptr<Session>> load_shared(const std::string& model_file, const OnnxFile& file,
                                               const SessionOptions& options) const {
    const ort::Api api = library_.api();
    const Descriptor optimized(::memfd_create("headrace-model", MFD_CLOEXEC));
    if (optimized.get() < 0) return resource_exhausted("no memory file can be made for an optimized model");
    const std::string path = "/proc/self/fd/" + std::to_string(optimized.get());
    Result<Signature> signature = optimize(model_file, file, options, path);
    if (!signature) return signature.status();
    release_heap();  // of the optimizer's session, before as much is needed again
    const Result<OnnxFile> weights = read_onnx_file(path);
    if (!weights) return weights.status();

    SessionOptions as_it_is = options;
    as_it_is.graph_optimization_level = 0;
    auto loan = std::make_unique<ort::SharedWeights::Loan>(library_.weights());
    ort::OptionsHandle session_options(api);
    Failure failure = ort::make_options(api, as_it_is, threads_, session_options);
    if (!failure) failure = ort::use_session_memory(library_, options, session_options.get());
    if (failure) return load_error(model_file, failure);
    if (Status added = loan->add(optimized.get(), *weights, session_options.get()); !added.ok()) return added;
    ort::SessionHandle session(api);
    failure = take(api, api.call<ort::CreateSessionWithPackedWeights>(
                            library_.env(), path.c_str(), session_options.get(), loan->packed(), session.out()));
    if (failure) return load_error(model_file, failure);
    loan->settle();
    return make_ort_session(library_, std::move(session), std::move(*signature), file, Placement{}, nullptr,
                            std::move(loan));
  }

  // Writes the optimized model to `path`. What the model says of itself is read before the optimizer's writing it.
  Result<Signature> optimize(const std::string& model_file, const OnnxFile& file, const SessionOptions& options,
                             const std::string& path) const {
    const ort::Api api = library_.api();
    SessionOptions once = options;
    once.intra_op_threads = once.inter_op_threads = 1;
    once.parallel_execution = false;
    once.config_entries["session.disable_prepacking"] = "1";
    ort::OptionsHandle session_options(api);
    Failure failure = ort::make_options(api, once, threads_, session_options);
    if (!failure) failure = take(api, api.call<ort::SetOptimizedModelFilePath>(session_options.get(), path.c_str()));
    // That such a model is only for this machine is no news here.
    if (!failure) {
      failure = take(api, api.call<ort::SetSessionLogSeverityLevel>(session_options.get(),
                                                                    static_cast<int>(ort::LogSeverity::kError)));
    }
    ort::SessionHandle session(api);
    if (!failure) {
      failure = take(
          api, api.call<ort::CreateSession>(library_.env(), model_file.c_str(), session_options.get(), session.out()));
    }
    if (failure) return load_error(model_file, failure);
    return ort::read_signature(library_, session.get(), file, model_file);
  }

  static void note(const Provider& provider, const std::string& why, Placement& placement) {
    // A default is missed only where the runtime was built for it.
    if (!provider.asked_for && why.find("is a build without it") != std::string::npos) return;
    if (placement.note.find(why) != std::string::npos) return;
    placement.note += (placement.note.empty() ? "" : "; ") + why;
  }

  ort::Library& library_;
  ort::LogReceiver receiver_;
  ThreadStarter* const threads_;
  const std::size_t staging_bytes_;
};

}  // namespace

Result<std::shared_ptr<Backend>> open_onnxruntime(const BackendOptions& options) {
  Result<ort::Library*> library = ort::Library::open(options.onnxruntime_library);
  if (!library) return library.status();
  return std::shared_ptr<Backend>(std::make_shared<OnnxRuntime>(**library, options));
}

}  // namespace headrace
