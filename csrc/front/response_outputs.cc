#include "front/response_outputs.h"

namespace headrace {

void list_outputs(const Ticket& ticket, const Model& model, std::vector<wire::ResponseOutput>& outputs) {
  list_outputs(
      ticket.outputs,
      ticket.asks_more ? std::span<const OutputRequest>(ticket.output_requests) : std::span<const OutputRequest>(),
      model, outputs);
}

void list_outputs(std::span<const Tensor> given, std::span<const OutputRequest> requests, const Model& model,
                  std::vector<wire::ResponseOutput>& outputs) {
  outputs.clear();
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (!given[i]) continue;
    wire::ResponseOutput& output = outputs.emplace_back();
    output.name = model.signature.outputs[i].name;
    output.tensor = &given[i];
    for (const OutputRequest& request : requests) {
      if (request.output != i || request.region == nullptr) continue;
      output.shared = {request.region->name(), request.offset, request.written};
    }
  }
}

}  // namespace headrace
