#include "schedule/dispatcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace headrace {
namespace {

BatchingPolicy dynamic(std::int64_t max_batch_size, Nanos delay = 0) {
  BatchingPolicy policy;
  policy.dynamic_batching = true;
  policy.max_batch_size = max_batch_size;
  policy.max_queue_delay = delay;
  return policy;
}

using Tickets = std::vector<Ticket*>;

Tickets listed(TicketChain chain) {
  Tickets result;
  for (Completion* link = chain.first; link != nullptr; link = link->next) result.push_back(static_cast<Ticket*>(link));
  EXPECT_EQ(result.size(), chain.count);
  EXPECT_EQ(result.empty() ? nullptr : result.back(), chain.last);
  return result;
}

// Tickets without inputs: shapes are the queue's business. The test keeps a second reference to each, so that it can
// look at them whatever became of them.
class DispatcherTest : public ::testing::Test {
 protected:
  void TearDown() override {
    for (auto& ticket : tickets_) EXPECT_EQ(ticket->references.load(), 1U);
  }
  Ticket* ticket(Nanos deadline = kNever) {
    tickets_.push_back(std::make_unique<Ticket>());
    tickets_.back()->deadline = deadline;
    return tickets_.back().get();
  }
  Ticket* submitted(Dispatcher& dispatcher, Dispatcher::Entry* entry, Nanos now = 0, Nanos deadline = kNever) {
    Ticket* made = ticket(deadline);
    const Status status = dispatcher.submit(entry, made, now);
    EXPECT_TRUE(status.ok()) << status.to_string();
    return made;
  }
  // Ends a lane's batch whole; the tickets that were answered by it.
  static Tickets finish(Dispatcher& dispatcher, int lane, Dispatcher::Assignment& assignment) {
    const TicketChain chain = dispatcher.settle(assignment.entry, assignment.tickets);
    dispatcher.release(lane, assignment);
    assignment.drop_gone();
    return listed(chain);
  }
  std::vector<std::unique_ptr<Ticket>> tickets_;
};

TEST_F(DispatcherTest, AFreeLaneTakesABatchAndAnswersIt) {
  Dispatcher dispatcher(1);
  int model = 0;
  auto* entry = dispatcher.add("a", dynamic(8), 1, &model);
  EXPECT_EQ(Dispatcher::model(entry), &model);
  Ticket* a = submitted(dispatcher, entry);
  Ticket* b = submitted(dispatcher, entry);
  EXPECT_TRUE(dispatcher.work_for_idle_lane(0));
  EXPECT_EQ(dispatcher.queued(entry), 2U);

  Dispatcher::Assignment assignment;
  dispatcher.take(0, 5, assignment);
  EXPECT_EQ(assignment.entry, entry);
  EXPECT_EQ(assignment.tickets, (Tickets{a, b}));
  EXPECT_EQ(assignment.rows, 2);
  EXPECT_EQ(a->state, TicketState::kRunning);
  EXPECT_EQ(dispatcher.running(entry), 2U);
  EXPECT_EQ(dispatcher.running_lanes(entry), 1);
  EXPECT_EQ(dispatcher.busy_lanes(), 1);
  EXPECT_FALSE(dispatcher.work_for_idle_lane(5));
  EXPECT_FALSE(dispatcher.idle(entry));

  EXPECT_EQ(finish(dispatcher, 0, assignment), (Tickets{a, b}));
  EXPECT_EQ(a->state, TicketState::kDone);
  EXPECT_EQ(dispatcher.busy_lanes(), 0);
  EXPECT_TRUE(dispatcher.idle(entry));
  dispatcher.erase(entry);
}

TEST_F(DispatcherTest, NothingToDoNamesNoTime) {
  Dispatcher dispatcher(1);
  dispatcher.add("a", dynamic(8), 1, nullptr);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  EXPECT_EQ(assignment.entry, nullptr);
  EXPECT_EQ(assignment.ask_again, kNever);
}

TEST_F(DispatcherTest, ADelayNamesTheEarliestTimeOfAllModels) {
  Dispatcher dispatcher(1);
  auto* slow = dispatcher.add("slow", dynamic(8, 100), 1, nullptr);
  auto* quick = dispatcher.add("quick", dynamic(8, 30), 1, nullptr);
  submitted(dispatcher, slow, 0);
  Ticket* b = submitted(dispatcher, quick, 10);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 20, assignment);
  EXPECT_EQ(assignment.entry, nullptr);
  EXPECT_EQ(assignment.ask_again, 40);
  EXPECT_FALSE(dispatcher.work_for_idle_lane(39));
  EXPECT_TRUE(dispatcher.work_for_idle_lane(40));
  dispatcher.take(0, 40, assignment);
  EXPECT_EQ(assignment.tickets, (Tickets{b}));
  finish(dispatcher, 0, assignment);
  dispatcher.take(0, 150, assignment);
  EXPECT_EQ(assignment.entry, slow);
  finish(dispatcher, 0, assignment);
}

