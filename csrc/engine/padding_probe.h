// May requests of unlike lengths share a run of this model, padded with zeros? Only where the model says how, and where
// trying shows that it is so.
//
// A candidate has one free inner dimension on some of its inputs, the length, and says how padding is told from values:
// by a mask (an input with `mask` in its name that has the length) or because config.pbtxt sets allow_ragged_batch for
// every input that has it. Rows of four lengths are then run alone, and together, padded to the longest. Each must have
// the same answer both ways: the same shape once it is cut back to its length, and the same values, floats but for
// rounding (relative 1e-3, absolute 1e-5; half precision 1e-2, 1e-3). Made-up values, with a mask of ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "batching/padding.h"
#include "memory/pool.h"

namespace headrace {

struct PaddingProbe {
  Padding padding;     // empty: nothing is to be padded
  std::string reason;  // a plain clause, without a full stop; "": the model has no such length, or says nothing of it
};

// `allowed`: for each input whether it has allow_ragged_batch. Of a model that is batched.
PaddingProbe probe_padding(Session& session, Pool& pool, const std::vector<bool>& allowed, std::uint64_t seed = 1);

}  // namespace headrace
