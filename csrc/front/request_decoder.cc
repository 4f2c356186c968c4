#include "front/request_decoder.h"

#include "front/tensor_parameters.h"

namespace headrace {
Status RequestDecoder::decode(const wire::Message& message, const wire::InferLimits& limits) {
  return wire::decode_infer_request(message.bytes, limits, request_);
}

bool RequestDecoder::heavy() const {
  std::size_t bytes = request_.contents_bytes;
  for (const wire::WireInput& input : request_.inputs) {
    if (input.raw && input.datatype == "BYTES") bytes += input.raw->size();
  }
  return bytes > kHeavyBytes || shared_input_bytes(request_) > kHeavySharedBytes;
}

Status RequestDecoder::admit(const Catalog& catalog, wire::Message& message, Engine& engine, Ticket& ticket,
                             Model*& model) {
  ProtobufSource source(request_, message.block, message.charge);
  return admitter_.admit(catalog, source, engine, ticket, model);
}

}  // namespace headrace