TEST_F(DispatcherTest, TheModelWithTheOldestTicketThatMayRunGoesFirst) {
  Dispatcher dispatcher(1);
  auto* a = dispatcher.add("a", dynamic(1), 1, nullptr);
  auto* b = dispatcher.add("b", dynamic(1), 1, nullptr);
  // All in one instant, as the requests of one read: the order of arrival decides.
  std::vector<Dispatcher::Entry*> order = {b, a, a, b, b, a};
  for (auto* entry : order) submitted(dispatcher, entry, 0);
  Dispatcher::Assignment assignment;
  for (auto* entry : order) {
    dispatcher.take(0, 0, assignment);
    ASSERT_EQ(assignment.entry, entry);
    finish(dispatcher, 0, assignment);
  }
}

TEST_F(DispatcherTest, ABatchThatRipensIsAsOldAsItsOldestTicket) {
  Dispatcher dispatcher(1);
  auto* a = dispatcher.add("a", dynamic(2, 100), 1, nullptr);
  auto* b = dispatcher.add("b", dynamic(2), 1, nullptr);
  Ticket* old = submitted(dispatcher, a, 0);
  submitted(dispatcher, b, 10);
  submitted(dispatcher, b, 10);
  submitted(dispatcher, b, 10);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 99, assignment);
  EXPECT_EQ(assignment.entry, b);
  finish(dispatcher, 0, assignment);
  dispatcher.take(0, 100, assignment);
  EXPECT_EQ(assignment.tickets, (Tickets{old}));
  finish(dispatcher, 0, assignment);
  dispatcher.take(0, 100, assignment);
  EXPECT_EQ(assignment.entry, b);
  finish(dispatcher, 0, assignment);
}

TEST_F(DispatcherTest, MaxLanesCapsAModelAndLeavesTheLanesToOthers) {
  Dispatcher dispatcher(3);
  auto* narrow = dispatcher.add("narrow", dynamic(1), 1, nullptr);
  auto* wide = dispatcher.add("wide", dynamic(1), 2, nullptr);
  for (int i = 0; i < 3; ++i) submitted(dispatcher, narrow, 0);
  for (int i = 0; i < 3; ++i) submitted(dispatcher, wide, 0);
  Dispatcher::Assignment first, second, third;
  dispatcher.take(0, 0, first);
  dispatcher.take(1, 0, second);
  dispatcher.take(2, 0, third);
  EXPECT_EQ(first.entry, narrow);
  EXPECT_EQ(second.entry, wide);
  EXPECT_EQ(third.entry, wide);
  EXPECT_FALSE(dispatcher.work_for_idle_lane(0)) << "both models have all their lanes";
  finish(dispatcher, 1, second);
  EXPECT_TRUE(dispatcher.work_for_idle_lane(0));
  dispatcher.take(1, 0, second);
  EXPECT_EQ(second.entry, wide);
  finish(dispatcher, 0, first);
  dispatcher.take(0, 0, first);
  EXPECT_EQ(first.entry, narrow);
  finish(dispatcher, 0, first);
  finish(dispatcher, 1, second);
  finish(dispatcher, 2, third);
  EXPECT_EQ(dispatcher.close(narrow).count, 1U);
  EXPECT_TRUE(dispatcher.idle(narrow));
  EXPECT_TRUE(dispatcher.idle(wide));
}

TEST_F(DispatcherTest, CancelWhileQueuedTakesTheTicketOut) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("a", dynamic(8), 1, nullptr);
  Ticket* a = submitted(dispatcher, entry, 0, 100);
  EXPECT_TRUE(dispatcher.cancel(a, Status(Code::kCancelled, "gone")));
  EXPECT_EQ(a->state, TicketState::kDone);
  EXPECT_EQ(a->status.code(), Code::kCancelled);
  EXPECT_FALSE(dispatcher.cancel(a, Status(Code::kCancelled, "again")));
  EXPECT_EQ(a->status.message(), "gone");
  EXPECT_FALSE(dispatcher.work_for_idle_lane(0));
  EXPECT_EQ(dispatcher.next_deadline(), kNever);
  EXPECT_TRUE(dispatcher.idle(entry));
}

