// The outputs of a ticket that has come back, as the protocols' encoders take them.
#pragma once

#include <span>
#include <vector>

#include "batching/request.h"
#include "engine/model.h"
#include "wire/infer_codec.h"

namespace headrace {

// Fills `outputs` (cleared first) with what the ticket's caller asked for, in the signature's order. They are views of
// the ticket and the model.
void list_outputs(const Ticket& ticket, const Model& model, std::vector<wire::ResponseOutput>& outputs);
// The same of what was moved out of a ticket.
void list_outputs(std::span<const Tensor> given, std::span<const OutputRequest> requests, const Model& model,
                  std::vector<wire::ResponseOutput>& outputs);

}  // namespace headrace
