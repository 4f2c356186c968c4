// From the body of an inference over HTTP to a ticket: JSON's or gRPC-Web's half of it, and the admitter that does the
// rest. Used by a loop for what is small and by a worker for what is not, so it holds scratch memory and nothing else.
#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "front/header_forward.h"
#include "front/request_admitter.h"
#include "wire/intake.h"
#include "wire/json_codec.h"
#include "wire/predict_codec.h"

namespace headrace {

class HttpDecoder {
 public:
  static constexpr std::size_t kAllJson = std::numeric_limits<std::size_t>::max();

  // The whole body is JSON (kAllJson: no Inference-Header-Content-Length), its first `json_bytes` are, or (0)
  // it is the only input's bytes. Reads it in place; what admit() uses are views into it and into `model` and
  // `version`.
  Status decode(const Catalog& catalog, std::string_view model, std::string_view version, const wire::Message& body,
                std::size_t json_bytes, const wire::InferLimits& limits);
  // The same of a TensorFlow Serving body, which is read by the model's signature: its tensors are made here.
  Status decode_predict(const Catalog& catalog, std::string_view model, std::string_view version,
                        const wire::Message& body, const wire::InferLimits& limits, Pool& pool);
  wire::PredictForm predict_form() const { return predict_.form; }
  // The same of a ModelInferRequest in gRPC-Web's frame, which names the model itself.
  Status decode_web(const wire::Message& body, const wire::InferLimits& limits);
  // Of headers, which must stay until admit(); as headrace::add_parameters().
  Status add_parameters(const wire::Metadata& headers, const wire::InferLimits& limits) {
    return headrace::add_parameters(headers, limits, request_);
  }
  // As RequestAdmitter::admit(). `forms` gets how each output of the signature is to be written (JSON's).
  Status admit(const Catalog& catalog, wire::Message& body, Engine& engine, Ticket& ticket, Model*& model,
               std::vector<wire::OutputForm>& forms);
  const wire::InferRequest& request() const { return request_; }

 private:
  wire::JsonReader reader_;
  wire::InferRequest request_;
  RequestAdmitter admitter_;
  bool raw_ = false;
  bool predicts_ = false;
  bool web_ = false;
  wire::PredictReader predict_reader_;
  wire::PredictRequest predict_;
};

}  // namespace headrace
