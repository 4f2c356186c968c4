#include "front/http_job.h"

#include <utility>

namespace headrace {

void HttpDecodeJob::run() noexcept {
  if (body.encoding != wire::Encoding::kIdentity) {
    // Codes that the table makes 413 and 400 of.
    Result<wire::Message> inflated = wire::inflate(body, options->grpc.max_message_bytes, engine->pool(),
                                                   engine->budget(), {Code::kOutOfRange, Code::kInvalidArgument});
    if (!inflated) {
      status = inflated.status();
      if (status.code() == Code::kOutOfRange) http = 413;
      body = wire::Message();
      return;
    }
    body = std::move(*inflated);
  }
  HttpDecoder decoder;
  ticket = std::make_unique<Ticket>();
  status = form == HttpForm::kPredict
               ? decoder.decode_predict(*hold->catalog, model_name, model_version, body, options->infer, engine->pool())
           : is_web(form) ? decoder.decode_web(body, options->infer)
                          : decoder.decode(*hold->catalog, model_name, model_version, body, json_bytes, options->infer);
  if (status.ok()) status = decoder.add_parameters(parameters, options->infer);
  if (status.ok()) status = decoder.admit(*hold->catalog, body, *engine, *ticket, model, forms);
  predict_form = decoder.predict_form();
  request_id = decoder.request().id;
  body = wire::Message();
}

}  // namespace headrace
