// Made-up inputs for one run of a model, and such a run: what its compute threads are tried with.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "engine/made_up.h"
#include "memory/pool.h"
#include "memory/tensor.h"

namespace headrace {

// Inputs for one run, in the signature's order.
struct Sample {
  std::vector<Tensor> inputs;
};

// `rows`: of dimension 0, where it is free; every other free dimension is `size`. Optional inputs are left out.
// RESOURCE_EXHAUSTED: the pool has no memory for it; FAILED_PRECONDITION: an input states no shape.
Result<Sample> make_sample(const Signature& signature, Pool& pool, std::int64_t rows, std::int64_t size,
                           MadeUp& values);

// One run with all outputs.
Status run_sample(Session& session, Pool& pool, const Sample& sample, int lane = 0, Interrupt* interrupt = nullptr);

}  // namespace headrace
