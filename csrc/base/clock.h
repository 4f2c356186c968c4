// Time as a parameter: the steady clock of the machine, and one that tests move by hand.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "base/sync.h"

namespace headrace {

using Nanos = std::int64_t;  // nanoseconds on a Clock; 0 is the clock's own origin
inline constexpr Nanos kNever = std::numeric_limits<Nanos>::max();
inline constexpr Nanos kMicrosecond = 1'000;
inline constexpr Nanos kMillisecond = 1'000'000;
inline constexpr Nanos kSecond = 1'000'000'000;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Nanos now() const = 0;
  // Waits on `condition` until it is notified or `time` has come (kNever: until notified). Spurious returns happen.
  virtual void wait_until(CondVar& condition, Mutex& mutex, Nanos time) HEADRACE_REQUIRES(mutex) = 0;
};

// std::chrono::steady_clock (CLOCK_MONOTONIC on Linux: the zero of Python's time.monotonic_ns too).
class SteadyClock final : public Clock {
 public:
  static SteadyClock& instance();
  Nanos now() const override;
  void wait_until(CondVar& condition, Mutex& mutex, Nanos time) HEADRACE_REQUIRES(mutex) override;
};

// Moves only by set/advance, which wake every waiter whose time has come. A waiter's condition and mutex
// must outlive any concurrent call of set or advance.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(Nanos start = 0) : now_(start) {}
  Nanos now() const override;
  void wait_until(CondVar& condition, Mutex& mutex, Nanos time) HEADRACE_REQUIRES(mutex) override;
  void advance(Nanos by) { set(now() + by); }
  void set(Nanos time);
  // Blocks (in real time) until `count` threads wait on this clock: lets a test know that all is quiet.
  void await_waiters(std::size_t count);

 private:
  struct Waiter {
    CondVar* condition;
    Mutex* mutex;
    Nanos time;
  };
  mutable Mutex mutex_;
  CondVar changed_;
  Nanos now_ HEADRACE_GUARDED_BY(mutex_);
  std::vector<Waiter*> waiters_ HEADRACE_GUARDED_BY(mutex_);
};

}  // namespace headrace
