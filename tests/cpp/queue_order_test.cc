// Who goes first in a queue, and how far its batches reach: priority levels, targets, timeouts that delay, costs.
#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <vector>

#include "batching/queue.h"
#include "known_costs.h"

namespace headrace {
namespace {

using Tickets = std::vector<Ticket*>;

class QueueOrderTest : public ::testing::Test {
 protected:
  QueueOrderTest() {
    policy_.dynamic_batching = true;
    policy_.max_batch_size = 1;
  }
  void TearDown() override {
    if (queue_) queue_->clear();
  }
  Queue& queue() {
    if (!queue_) queue_ = std::make_unique<Queue>("digits", policy_);
    return *queue_;
  }
  Ticket* ticket(Nanos deadline = kNever, std::uint32_t priority = 0) {
    Ticket& made = tickets_.emplace_back();
    made.deadline = deadline;
    made.priority = priority;
    return &made;
  }
  Ticket* pushed(Nanos now, Nanos deadline = kNever, std::uint32_t priority = 0) {
    Ticket* made = ticket(deadline, priority);
    EXPECT_TRUE(queue().push(made, now, sequence_++).ok());
    return made;
  }
  Tickets taken(Nanos now = 0) {
    const std::uint64_t first = queue().next_turn(now).sequence;
    Tickets result;
    for (Ticket* each = queue().take(now).first; each != nullptr; each = each->queue_next) result.push_back(each);
    EXPECT_EQ(first, result.empty() ? kNoSequence : result.front()->sequence);
    return result;
  }

