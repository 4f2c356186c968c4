#include "backend/onnxruntime.h"

#include <string>
#include <utility>

#include "backend/onnx_file.h"
#include "backend/ort_library.h"
#include "backend/ort_providers.h"
#include "backend/ort_session.h"
#include "backend/ort_signature.h"

namespace headrace {

namespace {

using ort::Failure;
using ort::take;

Status load_error(const std::string& model_file, const Failure& failure) {
  Code code = Code::kInvalidArgument;
  if (failure.code == ort::Error::kNoSuchFile) code = Code::kNotFound;
  if (failure.code == ort::Error::kNotImplemented) code = Code::kUnimplemented;
  return {code, "Model file " + model_file + " cannot be loaded: " + failure.message};
}

Failure apply(ort::Api api, const SessionOptions& options, ort::SessionOptions* out) {
  Failure failure = take(api, api.call<ort::SetIntraOpNumThreads>(out, options.intra_op_threads));
  if (!failure) failure = take(api, api.call<ort::SetInterOpNumThreads>(out, options.inter_op_threads));
  if (!failure) failure = take(api, api.call<ort::SetSessionExecutionMode>(out, options.parallel_execution ? 1 : 0));
  if (!failure)
    failure = take(api, api.call<ort::SetSessionGraphOptimizationLevel>(out, options.graph_optimization_level));
  if (!failure)
    failure = take(
        api, options.memory_arena ? api.call<ort::EnableCpuMemArena>(out) : api.call<ort::DisableCpuMemArena>(out));
  if (!failure)
    failure = take(
        api, options.memory_pattern ? api.call<ort::EnableMemPattern>(out) : api.call<ort::DisableMemPattern>(out));
  // An idle pool that spins takes the cores from the lanes and loops beside it.
  std::map<std::string, std::string> entries{{"session.intra_op.allow_spinning", "0"},
                                             {"session.inter_op.allow_spinning", "0"}};
  for (const auto& [key, value] : options.config_entries) entries[key] = value;
  for (const auto& [key, value] : entries) {
    if (failure) break;
    failure = take(api, api.call<ort::AddSessionConfigEntry>(out, key.c_str(), value.c_str()));
  }
  return failure;
}

void* start_thread(void* starter, void (*body)(void*), void* argument) {
  return static_cast<ThreadStarter*>(starter)->start(body, argument).release();
}

void join_thread(void* thread) {
  const std::unique_ptr<StartedThread> started(static_cast<StartedThread*>(thread));
  if (started != nullptr) started->join();
}

Failure start_by(ort::Api api, ThreadStarter* starter, ort::SessionOptions* out) {
  if (starter == nullptr) return {};
  Failure failure = take(api, api.call<ort::SetCustomCreateThread>(out, &start_thread));
  if (!failure) failure = take(api, api.call<ort::SetCustomThreadOptions>(out, static_cast<void*>(starter)));
  if (!failure) failure = take(api, api.call<ort::SetCustomJoinThread>(out, &join_thread));
  return failure;
}

class OnnxRuntime final : public Backend {
 public:
  OnnxRuntime(ort::Library& library, ort::LogReceiver receiver, ThreadStarter* threads)
      : library_(library), receiver_(receiver), threads_(threads) {
    if (receiver_.sink != nullptr) library_.add_receiver(&receiver_);
  }
  ~OnnxRuntime() override { library_.remove_receiver(&receiver_); }
  OnnxRuntime(const OnnxRuntime&) = delete;
  OnnxRuntime& operator=(const OnnxRuntime&) = delete;

  std::string_view name() const override { return "onnxruntime"; }
  std::string version() const override { return library_.version(); }
  bool scales_with_threads() const override { return true; }

  Result<std::unique_ptr<Session>> load(const std::string& model_file, const std::string& model_dir,
                                        const SessionOptions& options) override {
    Result<OnnxFile> file = read_onnx_file(model_file);
    if (!file) return file.status();
    if (Status checked = check_external_data(*file, model_file, model_dir); !checked.ok()) return checked;

    ort::SessionHandle session(library_.api());
    Placement placement;
    if (Status created = create(model_file, options, session, placement); !created.ok()) return created;
    Result<Signature> signature = ort::read_signature(library_, session.get(), *file, model_file);
    if (!signature) return signature.status();
    return make_ort_session(library_, std::move(session), std::move(*signature), *file, std::move(placement));
  }

 private:
  // With as many of the providers as can be had: one that the runtime cannot open is left out, and where a session
  // cannot be made with the rest, the best of these too, until only the CPU is left.
  Status create(const std::string& model_file, const SessionOptions& options, ort::SessionHandle& session,
                Placement& placement) const {
    const ort::Api api = library_.api();
    for (std::size_t first = 0; first <= options.providers.size(); ++first) {
      ort::Owned<ort::SessionOptions, ort::ReleaseSessionOptions> session_options(api);
      Failure failure = take(api, api.call<ort::CreateSessionOptions>(session_options.out()));
      if (!failure) failure = apply(api, options, session_options.get());
      if (!failure) failure = start_by(api, threads_, session_options.get());
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

  static void note(const Provider& provider, const std::string& why, Placement& placement) {
    // A default is missed only where the runtime was built for it.
    if (!provider.asked_for && why.find("is a build without it") != std::string::npos) return;
    if (placement.note.find(why) != std::string::npos) return;
    placement.note += (placement.note.empty() ? "" : "; ") + why;
  }

  ort::Library& library_;
  ort::LogReceiver receiver_;
  ThreadStarter* const threads_;
};

}  // namespace

Result<std::shared_ptr<Backend>> open_onnxruntime(const BackendOptions& options) {
  Result<ort::Library*> library = ort::Library::open(options.onnxruntime_library);
  if (!library) return library.status();
  return std::shared_ptr<Backend>(std::make_shared<OnnxRuntime>(
      **library, ort::LogReceiver{options.log_sink, options.log_context}, options.threads));
}

}  // namespace headrace
