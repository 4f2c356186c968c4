// What the dispatcher promises when it knows what runs cost: early refusal, batches that keep what was promised, lanes
// that are kept free.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "batching/shape_groups.h"
#include "known_costs.h"
#include "schedule/dispatcher.h"

namespace headrace {
namespace {

using Tickets = std::vector<Ticket*>;

BatchingPolicy dynamic(std::int64_t max_batch_size) {
  BatchingPolicy policy;
  policy.dynamic_batching = true;
  policy.max_batch_size = max_batch_size;
  return policy;
}

class DispatcherPromisesTest : public ::testing::Test {
 protected:
  Ticket* ticket(Nanos deadline = kNever) {
    tickets_.push_back(std::make_unique<Ticket>());
    tickets_.back()->deadline = deadline;
    return tickets_.back().get();
  }
  Ticket* submitted(Dispatcher& dispatcher, Dispatcher::Entry* entry, Nanos now, Nanos deadline = kNever) {
    Ticket* made = ticket(deadline);
    const Status status = dispatcher.submit(entry, made, now);
    EXPECT_TRUE(status.ok()) << status.to_string();
    return made;
  }
  static void finish(Dispatcher& dispatcher, int lane, Dispatcher::Assignment& assignment) {
    dispatcher.settle(assignment.entry, assignment.tickets);
    dispatcher.release(lane, assignment);
  }
  static void close(Dispatcher& dispatcher, Dispatcher::Entry* entry) { dispatcher.close(entry); }

  std::vector<std::unique_ptr<Ticket>> tickets_;
  KnownCosts costs_{100 * kMillisecond, 10 * kMillisecond};
};

TEST_F(DispatcherPromisesTest, WhatCannotBeInTimeIsRefusedAndLeftAlone) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("digits", dynamic(1), 1, nullptr, &costs_);
  submitted(dispatcher, entry, 0);
  submitted(dispatcher, entry, 0);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  // 110 ms run; then it goes before the one without a deadline.
  submitted(dispatcher, entry, 0, 221 * kMillisecond);
  Ticket* late = ticket(219 * kMillisecond);
  const Status status = dispatcher.submit(entry, late, 0);
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(status.message(),
            "model 'digits' would answer in 220 ms, and the deadline is in 219 ms: 2 requests are ahead; allow more "
            "time, or retry later");
  EXPECT_EQ(late->state, TicketState::kNew);
  EXPECT_EQ(late->time.queued, 0);
  EXPECT_EQ(late->target, kNever);
  EXPECT_EQ(dispatcher.queued(entry), 2U);
  EXPECT_EQ(dispatcher.next_deadline(), 221 * kMillisecond);
  finish(dispatcher, 0, assignment);
  close(dispatcher, entry);
}

TEST_F(DispatcherPromisesTest, AnObjectiveIsNamedInTheRefusal) {
  Dispatcher dispatcher(1);
  BatchingPolicy policy = dynamic(1);
  policy.latency_objective = 50 * kMillisecond;
  auto* entry = dispatcher.add("digits", policy, 1, nullptr, &costs_);
  const Status status = dispatcher.submit(entry, ticket(), 0);
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
  EXPECT_NE(status.message().find("the objective (latency_objective_ms) is in 50 ms"), std::string::npos)
      << status.message();
}

TEST_F(DispatcherPromisesTest, WhoWouldMakeAnotherLateIsRefused) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("digits", dynamic(1), 1, nullptr, &costs_);
  submitted(dispatcher, entry, 0, 111 * kMillisecond + 1);
  Ticket* early = ticket(111 * kMillisecond);
  const Status status = dispatcher.submit(entry, early, 0);
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(status.message(),
            "model 'digits' would miss deadlines that it has promised to keep, with 1 requests in its queue; retry "
            "later");
  close(dispatcher, entry);
}

// A crowd on a model that is little known must not be let in as if it cost nothing.
TEST_F(DispatcherPromisesTest, AGuessCounts) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("digits", dynamic(1), 1, nullptr, &costs_);
  costs_.sure = false;  // 110 ms a run
  submitted(dispatcher, entry, 0, 111 * kMillisecond);
  submitted(dispatcher, entry, 0, 221 * kMillisecond);
  EXPECT_EQ(dispatcher.submit(entry, ticket(329 * kMillisecond), 0).code(), Code::kDeadlineExceeded);
  auto* unknown = dispatcher.add("letters", dynamic(1), 1, nullptr);
  submitted(dispatcher, unknown, 0, 1);
  close(dispatcher, entry);
  close(dispatcher, unknown);
}

