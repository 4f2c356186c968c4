#include "front/http_decoder.h"

#include <string>

#include "front/request_decoder.h"
#include "wire/grpc_web.h"

namespace headrace {
namespace {

class JsonSource final : public RequestSource {
 public:
  JsonSource(const wire::InferRequest& request, const Block& block, InflightBudget::Charge& charge, bool raw)
      : RequestSource(request, block, charge), raw_(raw) {}
  Result<Tensor> convert(std::size_t place, DType dtype, std::size_t elements, Pool& pool) const override {
    const wire::WireInput& input = request().inputs[place];
    return raw_ ? wire::convert_raw_string(input, pool) : wire::convert_json_data(input, dtype, elements, pool);
  }

 private:
  bool raw_;
};

// The tensors are there already.
class PredictSource final : public RequestSource {
 public:
  PredictSource(const wire::InferRequest& request, const Block& block, InflightBudget::Charge& charge,
                const wire::PredictRequest& predict)
      : RequestSource(request, block, charge), predict_(predict) {}
  Result<Tensor> convert(std::size_t place, DType /*dtype*/, std::size_t /*elements*/, Pool& /*pool*/) const override {
    return predict_.inputs[place].tensor;
  }

 private:
  const wire::PredictRequest& predict_;
};

Status decode_raw(const Model& model, std::span<const std::byte> body, wire::InferRequest& request) {
  if (model.signature.inputs.size() != 1) {
    return invalid_argument("model '" + model.name + "' has " + std::to_string(model.signature.inputs.size()) +
                            " inputs: a raw body (Inference-Header-Content-Length: 0) is for models with one");
  }
  const TensorSpec& input = model.signature.inputs.front();
  if (input.any_rank) {
    return invalid_argument("input '" + input.name + "' of model '" + model.name +
                            "' may have any shape, so it must say which: send it with JSON");
  }
  wire::RawInputSpec spec;
  spec.name = input.name;
  spec.dtype = input.dtype;
  spec.dims = input.dims;
  spec.batched = model.batched();
  return wire::decode_raw_request(body, spec, request);
}

}  // namespace

Status HttpDecoder::decode(const Catalog& catalog, std::string_view model, std::string_view version,
                           const wire::Message& body, std::size_t json_bytes, const wire::InferLimits& limits) {
  raw_ = json_bytes == 0;
  predicts_ = web_ = false;
  request_.clear();  // the last one's views are of a body that is gone
  Status status;
  if (raw_) {
    Result<Model*> found = catalog.resolve(model, version);
    if (!found) return found.status();
    status = decode_raw(**found, body.bytes, request_);
  } else {
    if (json_bytes == kAllJson) {
      json_bytes = body.bytes.size();
    } else if (json_bytes > body.bytes.size()) {
      return invalid_argument("Inference-Header-Content-Length is " + std::to_string(json_bytes) +
                              ", but the body has " + std::to_string(body.bytes.size()) + " bytes");
    }
    status = reader_.decode(body.bytes, json_bytes, limits, request_);
  }
  request_.model_name = model;
  request_.model_version = version;
  return status;
}

Status HttpDecoder::decode_predict(const Catalog& catalog, std::string_view model, std::string_view version,
                                   const wire::Message& body, const wire::InferLimits& limits, Pool& pool) {
  raw_ = false;
  predicts_ = true;
  request_.clear();
  request_.model_name = model;
  request_.model_version = version;
  Result<Model*> found = catalog.resolve(model, version);
  if (!found) return found.status();
  const std::vector<TensorSpec>& inputs = (*found)->signature.inputs;
  std::vector<wire::PredictSpec> specs;
  specs.reserve(inputs.size());
  for (const TensorSpec& input : inputs) specs.push_back({input.name, input.dtype, input.dims, input.optional});
  if (Status status = predict_reader_.decode(body.bytes, specs, limits, pool, predict_); !status.ok()) return status;
  for (const wire::PredictInput& input : predict_.inputs) {
    wire::WireInput& given = request_.inputs.emplace_back();
    given.name = inputs[input.spec].name;
    given.datatype = dtype_name(input.tensor.dtype);
    given.shape = input.tensor.shape;
  }
  return {};
}

Status HttpDecoder::decode_web(const wire::Message& body, const wire::InferLimits& limits) {
  raw_ = predicts_ = false;
  web_ = true;
  request_.clear();
  const Result<std::span<const std::byte>> message = wire::read_web_message(body.bytes);
  return message ? wire::decode_infer_request(*message, limits, request_) : message.status();
}

Status HttpDecoder::admit(const Catalog& catalog, wire::Message& body, Engine& engine, Ticket& ticket, Model*& model,
                          std::vector<wire::OutputForm>& forms) {
  Status status;
  forms.clear();
  if (predicts_) {
    PredictSource source(request_, body.block, body.charge, predict_);
    status = admitter_.admit(catalog, source, engine, ticket, model);
    predict_.inputs.clear();
    return status;
  }
  if (web_) {
    ProtobufSource source(request_, body.block, body.charge);
    return admitter_.admit(catalog, source, engine, ticket, model);
  }
  JsonSource source(request_, body.block, body.charge, raw_);
  status = admitter_.admit(catalog, source, engine, ticket, model);
  if (!status.ok()) return status;
  forms.reserve(model->signature.outputs.size());
  for (const TensorSpec& output : model->signature.outputs) {
    Result<wire::OutputForm> form = wire::output_form(request_, output.name);
    if (!form) return form.status();
    forms.push_back(*form);
  }
  return {};
}

}  // namespace headrace
