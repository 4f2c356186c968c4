// From tickets to the tensors of one batch, and back. Pure apart from taking blocks from the pool.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "batching/request.h"
#include "memory/pool.h"

namespace headrace {

// The inputs of one batch into `out` (its memory is reused): a single ticket's tensors as they lie (copied only where
// an address is not aligned to its element); several tickets' rows gathered once, into one pooled tensor per input.
// RESOURCE_EXHAUSTED when the pool has no room.
Status gather(std::span<Ticket* const> tickets, Pool& pool, std::vector<Tensor>& out);

// One flag per output: any of the tickets wants it.
void wanted_outputs(std::span<Ticket* const> tickets, std::vector<std::uint8_t>& out);

// Every output that is there has `rows` as its first dimension; INTERNAL names the one that has not.
Status check_rows(std::int64_t rows, std::span<const Tensor> outputs, std::span<const std::string> output_names);

// Hands each of `claimed` (a subsequence of `tickets`, the whole batch in order) its rows of every output it wants:
// views that share the batch's block, nothing copied. Not batched: the one ticket gets the outputs whole. check_rows
// has passed.
void scatter(std::span<Ticket* const> tickets, std::span<Ticket* const> claimed, bool batched,
             std::span<const Tensor> outputs);

}  // namespace headrace
