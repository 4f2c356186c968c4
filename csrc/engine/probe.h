// May requests to this model share a run? Found out by trying, when no configuration says.
//
// A candidate has a dynamic dimension 0 on every input and output. Four seeded rows are run as one batch; then each row
// in turn is replaced. A model is batchable when every other row's answer stays the same, bit for bit, and the replaced
// row's answer changes. Rows are filled with what most models take: floats normal, integers and booleans 0 or 1 (others
// may be an index out of range), strings short words. Inner dynamic dimensions get one size after the other until a run
// succeeds; equal symbols get equal sizes, since all get the same.
#pragma once

#include <cstdint>
#include <string>

#include "backend/backend.h"
#include "memory/pool.h"

namespace headrace {

struct ProbeResult {
  bool batchable = false;
  std::string reason;  // a plain clause, without a full stop
};

ProbeResult probe_batching(Session& session, Pool& pool, std::uint64_t seed = 1);

}  // namespace headrace