TEST_F(DispatcherTest, CancelOfATicketThatWasNeverTakenInIsRefused) {
  Dispatcher dispatcher(1);
  EXPECT_FALSE(dispatcher.cancel(ticket(), Status(Code::kCancelled, "gone")));
}

TEST_F(DispatcherTest, CancelWhileRunningAnswersAtOnceAndKeepsTheRows) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("a", dynamic(8), 1, nullptr);
  Ticket* a = submitted(dispatcher, entry);
  Ticket* b = submitted(dispatcher, entry);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  EXPECT_TRUE(dispatcher.cancel(a, Status(Code::kCancelled, "gone")));
  EXPECT_EQ(a->references.load(), 2U) << "the batch still reads its rows";
  EXPECT_FALSE(assignment.interrupt->requested());
  Tickets rest;
  dispatcher.still_running(assignment.tickets, rest);
  EXPECT_EQ(rest, (Tickets{b}));
  EXPECT_EQ(listed(dispatcher.settle(entry, assignment.tickets)), (Tickets{b}));
  EXPECT_FALSE(assignment.interrupt->requested());
  EXPECT_EQ(a->references.load(), 2U) << "until the lane has let go of the batch";
  dispatcher.release(0, assignment);
  EXPECT_EQ(assignment.gone, (Tickets{a}));
  assignment.drop_gone();
  EXPECT_EQ(a->references.load(), 1U);
  EXPECT_EQ(a->status.message(), "gone");
  EXPECT_TRUE(b->status.ok());
}

TEST_F(DispatcherTest, TheLastReferenceDeletesTheTicket) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("a", dynamic(8), 1, nullptr);
  Pool pool(PoolOptions{});
  auto* dropped = new Ticket;
  dropped->inputs.emplace_back().block = *pool.allocate(100);
  ASSERT_TRUE(dispatcher.submit(entry, dropped, 0).ok());
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  ASSERT_TRUE(dispatcher.cancel(dropped, Status(Code::kCancelled, "gone")));
  dropped->references.fetch_sub(1);  // the submitter has its answer
  dispatcher.settle(entry, assignment.tickets);
  dispatcher.release(0, assignment);
  EXPECT_EQ(pool.stats().blocks_in_use, 1U);
  dispatcher.take(0, 0, assignment);  // the next take gives up what the last batch left
  EXPECT_EQ(pool.stats().blocks_in_use, 0U);
  EXPECT_EQ(pool.stats().bytes_in_use, 0U);
}

TEST_F(DispatcherTest, TheInterruptIsAskedForOnlyWhenAllAreGone) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("a", dynamic(8), 1, nullptr);
  Ticket* a = submitted(dispatcher, entry, 0, 50);
  Ticket* b = submitted(dispatcher, entry);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  EXPECT_EQ(listed(dispatcher.expire(50)), (Tickets{a}));
  EXPECT_FALSE(assignment.interrupt->requested());
  EXPECT_TRUE(dispatcher.cancel(b, Status(Code::kCancelled, "gone")));
  EXPECT_TRUE(assignment.interrupt->requested());
  EXPECT_TRUE(finish(dispatcher, 0, assignment).empty());

  submitted(dispatcher, entry);
  dispatcher.take(0, 60, assignment);
  EXPECT_FALSE(assignment.interrupt->requested()) << "fresh for each batch";
  finish(dispatcher, 0, assignment);
}

TEST_F(DispatcherTest, TheInterruptIsAskedForWhenTheRestOfABatchIsGone) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("a", dynamic(8), 1, nullptr);
  Ticket* a = submitted(dispatcher, entry);
  Ticket* b = submitted(dispatcher, entry);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  dispatcher.cancel(b, Status(Code::kCancelled, "gone"));
  EXPECT_EQ(listed(dispatcher.settle(entry, Tickets{a})), (Tickets{a}));  // the first half of a rerun
  EXPECT_TRUE(assignment.interrupt->requested());
  EXPECT_TRUE(listed(dispatcher.settle(entry, Tickets{b})).empty());
  dispatcher.release(0, assignment);
}

