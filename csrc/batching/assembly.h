// From tickets to the tensors of one batch, and back. Pure apart from taking blocks from the pool.
//
// The vectors to be filled come from the caller, so that a lane uses the same ones for every batch.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "batching/request.h"
#include "memory/pool.h"

namespace headrace {

// The inputs of one batch: a single ticket's tensors as they lie (copied only where an address is not aligned to its
// element); several tickets' rows gathered once, into one pooled tensor per input. An optional input that the tickets
// do not give stays kInvalid; that they agree in this and in every dimension but the first is the queue's doing.
// RESOURCE_EXHAUSTED when the pool has no room; `inputs` is then empty. What lies borrowed in a ticket stays there: the
// ticket must outlive the use of `inputs`.
Status gather(std::span<Ticket* const> tickets, Pool& pool, std::vector<Tensor>& inputs);

// The outputs that any of the tickets wants: one flag per output of the signature.
void wanted_outputs(std::span<Ticket* const> tickets, std::vector<std::uint8_t>& wanted);

// Hands each ticket its rows of every output it wants: views that share the batch's block, nothing copied.
// `batched`: the model has a batch dimension, and `rows` is the sum of the tickets' rows; an output whose first
// dimension is not `rows` is INTERNAL and names it. Not batched: the one ticket gets the tensors whole, whatever their
// shapes. An output that is wanted and missing is INTERNAL too. After an error the tickets are untouched.
Status scatter(std::span<Ticket* const> tickets, std::int64_t rows, bool batched, std::span<const Tensor> outputs,
               std::span<const std::string> output_names);

}  // namespace headrace