  BatchingPolicy policy_;
  std::unique_ptr<Queue> queue_;
  std::deque<Ticket> tickets_;
  std::uint64_t sequence_ = 0;
};

TEST_F(QueueOrderTest, TheEarliestDeadlineGoesFirst) {
  Ticket* none = pushed(0);
  Ticket* late = pushed(0, 500);
  Ticket* early = pushed(0, 200);
  Ticket* same = pushed(0, 200);
  EXPECT_EQ(queue().targets(), 3U);
  for (Ticket* each : {early, same, late, none}) EXPECT_EQ(taken(), (Tickets{each}));
  EXPECT_EQ(queue().targets(), 0U);
}

TEST_F(QueueOrderTest, AFarDeadlineIsNoReasonToWaitBehindWhatCameLater) {
  Ticket* far = pushed(0, 60 * kSecond);
  Ticket* none = pushed(1);
  EXPECT_EQ(taken(2), (Tickets{far}));
  EXPECT_EQ(taken(2), (Tickets{none}));
}

TEST_F(QueueOrderTest, PatienceEnds) {
  Ticket* none = pushed(0);
  Ticket* tight = pushed(kPatience - 10, kPatience - 5);
  Ticket* tight_later = pushed(kPatience, kPatience + 5);
  EXPECT_EQ(taken(kPatience), (Tickets{tight}));
  EXPECT_EQ(taken(kPatience), (Tickets{none}));
  EXPECT_EQ(taken(kPatience), (Tickets{tight_later}));
}

TEST_F(QueueOrderTest, AnObjectiveIsATargetFromTheLastByteOn) {
  policy_.latency_objective = 100;
  Ticket* a = ticket();
  a->time.received = 40;
  ASSERT_TRUE(queue().push(a, 60, sequence_++).ok());
  EXPECT_EQ(a->target, 140);
  EXPECT_EQ(a->deadline, kNever) << "what is late is still answered";
  Ticket* b = pushed(60, 120);
  EXPECT_EQ(b->target, 120);
  EXPECT_EQ(taken(60), (Tickets{b}));
}

TEST_F(QueueOrderTest, LevelsGoBeforeTargets) {
  policy_.priority_levels = 3;
  policy_.default_priority_level = 2;
  Ticket* low = pushed(0, 10, 3);
  Ticket* usual = pushed(0);
  Ticket* unknown = pushed(0, kNever, 99);
  Ticket* high = pushed(0, kNever, 1);
  for (Ticket* each : {high, usual, unknown, low}) EXPECT_EQ(taken(), (Tickets{each}));
}

TEST_F(QueueOrderTest, ABatchMayHoldSeveralLevels) {
  policy_.max_batch_size = 4;
  policy_.priority_levels = 2;
  policy_.default_priority_level = 2;
  Ticket* a = pushed(0);
  Ticket* b = pushed(0, kNever, 1);
  EXPECT_EQ(taken(), (Tickets{b, a}));
}

TEST_F(QueueOrderTest, TheLowestLevelDoesNotStarve) {
  policy_.priority_levels = 2;
  policy_.default_priority_level = 2;
  Ticket* low = pushed(0);
  pushed(0);
  std::uint32_t batches = 0;
  for (Tickets got; got != Tickets{low}; ++batches) {
    ASSERT_LE(batches, Queue::kTurnEvery);
    pushed(0, kNever, 1);
    got = taken();
  }
  EXPECT_EQ(batches, Queue::kTurnEvery);
}

TEST_F(QueueOrderTest, ALevelMayHaveABoundOfItsOwn) {
  policy_.priority_levels = 2;
  policy_.default_priority_level = 2;
  policy_.level_queue[2].max_queue_size = 1;
  Ticket* low = pushed(0);
  Ticket* refused = ticket();
  const Status status = queue().push(refused, 0, sequence_++);
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_EQ(status.message(),
            "the queue of model 'digits' is full for priority level 2: it holds 1 such requests (max_queue_size in "
            "config.pbtxt's priority_queue_policy); retry later, or add instances (count in config.pbtxt's "
            "instance_group)");
  EXPECT_EQ(refused->state, TicketState::kNew);
  pushed(0, kNever, 1);
  pushed(0, kNever, 1);
  queue().remove(low);
  EXPECT_TRUE(queue().push(refused, 0, sequence_++).ok());
}

TEST_F(QueueOrderTest, ATimeoutThatDelaysSendsToTheBackOfItsLevel) {
  policy_.timeout_action = TimeoutAction::kDelay;
  Ticket* a = ticket();
  a->timeout = 100;
  ASSERT_TRUE(queue().push(a, 0, sequence_++).ok());
  Ticket* b = pushed(50);
  Ticket* c = pushed(60);
  EXPECT_EQ(queue().next_turn(99).sequence, a->sequence);
  EXPECT_EQ(taken(100), (Tickets{b}));
  Ticket* d = pushed(120);
  EXPECT_EQ(taken(130), (Tickets{c}));
  EXPECT_EQ(taken(130), (Tickets{d}));
  EXPECT_EQ(taken(130), (Tickets{a}));
}

TEST_F(QueueOrderTest, WhatWasSentBackDoesNotStarveEither) {
  policy_.timeout_action = TimeoutAction::kDelay;
  Ticket* a = ticket();
  a->timeout = 1;
  ASSERT_TRUE(queue().push(a, 0, sequence_++).ok());
  std::uint32_t batches = 0;
  for (Tickets got; got != Tickets{a}; ++batches) {
    ASSERT_LE(batches, Queue::kTurnEvery);
    pushed(10);
    got = taken(10);
  }
}

TEST_F(QueueOrderTest, ATicketThatWasSentBackCanLeave) {
  policy_.timeout_action = TimeoutAction::kDelay;
  Ticket* a = ticket();
  a->timeout = 1;
  ASSERT_TRUE(queue().push(a, 0, sequence_++).ok());
  Ticket* b = pushed(0);
  queue().next_turn(5);
  queue().remove(a);
  EXPECT_EQ(taken(5), (Tickets{b}));
  EXPECT_TRUE(queue().empty());
}

TEST_F(QueueOrderTest, CostsCloseABatch) {
  KnownCosts costs(100, 10);
  costs.best = 3;
  policy_.max_batch_size = 8;
  queue().set_costs(&costs);
  for (int i = 0; i < 5; ++i) pushed(0);
  EXPECT_EQ(taken().size(), 3U);
  EXPECT_EQ(costs.last_available, 5);
  costs.trial_rows = 1;
  EXPECT_EQ(taken().size(), 1U);
  TakeOptions options;
  options.trials = false;
  pushed(0);
  const Batch batch = queue().take(0, options);
  EXPECT_EQ(batch.tickets, 2U);
  EXPECT_EQ(batch.cost_rows, 2);
}

TEST_F(QueueOrderTest, WhatDoesNotPayIsNotWaitedFor) {
  KnownCosts costs(100, 10);
  costs.best = 2;
  policy_.max_batch_size = 8;
  policy_.max_queue_delay = 1000;
  queue().set_costs(&costs);
  pushed(0);
  EXPECT_TRUE(taken(0).empty());
  pushed(1);
  EXPECT_EQ(taken(1).size(), 2U);
}

TEST_F(QueueOrderTest, APreferredSizeThatANewcomerBreaksIsNotDue) {
  policy_.max_batch_size = 8;
  policy_.max_queue_delay = 1000;
  policy_.preferred_batch_sizes = {3, 8};
  for (const Nanos deadline : {800, 900, 950}) pushed(0, deadline);
  EXPECT_NE(queue().next_turn(0).sequence, kNoSequence);
  Ticket* wide = ticket(850);
  wide->rows = 3;
  ASSERT_TRUE(queue().push(wide, 0, sequence_++).ok());  // 1, then 4, 5 and 6 rows
  EXPECT_EQ(queue().next_turn(0).sequence, kNoSequence);
}

}  // namespace
}  // namespace headrace
