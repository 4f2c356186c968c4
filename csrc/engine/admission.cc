#include "engine/admission.h"

#include <algorithm>
#include <string>
#include <utility>

namespace headrace {

void Admission::begin(const Model& model, Ticket& ticket) {
  model_ = &model;
  ticket_ = &ticket;
  any_wanted_ = false;
  rows_known_ = false;
  const std::size_t inputs = model.signature.inputs.size();
  if (ticket.inputs.size() != inputs) ticket.inputs.resize(inputs);
  for (Tensor& tensor : ticket.inputs) tensor.dtype = DType::kInvalid;
  ticket.wanted.assign(model.signature.outputs.size(), 1);
  ticket.rows = 1;
  elements_.assign(inputs, 0);
  symbols_.assign(model.symbols, -1);
}

Status Admission::refuse(std::string_view name, std::string text) const {
  return invalid_argument("input '" + std::string(name) + "' of model '" + model_->name + "' " + std::move(text));
}

Status Admission::declare(std::string_view name, std::string_view datatype, const Shape& shape, std::size_t& slot) {
  const std::optional<std::size_t> place = model_->inputs.find(name);
  if (!place) {
    return invalid_argument("model '" + model_->name + "' has no input '" + std::string(name) +
                            "'; its inputs are: " + model_->inputs.listed());
  }
  slot = *place;
  Tensor& tensor = ticket_->inputs[slot];
  const TensorSpec& spec = model_->signature.inputs[slot];
  if (tensor) return refuse(name, "is given twice");
  if (datatype != dtype_name(spec.dtype)) {
    return refuse(name, "is " + std::string(dtype_name(spec.dtype)) + ", not '" + std::string(datatype) + "'");
  }
  const std::span<const std::int64_t> dims = shape.dims();
  bool fits = spec.any_rank || dims.size() == spec.dims.size();
  for (std::size_t d = 0; fits && d < dims.size(); ++d) {
    fits = dims[d] >= 0 && (spec.any_rank || spec.dims[d] < 0 || spec.dims[d] == dims[d]);
  }
  if (!fits) {
    return refuse(name, "has shape " + Shape(spec.dims).to_string() + " (-1: any size), not " + shape.to_string());
  }
  const std::vector<int>& places = model_->symbol_places[slot];
  for (std::size_t d = 0; d < places.size(); ++d) {
    if (places[d] < 0) continue;
    std::int64_t& known = symbols_[static_cast<std::size_t>(places[d])];
    if (known >= 0 && known != dims[d]) {
      return refuse(name, "has " + std::to_string(dims[d]) + " as dimension " + std::to_string(d) + " (" +
                              spec.symbols[d] + "), but another input gives " + std::to_string(known) +
                              " for the same dimension");
    }
    known = dims[d];
  }
  if (model_->batched()) {
    const std::int64_t rows = dims[0];
    if (rows < 1 || rows > model_->policy.max_batch_size) {
      return refuse(name, "has a batch of " + std::to_string(rows) + " (dimension 0); the model takes 1 to " +
                              std::to_string(model_->policy.max_batch_size) + " (max_batch_size)");
    }
    if (rows_known_ && rows != ticket_->rows) {
      return refuse(name, "has a batch of " + std::to_string(rows) + " (dimension 0), but another input has " +
                              std::to_string(ticket_->rows));
    }
    rows_known_ = true;
    ticket_->rows = rows;
  }
  const std::optional<std::size_t> elements = element_count(dims);
  const std::optional<std::size_t> size =
      elements ? checked_multiply(*elements, std::max<std::size_t>(element_size(spec.dtype), 1)) : std::nullopt;
  if (!size) return refuse(name, "has a shape whose size cannot be represented: " + shape.to_string());
  tensor.dtype = spec.dtype;
  tensor.shape.assign(dims);
  tensor.data = nullptr;
  tensor.size = 0;
  elements_[slot] = *elements;
  return {};
}

Status Admission::bind(std::size_t slot, const Block& block, std::span<const std::byte> bytes) {
  Tensor& tensor = ticket_->inputs[slot];
  const std::string& name = model_->signature.inputs[slot].name;
  if (tensor.dtype == DType::kBytes) {
    if (Status status = check_bytes_tensor(bytes, elements_[slot]); !status.ok()) {
      return refuse(name, "is not a BYTES tensor of shape " + tensor.shape.to_string() + ": " + status.message());
    }
  } else if (Status status = check_size(slot, bytes.size()); !status.ok()) {
    return status;
  }
  tensor.block = block;
  tensor.data = bytes.data();
  tensor.size = bytes.size();
  return {};
}

Status Admission::check_size(std::size_t slot, std::size_t bytes) const {
  const Tensor& tensor = ticket_->inputs[slot];
  const std::size_t right = elements_[slot] * element_size(tensor.dtype);
  if (bytes == right) return {};
  return refuse(model_->signature.inputs[slot].name,
                "has " + std::to_string(bytes) + " bytes; shape " + tensor.shape.to_string() + " of " +
                    std::string(dtype_name(tensor.dtype)) + " takes " + std::to_string(right));
}

Status Admission::bind_later(std::size_t slot, std::size_t bytes) {
  if (Status status = check_size(slot, bytes); !status.ok()) return status;
  ticket_->inputs[slot].data = nullptr;
  ticket_->inputs[slot].size = bytes;
  return {};
}

void Admission::bind(std::size_t slot, Tensor tensor) {
  Tensor& bound = ticket_->inputs[slot];
  bound.block = std::move(tensor.block);
  bound.data = tensor.data;
  bound.size = tensor.size;
}

Status Admission::want(std::string_view name) {
  if (!any_wanted_) std::fill(ticket_->wanted.begin(), ticket_->wanted.end(), std::uint8_t{0});
  any_wanted_ = true;
  const std::optional<std::size_t> place = model_->outputs.find(name);
  if (!place) {
    return invalid_argument("model '" + model_->name + "' has no output '" + std::string(name) +
                            "'; its outputs are: " + model_->outputs.listed());
  }
  ticket_->wanted[*place] = 1;
  return {};
}

Status Admission::finish() {
  for (std::size_t i = 0; i < ticket_->inputs.size(); ++i) {
    const TensorSpec& spec = model_->signature.inputs[i];
    if (!ticket_->inputs[i] && !spec.optional) {
      return invalid_argument("input '" + spec.name + "' of model '" + model_->name +
                              "' is missing; the model's inputs are: " + model_->inputs.listed());
    }
  }
  if (model_->batched() && !rows_known_) {
    return invalid_argument("a request for model '" + model_->name + "' must give at least one input");
  }
  return {};
}

}  // namespace headrace
