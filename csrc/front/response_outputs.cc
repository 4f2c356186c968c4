#include "front/response_outputs.h"

namespace headrace {

void list_outputs(const Ticket& ticket, const Model& model, std::vector<wire::ResponseOutput>& outputs) {
  outputs.clear();
  for (std::size_t i = 0; i < ticket.outputs.size(); ++i) {
    if (!ticket.outputs[i]) continue;
    wire::ResponseOutput& output = outputs.emplace_back();
    output.name = model.signature.outputs[i].name;
    output.tensor = &ticket.outputs[i];
    if (!ticket.asks_more) continue;
    for (const OutputRequest& request : ticket.output_requests) {
      if (request.output != i || request.region == nullptr) continue;
      output.shared = {request.region->name(), request.offset, request.written};
    }
  }
}

}  // namespace headrace
