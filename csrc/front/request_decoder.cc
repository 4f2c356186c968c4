#include "front/request_decoder.h"

namespace headrace {

Status RequestDecoder::decode(const wire::Message& message, const wire::InferLimits& limits) {
  return wire::decode_infer_request(message.bytes, limits, request_);
}

Status RequestDecoder::admit(const Catalog& catalog, wire::Message& message, Engine& engine, Ticket& ticket,
                             Model*& model) {
  ProtobufSource source(request_, message.block, message.charge);
  return admitter_.admit(catalog, source, engine, ticket, model);
}

}  // namespace headrace
