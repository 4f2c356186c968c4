// How much work there is for each moment: the sum of what must be done before it, of tickets that go in order of time.
// Moments are kept in buckets, as far ahead as patience reaches; what is over lies in one. Pure.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "base/clock.h"

namespace headrace {

class Demand {
 public:
  static constexpr int kShift = 24;  // a bucket is 16.8 ms wide
  static constexpr std::uint32_t kBuckets = 64;

  // Time has come so far.
  void advance(Nanos now) { catch_up(number(now)); }
  // Work that is to be done in the order of `when`; where it is counted.
  std::uint32_t add(Nanos when, Nanos work) {
    const std::uint64_t at = place(when);
    (at < base_ ? over_ : ring_[at % kBuckets]) += work;
    total_ += work;
    return static_cast<std::uint32_t>(at);
  }
  void remove(std::uint32_t at, Nanos work) {
    const bool over = static_cast<std::int32_t>(at - static_cast<std::uint32_t>(base_)) < 0;
    Nanos& sum = over ? over_ : ring_[at % kBuckets];
    HEADRACE_CHECK(sum >= work);
    sum -= work;
    total_ -= work;
  }
  // All that may go before a moment, and what goes at about the same.
  Nanos until(Nanos when) const {
    const std::uint64_t last = place(when);
    if (last + 1 - base_ > kBuckets / 2) {  // what is later is less to count
      Nanos sum = total_;
      for (std::uint64_t at = last + 1; at < base_ + kBuckets; ++at) sum -= ring_[at % kBuckets];
      return sum;
    }
    Nanos sum = over_;
    for (std::uint64_t at = base_; at <= last; ++at) sum += ring_[at % kBuckets];
    return sum;
  }
  Nanos all() const { return total_; }
  // The work of another is done too, or no longer. It has not seen a later time than this one.
  void add_all(Demand& other) {
    other.catch_up(base_);
    over_ += other.over_;
    total_ += other.total_;
    for (std::uint32_t i = 0; i < kBuckets; ++i) ring_[i] += other.ring_[i];
  }
  void remove_all(Demand& other) {
    other.catch_up(base_);
    over_ -= other.over_;
    total_ -= other.total_;
    for (std::uint32_t i = 0; i < kBuckets; ++i) ring_[i] -= other.ring_[i];
  }
  // Whether what goes later than about `when` keeps its time: fits(work up to a bucket's end, the bucket's begin).
  template <class Fits>
  bool later_keeps(Nanos when, const Fits& fits) const {
    Nanos sum = until(when);
    for (std::uint64_t at = std::max(place(when) + 1, base_); at < base_ + kBuckets; ++at) {
      const Nanos work = ring_[at % kBuckets];
      sum += work;
      if (work != 0 && !fits(sum, static_cast<Nanos>(at << kShift))) return false;
    }
    return true;
  }

 private:
  static std::uint64_t number(Nanos time) { return static_cast<std::uint64_t>(std::max<Nanos>(time, 0)) >> kShift; }
  // base_ - 1 is over; what is further ahead than the buckets counts as the last of them.
  std::uint64_t place(Nanos when) const {
    const std::uint64_t at = number(when);
    return at < base_ ? base_ - 1 : std::min(at, base_ + kBuckets - 1);
  }
  void catch_up(std::uint64_t to) {
    if (to <= base_) return;
    const std::uint64_t steps = std::min<std::uint64_t>(to - base_, kBuckets);
    for (std::uint64_t i = 0; i < steps; ++i) over_ += take(base_ + i);
    base_ = to;
  }
  Nanos take(std::uint64_t at) {
    const Nanos work = ring_[at % kBuckets];
    ring_[at % kBuckets] = 0;
    return work;
  }

  std::array<Nanos, kBuckets> ring_{};
  Nanos over_ = 0;
  Nanos total_ = 0;
  std::uint64_t base_ = 0;
};

}  // namespace headrace
