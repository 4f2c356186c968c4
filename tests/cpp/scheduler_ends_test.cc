// How the scheduler ends things: models that close, stop, idleness, sinks that act, everything at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "schedule/scheduler.h"
#include "scheduler_fixture.h"

namespace headrace::testing {
namespace {

using SchedulerEnds = SchedulerTest;

TEST_F(SchedulerEnds, ClosingAModelAnswersTheQueuedAndWaitsForTheRunning) {
  start(2);
  TrialModel& m = model(dynamic(1), 1);
  TrialModel& other = model(dynamic(1));
  m.trial.hold();
  Ticket* running = submit(m, {1});
  m.trial.await_inside(1);
  const std::vector<Ticket*> queued = submit_chain(m, {2, 3, 4});
  std::atomic<bool> closed = false;
  std::thread closer([&] {
    scheduler_->close_entry(m.entry, kUnloaded);
    closed = true;
  });
  answers_.await(3);
  for (const Ticket* each : queued) EXPECT_EQ(of(each).status.to_string(), kUnloaded.to_string());
  Ticket* stale = submit(m, {5});
  EXPECT_EQ(of(stale).status.code(), Code::kUnavailable);
  submit(other, {6});
  answers_.await(5);
  EXPECT_FALSE(closed) << "a run goes on";
  m.trial.let_go();
  closer.join();
  EXPECT_TRUE(of(running).status.ok()) << "running ones finish";
  EXPECT_EQ(m.trial.runs().size(), 1U);
}

TEST_F(SchedulerEnds, StopAnswersEverybodyAndInterruptsTheRuns) {
  start(2);
  TrialModel& m = model(dynamic(1));
  m.trial.hold();
  const std::vector<Ticket*> batch = submit_chain(m, {1, 2, 3, 4});
  m.trial.await_inside(2);
  std::vector<std::thread> stoppers;
  for (int i = 0; i < 3; ++i) {
    stoppers.emplace_back([&] {
      scheduler_->stop(kStopped);
      EXPECT_EQ(scheduler_->in_flight(), 0U);
      EXPECT_EQ(scheduler_->busy_lanes(), 0);
      EXPECT_EQ(answers_.size(), 4U);
    });
  }
  for (std::thread& stopper : stoppers) stopper.join();
  EXPECT_EQ(m.trial.interrupted(), 2);
  for (const Ticket* each : batch) EXPECT_EQ(of(each).status.code(), Code::kUnavailable);
  EXPECT_EQ(of(batch[0]).status.message(), "the server stopped before the model had finished");
  EXPECT_EQ(of(batch[3]).status.message(), "the server is shutting down");
  Ticket* late = submit(m, {5});
  EXPECT_EQ(of(late).status.to_string(), kStopped.to_string());
}

TEST_F(SchedulerEnds, ABatchThatIsStoppedIsNotRunAgainByHalves) {
  start(1);
  TrialModel& m = model(dynamic(8));
  m.trial.hold();
  const std::vector<Ticket*> batch = submit_chain(m, {1, 2, 3});
  m.trial.await_inside(1);
  scheduler_->stop(kStopped);
  EXPECT_EQ(m.trial.runs().size(), 1U);
  for (const Ticket* each : batch) EXPECT_EQ(of(each).status.code(), Code::kUnavailable);
}

TEST_F(SchedulerEnds, ARunThatEndsWellWhileTheServerStopsIsAnsweredWell) {
  start(1);
  TrialModel& m = model(dynamic(8));
  m.trial.hold();
  m.trial.obey_interrupts(false);
  const std::vector<Ticket*> batch = submit_chain(m, {1, 2});
  m.trial.await_inside(1);
  Ticket* queued = submit(m, {3});
  std::thread stopper([&] { scheduler_->stop(kStopped); });
  answers_.await(1);
  EXPECT_EQ(of(queued).status.code(), Code::kUnavailable);
  m.trial.let_go();
  stopper.join();
  for (const Ticket* each : batch) EXPECT_TRUE(of(each).status.ok());
}

TEST_F(SchedulerEnds, WaitIdleWaitsForTheLastAnswerButNotForARunThatNobodyWaitsFor) {
  start(1);
  TrialModel& m = model(dynamic(8));
  EXPECT_TRUE(scheduler_->wait_idle(clock_.now()));
  m.trial.hold();
  m.trial.obey_interrupts(false);
  Ticket* running = submit(m, {1});
  m.trial.await_inside(1);
  EXPECT_FALSE(scheduler_->wait_idle(clock_.now()));
  std::atomic<int> outcome = -1;
  std::thread waiter([&] { outcome = scheduler_->wait_idle(clock_.now() + 100) ? 1 : 0; });
  clock_.await_waiters(2);  // the timer thread and it
  clock_.advance(100);
  waiter.join();
  EXPECT_EQ(outcome, 0);
  waiter = std::thread([&] { outcome = scheduler_->wait_idle(kNever) ? 1 : 0; });
  clock_.await_waiters(2);
  scheduler_->cancel(running, kCallerLeft);
  waiter.join();
  EXPECT_EQ(outcome, 1);
  EXPECT_EQ(scheduler_->busy_lanes(), 1) << "the run itself goes on";
}

// A sink that waits in deliver until the test lets it go.
struct SlowSink final : CompletionSink {
  void deliver(Completion* first, Completion* last) noexcept override {
    {
      MutexLock lock(mutex);
      entered = true;
      changed.notify_all();
      while (!open) changed.wait(mutex);
    }
    next->deliver(first, last);
  }
  void await_entered() {
    MutexLock lock(mutex);
    while (!entered) changed.wait(mutex);
  }
  void let_go() {
    MutexLock lock(mutex);
    open = true;
    changed.notify_all();
  }
  Answers* next = nullptr;
  Mutex mutex;
  CondVar changed;
  bool entered = false;
  bool open = false;
};

TEST_F(SchedulerEnds, WhoWaitsForIdleFindsEveryAnswerWithItsSink) {
  start(1);
  TrialModel& m = model(dynamic(8));
  for (const bool cancelled : {false, true}) {
    SlowSink slow;
    slow.next = &answers_;
    if (cancelled) m.trial.hold();
    Ticket* only = ticket(m, {1});
    only->sink = &slow;
    scheduler_->submit(only);
    std::thread canceller;
    if (cancelled) {
      m.trial.await_inside(1);
      canceller = std::thread([&] { scheduler_->cancel(only, kCallerLeft); });
    }
    slow.await_entered();
    EXPECT_EQ(scheduler_->in_flight(), 0U) << "it is answered";
    EXPECT_FALSE(scheduler_->wait_idle(clock_.now())) << "but nobody has the answer yet";
    std::thread waiter([&] { EXPECT_TRUE(scheduler_->wait_idle(kNever)); });
    slow.let_go();
    waiter.join();
    if (cancelled) canceller.join();
    EXPECT_EQ(answers_.size(), cancelled ? 2U : 1U);
  }
}

// One way back: a sink is called with no lock held, so it may submit and cancel.
TEST_F(SchedulerEnds, ASinkMaySubmitAndCancelFromEveryPlaceThatCallsIt) {
  start(2);
  TrialModel& m = model(dynamic(4));
  BatchingPolicy full = dynamic(1);
  full.max_queue_size = 1;
  TrialModel& tight = model(full, 1);
  TrialModel& closing = model(dynamic(1), 1);

  struct Follow final : CompletionSink {
    void deliver(Completion* first, Completion* last) noexcept override {
      act();
      next->deliver(first, last);
    }
    std::function<void()> act;
    Answers* next = nullptr;
  } follow;
  follow.next = &answers_;
  // Each time: a request of its own, and the end of one that waits.
  std::vector<Ticket*> waiting;
  std::vector<Ticket*> fresh;
  Mutex mutex;
  TrialModel& held = model(dynamic(1), 1);
  held.trial.hold();
  submit(held, {0});
  held.trial.await_inside(1);
  for (int i = 0; i < 8; ++i) {
    waiting.push_back(submit(held, {i}));
    fresh.push_back(ticket(m, {i}));
  }
  int called = 0;
  follow.act = [&] {
    Ticket* leaves = nullptr;
    Ticket* comes = nullptr;
    {
      MutexLock lock(mutex);
      ++called;
      leaves = waiting.back();
      comes = fresh.back();
      waiting.pop_back();
      fresh.pop_back();
    }
    scheduler_->cancel(leaves, kCallerLeft);
    scheduler_->submit(comes);
  };
  const auto mine = [&](TrialModel& on, Nanos deadline = kNever) {
    Ticket* made = ticket(on, {7}, deadline);
    made->sink = &follow;
    return made;
  };
  const auto expect = [&](int calls) {
    answers_.await(static_cast<std::size_t>(3 * calls));
    MutexLock lock(mutex);
    EXPECT_EQ(called, calls);
  };

  scheduler_->submit(mine(m));  // from a lane, with its answer
  expect(1);
  scheduler_->submit(mine(m, clock_.now()));  // from submit, refused
  expect(2);
  scheduler_->submit(mine(tight, clock_.now() + 10));  // runs
  expect(3);
  tight.trial.hold();
  Ticket* cancelled = mine(tight);
  scheduler_->submit(cancelled);
  tight.trial.await_inside(1);
  scheduler_->cancel(cancelled, kCallerLeft);  // from cancel, running
  expect(4);
  closing.trial.hold();
  scheduler_->submit(mine(closing, clock_.now() + 10));
  closing.trial.await_inside(1);
  clock_.advance(10);  // from the timer thread
  expect(5);
  closing.trial.let_go();
  scheduler_->submit(mine(held));
  std::thread closer([&] { scheduler_->close_entry(held.entry, kUnloaded); });  // from close_entry
  answers_.await(18 + 2);                                                       // and the two that waited there still
  held.trial.let_go();
  closer.join();
  tight.trial.let_go();
  m.trial.hold();
  submit(m, {8});
  m.trial.await_inside(1);
  submit(m, {9});
  m.trial.await_inside(2);
  waiting = {submit(m, {10})};
  scheduler_->submit(mine(m));
  scheduler_->stop(kStopped);  // from stop
  for (Ticket* each : fresh) scheduler_->submit(each);
  answers_.await(tickets_.made());
  MutexLock lock(mutex);
  EXPECT_EQ(called, 7);
}

// Everything at once, on the real clock: for the sanitizers, and for "exactly one FINAL".
TEST_F(SchedulerEnds, ManyThreadsSubmitCancelAndExpireWhileModelsComeAndGo) {
  static constexpr int kThreads = 3;
  static constexpr int kRequests = 1500;
  start(3, &SteadyClock::instance());
  TrialModel& m = model(dynamic(8));
  TrialModel& delayed = model(dynamic(8, 200 * kMicrosecond), 1);
  TrialModel& closing = model(dynamic(4));
  m.trial.fail_on(13);
  std::mt19937 random(7);
  std::vector<std::vector<Ticket*>> mine(kThreads);
  std::vector<std::vector<int>> value(kThreads);
  const Nanos now = scheduler_->clock().now();
  for (auto& row : mine) {
    for (int i = 0; i < kRequests; ++i) {
      TrialModel& on = i % 5 == 0 ? delayed : i % 7 == 0 ? closing : m;
      const Nanos deadline = random() % 4 == 0 ? now + static_cast<Nanos>(random() % 200) * kMillisecond : kNever;
      row.push_back(ticket(on, {static_cast<std::int32_t>(random() % 40)}, deadline));
    }
  }
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 own(static_cast<unsigned>(t));
      for (std::size_t i = 0; i < kRequests;) {
        const std::size_t end = std::min<std::size_t>(kRequests, i + 1 + own() % 20);
        scheduler_->submit(Tickets::chain(
            {mine[t].begin() + static_cast<std::ptrdiff_t>(i), mine[t].begin() + static_cast<std::ptrdiff_t>(end)}));
        for (; i < end; ++i) {
          if (own() % 5 == 0) scheduler_->cancel(mine[t][i - own() % (i + 1)], kCallerLeft);
        }
      }
    });
  }
  threads.emplace_back([&] {
    answers_.await(300);
    scheduler_->close_entry(closing.entry, kUnloaded);
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(scheduler_->wait_idle(scheduler_->clock().now() + 60 * kSecond));
  EXPECT_EQ(answers_.size(), tickets_.made());
  for (const Answer& answer : answers_.all()) {
    const std::int32_t x = values_of(tickets_.at(answer.call)->inputs[0])[0];
    if (answer.status.ok()) {
      EXPECT_EQ(answer.outputs, (std::vector<Values>{{2 * x}, {-x}}));
    } else if (answer.status.code() == Code::kInternal) {
      EXPECT_EQ(x, 13);
    }
  }
}

}  // namespace
}  // namespace headrace::testing
