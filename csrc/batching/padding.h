// Requests of unlike lengths in one run: inputs are padded with zeros to the longest one's length, and outputs that
// have the length are cut back to each request's own. Only where the model has been seen to answer the same then
// (engine/padding_probe.h). Pure apart from taking blocks from the pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "batching/request.h"
#include "memory/pool.h"

namespace headrace {

// Which dimension of each input and output is the length; 0: it has none. Empty: nothing is padded.
struct Padding {
  std::vector<int> inputs;
  std::vector<int> outputs;

  explicit operator bool() const { return !inputs.empty(); }
  bool operator==(const Padding&) const = default;
};

// The length that the inputs agree in; -1: they do not agree, none of those that have one is given, or it is 0.
std::int64_t length_of(std::span<const Tensor> inputs, const Padding& padding);

// The longest of the lengths that may share a run with this one (1 or more): 1 .. 8 each for itself, from there four to
// a doubling, so that padding is less than a quarter of a row.
std::int64_t length_class(std::int64_t length);

// The longest of the tickets' lengths when they differ; 0: they need no padding.
std::int64_t padded_length(std::span<Ticket* const> tickets, const Padding& padding);

// That outputs of a padded run have its length where they should. INTERNAL names the one that has not.
Status check_lengths(std::span<const Tensor> outputs, const Padding& padding, std::int64_t length,
                     std::span<const std::string> output_names);

// Cuts the ticket's outputs back to its own length: those copied into blocks of their own that have to be.
// RESOURCE_EXHAUSTED when the pool has no room.
Status cut_outputs(Ticket& ticket, const Padding& padding, std::int64_t length, Pool& pool);

}  // namespace headrace
