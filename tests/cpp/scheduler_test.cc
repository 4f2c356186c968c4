#include "schedule/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <vector>

#include "scheduler_fixture.h"

namespace headrace::testing {
namespace {

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
  // So far off that they are no reason to go first. The whole batch fails while the deadline of 1 passes, its first
  // half while that of 3 does.
  m.trial.on_run([&](const Values&) {
    if (++run > 2) return;
    clock_.await_waiters(1);  // the timer thread
    clock_.advance(2 * kSecond);
    answers_.await(static_cast<std::size_t>(run));
  });
  clock_.await_waiters(2);
  std::vector<Ticket*> batch;
  const Nanos now = clock_.now();
  for (const std::int32_t value : {0, 1, 2, 3}) {
    batch.push_back(ticket(m, {value}, value == 1 ? now + 2 * kSecond : value == 3 ? now + 4 * kSecond : kNever));
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

}  // namespace
}  // namespace headrace::testing
