#include "front/request_decoder.h"

#include <string>
#include <utility>
#include <variant>

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

Status RequestDecoder::decode(const wire::Message& message, const wire::InferLimits& limits) {
  return wire::decode_infer_request(message.bytes, limits, request_);
}

bool RequestDecoder::heavy() const {
  std::size_t bytes = request_.contents_bytes;
  for (const wire::WireInput& input : request_.inputs) {
    if (input.raw && input.datatype == "BYTES") bytes += input.raw->size();
  }
  return bytes > kHeavyBytes;
}

Status RequestDecoder::check_parameters() {
  timing_ = false;
  if (const wire::ParameterValue* value = request_.parameter("headrace_timing"); value != nullptr) {
    const bool* asked = std::get_if<bool>(value);
    if (asked == nullptr) return invalid_argument("request parameter 'headrace_timing' must be a bool_param");
    timing_ = *asked;
  }
  for (const wire::WireInput& input : request_.inputs) {
    for (const wire::Parameter& parameter : input.parameters) {
      if (refused_parameter(parameter.key)) return not_served(parameter.key, input.name);
    }
  }
  for (const wire::WireOutput& output : request_.outputs) {
    for (const wire::Parameter& parameter : output.parameters) {
      if (refused_parameter(parameter.key)) return not_served(parameter.key, output.name);
    }
  }
  return {};
}

Status RequestDecoder::bind_inputs(const wire::Message& message, Pool& pool) {
  for (const wire::WireInput& input : request_.inputs) {
    std::size_t slot = 0;
    if (Status status = admission_.declare(input.name, input.datatype, input.shape, slot); !status.ok()) return status;
    if (input.raw) {
      if (Status status = admission_.bind(slot, message.block, *input.raw); !status.ok()) return status;
    } else {
      // Neither raw nor typed contents is right for a tensor of no elements, and a wrong count otherwise.
      Result<Tensor> tensor = wire::convert_contents(input, admission_.dtype(slot), admission_.elements(slot), pool);
      if (!tensor) return tensor.status();
      admission_.bind(slot, std::move(*tensor));
    }
  }
  return {};
}

Status RequestDecoder::admit(const Catalog& catalog, wire::Message& message, Pool& pool, Ticket& ticket,
                             Model*& model) {
  Result<Model*> resolved = catalog.resolve(request_.model_name, request_.model_version);
  if (!resolved) return resolved.status();
  model = *resolved;
  if (Status status = check_parameters(); !status.ok()) return status;
  admission_.begin(*model, ticket);
  if (Status status = bind_inputs(message, pool); !status.ok()) return status;
  for (const wire::WireOutput& output : request_.outputs) {
    if (Status status = admission_.want(output.name); !status.ok()) return status;
  }
  if (Status status = admission_.finish(); !status.ok()) return status;
  ticket.id.assign(request_.id);
  ticket.timing = timing_;
  ticket.charge = std::move(message.charge);
  ticket.model = model->entry;
  return {};
}

}  // namespace headrace
