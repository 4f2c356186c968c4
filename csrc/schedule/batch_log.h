// Why the batches of a model were closed: a count for each reason, and the last few batches. Fixed memory; the
// scheduler's lock guards it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "batching/extent.h"

namespace headrace {

struct BatchRecord {
  std::uint64_t number = 0;  // of the model's batches, from 1
  Closed why = Closed::kAll;
  int lane = 0;
  std::size_t tickets = 0;
  std::int64_t rows = 0;
  Nanos started = 0;    // steady clock
  Nanos waited = 0;     // by its oldest ticket, in the queue
  Nanos predicted = 0;  // its run; 0: nothing was known
  Nanos took = 0;
};

class BatchLog {
 public:
  static constexpr std::size_t kKept = 32;

  void add(const BatchRecord& record) {
    BatchRecord& place = ring_[static_cast<std::size_t>(batches_ % kKept)];
    place = record;
    place.number = ++batches_;
    ++reasons_[static_cast<std::size_t>(record.why)];
  }
  std::uint64_t batches() const { return batches_; }
  const std::array<std::uint64_t, kClosedReasons>& reasons() const { return reasons_; }
  // The last ones, newest first.
  std::vector<BatchRecord> last() const {
    std::vector<BatchRecord> records;
    for (std::uint64_t i = batches_; i > 0 && records.size() < kKept; --i) {
      records.push_back(ring_[static_cast<std::size_t>((i - 1) % kKept)]);
    }
    return records;
  }

 private:
  std::array<BatchRecord, kKept> ring_{};
  std::array<std::uint64_t, kClosedReasons> reasons_{};
  std::uint64_t batches_ = 0;
};

}  // namespace headrace
