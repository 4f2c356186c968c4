#include "schedule/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "trial_session.h"

namespace headrace {
namespace {

using testing::Answer;
using testing::Answers;
using testing::Tickets;
using testing::Trial;
using testing::TrialSession;
using testing::Values;

const Status kUnloaded{Code::kUnavailable, "model 'm' was unloaded"};
const Status kStopped{Code::kUnavailable, "the server is shutting down"};
const Status kCallerLeft{Code::kCancelled, "the caller left"};

BatchingPolicy dynamic(std::int64_t max_batch_size, Nanos delay = 0) {
  BatchingPolicy policy;
  policy.dynamic_batching = true;
  policy.max_batch_size = max_batch_size;
  policy.max_queue_delay = delay;
  return policy;
}

// A trial model as the scheduler sees it.
struct TrialModel {
  Trial trial;
  TrialSession session{trial};
  Runnable runnable{&session, true, {"y", "z"}, nullptr};
  Dispatcher::Entry* entry = nullptr;
};

// Lanes on a clock that the test moves. Waiters of that clock are the sleeping lanes and the timer thread, so
// await_waiters says that all is quiet.
class SchedulerTest : public ::testing::Test {
 protected:
  void start(int lanes, Clock* clock = nullptr) {
    scheduler_ = std::make_unique<Scheduler>(SchedulerOptions{lanes, clock != nullptr ? clock : &clock_}, pool_);
    if (clock == nullptr) clock_.await_waiters(static_cast<std::size_t>(lanes) + 1);
  }
  TrialModel& model(const BatchingPolicy& policy, int max_lanes = 8) {
    TrialModel& made = models_.emplace_back();
    made.entry = scheduler_->add("m", policy, max_lanes, &made.runnable);
    return made;
  }
  void TearDown() override {
    for (TrialModel& each : models_) each.trial.let_go();
    scheduler_->stop(kStopped);
    EXPECT_EQ(scheduler_->in_flight(), 0U);
    EXPECT_EQ(scheduler_->busy_lanes(), 0);
    for (TrialModel& each : models_) {
      scheduler_->close_entry(each.entry, kUnloaded);
      scheduler_->erase(each.entry);
    }
    scheduler_.reset();
    tickets_.finish(answers_);
    EXPECT_EQ(pool_.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
  }

  Ticket* ticket(TrialModel& model, const Values& rows, Nanos deadline = kNever) {
    return tickets_.make(rows, model.entry, scheduler_->clock().now(), deadline);
  }
  // One request on its own.
  Ticket* submit(TrialModel& model, const Values& rows, Nanos deadline = kNever) {
    Ticket* made = ticket(model, rows, deadline);
    scheduler_->submit(made);
    return made;
  }
  // One-row requests in one chain.
  std::vector<Ticket*> submit_chain(TrialModel& model, const Values& values, Nanos deadline = kNever) {
    std::vector<Ticket*> made;
    for (const std::int32_t value : values) made.push_back(ticket(model, {value}, deadline));
    scheduler_->submit(Tickets::chain(made));
    return made;
  }
  Answer of(const Ticket* ticket) const { return answers_.of(ticket->cookie_call); }

  ManualClock clock_{kSecond};
  Pool pool_{PoolOptions{}};
  Answers answers_;
  Tickets tickets_{pool_, answers_};
  std::deque<TrialModel> models_;
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_F(SchedulerTest, AnswersARequest) {
  start(1);
  TrialModel& m = model(dynamic(8));
  Ticket* only = submit(m, {3, 4});
  answers_.await(1);
  const Answer answer = of(only);
  EXPECT_TRUE(answer.status.ok()) << answer.status.to_string();
  EXPECT_EQ(answer.outputs, (std::vector<Values>{{6, 8}, {-3, -4}}));
  EXPECT_EQ(answer.batch_rows, 2);
  EXPECT_EQ(answer.time.received, kSecond);
  EXPECT_EQ(answer.time.finished, kSecond);
}

TEST_F(SchedulerTest, AFreeLaneTakesAllThatIsThereAndWaitsForNothing) {
  start(1);
  TrialModel& m = model(dynamic(8));
  m.trial.hold();
  submit(m, {1});
  m.trial.await_inside(1);
  for (const std::int32_t value : {2, 3, 4}) submit(m, {value});
  EXPECT_EQ(scheduler_->depth(m.entry).queued, 3U);
  m.trial.let_go();
  answers_.await(4);
  EXPECT_EQ(m.trial.runs(), (std::vector<Values>{{1}, {2, 3, 4}}));
}

TEST_F(SchedulerTest, ALaneWakesAtTheEndOfAChainNotAtItsFirstRequest) {
  start(2);
  TrialModel& m = model(dynamic(64));
  for (int round = 0; round < 50; ++round) {
    clock_.await_waiters(3);  // both lanes sleep
    Values values(16);
    std::iota(values.begin(), values.end(), 100 * round);
    submit_chain(m, values);
    answers_.await(tickets_.made());
    EXPECT_EQ(m.trial.runs().back(), values) << "round " << round;
    EXPECT_EQ(m.trial.runs().size(), static_cast<std::size_t>(round + 1));
  }
}

TEST_F(SchedulerTest, LanesWakeEachOtherWhileThereIsMoreThanOneTakes) {
  start(4);
  TrialModel& m = model(dynamic(2));
  m.trial.hold();
  clock_.await_waiters(5);
  submit_chain(m, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  m.trial.await_inside(4);
  EXPECT_EQ(scheduler_->busy_lanes(), 4);
  EXPECT_EQ(scheduler_->depth(m.entry).queued, 1U);
  EXPECT_EQ(scheduler_->depth(m.entry).running, 8U);
  EXPECT_EQ(scheduler_->in_flight(), 9U);
  m.trial.let_go();
  answers_.await(9);
  EXPECT_EQ(scheduler_->in_flight(), 0U);
}

TEST_F(SchedulerTest, NoMoreLanesThanItsLimitRunAModelAndTheOthersServeTheRest) {
  start(3);
  TrialModel& narrow = model(dynamic(1), 1);
  TrialModel& other = model(dynamic(1), 8);
  narrow.trial.hold();
  other.trial.hold();
  submit_chain(narrow, {1, 2, 3, 4});
  narrow.trial.await_inside(1);
  clock_.await_waiters(3);  // two lanes found nothing that they may do
  submit_chain(other, {5, 6});
  other.trial.await_inside(2);
  other.trial.let_go();
  narrow.trial.let_go();
  answers_.await(6);
  EXPECT_EQ(narrow.trial.most_inside(), 1);
  EXPECT_EQ(narrow.trial.runs(), (std::vector<Values>{{1}, {2}, {3}, {4}}));
}

TEST_F(SchedulerTest, ADelayedBatchIsTakenWhenItsTimeHasCome) {
  start(1);
  TrialModel& m = model(dynamic(8, 100));
  submit(m, {1});
  submit(m, {2});
  clock_.await_waiters(2);
  clock_.advance(99);
  clock_.await_waiters(2);
  EXPECT_TRUE(m.trial.runs().empty());
  clock_.advance(1);
  answers_.await(2);
  EXPECT_EQ(m.trial.runs(), (std::vector<Values>{{1, 2}}));
}

// The lane that was to look at the delayed batch is taken by another model: somebody else has to look.
TEST_F(SchedulerTest, ADelayedBatchIsNotForgottenWhenTheLaneThatWatchedItGetsOtherWork) {
  start(2);
  TrialModel& delayed = model(dynamic(8, 100));
  TrialModel& other = model(dynamic(8));
  other.trial.hold();
  clock_.await_waiters(3);
  submit(delayed, {1});
  clock_.await_waiters(3);
  submit(other, {2});  // wakes the lane that went to sleep last: the one that watches
  other.trial.await_inside(1);
  clock_.await_waiters(2);
  clock_.advance(100);
  answers_.await(1);
  EXPECT_EQ(delayed.trial.runs(), (std::vector<Values>{{1}}));
}

TEST_F(SchedulerTest, ABatchThatACancelMakesDueIsTakenAtOnce) {
  start(1);
  BatchingPolicy policy = dynamic(8, kSecond);
  policy.preferred_batch_sizes = {4, 8};
  TrialModel& m = model(policy);
  Ticket* in_the_way = submit(m, {1, 2, 3});
  submit(m, {4, 5, 6, 7});
  clock_.await_waiters(2);
  EXPECT_TRUE(m.trial.runs().empty());
  scheduler_->cancel(in_the_way, kCallerLeft);
  answers_.await(2);
  EXPECT_EQ(m.trial.runs(), (std::vector<Values>{{4, 5, 6, 7}}));
}

TEST_F(SchedulerTest, ABatchThatADeadlineMakesDueIsTakenAtOnce) {
  start(1);
  BatchingPolicy policy = dynamic(8, kSecond);
  policy.preferred_batch_sizes = {4, 8};
  TrialModel& m = model(policy);
  submit(m, {1, 2, 3}, clock_.now() + 10);
  submit(m, {4, 5, 6, 7});
  clock_.await_waiters(2);
  clock_.advance(10);
  answers_.await(2);
  EXPECT_EQ(m.trial.runs(), (std::vector<Values>{{4, 5, 6, 7}}));
}

TEST_F(SchedulerTest, DeadlinesFireWhileEveryLaneIsBusy) {
  start(2);
  TrialModel& m = model(dynamic(1));
  m.trial.hold();
  m.trial.obey_interrupts(false);
  Ticket* running = submit(m, {1}, clock_.now() + 50);
  submit(m, {2});
  m.trial.await_inside(2);
  Ticket* soon = submit(m, {3}, clock_.now() + 10 * kMillisecond);
  Ticket* later = submit(m, {4}, clock_.now() + 20 * kMillisecond);
  clock_.await_waiters(1);
  clock_.advance(10 * kMillisecond);
  answers_.await(2);
  EXPECT_EQ(of(running).status.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(of(running).status.message(),
            "the deadline passed while model 'm' ran the request, after 0 ms in its queue");
  EXPECT_EQ(of(soon).status.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(of(soon).status.message(), "the deadline passed in the queue of model 'm', after 10 ms there");
  EXPECT_EQ(answers_.size(), 2U);
  clock_.await_waiters(1);
  clock_.advance(10 * kMillisecond);
  answers_.await(3);
  EXPECT_EQ(of(later).status.code(), Code::kDeadlineExceeded);
  m.trial.let_go();
  answers_.await(4);
  EXPECT_EQ(m.trial.runs().size(), 2U) << "what is late never reaches the runtime";
}

// The same on the real clock: a deadline of 100 ms behind a run that would go on for seconds.
TEST_F(SchedulerTest, ADeadlineBehindALongRunIsAnsweredWithinTwentyMilliseconds) {
  start(1, &SteadyClock::instance());
  const Clock& clock = scheduler_->clock();
  struct Stamp final : CompletionSink {
    void deliver(Completion* first, Completion* last) noexcept override {
      const Nanos now = SteadyClock::instance().now();
      for (Completion* link = first;; link = link->next) {
        late.push_back(now - static_cast<Ticket*>(link)->deadline);
        if (link == last) break;
      }
      next->deliver(first, last);
    }
    Answers* next = nullptr;
    std::vector<Nanos> late;  // by the one timer thread
  } stamp;
  stamp.next = &answers_;
  TrialModel& m = model(dynamic(8));
  m.trial.hold();
  submit(m, {1});
  m.trial.await_inside(1);
  const Nanos now = clock.now();
  for (int i = 0; i < 5; ++i) {
    Ticket* waiting = ticket(m, {2}, now + (100 + 10 * i) * kMillisecond);
    waiting->sink = &stamp;
    scheduler_->submit(waiting);
  }
  answers_.await(5);
  EXPECT_EQ(m.trial.runs().size(), 1U) << "the long run goes on";
  ASSERT_EQ(stamp.late.size(), 5U);
  // The machine may be busy with other things: the middle one counts.
  std::sort(stamp.late.begin(), stamp.late.end());
  EXPECT_GE(stamp.late.front(), 0);
  EXPECT_LE(stamp.late[2], 20 * kMillisecond);
}

TEST_F(SchedulerTest, CancelTakesAWaitingRequestOut) {
  start(1);
  TrialModel& m = model(dynamic(1));
  m.trial.hold();
  submit(m, {1});
  m.trial.await_inside(1);
  Ticket* waiting = submit(m, {2});
  EXPECT_EQ(scheduler_->depth(m.entry).queued_bytes, 4U);
  scheduler_->cancel(waiting, kCallerLeft);
  EXPECT_EQ(answers_.size(), 1U) << "answered before cancel returns";
  EXPECT_EQ(of(waiting).status.code(), Code::kCancelled);
  EXPECT_EQ(of(waiting).status.message(), "the caller left");
  EXPECT_EQ(scheduler_->depth(m.entry).queued, 0U);
  EXPECT_EQ(scheduler_->depth(m.entry).queued_bytes, 0U);
  EXPECT_EQ(scheduler_->in_flight(), 1U);
  scheduler_->cancel(waiting, kCallerLeft);  // once is enough
  m.trial.let_go();
  answers_.await(2);
  EXPECT_EQ(m.trial.runs(), (std::vector<Values>{{1}}));
}

TEST_F(SchedulerTest, ARunIsStoppedOnlyWhenAllOfItsRequestsAreGone) {
  start(1);
  TrialModel& m = model(dynamic(8));
  m.trial.hold();
  std::vector<Ticket*> batch = submit_chain(m, {1, 2, 3});
  m.trial.await_inside(1);
  scheduler_->cancel(batch[0], kCallerLeft);
  scheduler_->cancel(batch[2], kCallerLeft);
  EXPECT_EQ(answers_.size(), 2U) << "their callers wait no longer";
  EXPECT_EQ(m.trial.interrupted(), 0);
  m.trial.let_go();
  answers_.await(3);
  EXPECT_TRUE(of(batch[1]).status.ok());
  EXPECT_EQ(of(batch[1]).outputs[0], (Values{4}));
  EXPECT_EQ(of(batch[1]).batch_rows, 3);
  EXPECT_EQ(m.trial.interrupted(), 0);

  m.trial.hold();
  batch = submit_chain(m, {4, 5});
  m.trial.await_inside(1);
  scheduler_->cancel(batch[0], kCallerLeft);
  scheduler_->cancel(batch[1], kCallerLeft);
  EXPECT_EQ(answers_.size(), 5U);
  // The next request finds the lane free although nobody let the run go.
  clock_.await_waiters(2);
  EXPECT_EQ(m.trial.interrupted(), 1);
  EXPECT_EQ(m.trial.runs().size(), 2U) << "a stopped batch is not run again";
}

TEST_F(SchedulerTest, AfterAStoppedRunTheNextOneIsNotStopped) {
  start(1);
  TrialModel& m = model(dynamic(8));
  m.trial.hold();
  Ticket* first = submit(m, {1});
  m.trial.await_inside(1);
  Ticket* second = submit(m, {2});
  scheduler_->cancel(first, kCallerLeft);
  clock_.await_waiters(1);
  m.trial.let_go();
  answers_.await(2);
  EXPECT_TRUE(of(second).status.ok()) << of(second).status.to_string();
}

TEST_F(SchedulerTest, OnlyTheGuiltyRequestOfABatchGetsTheError) {
  start(1);
  TrialModel& m = model(dynamic(16));
  m.trial.fail_on(5);
  clock_.await_waiters(2);
  const std::vector<Ticket*> batch = submit_chain(m, {0, 1, 2, 3, 4, 5, 6, 7});
  answers_.await(8);
  for (std::int32_t i = 0; i < 8; ++i) {
    const Answer answer = of(batch[static_cast<std::size_t>(i)]);
    if (i == 5) {
      EXPECT_EQ(answer.status.code(), Code::kInternal);
      EXPECT_EQ(answer.status.message(), "a bad row");
    } else {
      EXPECT_TRUE(answer.status.ok()) << i << answer.status.to_string();
      EXPECT_EQ(answer.outputs, (std::vector<Values>{{2 * i}, {-i}}));
    }
  }
  EXPECT_EQ(m.trial.runs(),
            (std::vector<Values>{{0, 1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3}, {4, 5, 6, 7}, {4, 5}, {4}, {5}, {6, 7}}));
}

TEST_F(SchedulerTest, WhatExpiresIsLeftOutOfTheRerun) {
  start(1);
  TrialModel& m = model(dynamic(16));
  m.trial.fail_on(0);
  std::atomic<int> run = 0;
  // The whole batch fails while the deadline of 1 passes, its first half while that of 3 does.
  m.trial.on_run([&](const Values&) {
    if (++run > 2) return;
    clock_.await_waiters(1);  // the timer thread
    clock_.advance(10);
    answers_.await(static_cast<std::size_t>(run));
  });
  clock_.await_waiters(2);
  std::vector<Ticket*> batch;
  const Nanos now = clock_.now();
  for (const std::int32_t value : {0, 1, 2, 3}) {
    batch.push_back(ticket(m, {value}, value == 1 ? now + 10 : value == 3 ? now + 20 : kNever));
  }
  scheduler_->submit(Tickets::chain(batch));
  answers_.await(4);
  EXPECT_EQ(m.trial.runs(), (std::vector<Values>{{0, 1, 2, 3}, {0}, {2}}));
  EXPECT_EQ(of(batch[0]).status.code(), Code::kInternal);
  EXPECT_EQ(of(batch[1]).status.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(of(batch[2]).outputs[0], (Values{4}));
  EXPECT_EQ(of(batch[3]).status.code(), Code::kDeadlineExceeded);
}

TEST_F(SchedulerTest, AFullQueueIsARefusalBeforeSubmitReturns) {
  start(1);
  BatchingPolicy policy = dynamic(1);
  policy.max_queue_size = 2;
  TrialModel& m = model(policy);
  m.trial.hold();
  submit(m, {1});
  m.trial.await_inside(1);
  submit_chain(m, {2, 3});
  EXPECT_EQ(answers_.size(), 0U);
  Ticket* refused = submit(m, {4});
  EXPECT_EQ(of(refused).status.code(), Code::kResourceExhausted);
  EXPECT_NE(of(refused).status.message().find("it holds 2 requests (max_queue_size"), std::string::npos)
      << of(refused).status.message();
  EXPECT_EQ(of(refused).time.queued, 0);
  EXPECT_EQ(scheduler_->in_flight(), 3U);
  m.trial.let_go();
  answers_.await(4);
}

TEST_F(SchedulerTest, WhatIsLateOnArrivalIsRefused) {
  start(1);
  TrialModel& m = model(dynamic(1));
  Ticket* late = submit(m, {1}, clock_.now());
  EXPECT_EQ(of(late).status.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(scheduler_->in_flight(), 0U);
}

TEST_F(SchedulerTest, ClosingAModelAnswersTheQueuedAndWaitsForTheRunning) {
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

TEST_F(SchedulerTest, StopAnswersEverybodyAndInterruptsTheRuns) {
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

TEST_F(SchedulerTest, ABatchThatIsStoppedIsNotRunAgainByHalves) {
  start(1);
  TrialModel& m = model(dynamic(8));
  m.trial.hold();
  const std::vector<Ticket*> batch = submit_chain(m, {1, 2, 3});
  m.trial.await_inside(1);
  scheduler_->stop(kStopped);
  EXPECT_EQ(m.trial.runs().size(), 1U);
  for (const Ticket* each : batch) EXPECT_EQ(of(each).status.code(), Code::kUnavailable);
}

TEST_F(SchedulerTest, ARunThatEndsWellWhileTheServerStopsIsAnsweredWell) {
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

TEST_F(SchedulerTest, WaitIdleWaitsForTheLastAnswerButNotForARunThatNobodyWaitsFor) {
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

TEST_F(SchedulerTest, WhoWaitsForIdleFindsEveryAnswerWithItsSink) {
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
TEST_F(SchedulerTest, ASinkMaySubmitAndCancelFromEveryPlaceThatCallsIt) {
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
TEST_F(SchedulerTest, ManyThreadsSubmitCancelAndExpireWhileModelsComeAndGo) {
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
    const std::int32_t x = testing::values_of(tickets_.at(answer.call)->inputs[0])[0];
    if (answer.status.ok()) {
      EXPECT_EQ(answer.outputs, (std::vector<Values>{{2 * x}, {-x}}));
    } else if (answer.status.code() == Code::kInternal) {
      EXPECT_EQ(x, 13);
    }
  }
}

}  // namespace
}  // namespace headrace
