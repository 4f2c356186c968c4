// Which requests are traced: of those that a sampler is asked about, every `rate`-th, and at most `count` of them.
//
// Any thread. A model without a sampler costs nothing; one with it, one atomic step a request.
#pragma once

#include <atomic>
#include <cstdint>

namespace headrace {

// Of a request that is taken.
struct TraceWants {
  bool times = true;
  bool tensors = false;
};

class TraceSampler {
 public:
  // `id` marks what it takes, and is not 0. `rate` is 1 or more; `count` -1 is no bound.
  TraceSampler(std::uint64_t id, std::uint64_t rate, std::int64_t count, TraceWants wants = {})
      : id_(id), rate_(rate), wants_(wants), remaining_(count) {}

  bool sample() noexcept {
    if ((seen_.fetch_add(1, std::memory_order_relaxed) + 1) % rate_ != 0) return false;
    std::int64_t left = remaining_.load(std::memory_order_relaxed);
    if (left < 0) return true;
    while (left > 0 && !remaining_.compare_exchange_weak(left, left - 1, std::memory_order_relaxed)) {
    }
    return left > 0;
  }
  std::uint64_t id() const { return id_; }
  TraceWants wants() const { return wants_; }
  std::int64_t remaining() const { return remaining_.load(std::memory_order_relaxed); }

 private:
  const std::uint64_t id_;
  const std::uint64_t rate_;
  const TraceWants wants_;
  std::atomic<std::uint64_t> seen_{0};
  std::atomic<std::int64_t> remaining_;
};

}  // namespace headrace
