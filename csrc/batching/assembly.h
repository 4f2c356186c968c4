// From tickets to the tensors of one batch, and back. Pure apart from taking blocks from the pool.
#pragma once

#include <span>
#include <vector>

#include "base/error.h"
#include "batching/request.h"
#include "memory/pool.h"

namespace headrace {

// The inputs of one batch: a single ticket's tensors as they lie (copied only where an address is not aligned to its
// element); several tickets' rows gathered once, into one pooled tensor per input. RESOURCE_EXHAUSTED when the pool has
// no room.
Result<std::vector<Tensor>> gather(std::span<Ticket* const> tickets, Pool& pool);

// The outputs any of the tickets wants.
std::vector<std::uint8_t> wanted_outputs(std::span<Ticket* const> tickets);

// Hands each ticket its rows of every output it wants: views that share the batch's block, nothing copied. An output
// whose first dimension is not the batch's row count is INTERNAL and names it; the tickets are then untouched.
Status scatter(std::span<Ticket* const> tickets, std::int64_t rows, std::span<const Tensor> outputs,
               std::span<const std::string> output_names);

}  // namespace headrace
