#include "front/request_admitter.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

namespace headrace {
namespace {

// Asked for, not built yet: a clear refusal, never a silent wrong answer.
Status not_served(std::string_view what, std::string_view name) {
  return {Code::kUnimplemented, "parameter '" + std::string(what) + "' of tensor '" + std::string(name) +
                                    "' asks for something that this server does not do; leave it out"};
}

bool refused_parameter(std::string_view key) {
  return key == "shared_memory_region" || key == "shared_memory_offset" || key == "shared_memory_byte_size" ||
         key == "classification";
}

}  // namespace

Status RequestAdmitter::check_parameters(const wire::InferRequest& request) {
  for (const wire::WireInput& input : request.inputs) {
    for (const wire::Parameter& parameter : input.parameters) {
      if (refused_parameter(parameter.key)) return not_served(parameter.key, input.name);
    }
  }
  for (const wire::WireOutput& output : request.outputs) {
    for (const wire::Parameter& parameter : output.parameters) {
      if (refused_parameter(parameter.key)) return not_served(parameter.key, output.name);
    }
  }
  return {};
}

Status RequestAdmitter::bind_inputs(const RequestSource& source, Pool& pool) {
  const std::vector<wire::WireInput>& inputs = source.request().inputs;
  for (std::size_t place = 0; place < inputs.size(); ++place) {
    const wire::WireInput& input = inputs[place];
    std::size_t slot = 0;
    if (Status status = admission_.declare(input.name, input.datatype, input.shape, slot); !status.ok()) return status;
    if (input.raw) {
      if (Status status = admission_.bind(slot, source.block(), *input.raw); !status.ok()) return status;
    } else {
      // Neither raw nor other contents is right for a tensor of no elements, and a wrong count otherwise.
      Result<Tensor> tensor = source.convert(place, admission_.dtype(slot), admission_.elements(slot), pool);
      if (!tensor) return tensor.status();
      admission_.bind(slot, std::move(*tensor));
    }
  }
  return {};
}

Status RequestAdmitter::admit(const Catalog& catalog, RequestSource& source, Pool& pool, Ticket& ticket,
                              Model*& model) {
  const wire::InferRequest& request = source.request();
  Result<Model*> resolved = catalog.resolve(request.model_name, request.model_version);
  if (!resolved) return resolved.status();
  model = *resolved;
  if (Status status = read_parameters(request, parameters_); !status.ok()) return status;
  if (Status status = check_parameters(request); !status.ok()) return status;
  admission_.begin(*model, ticket);
  if (Status status = bind_inputs(source, pool); !status.ok()) return status;
  for (const wire::WireOutput& output : request.outputs) {
    if (Status status = admission_.want(output.name); !status.ok()) return status;
  }
  if (Status status = admission_.finish(); !status.ok()) return status;
  ticket.id.assign(request.id);
  ticket.timing = parameters_.timing;
  ticket.priority = parameters_.priority;
  ticket.in_sequence = parameters_.in_sequence;
  ticket.timeout = model->policy.default_timeout;
  if (model->policy.allow_timeout_override && parameters_.timeout != 0) {
    ticket.timeout = std::min(ticket.timeout, parameters_.timeout);
  }
  ticket.charge = std::move(source.charge());
  ticket.model = model->entry;
  return {};
}

}  // namespace headrace