TEST_F(DispatcherPromisesTest, WhatWasLearntLongAgoRefusesNobodyThatIsAlone) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("digits", dynamic(1), 1, nullptr, &costs_);
  costs_.seen = 5;
  EXPECT_FALSE(dispatcher.submit(entry, ticket(kSecond + 6), kSecond).ok());
  submitted(dispatcher, entry, kSecond + 6, kSecond + 7);
  EXPECT_FALSE(dispatcher.submit(entry, ticket(kSecond + 8), kSecond + 6).ok()) << "one is enough to find out";
  close(dispatcher, entry);
}

// A long batch is in the way of those who want their answers soon and have not come yet.
TEST_F(DispatcherPromisesTest, BatchesAreShorterWhileAnswersAreWantedSoon) {
  CostModel costs(8);
  for (std::int64_t rows = 1; rows <= 8; ++rows) {
    for (int i = 0; i < 20; ++i) costs.record({0, shape_hash({})}, rows, (2 + 8 * rows) * kMillisecond, 0);
  }
  Dispatcher dispatcher(1);
  auto* long_runs = dispatcher.add("digits", dynamic(8), 1, nullptr, &costs);
  auto* soon = dispatcher.add("letters", dynamic(8), 1, nullptr, &costs);
  for (int i = 0; i < 24; ++i) submitted(dispatcher, long_runs, 0);
  Ticket* first = submitted(dispatcher, soon, 0, 40 * kMillisecond);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  EXPECT_EQ(assignment.tickets, (Tickets{first}));
  finish(dispatcher, 0, assignment);
  dispatcher.take(0, 10 * kMillisecond, assignment);
  EXPECT_EQ(assignment.entry, long_runs);
  EXPECT_EQ(assignment.rows, 1);
  EXPECT_EQ(Dispatcher::log(soon).batches(), 1U);
  finish(dispatcher, 0, assignment);
  dispatcher.take(0, 2 * kSecond, assignment);
  EXPECT_GE(assignment.rows, 5) << "nobody has been in haste for a second";
  finish(dispatcher, 0, assignment);
  close(dispatcher, long_runs);
}

TEST_F(DispatcherPromisesTest, WhatAnIdleServerCouldNotDoHurriesNobody) {
  CostModel costs(8);
  for (std::int64_t rows = 1; rows <= 8; ++rows) {
    for (int i = 0; i < 20; ++i) costs.record({0, shape_hash({})}, rows, (2 + 8 * rows) * kMillisecond, 0);
  }
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("digits", dynamic(8), 1, nullptr, &costs);
  for (int i = 0; i < 8; ++i) submitted(dispatcher, entry, 0);
  EXPECT_FALSE(dispatcher.submit(entry, ticket(5 * kMillisecond), 0).ok());
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  EXPECT_GE(assignment.rows, 5);
  finish(dispatcher, 0, assignment);
  close(dispatcher, entry);
}

TEST_F(DispatcherPromisesTest, ABatchLeavesTheOthersTheirTime) {
  Dispatcher dispatcher(1);
  auto* a = dispatcher.add("digits", dynamic(8), 1, nullptr, &costs_);
  auto* b = dispatcher.add("letters", dynamic(8), 1, nullptr, &costs_);
  Ticket* first = submitted(dispatcher, a, 0, 200 * kMillisecond);
  submitted(dispatcher, b, 0, 221 * kMillisecond);  // after 110 and 110
  submitted(dispatcher, a, 0);                      // would make the first batch 120
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  EXPECT_EQ(assignment.tickets, (Tickets{first}));
  EXPECT_EQ(assignment.cost_rows, 1);
  finish(dispatcher, 0, assignment);
  dispatcher.take(0, 110 * kMillisecond, assignment);
  EXPECT_EQ(assignment.entry, b);
  finish(dispatcher, 0, assignment);
  close(dispatcher, a);
}

