#include "backend/tensorrt.h"

#include <string>
#include <utility>

#include "backend/ort_library.h"
#include "backend/ort_options.h"
#include "backend/ort_providers.h"
#include "backend/ort_session.h"
#include "backend/ort_signature.h"
#include "backend/plan_model.h"

namespace headrace {

namespace {

using ort::Failure;

class TensorRt final : public Backend {
 public:
  TensorRt(ort::Library& library, const BackendOptions& options)
      : library_(library),
        receiver_{options.log_sink, options.log_context},
        threads_(options.threads),
        staging_bytes_(options.staging_bytes) {
    if (receiver_.sink != nullptr) library_.add_receiver(&receiver_);
  }
  ~TensorRt() override { library_.remove_receiver(&receiver_); }
  TensorRt(const TensorRt&) = delete;
  TensorRt& operator=(const TensorRt&) = delete;

  std::string_view name() const override { return "tensorrt"; }
  std::string version() const override { return library_.version(); }
  void give_back(bool all) override { library_.give_back(all); }
  std::map<std::string, PoolStats> staging() const override { return library_.staging().stats(); }

  Result<std::unique_ptr<Session>> load(const std::string& model_file, const std::string& /*model_dir*/,
                                        const SessionOptions& options) override {
    Result<std::string> model = plan_model(model_file, options.stated);
    if (!model) return model.status();

    const ort::Api api = library_.api();
    ort::OptionsHandle session_options(api);
    SessionOptions bare = options;
    bare.graph_optimization_level = 0;  // one node: there is nothing to gain, and large attributes to copy
    if (const Failure failure = ort::make_options(api, bare, threads_, session_options); failure)
      return internal_error("ONNX Runtime makes no options: " + failure.message);
    Provider provider{"tensorrt", {}, true};
    for (const Provider& given : options.providers)
      if (given.name == provider.name) provider = given;
    if (const std::string why = ort::add_provider(library_, provider, session_options.get()); !why.empty())
      return cannot(model_file, why);
    ort::SessionHandle session(api);
    const Failure failure =
        ort::take(api, api.call<ort::CreateSessionFromArray>(library_.env(), static_cast<const void*>(model->data()),
                                                             model->size(), session_options.get(), session.out()));
    if (failure) return cannot(model_file, failure.message);
    OnnxFile wrapper;
    for (const TensorSpec& input : options.stated.inputs) wrapper.inputs.insert(input.name);
    for (const TensorSpec& output : options.stated.outputs) wrapper.outputs.insert(output.name);
    Result<Signature> signature = ort::read_signature(library_, session.get(), wrapper, model_file);
    if (!signature) return signature.status();
    std::shared_ptr<Pool> staging =
        ort::staging_for(library_, session.get(), {&provider, 1}, provider.name, staging_bytes_);
    return make_ort_session(library_, std::move(session), std::move(*signature), wrapper, {provider.name, ""},
                            std::move(staging));
  }

 private:
  static Status cannot(const std::string& model_file, const std::string& why) {
    return {
        Code::kFailedPrecondition,
        "Model file " + model_file +
            " is a TensorRT engine, which runs on a GPU with TensorRT and nowhere else, and it cannot be run here: " +
            why};
  }

  ort::Library& library_;
  ort::LogReceiver receiver_;
  ThreadStarter* const threads_;
  const std::size_t staging_bytes_;
};

}  // namespace

Result<std::shared_ptr<Backend>> open_tensorrt(const BackendOptions& options) {
  Result<ort::Library*> library = ort::Library::open(options.onnxruntime_library);
  if (!library) return library.status();
  return std::shared_ptr<Backend>(std::make_shared<TensorRt>(**library, options));
}

}  // namespace headrace
