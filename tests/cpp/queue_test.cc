#include "batching/queue.h"

#include <gtest/gtest.h>

#include <deque>
#include <vector>

#include "batching/shape_groups.h"

namespace headrace {
namespace {

Tensor floats(Shape shape) {
  Tensor tensor;
  tensor.dtype = DType::kFp32;
  tensor.size = 4;
  for (const std::int64_t dim : shape.dims()) tensor.size *= static_cast<std::size_t>(dim);
  tensor.shape = std::move(shape);
  return tensor;
}

BatchingPolicy dynamic(std::int64_t max_batch_size) {
  BatchingPolicy policy;
  policy.dynamic_batching = true;
  policy.max_batch_size = max_batch_size;
  return policy;
}

// A queue, its tickets and a count of arrivals. Tickets hold no pooled bytes here: only their sizes matter.
class QueueTest : public ::testing::Test {
 protected:
  void make(BatchingPolicy policy) { queue_ = std::make_unique<Queue>("digits", std::move(policy)); }
  void TearDown() override {
    if (queue_) queue_->clear();
  }

  Ticket* ticket(std::int64_t rows, std::int64_t width = 4) {
    Ticket& made = tickets_.emplace_back();
    made.rows = rows;
    made.inputs.push_back(floats({rows, width}));
    return &made;
  }
  Status push(Ticket* ticket, Nanos now = 0) { return queue_->push(ticket, now, sequence_++); }
  Ticket* pushed(std::int64_t rows, Nanos now = 0, std::int64_t width = 4) {
    Ticket* made = ticket(rows, width);
    EXPECT_TRUE(push(made, now).ok());
    return made;
  }
  // The batch's tickets in order, with the books checked.
  std::vector<Ticket*> taken(Nanos now = 0) {
    const std::size_t before = queue_->size();
    const bool promised = queue_->next_timeout(now) <= now;
    const std::uint64_t first = queue_->next_turn(now).sequence;
    const Batch batch = queue_->take(now);
    std::vector<Ticket*> result;
    std::int64_t rows = 0;
    for (Ticket* each = batch.first; each != nullptr; each = each->queue_next) {
      EXPECT_EQ(each->state, TicketState::kRunning);
      rows += each->rows;
      result.push_back(each);
    }
    EXPECT_EQ(promised, !result.empty());
    EXPECT_EQ(first, result.empty() ? kNoSequence : result.front()->sequence);
    EXPECT_EQ(batch.tickets, result.size());
    EXPECT_EQ(batch.rows, rows);
    EXPECT_EQ(queue_->size(), before - result.size());
    return result;
  }
  using Tickets = std::vector<Ticket*>;

