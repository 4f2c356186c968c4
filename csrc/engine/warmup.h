// Runs of a fresh session before its version takes traffic: the first runs of a size allocate and plan, and no caller
// should wait for that. They go the way of every request (gather, run, check, slice), on the thread that loads, and
// count in no statistics.
//
// Samples are what config.pbtxt's model_warmup says; one that cannot run fails the load. Without samples, sizes from
// one row to a whole batch are run on made-up values. Such values need not suit every model, so then a run that fails
// is only noted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "engine/model.h"
#include "memory/pool.h"
#include "memory/tensor.h"

namespace headrace {

struct WarmupInput {
  enum class Data : std::uint8_t { kZero, kRandom, kGiven };
  std::string name;
  DType dtype = DType::kInvalid;
  std::vector<std::int64_t> dims;  // of one row, where the model is batched; else whole
  Data data = Data::kZero;
  std::string bytes;  // kGiven: of one row, as the protocol writes it; each row of the batch gets the same
};

struct WarmupSample {
  std::string name;
  std::int64_t batch_size = 1;  // rows; read as 1 where the model is not batched
  std::vector<WarmupInput> inputs;
  std::uint32_t count = 1;  // runs of it
};

struct WarmupPlan {
  std::vector<WarmupSample> samples;
  bool made_up = false;  // without samples: sizes and values by default
};

struct WarmupReport {
  std::vector<WarmupRun> runs;
  std::string note;  // one clause for the log: what was run, or why nothing was
};

// INVALID_ARGUMENT names the sample and what of it does not fit the model, or has the runtime's words.
Result<WarmupReport> warm_up(const Model& model, const WarmupPlan& plan, Pool& pool, const Clock& clock);

}  // namespace headrace
