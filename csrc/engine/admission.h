// Is this request one that the model can serve? Pure: a declared tensor after the other against the signature; the
// ticket ends up with its inputs in the signature's order, its wanted outputs and its rows. Every refusal names the
// model, the tensor and what was expected.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "batching/request.h"
#include "engine/model.h"

namespace headrace {

class Admission {
 public:
  // Starts over for another request. `ticket` is filled; its memory is reused.
  void begin(const Model& model, Ticket& ticket);

  // An input as the caller declares it. Checks name, repetition, datatype, rank, fixed dimensions, the batch dimension,
  // agreement of dimensions under one symbol, and that its size can be represented. `slot` is its place in the
  // signature.
  Status declare(std::string_view name, std::string_view datatype, const Shape& shape, std::size_t& slot);
  std::size_t elements(std::size_t slot) const { return elements_[slot]; }
  DType dtype(std::size_t slot) const { return ticket_->inputs[slot].dtype; }
  // Its bytes: borrowed from `block`, which the ticket then shares. Checks the count against the declared shape.
  Status bind(std::size_t slot, const Block& block, std::span<const std::byte> bytes);
  // Or `bytes` of them that are read when the request runs: what the ticket's `input_places` say. Not for BYTES, whose
  // contents are checked here.
  Status bind_later(std::size_t slot, std::size_t bytes);
  // Or a whole tensor of the right size that somebody made of typed contents.
  void bind(std::size_t slot, Tensor tensor);

  // An output that the caller asks for. None: all of them.
  Status want(std::string_view name);

  // Nothing is missing.
  Status finish();

 private:
  Status check_size(std::size_t slot, std::size_t bytes) const;
  Status refuse(std::string_view name, std::string text) const;

  const Model* model_ = nullptr;
  Ticket* ticket_ = nullptr;
  bool any_wanted_ = false;
  bool rows_known_ = false;
  std::vector<std::size_t> elements_;
  std::vector<std::int64_t> symbols_;  // value of each symbol so far, -1: none
};

}  // namespace headrace