TEST_F(DispatcherPromisesTest, ALaneIsKeptFreeForWhatWasPromised) {
  // The second lane is a slow one. The model with the promise may run on one lane only, and does so there until 220 ms.
  constexpr Nanos kMs = kMillisecond;
  Dispatcher dispatcher(2, {0, 1});
  auto* a = dispatcher.add("digits", dynamic(1), 1, nullptr, &costs_);
  auto* b = dispatcher.add("letters", dynamic(1), 2, nullptr, &costs_);
  submitted(dispatcher, a, 0);
  Dispatcher::Assignment slow;
  dispatcher.take(1, 0, slow);
  Ticket* promised = submitted(dispatcher, a, 0, 345 * kMs);  // on the fast lane
  Ticket* other = submitted(dispatcher, b, 200 * kMs);
  Dispatcher::Assignment fast;
  dispatcher.take(0, 200 * kMs, fast);
  EXPECT_EQ(fast.entry, nullptr) << "it would take the fast lane until 310 ms";
  EXPECT_EQ(fast.ask_again, 220 * kMs);
  finish(dispatcher, 1, slow);
  dispatcher.take(0, 220 * kMs, fast);
  EXPECT_EQ(fast.tickets, (Tickets{promised}));
  dispatcher.take(1, 220 * kMs, slow);
  EXPECT_EQ(slow.tickets, (Tickets{other}));
  finish(dispatcher, 0, fast);
  finish(dispatcher, 1, slow);
}

TEST_F(DispatcherPromisesTest, LanesOfUnlikeSpeedAreCountedAsWhatTheyAre) {
  Dispatcher dispatcher(2, {0, 1});
  auto* entry = dispatcher.add("digits", dynamic(1), 2, nullptr, &costs_);
  submitted(dispatcher, entry, 0);
  Dispatcher::Assignment fast;
  dispatcher.take(0, 0, fast);
  EXPECT_EQ(fast.cost_key.device, 0U);
  // The idle lane takes 220.
  EXPECT_FALSE(dispatcher.submit(entry, ticket(220 * kMillisecond), 0).ok());
  submitted(dispatcher, entry, 0, 221 * kMillisecond);
  Dispatcher::Assignment slow;
  dispatcher.take(1, 0, slow);
  EXPECT_EQ(slow.cost_key.device, 1U);
  finish(dispatcher, 0, fast);
  finish(dispatcher, 1, slow);
}

// Batches become smaller once answers are wanted soon: not where a promise rests on the larger ones. That who came
// after it would break it just as well, were he let into them, is no excuse.
TEST_F(DispatcherPromisesTest, BatchesStayAsLargeAsAPromiseNeedsThem) {
  constexpr Nanos kMs = kMillisecond;
  KnownCosts costs(400 * kMs, 10 * kMs);
  costs.best_in_haste = 1;
  Dispatcher dispatcher(1);
  BatchingPolicy policy = dynamic(8);
  policy.patience = 100 * kMs;
  auto* entry = dispatcher.add("digits", policy, 1, nullptr, &costs);
  Ticket* first = submitted(dispatcher, entry, 0);
  Ticket* second = submitted(dispatcher, entry, 0);
  Ticket* promised = ticket(850 * kMs);  // of another shape: 420 ms for those before it, and 410
  promised->inputs.push_back({Shape{1, 2}, DType::kInt64, {}, nullptr, 0});
  ASSERT_TRUE(dispatcher.submit(entry, promised, 0).ok());
  Ticket* fourth = ticket();
  fourth->rows = 4;
  ASSERT_TRUE(dispatcher.submit(entry, fourth, 0).ok());
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  EXPECT_EQ(assignment.tickets, (Tickets{first, second}));
  EXPECT_EQ(dispatcher.span(), kNever);
  finish(dispatcher, 0, assignment);
  dispatcher.take(0, 420 * kMs, assignment);
  EXPECT_EQ(assignment.tickets, (Tickets{promised}));
  EXPECT_EQ(dispatcher.span(), 850 * kMs) << "nothing rests on larger ones any more";
  finish(dispatcher, 0, assignment);
  close(dispatcher, entry);
}