TEST_F(DispatcherTest, ExpiryAnswersQueuedAndRunningTicketsAlike) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("a", dynamic(1), 1, nullptr);
  Ticket* running = submitted(dispatcher, entry, 0, 7 * kMillisecond);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, kMillisecond, assignment);
  Ticket* queued = submitted(dispatcher, entry, 0, 5 * kMillisecond);
  Ticket* later = submitted(dispatcher, entry, 0, 9 * kMillisecond);
  EXPECT_EQ(dispatcher.next_deadline(), 5 * kMillisecond);
  EXPECT_TRUE(listed(dispatcher.expire(5 * kMillisecond - 1)).empty());
  EXPECT_EQ(listed(dispatcher.expire(7 * kMillisecond)), (Tickets{queued, running}));
  EXPECT_EQ(queued->status.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(queued->status.message(), "the deadline passed in the queue of model 'a', after 6 ms there");
  EXPECT_EQ(running->status.message(), "the deadline passed while model 'a' ran the request, after 1 ms in its queue");
  EXPECT_EQ(dispatcher.next_deadline(), 9 * kMillisecond);
  EXPECT_TRUE(finish(dispatcher, 0, assignment).empty());
  dispatcher.take(0, 8 * kMillisecond, assignment);
  EXPECT_EQ(finish(dispatcher, 0, assignment), (Tickets{later}));
  EXPECT_EQ(dispatcher.next_deadline(), kNever) << "an answered ticket has no deadline any more";
}

TEST_F(DispatcherTest, ADeadlineInThePastIsRefused) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("a", dynamic(8), 1, nullptr);
  Ticket* late = ticket(100);
  EXPECT_EQ(dispatcher.submit(entry, late, 100).code(), Code::kDeadlineExceeded);
  EXPECT_EQ(late->state, TicketState::kNew);
  EXPECT_TRUE(dispatcher.idle(entry));
}

TEST_F(DispatcherTest, AFullQueueRefuses) {
  Dispatcher dispatcher(1);
  BatchingPolicy policy = dynamic(8);
  policy.max_queue_size = 1;
  auto* entry = dispatcher.add("a", policy, 1, nullptr);
  Ticket* first = submitted(dispatcher, entry);
  Ticket* refused = ticket(500);
  EXPECT_EQ(dispatcher.submit(entry, refused, 0).code(), Code::kResourceExhausted);
  EXPECT_EQ(dispatcher.next_deadline(), kNever);
  dispatcher.cancel(first, Status(Code::kCancelled, "gone"));
}

TEST_F(DispatcherTest, CloseAnswersTheQueueLetsTheBatchEndAndRefusesTheRest) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("a", dynamic(1), 1, nullptr);
  Ticket* running = submitted(dispatcher, entry);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  Ticket* b = submitted(dispatcher, entry, 0, 900);
  Ticket* c = submitted(dispatcher, entry);
  EXPECT_EQ(listed(dispatcher.close(entry)), (Tickets{b, c}));
  EXPECT_EQ(b->state, TicketState::kDone);
  EXPECT_EQ(b->status.code(), Code::kUnavailable);
  EXPECT_EQ(b->status.message(), "model 'a' is being unloaded");
  EXPECT_EQ(dispatcher.next_deadline(), kNever);
  EXPECT_EQ(dispatcher.submit(entry, ticket(), 0).code(), Code::kUnavailable);
  EXPECT_FALSE(dispatcher.idle(entry));
  EXPECT_EQ(finish(dispatcher, 0, assignment), (Tickets{running}));
  EXPECT_TRUE(dispatcher.idle(entry));
  dispatcher.erase(entry);
  dispatcher.take(0, 0, assignment);
  EXPECT_EQ(assignment.entry, nullptr);
}

TEST_F(DispatcherTest, QueuedBytesAreKnown) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("a", dynamic(8), 1, nullptr);
  Ticket* a = ticket();
  a->inputs.emplace_back().size = 77;
  ASSERT_TRUE(dispatcher.submit(entry, a, 0).ok());
  EXPECT_EQ(dispatcher.queued_bytes(entry), 77U);
  dispatcher.cancel(a, Status(Code::kCancelled, "gone"));
  EXPECT_EQ(dispatcher.queued_bytes(entry), 0U);
}

TEST(TicketChain, AppendsTicketsAndChains) {
  Ticket a, b, c;
  TicketChain chain;
  chain.append(TicketChain());
  EXPECT_EQ(chain.first, nullptr);
  TicketChain other;
  other.append(&a);
  chain.append(other);
  TicketChain more;
  more.append(&b);
  more.append(&c);
  chain.append(more);
  EXPECT_EQ(listed(chain), (Tickets{&a, &b, &c}));
}

using DispatcherDeathTest = DispatcherTest;

TEST_F(DispatcherDeathTest, ALaneMustSettleBeforeItIsReleased) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("a", dynamic(8), 1, nullptr);
  submitted(dispatcher, entry);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  EXPECT_DEATH(dispatcher.release(0, assignment), "invariant broken");
  finish(dispatcher, 0, assignment);
}

}  // namespace
}  // namespace headrace
