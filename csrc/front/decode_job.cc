#include "front/decode_job.h"

#include <utility>

#include "front/request_decoder.h"

namespace headrace {

void DecodeJob::run() noexcept {
  if (!status.ok()) {
    message = wire::Message();
    return;
  }
  if (message.encoding != wire::Encoding::kIdentity) {
    Result<wire::Message> inflated =
        wire::inflate(message, options->grpc.max_message_bytes, engine->pool(), engine->budget());
    if (!inflated) {
      status = inflated.status();
      message = wire::Message();
      return;
    }
    message = std::move(*inflated);
  }
  if (!infer) return;
  RequestDecoder decoder;
  ticket = std::make_unique<Ticket>();
  status = decoder.decode(message, options->infer);
  if (status.ok()) status = decoder.add_parameters(headers, options->infer);
  if (status.ok()) status = decoder.admit(*hold->catalog, message, *engine, *ticket, model);
  if (!status.ok()) {
    model_name = decoder.request().model_name;
    model_version = decoder.request().model_version;
    request_id = decoder.request().id;
  }
  message = wire::Message();
}

}  // namespace headrace
