// From tickets to the tensors of one batch, and back. Pure apart from taking blocks from the pool.
//
// The vectors to be filled come from the caller, so that a lane uses the same ones for every batch.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "batching/padding.h"
#include "batching/request.h"
#include "memory/pool.h"

namespace headrace {

// The inputs of one batch: a single ticket's tensors as they lie (copied only where an address is not aligned to its
// element); several tickets' rows gathered once, into one pooled tensor per input. An optional input that the tickets
// do not give stays kInvalid; that they agree in this and in every dimension but the first is the queue's doing.
// What a ticket has in its client's shared memory is read from there. RESOURCE_EXHAUSTED when the pool has no room,
// INVALID_ARGUMENT when a client has cut its memory short; `inputs` is then empty. What lies borrowed in a ticket stays
// there: the ticket must outlive the use of `inputs`.
Status gather(std::span<Ticket* const> tickets, Pool& pool, std::vector<Tensor>& inputs);
// The same of tickets whose lengths differ: each row is padded with zeros to `length`, the longest (padded_length()).
Status gather_padded(std::span<Ticket* const> tickets, const Padding& padding, std::int64_t length, Pool& pool,
                     std::vector<Tensor>& inputs);

// The outputs that any of the tickets wants: one flag per output of the signature.
void wanted_outputs(std::span<Ticket* const> tickets, std::vector<std::uint8_t>& wanted);

// That a run's outputs can be handed out: every output that is wanted is there, and for a model with a batch dimension
// (`batched`) its first dimension is `rows`, the sum of the tickets' rows. INTERNAL names the one that is wrong.
Status check_outputs(std::span<Ticket* const> tickets, std::int64_t rows, bool batched, std::span<const Tensor> outputs,
                     std::span<const std::string> output_names);

// Hands each of `claimed` its rows of every output it wants: views that share the batch's block, nothing copied.
// `claimed` is the part of `tickets` (the whole batch, in order) that nobody has answered yet: the others are read,
// never written. Not batched: the one ticket gets the tensors whole, whatever their shapes. check_outputs has passed.
void scatter(std::span<Ticket* const> tickets, std::span<Ticket* const> claimed, std::int64_t rows, bool batched,
             std::span<const Tensor> outputs);

}  // namespace headrace
