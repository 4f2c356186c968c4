#include "base/clock.h"

#include <algorithm>
#include <chrono>

namespace headrace {

SteadyClock& SteadyClock::instance() {
  static SteadyClock clock;
  return clock;
}

Nanos SteadyClock::now() const {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void SteadyClock::wait_until(CondVar& condition, Mutex& mutex, Nanos time) {
  if (time == kNever) {
    condition.wait(mutex);
  } else {
    condition.wait_until(mutex, std::chrono::steady_clock::time_point(std::chrono::nanoseconds(time)));
  }
}

Nanos ManualClock::now() const {
  MutexLock lock(mutex_);
  return now_;
}

void ManualClock::wait_until(CondVar& condition, Mutex& mutex, Nanos time) {
  Waiter self{&condition, &mutex, time};
  {
    MutexLock lock(mutex_);
    if (now_ >= time) return;
    waiters_.push_back(&self);
    changed_.notify_all();
  }
  condition.wait(mutex);
  MutexLock lock(mutex_);
  std::erase(waiters_, &self);
  changed_.notify_all();
}

void ManualClock::set(Nanos time) {
  std::vector<Waiter> due;
  {
    MutexLock lock(mutex_);
    now_ = time;
    for (Waiter* waiter : waiters_) {
      if (waiter->time <= time) due.push_back(*waiter);
    }
  }
  // A waiter registers under its own mutex before it sleeps, so taking that mutex means that it sleeps.
  for (Waiter& waiter : due) {
    MutexLock lock(*waiter.mutex);
    waiter.condition->notify_all();
  }
}

void ManualClock::await_waiters(std::size_t count) {
  MutexLock lock(mutex_);
  while (waiters_.size() < count) changed_.wait(mutex_);
}

}  // namespace headrace
