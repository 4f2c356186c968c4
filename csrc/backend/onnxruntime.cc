#include "backend/onnxruntime.h"

#include <string>
#include <utility>

#include "backend/onnx_file.h"
#include "backend/ort_library.h"
#include "backend/ort_options.h"
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
