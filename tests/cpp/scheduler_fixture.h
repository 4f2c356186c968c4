// What tests of the scheduler share: lanes on a clock that the test moves, and trial models.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <vector>

#include "schedule/scheduler.h"
#include "trial_session.h"

namespace headrace::testing {

inline const Status kUnloaded{Code::kUnavailable, "model 'm' was unloaded"};
inline const Status kStopped{Code::kUnavailable, "the server is shutting down"};
inline const Status kCallerLeft{Code::kCancelled, "the caller left"};

inline BatchingPolicy dynamic(std::int64_t max_batch_size, Nanos delay = 0) {
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
  Runnable runnable{&session, true, {"y", "z"}, nullptr, {}, {}};
  Dispatcher::Entry* entry = nullptr;
};

// Lanes on a clock that the test moves. Waiters of that clock are the sleeping lanes and the timer thread, so
// await_waiters says that all is quiet.
class SchedulerTest : public ::testing::Test {
 protected:
  void start(int lanes, Clock* clock = nullptr, ParkingListener* listener = nullptr) {
    scheduler_ =
        std::make_unique<Scheduler>(SchedulerOptions{lanes, clock != nullptr ? clock : &clock_, {}, listener}, pool_);
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

}  // namespace headrace::testing
