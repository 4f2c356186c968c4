#include "front/request_admitter.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "batching/classification.h"

namespace headrace {
namespace {

Status of_tensor(std::string_view kind, std::string_view name, const Status& status) {
  return {status.code(), std::string(kind) + " '" + std::string(name) + "': " + status.message()};
}

}  // namespace

Status RequestAdmitter::bind_inputs(const RequestSource& source, const Model& model, Engine& engine, Ticket& ticket) {
  const std::vector<wire::WireInput>& inputs = source.request().inputs;
  for (std::size_t place = 0; place < inputs.size(); ++place) {
    const wire::WireInput& input = inputs[place];
    std::size_t slot = 0;
    if (Status status = admission_.declare(input.name, input.datatype, input.shape, slot); !status.ok()) return status;
    Result<std::optional<SharedPlace>> shared = shared_place(input);
    if (!shared) return shared.status();
    if (*shared) {
      if (Status status = bind_shared(input, **shared, slot, model, engine, ticket); !status.ok()) return status;
    } else if (input.raw) {
      if (Status status = admission_.bind(slot, source.block(), *input.raw); !status.ok()) return status;
    } else {
      // Neither raw nor other contents is right for a tensor of no elements, and a wrong count otherwise.
      Result<Tensor> tensor = source.convert(place, admission_.dtype(slot), admission_.elements(slot), engine.pool());
      if (!tensor) return tensor.status();
      admission_.bind(slot, std::move(*tensor));
    }
  }
  return {};
}

// Numbers are read by the lane. Strings are copied here, and only then looked at: the client may write to its memory at
// any time.
Status RequestAdmitter::bind_shared(const wire::WireInput& input, const SharedPlace& place, std::size_t slot,
                                    const Model& model, Engine& engine, Ticket& ticket) {
  if (input.has_contents || (input.raw && !input.raw->empty())) {
    return invalid_argument("input '" + std::string(input.name) +
                            "' is in shared memory, and has contents in the message too; send one of the two");
  }
  Result<std::shared_ptr<const SharedRegion>> region = engine.shared_regions().find(place.region);
  if (!region) return of_tensor("input", input.name, region.status());
  if (Status status = (*region)->check_range(place.offset, place.bytes); !status.ok()) {
    return of_tensor("input", input.name, status);
  }
  if (admission_.dtype(slot) != DType::kBytes) {
    ticket.input_places.push_back({slot, &model.signature.inputs[slot].name, std::move(*region), place.offset});
    return admission_.bind_later(slot, static_cast<std::size_t>(place.bytes));
  }
  Result<Block> block = engine.pool().allocate(static_cast<std::size_t>(place.bytes));
  if (!block) return block.status();
  const std::span<std::byte> bytes(block->data(), static_cast<std::size_t>(place.bytes));
  if (Status status = (*region)->read(place.offset, bytes); !status.ok()) {
    return of_tensor("input", input.name, status);
  }
  return admission_.bind(slot, *block, bytes);
}

Status RequestAdmitter::want_outputs(const wire::InferRequest& request, const Model& model, Engine& engine,
                                     Ticket& ticket) {
  for (const wire::WireOutput& output : request.outputs) {
    if (Status status = admission_.want(output.name); !status.ok()) return status;
    if (output.parameters.empty()) continue;
    OutputRequest asked;
    Result<std::uint32_t> classes = wanted_classes(output);
    if (!classes) return classes.status();
    asked.classes = *classes;
    Result<std::optional<SharedPlace>> shared = shared_place(output);
    if (!shared) return shared.status();
    if (asked.classes == 0 && !*shared) continue;
    asked.output = *model.outputs.find(output.name);
    for (const OutputRequest& other : ticket.output_requests) {
      if (other.output == asked.output)
        return invalid_argument("output '" + std::string(output.name) + "' is asked for twice");
    }
    if (asked.classes != 0 && !classifiable(model.signature.outputs[asked.output].dtype)) {
      return invalid_argument("output '" + std::string(output.name) + "' is " +
                              std::string(dtype_name(model.signature.outputs[asked.output].dtype)) +
                              ", which has no best classes (parameter 'classification')");
    }
    if (*shared) {
      Result<std::shared_ptr<const SharedRegion>> region = engine.shared_regions().find((*shared)->region);
      if (!region) return of_tensor("output", output.name, region.status());
      asked.region = std::move(*region);
      asked.offset = (*shared)->offset;
      asked.bytes = (*shared)->bytes;
      if (Status status = asked.region->check_range(asked.offset, asked.bytes); !status.ok()) {
        return of_tensor("output", output.name, status);
      }
    }
    ticket.output_requests.push_back(std::move(asked));
    ticket.asks_more = true;
  }
  return {};
}

Status RequestAdmitter::charge_shared(const wire::InferRequest& request, Engine& engine, Ticket& ticket) {
  const auto [bytes, strings] = shared_inputs(request);
  if (bytes > engine.max_message_bytes()) {
    return resource_exhausted("the inputs in shared memory have " + std::to_string(bytes) +
                              " bytes, over the limit of " + std::to_string(engine.max_message_bytes()) +
                              " bytes (--max-request-bytes): send less at once, or raise the limit");
  }
  if (strings == 0) return {};
  ticket.shared_charge = engine.budget().take(static_cast<std::size_t>(strings));
  if (ticket.shared_charge) return {};
  return resource_exhausted("no room for strings of " + std::to_string(strings) +
                            " bytes in shared memory: the server has " + std::to_string(engine.budget().charged()) +
                            " of " + std::to_string(engine.budget().cap()) +
                            " request bytes in flight (--process-inflight-bytes); try again later");
}

Status RequestAdmitter::admit(const Catalog& catalog, RequestSource& source, Engine& engine, Ticket& ticket,
                              Model*& model) {
  const wire::InferRequest& request = source.request();
  Result<Model*> resolved = catalog.resolve(request.model_name, request.model_version);
  if (!resolved) return resolved.status();
  model = *resolved;
  if (Status status = read_parameters(request, parameters_); !status.ok()) return status;
  admission_.begin(*model, ticket);
  if (Status status = charge_shared(request, engine, ticket); !status.ok()) return status;
  if (Status status = bind_inputs(source, *model, engine, ticket); !status.ok()) return status;
  if (Status status = want_outputs(request, *model, engine, ticket); !status.ok()) return status;
  if (Status status = admission_.finish(); !status.ok()) return status;
  ticket.id.assign(request.id);
  ticket.timing = parameters_.timing;
  ticket.empty_final = parameters_.empty_final;
  ticket.priority = parameters_.priority;
  ticket.in_sequence = parameters_.in_sequence;
  const BatchingPolicy& policy = model->policy;
  const std::uint32_t level = policy.level_of(ticket.priority);
  ticket.timeout = policy.timeout_of(level, parameters_.timeout != 0 ? parameters_.timeout : kNever);
  ticket.late_waits = ticket.timeout != kNever && policy.queue_of(level).timeout_action == TimeoutAction::kDelay;
  ticket.charge = std::move(source.charge());
  model->address(ticket);
  return {};
}

}  // namespace headrace