// Who waits for a named resource leaves the cores to others. Who comes later must not have them for so long that it
// cannot go when it gets the resource.
TEST_F(DispatcherPromisesTest, WhoMayBeOutrunForCoresIsStillInTime) {
  constexpr Nanos kMs = kMillisecond;
  Dispatcher dispatcher(2);
  dispatcher.set_cores(1);
  const std::vector<ResourceNeed> camera = {{"camera", kEverywhere, 1}};
  auto* holds = dispatcher.add("holds", dynamic(1), 1, nullptr, &costs_, {1, 0, camera});
  auto* both = dispatcher.add("both", dynamic(1), 1, nullptr, &costs_, {1, 1, camera});
  auto* cores = dispatcher.add("cores", dynamic(1), 1, nullptr, &costs_, {1, 1, {}});
  Dispatcher::Assignment assignment;
  submitted(dispatcher, holds, 0);
  dispatcher.take(0, 0, assignment);  // until 110 ms
  Ticket* promised = submitted(dispatcher, both, 0, 230 * kMs);
  // It would go at once, and until 160 ms.
  EXPECT_EQ(dispatcher.submit(cores, ticket(kSecond), 50 * kMs).code(), Code::kDeadlineExceeded);
  finish(dispatcher, 0, assignment);
  dispatcher.take(0, 110 * kMs, assignment);
  EXPECT_EQ(assignment.tickets, (Tickets{promised}));
  finish(dispatcher, 0, assignment);
}

// The same of who came before and wants its answer later: each time that the resource changes hands it goes before.
TEST_F(DispatcherPromisesTest, WhoMayBeOutrunByThoseBehindItCountsThem) {
  constexpr Nanos kMs = kMillisecond;
  KnownCosts short_runs(10 * kMs, kMs);
  KnownCosts long_runs(99 * kMs, kMs);
  BatchingPolicy policy = dynamic(1);
  policy.patience = 100 * kSecond;
  Dispatcher dispatcher(2);
  dispatcher.set_cores(1);
  const std::vector<ResourceNeed> camera = {{"camera", kEverywhere, 1}};
  auto* holds = dispatcher.add("holds", policy, 1, nullptr, &short_runs, {1, 0, camera});
  auto* both = dispatcher.add("both", policy, 1, nullptr, &short_runs, {1, 1, camera});
  auto* cores = dispatcher.add("cores", policy, 1, nullptr, &long_runs, {1, 1, {}});
  for (int i = 0; i < 2; ++i) submitted(dispatcher, cores, 0, 20 * kSecond);
  // 0 to 11 ms, 100 to 111 ms behind the first of those, 111 to 122 ms; and then behind the second.
  submitted(dispatcher, holds, 0, 200 * kMs);
  submitted(dispatcher, both, 0, 201 * kMs);
  submitted(dispatcher, holds, 0, 202 * kMs);
  EXPECT_EQ(dispatcher.submit(both, ticket(222 * kMs), 0).code(), Code::kDeadlineExceeded);
  submitted(dispatcher, both, 0, 223 * kMs);
  for (Dispatcher::Entry* entry : {holds, both, cores}) close(dispatcher, entry);
}

// The same of a fast lane: the one that comes free with the resource may be a slow one.
TEST_F(DispatcherPromisesTest, WhoMayBeOutrunForAFastLaneIsStillInTime) {
  constexpr Nanos kMs = kMillisecond;
  Dispatcher dispatcher(2, {0, 1});
  const std::vector<ResourceNeed> camera = {{"camera", kEverywhere, 1}};
  auto* films = dispatcher.add("films", dynamic(1), 2, nullptr, &costs_, {1, 0, camera});
  auto* other = dispatcher.add("other", dynamic(1), 2, nullptr, &costs_);
  Dispatcher::Assignment slow;
  submitted(dispatcher, films, 0);
  dispatcher.take(1, 0, slow);  // until 220 ms
  Ticket* promised = submitted(dispatcher, films, 150 * kMs, 340 * kMs);
  // It would have the fast lane until 260 ms.
  EXPECT_EQ(dispatcher.submit(other, ticket(5 * kSecond), 150 * kMs).code(), Code::kDeadlineExceeded);
  finish(dispatcher, 1, slow);
  Dispatcher::Assignment fast;
  dispatcher.take(0, 220 * kMs, fast);
  EXPECT_EQ(fast.tickets, (Tickets{promised}));
  finish(dispatcher, 0, fast);
}

}  // namespace
}  // namespace headrace
