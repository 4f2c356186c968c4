// Plain counters of one model version since its load. Durations are cumulative nanoseconds over requests, with Triton's
// meanings, so that ModelStatistics and metrics can be made of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/sync.h"
#include "schedule/execution.h"

namespace headrace {

struct DurationStats {
  std::uint64_t count = 0;
  std::uint64_t ns = 0;
  void add(std::uint64_t times, Nanos sum) {
    count += times;
    ns += static_cast<std::uint64_t>(sum < 0 ? 0 : sum);
  }
};

struct BatchStats {  // per run, by the rows it had
  DurationStats compute_input;
  DurationStats compute_infer;
  DurationStats compute_output;
};

struct ResponseStats {  // per answer, of models that answer a request any number of times
  DurationStats compute_infer;
  DurationStats compute_output;
  DurationStats success;
  DurationStats fail;
  DurationStats empty_response;  // the request ended without an answer of this number
  DurationStats cancel;          // nobody waited for it any more
};

struct ModelStats {
  static constexpr std::size_t kMostResponses = 100;
  std::uint64_t inference_count = 0;  // rows answered well; requests where the model is not batched
  std::uint64_t execution_count = 0;  // runs that ended well
  Nanos last_inference = 0;           // steady clock; 0: never
  DurationStats success;
  DurationStats fail;
  DurationStats cancel;  // the caller left before the answer
  DurationStats reject;  // refused before it was queued
  DurationStats queue;
  DurationStats compute_input;
  DurationStats compute_infer;
  DurationStats compute_output;
  std::map<std::int64_t, BatchStats> batches;
  std::vector<ResponseStats> responses;  // by their number in their request; the last has all that follow too
};

class ModelCounters final : public RunObserver {
 public:
  void ran(const RunRecord& record) noexcept override;
  void answered(const ResponseRecord& record) noexcept override;
  // A request that no run answered: refused, expired or cancelled. `total` is its time from its last byte.
  void unserved(Code code, bool queued, Nanos total);
  ModelStats read() const;
  std::uint64_t requests() const;  // that runs answered, well or not

 private:
  mutable Mutex mutex_;
  ModelStats stats_ HEADRACE_GUARDED_BY(mutex_);
};

}  // namespace headrace