  std::unique_ptr<Queue> queue_;
  std::deque<Ticket> tickets_;
  std::uint64_t sequence_ = 0;
};

TEST_F(QueueTest, TakesNothingFromNothing) {
  make(dynamic(8));
  EXPECT_TRUE(taken().empty());
  EXPECT_EQ(queue_->next_timeout(5), kNever);
}

TEST_F(QueueTest, TakesWhatIsThereWithoutWaiting) {
  make(dynamic(8));
  Ticket* a = pushed(1, 10);
  Ticket* b = pushed(2, 20);
  EXPECT_EQ(a->state, TicketState::kQueued);
  EXPECT_EQ(b->time.queued, 20);
  EXPECT_EQ(taken(25), (Tickets{a, b}));
  EXPECT_EQ(queue_->bytes(), 0U);
}

TEST_F(QueueTest, FillsABatchUpToItsRowsAndNoFurther) {
  make(dynamic(8));
  Ticket* a = pushed(3);
  Ticket* b = pushed(5);
  Ticket* c = pushed(1);
  EXPECT_EQ(taken(), (Tickets{a, b}));
  EXPECT_EQ(taken(), (Tickets{c}));
}

TEST_F(QueueTest, ATicketThatDoesNotFitIsNotOvertaken) {
  make(dynamic(8));
  Ticket* a = pushed(6);
  Ticket* b = pushed(4);
  Ticket* c = pushed(1);
  EXPECT_EQ(taken(), (Tickets{a}));
  EXPECT_EQ(taken(), (Tickets{b, c}));
}

TEST_F(QueueTest, ATicketOverTheLimitRunsAlone) {
  make(dynamic(4));
  Ticket* a = pushed(1);
  Ticket* b = pushed(9);
  Ticket* c = pushed(1);
  EXPECT_EQ(taken(), (Tickets{a}));
  EXPECT_EQ(taken(), (Tickets{b}));
  EXPECT_EQ(taken(), (Tickets{c}));
}

TEST_F(QueueTest, ATicketOfHugeRowsDoesNotOverflowTheCount) {
  make(dynamic(4));
  Ticket* a = ticket(1);
  Ticket* b = ticket(1);
  a->rows = b->rows = std::numeric_limits<std::int64_t>::max();
  ASSERT_TRUE(push(a).ok());
  ASSERT_TRUE(push(b).ok());
  EXPECT_EQ(taken(), (Tickets{a}));
  EXPECT_EQ(queue_->take(0).first, b);
}

TEST_F(QueueTest, TicketsOfNoRowsAreBoundedToo) {
  make(dynamic(2));
  Ticket* a = pushed(0);
  Ticket* b = pushed(0);
  Ticket* c = pushed(0);
  EXPECT_EQ(taken(), (Tickets{a, b}));
  EXPECT_EQ(taken(), (Tickets{c}));
}

TEST_F(QueueTest, WithoutDynamicBatchingEachRunsAloneInOrder) {
  BatchingPolicy policy = dynamic(8);
  policy.dynamic_batching = false;
  policy.max_queue_delay = 100;  // belongs to dynamic batching: without it nothing waits
  make(policy);
  Ticket* a = pushed(2, 0, 4);
  Ticket* b = pushed(2, 0, 9);
  Ticket* c = pushed(2, 0, 4);
  EXPECT_EQ(taken(), (Tickets{a}));
  EXPECT_EQ(taken(), (Tickets{b}));
  EXPECT_EQ(taken(), (Tickets{c}));
}

TEST_F(QueueTest, WithMaxBatchSizeZeroEachRunsAlone) {
  make(dynamic(0));
  Ticket* a = pushed(1);
  Ticket* b = pushed(1);
  EXPECT_EQ(taken(), (Tickets{a}));
  EXPECT_EQ(taken(), (Tickets{b}));
}

TEST_F(QueueTest, ShapesNeverMixAndTheOldestGroupGoesFirst) {
  make(dynamic(8));
  Ticket* wide = pushed(1, 0, 9);
  Ticket* a = pushed(1, 1, 4);
  Ticket* wider = pushed(2, 2, 9);
  Ticket* b = pushed(1, 3, 4);
  EXPECT_EQ(taken(5), (Tickets{wide, wider}));
  EXPECT_EQ(taken(5), (Tickets{a, b}));
}

TEST_F(QueueTest, AGroupsTurnIsThatOfItsOldestTicketAfterATake) {
  make(dynamic(2));
  Ticket* a1 = pushed(2, 0, 4);
  Ticket* b = pushed(2, 0, 9);
  Ticket* a2 = pushed(2, 0, 4);
  EXPECT_EQ(taken(), (Tickets{a1}));
  EXPECT_EQ(taken(), (Tickets{b}));
  EXPECT_EQ(taken(), (Tickets{a2}));
}

TEST_F(QueueTest, DtypeRankAndPresenceSeparateToo) {
  make(dynamic(8));
  Ticket* plain = pushed(1);
  Ticket* ints = ticket(1);
  ints->inputs[0].dtype = DType::kInt32;
  Ticket* deeper = ticket(1);
  deeper->inputs[0].shape = Shape{1, 4, 1};
  Ticket* optional = ticket(1);
  optional->inputs.push_back(floats({1, 4}));
  Ticket* absent = ticket(1);
  absent->inputs.emplace_back();
  Ticket* absent_first = ticket(1);
  absent_first->inputs.insert(absent_first->inputs.begin(), Tensor());
  for (Ticket* each : {ints, deeper, optional, absent, absent_first}) ASSERT_TRUE(push(each).ok());
  for (Ticket* each : {plain, ints, deeper, optional, absent, absent_first}) EXPECT_EQ(taken(), (Tickets{each}));
}

TEST_F(QueueTest, AnAbsentInputMayCarryAnyShape) {
  make(dynamic(8));
  Ticket* a = ticket(1);
  a->inputs.emplace_back();
  Ticket* b = ticket(1);
  b->inputs.emplace_back().shape = Shape{3, 3};
  ASSERT_TRUE(push(a).ok());
  ASSERT_TRUE(push(b).ok());
  EXPECT_EQ(taken(), (Tickets{a, b}));
}

TEST_F(QueueTest, PreferredSizeIsTakenWithoutDelay) {
  BatchingPolicy policy = dynamic(8);
  policy.preferred_batch_sizes = {4, 2};
  make(policy);
  Tickets all;
  for (int i = 0; i < 7; ++i) all.push_back(pushed(1));
  EXPECT_EQ(taken(), Tickets(all.begin(), all.begin() + 4));
  EXPECT_EQ(taken(), Tickets(all.begin() + 4, all.begin() + 6));
  EXPECT_EQ(taken(), Tickets(all.begin() + 6, all.end()));
}

TEST_F(QueueTest, WithoutAnExactPreferredSizeAllThatFitsGoes) {
  BatchingPolicy policy = dynamic(8);
  policy.preferred_batch_sizes = {4, 99, 0};
  make(policy);
  Ticket* a = pushed(3);
  Ticket* b = pushed(3);
  EXPECT_EQ(taken(), (Tickets{a, b}));
}

TEST_F(QueueTest, ADelayHoldsABatchUntilItsOldestIsOldEnough) {
  BatchingPolicy policy = dynamic(8);
  policy.max_queue_delay = 100;
  make(policy);
  Ticket* a = pushed(1, 1000);
  Ticket* b = pushed(1, 1050);
  EXPECT_TRUE(taken(1050).empty());
  EXPECT_EQ(queue_->next_timeout(1050), 1100);
  EXPECT_TRUE(taken(1099).empty());
  EXPECT_EQ(taken(1100), (Tickets{a, b}));
  EXPECT_EQ(queue_->next_timeout(1100), kNever);
}

TEST_F(QueueTest, AFullBatchDoesNotWait) {
  BatchingPolicy policy = dynamic(4);
  policy.max_queue_delay = 100;
  make(policy);
  Ticket* a = pushed(3, 0);
  EXPECT_TRUE(taken(0).empty());
  Ticket* b = pushed(2, 1);  // the batch of a is closed by a ticket that does not fit
  EXPECT_EQ(taken(1), (Tickets{a}));
  EXPECT_TRUE(taken(1).empty());
  EXPECT_EQ(queue_->next_timeout(1), 101);
  EXPECT_EQ(taken(101), (Tickets{b}));
}

TEST_F(QueueTest, AnyPreferredSizeReachedEndsTheWait) {
  BatchingPolicy policy = dynamic(16);
  policy.preferred_batch_sizes = {4, 8};
  policy.max_queue_delay = 100;
  make(policy);
  Ticket* a = pushed(3);
  EXPECT_TRUE(taken(0).empty());
  Ticket* b = pushed(1);
  Ticket* c = pushed(1);
  EXPECT_EQ(taken(0), (Tickets{a, b}));
  EXPECT_TRUE(taken(0).empty());
  EXPECT_EQ(taken(100), (Tickets{c}));
}

TEST_F(QueueTest, BeyondTheLargestPreferredSizeNothingWaits) {
  BatchingPolicy policy = dynamic(16);
  policy.preferred_batch_sizes = {4};
  policy.max_queue_delay = 100;
  make(policy);
  Ticket* a = pushed(3);
  Ticket* b = pushed(3);
  EXPECT_EQ(taken(0), (Tickets{a, b}));
}

TEST_F(QueueTest, WhatHasWaitedItsDelayTakesAllThatFitsAlong) {
  BatchingPolicy policy = dynamic(16);
  policy.preferred_batch_sizes = {4};
  policy.max_queue_delay = 100;
  make(policy);
  Tickets all;
  for (int i = 0; i < 7; ++i) all.push_back(pushed(1, 0));
  EXPECT_EQ(taken(100), all);
}

TEST_F(QueueTest, AFullYoungGroupPassesAWaitingOldOneAndTheOldOneGoesFirstOnceDue) {
  BatchingPolicy policy = dynamic(2);
  policy.max_queue_delay = 100;
  make(policy);
  Ticket* old = pushed(1, 0, 4);
  Ticket* young1 = pushed(2, 10, 9);
  Ticket* young2 = pushed(2, 20, 9);
  EXPECT_EQ(taken(20), (Tickets{young1}));
  EXPECT_EQ(taken(100), (Tickets{old}));
  EXPECT_EQ(taken(100), (Tickets{young2}));
}

TEST_F(QueueTest, RemovingATicketCanEndItsGroupsDueness) {
  BatchingPolicy policy = dynamic(8);
  policy.preferred_batch_sizes = {4, 8};
  policy.max_queue_delay = 100;
  make(policy);
  Ticket* a = pushed(2, 0);
  Ticket* b = pushed(2, 0);
  Ticket* c = pushed(2, 0);
  EXPECT_EQ(queue_->next_timeout(0), 0);
  queue_->remove(b);  // the head of a and c still makes 4
  EXPECT_EQ(queue_->next_timeout(0), 0);
  queue_->remove(a);
  EXPECT_EQ(queue_->next_timeout(0), 100);
  EXPECT_TRUE(taken(0).empty());
  EXPECT_EQ(taken(100), (Tickets{c}));
}

TEST_F(QueueTest, RemovingTheOldestMovesTheTime) {
  BatchingPolicy policy = dynamic(8);
  policy.max_queue_delay = 100;
  make(policy);
  Ticket* a = pushed(1, 0);
  Ticket* b = pushed(1, 40);
  EXPECT_EQ(queue_->ripens(), 100);
  queue_->remove(a);
  EXPECT_EQ(queue_->ripens(), 140);
  queue_->remove(b);
  EXPECT_EQ(queue_->ripens(), kNever);
  EXPECT_TRUE(queue_->empty());
}

TEST_F(QueueTest, AnEndlessDelayDoesNotOverflow) {
  BatchingPolicy policy = dynamic(2);
  policy.max_queue_delay = kNever;
  make(policy);
  Ticket* a = pushed(1, 5);
  EXPECT_EQ(queue_->next_timeout(5), kNever);
  Ticket* b = pushed(1, 6);
  EXPECT_EQ(taken(6), (Tickets{a, b}));
}

TEST_F(QueueTest, RemoveWorksAtHeadMiddleAndTail) {
  make(dynamic(8));
  Tickets all;
  for (int i = 0; i < 5; ++i) all.push_back(pushed(1));
  queue_->remove(all[2]);
  queue_->remove(all[0]);
  queue_->remove(all[4]);
  EXPECT_EQ(queue_->bytes(), 2U * 16U);
  EXPECT_EQ(taken(), (Tickets{all[1], all[3]}));
}

TEST_F(QueueTest, FullNamesModelBoundAndRemedyAndLeavesTheTicketAlone) {
  BatchingPolicy policy = dynamic(8);
  policy.max_queue_size = 2;
  make(policy);
  pushed(1);
  Ticket* b = pushed(1);
  Ticket* refused = ticket(1);
  const Status status = push(refused, 7);
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_EQ(status.message(),
            "the queue of model 'digits' is full: it holds 2 requests (max_queue_size in config.pbtxt's "
            "default_queue_policy); retry later, or add instances (count in config.pbtxt's instance_group)");
  EXPECT_EQ(refused->state, TicketState::kNew);
  EXPECT_EQ(refused->time.queued, 0);
  queue_->remove(b);
  EXPECT_TRUE(push(refused).ok());
}

TEST_F(QueueTest, BytesAreBoundedButALargeTicketMayStandAlone) {
  BatchingPolicy policy = dynamic(8);
  policy.max_queue_bytes = 100;
  make(policy);
  Ticket* large = pushed(1, 0, 50);
  EXPECT_EQ(queue_->bytes(), 200U);
  const Status status = push(ticket(1, 1));
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_NE(status.message().find("'digits'"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("limit of 100"), std::string::npos) << status.message();
  EXPECT_EQ(taken(), (Tickets{large}));
  pushed(1, 0, 20);
  EXPECT_TRUE(push(ticket(1, 5)).ok()) << "exactly the limit";
  EXPECT_TRUE(push(ticket(0, 5)).ok()) << "no bytes need no room";
  EXPECT_FALSE(push(ticket(1, 1)).ok());
}

TEST_F(QueueTest, ABoundOfZeroIsTheDefault) {
  BatchingPolicy policy = dynamic(8);
  policy.max_queue_size = 0;
  policy.max_queue_bytes = 0;
  make(policy);
  EXPECT_EQ(queue_->policy().max_queue_size, BatchingPolicy().max_queue_size);
  EXPECT_EQ(queue_->policy().max_queue_bytes, BatchingPolicy().max_queue_bytes);
}

TEST_F(QueueTest, ATimeThatRunsBackwardsIsReadAsTheLatest) {
  make(dynamic(8));
  pushed(1, 100);
  EXPECT_EQ(pushed(1, 90)->time.queued, 100);
}

TEST_F(QueueTest, ClearGivesAllInOrderOfArrival) {
  BatchingPolicy policy = dynamic(2);
  policy.max_queue_delay = 100;
  make(policy);
  Tickets all;
  for (int i = 0; i < 6; ++i) all.push_back(pushed(1, i, i % 3 == 0 ? 4 : 9));
  Ticket* each = queue_->clear();
  for (Ticket* expected : all) {
    ASSERT_EQ(each, expected);
    each = each->queue_next;
  }
  EXPECT_EQ(each, nullptr);
  EXPECT_TRUE(queue_->empty());
  EXPECT_EQ(queue_->bytes(), 0U);
  EXPECT_EQ(queue_->next_timeout(0), kNever);
}

TEST_F(QueueTest, EndlessNewShapesDoNotGrowMemory) {
  make(dynamic(8));
  for (std::int64_t width = 1; width <= 5'000; ++width) {
    Ticket* each = pushed(1, 0, width);
    ASSERT_EQ(taken(), (Tickets{each}));
    ASSERT_LE(queue_->groups(), ShapeGroups::kMaxIdle + 1);
  }
  for (std::int64_t width = 1; width <= 500; ++width) pushed(1, 0, width);
  EXPECT_GE(queue_->groups(), 500U);
  for (int i = 0; i < 500; ++i) ASSERT_EQ(taken().size(), 1U);
  EXPECT_LE(queue_->groups(), ShapeGroups::kMaxIdle);
}

TEST_F(QueueTest, ManyShapesAtOnceKeepTheirOrderAndTheirMates) {
  make(dynamic(4));
  std::vector<Tickets> expected;
  for (std::int64_t width = 1; width <= 300; ++width) expected.push_back({pushed(1, 0, width)});
  for (std::int64_t width = 300; width >= 1; --width) {
    expected[static_cast<std::size_t>(width - 1)].push_back(pushed(2, 0, width));
  }
  for (const Tickets& mates : expected) ASSERT_EQ(taken(), mates);
}

}  // namespace
}  // namespace headrace
