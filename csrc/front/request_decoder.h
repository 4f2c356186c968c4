// From the bytes of a ModelInferRequest to a ticket: protobuf's half of it, and the admitter that does the rest. Used
// by a loop for what is small and by a worker for what is not, so it holds scratch memory and nothing else.
#pragma once

#include "base/error.h"
#include "front/header_forward.h"
#include "front/request_admitter.h"
#include "wire/grpc.h"
#include "wire/infer_codec.h"

namespace headrace {

// Typed contents are protobuf's.
class ProtobufSource final : public RequestSource {
 public:
  using RequestSource::RequestSource;
  Result<Tensor> convert(std::size_t place, DType dtype, std::size_t elements, Pool& pool) const override {
    return wire::convert_contents(request().inputs[place], dtype, elements, pool);
  }
};

class RequestDecoder {
 public:
  // Reads the message in place; what admit() uses are views into it.
  Status decode(const wire::Message& message, const wire::InferLimits& limits);
  // Of headers, which must stay until admit(); as headrace::add_parameters().
  Status add_parameters(const wire::Metadata& headers, const wire::InferLimits& limits) {
    return headrace::add_parameters(headers, limits, request_);
  }
  // RequestAdmitter::admit() for what decode() has read; the ticket shares the message's block.
  Status admit(const Catalog& catalog, wire::Message& message, Engine& engine, Ticket& ticket, Model*& model);
  const wire::InferRequest& request() const { return request_; }

 private:
  wire::InferRequest request_;
  RequestAdmitter admitter_;
};

}  // namespace headrace
