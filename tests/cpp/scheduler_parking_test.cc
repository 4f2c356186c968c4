// Entries without a session: what waits for them, and who is told.
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "scheduler_fixture.h"

namespace headrace::testing {
namespace {

class Listener final : public ParkingListener {
 public:
  void wanted(Dispatcher::Entry* entry) override {
    const MutexLock lock(mutex_);
    wanted_.push_back(entry);
  }
  void became_idle() override {
    {
      const MutexLock lock(mutex_);
      ++idle_;
    }
    changed_.notify_all();
  }
  std::vector<Dispatcher::Entry*> all_wanted() const {
    const MutexLock lock(mutex_);
    return wanted_;
  }
  int idle() const {
    const MutexLock lock(mutex_);
    return idle_;
  }
  void await_idle(int times) {
    const MutexLock lock(mutex_);
    while (idle_ < times) changed_.wait(mutex_);
  }

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<Dispatcher::Entry*> wanted_ HEADRACE_GUARDED_BY(mutex_);
  int idle_ HEADRACE_GUARDED_BY(mutex_) = 0;
};

class ParkingTest : public SchedulerTest {
 protected:
  void start_listened(int lanes) { start(lanes, nullptr, &listener_); }
  Listener listener_;
};

TEST_F(ParkingTest, TicketsWaitForAParkedEntryAndTheFirstIsToldOf) {
  start_listened(1);
  TrialModel& sleeping = model(dynamic(8));
  TrialModel& awake = model(dynamic(8));
  ASSERT_TRUE(scheduler_->park(sleeping.entry));
  submit(sleeping, {1});
  submit(sleeping, {2});
  submit(awake, {3});
  answers_.await(1);
  EXPECT_EQ(listener_.all_wanted(), std::vector<Dispatcher::Entry*>{sleeping.entry});
  EXPECT_EQ(scheduler_->depth(sleeping.entry).queued, 2U);
  EXPECT_EQ(scheduler_->parked_arrivals(), 2U);
  EXPECT_FALSE(scheduler_->lost_interest(sleeping.entry)) << "two wait";
  scheduler_->unpark(sleeping.entry);
  answers_.await(3);
  EXPECT_EQ(scheduler_->parked_arrivals(), 2U);
}

TEST_F(ParkingTest, AQueueDelayThatEndsDoesNotRunAParkedEntry) {
  start_listened(1);
  TrialModel& sleeping = model(dynamic(8, kMillisecond));
  ASSERT_TRUE(scheduler_->park(sleeping.entry));
  Ticket* only = submit(sleeping, {1}, clock_.now() + kSecond);
  clock_.advance(2 * kMillisecond);
  clock_.await_waiters(2);
  EXPECT_EQ(scheduler_->in_flight(), 1U);
  clock_.advance(kSecond);
  answers_.await(1);
  EXPECT_EQ(of(only).status.code(), Code::kDeadlineExceeded);
}

TEST_F(ParkingTest, ABusyEntryIsNotParkedAndItsEndIsToldOf) {
  start_listened(1);
  TrialModel& busy = model(dynamic(8));
  busy.trial.hold();
  submit(busy, {1});
  busy.trial.await_inside(1);
  EXPECT_FALSE(scheduler_->park(busy.entry));
  EXPECT_FALSE(scheduler_->park(busy.entry)) << "asked again";
  EXPECT_EQ(listener_.idle(), 0);
  busy.trial.let_go();
  listener_.await_idle(1);
  EXPECT_TRUE(scheduler_->park(busy.entry));
  EXPECT_EQ(listener_.idle(), 1);
}

TEST_F(ParkingTest, TheLastQueuedTicketThatLeavesMakesAnEntryIdle) {
  start_listened(1);
  TrialModel& other = model(dynamic(8));
  TrialModel& queued = model(dynamic(8));
  other.trial.hold();
  submit(other, {1});
  other.trial.await_inside(1);
  Ticket* ticket = submit(queued, {2});
  EXPECT_FALSE(scheduler_->park(queued.entry));
  scheduler_->cancel(ticket, kCallerLeft);
  EXPECT_EQ(listener_.idle(), 1);
  EXPECT_TRUE(scheduler_->park(queued.entry));
  other.trial.let_go();
  answers_.await(2);
}

TEST_F(ParkingTest, AFailedLoadAnswersThoseThatWaitAndTheNextIsToldOfAgain) {
  start_listened(1);
  TrialModel& sleeping = model(dynamic(8));
  ASSERT_TRUE(scheduler_->park(sleeping.entry));
  const std::vector<Ticket*> waiting = submit_chain(sleeping, {1, 2});
  scheduler_->refuse_waiting(sleeping.entry, {Code::kUnavailable, "no room"});
  answers_.await(2);
  for (const Ticket* each : waiting) EXPECT_EQ(of(each).status.to_string(), "UNAVAILABLE: no room");
  EXPECT_EQ(listener_.all_wanted().size(), 1U);
  Ticket* third = submit(sleeping, {3});
  EXPECT_EQ(listener_.all_wanted().size(), 2U);
  scheduler_->cancel(third, kCallerLeft);
  EXPECT_TRUE(scheduler_->lost_interest(sleeping.entry));
  submit(sleeping, {4});
  EXPECT_EQ(listener_.all_wanted().size(), 3U);
  scheduler_->unpark(sleeping.entry);
  answers_.await(4);
}

TEST_F(ParkingTest, StopAnswersWhatWaitsForAParkedEntry) {
  start_listened(1);
  TrialModel& sleeping = model(dynamic(8));
  ASSERT_TRUE(scheduler_->park(sleeping.entry));
  Ticket* only = submit(sleeping, {1});
  scheduler_->stop(kStopped);
  EXPECT_EQ(of(only).status.to_string(), kStopped.to_string());
}

}  // namespace
}  // namespace headrace::testing
