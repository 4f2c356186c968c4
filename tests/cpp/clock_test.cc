#include "base/clock.h"

#include <gtest/gtest.h>

#include <thread>

namespace headrace {
namespace {

// A thread that waits on `clock` until `time`, and says when it has seen it come.
class Sleeper {
 public:
  Sleeper(ManualClock& clock, Nanos time) : clock_(clock), time_(time), thread_([this] { run(); }) {}
  ~Sleeper() { thread_.join(); }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;

  Nanos woke_at() {
    MutexLock lock(mutex_);
    return woke_at_;
  }
  void await() {
    MutexLock lock(mutex_);
    while (woke_at_ == kNever) done_.wait(mutex_);
  }
  void notify() {
    MutexLock lock(mutex_);
    notified_ = true;
    condition_.notify_all();
  }

 private:
  void run() {
    MutexLock lock(mutex_);
    while (clock_.now() < time_ && !notified_) clock_.wait_until(condition_, mutex_, time_);
    woke_at_ = clock_.now();
    done_.notify_all();
  }

  ManualClock& clock_;
  const Nanos time_;
  Mutex mutex_;
  CondVar condition_;
  CondVar done_;
  bool notified_ HEADRACE_GUARDED_BY(mutex_) = false;
  Nanos woke_at_ HEADRACE_GUARDED_BY(mutex_) = kNever;
  std::thread thread_;
};

TEST(SteadyClock, NeverGoesBack) {
  const SteadyClock& clock = SteadyClock::instance();
  const Nanos first = clock.now();
  const Nanos second = clock.now();
  EXPECT_GT(first, 0);
  EXPECT_GE(second, first);
}

TEST(SteadyClock, WaitsUntilTheTimeHasCome) {
  SteadyClock& clock = SteadyClock::instance();
  Mutex mutex;
  CondVar condition;
  const Nanos due = clock.now() + 2 * kMillisecond;
  MutexLock lock(mutex);
  while (clock.now() < due) clock.wait_until(condition, mutex, due);
  EXPECT_GE(clock.now(), due);
}

TEST(SteadyClock, WithoutATimeWaitsForTheNotice) {
  Mutex mutex;
  CondVar condition;
  bool told = false;
  std::thread teller([&] {
    MutexLock lock(mutex);
    told = true;
    condition.notify_one();
  });
  {
    MutexLock lock(mutex);
    while (!told) SteadyClock::instance().wait_until(condition, mutex, kNever);
  }
  teller.join();
  EXPECT_TRUE(told);
}

TEST(ManualClock, MovesOnlyByHand) {
  ManualClock clock(5);
  EXPECT_EQ(clock.now(), 5);
  clock.advance(7);
  EXPECT_EQ(clock.now(), 12);
  clock.set(100);
  EXPECT_EQ(clock.now(), 100);
}

TEST(ManualClock, ATimeThatHasComeDoesNotWait) {
  ManualClock clock(10);
  Mutex mutex;
  CondVar condition;
  MutexLock lock(mutex);
  clock.wait_until(condition, mutex, 10);
  EXPECT_EQ(clock.now(), 10);
}

TEST(ManualClock, WakesThoseWhoseTimeHasComeAndNoOthers) {
  ManualClock clock;
  Sleeper early(clock, 10);
  Sleeper late(clock, 20);
  clock.await_waiters(2);
  clock.set(9);
  clock.await_waiters(2);
  clock.set(10);
  early.await();
  EXPECT_EQ(early.woke_at(), 10);
  EXPECT_EQ(late.woke_at(), kNever);
  clock.advance(10);
  late.await();
  EXPECT_EQ(late.woke_at(), 20);
}

TEST(ManualClock, ANoticeEndsAWaitBeforeItsTime) {
  ManualClock clock;
  Sleeper sleeper(clock, kNever);
  clock.await_waiters(1);
  sleeper.notify();
  sleeper.await();
  EXPECT_EQ(sleeper.woke_at(), 0);
}

TEST(ManualClock, ManyThreadsHearEveryStep) {
  ManualClock clock;
  for (Nanos step = 1; step <= 50; ++step) {
    Sleeper a(clock, step);
    Sleeper b(clock, step);
    Sleeper c(clock, step);
    clock.await_waiters(3);
    clock.set(step);
  }
  EXPECT_EQ(clock.now(), 50);
}

}  // namespace
}  // namespace headrace
