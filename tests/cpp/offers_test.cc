// What a request may expect of a dispatcher's lanes, as Promises::offer reckons it.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "known_costs.h"
#include "schedule/dispatcher.h"

namespace headrace {
namespace {

constexpr Nanos kMs = kMillisecond;

BatchingPolicy dynamic(std::int64_t max_batch_size) {
  BatchingPolicy policy;
  policy.dynamic_batching = true;
  policy.max_batch_size = max_batch_size;
  return policy;
}

class OffersTest : public ::testing::Test {
 protected:
  Ticket* submitted(Dispatcher& dispatcher, Dispatcher::Entry* entry) {
    tickets_.push_back(std::make_unique<Ticket>());
    EXPECT_TRUE(dispatcher.submit(entry, tickets_.back().get(), 0).ok());
    return tickets_.back().get();
  }
  static void finish(Dispatcher& dispatcher, int lane, Dispatcher::Assignment& assignment) {
    dispatcher.settle(assignment.entry, assignment.tickets);
    dispatcher.release(lane, assignment);
  }
  // Until its answer, of a request of one row that comes now.
  Nanos expected(const Dispatcher& dispatcher, const Dispatcher::Entry* entry, Nanos now = 0) const {
    const Offer offer = dispatcher.offer(entry, one_, now);
    EXPECT_TRUE(offer.known);
    return offer.end - now;
  }

  Ticket one_;
  std::vector<std::unique_ptr<Ticket>> tickets_;
  KnownCosts costs_{100 * kMs, 10 * kMs};
};

TEST_F(OffersTest, AnIdleLaneAnswersAfterOneRun) {
  Dispatcher dispatcher(2);
  auto* entry = dispatcher.add("m", dynamic(4), 2, nullptr, &costs_);
  EXPECT_EQ(expected(dispatcher, entry), 110 * kMs);
  EXPECT_TRUE(dispatcher.offer(entry, one_, 0).idle);
  submitted(dispatcher, entry);
  EXPECT_FALSE(dispatcher.offer(entry, one_, 0).idle);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  EXPECT_EQ(expected(dispatcher, entry, 10 * kMs), 110 * kMs) << "the other lane is idle";
  EXPECT_FALSE(dispatcher.offer(entry, one_, 0).idle);
  finish(dispatcher, 0, assignment);
}

TEST_F(OffersTest, WhatWaitsSharesItsBatchOrGoesBeforeIt) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("m", dynamic(4), 1, nullptr, &costs_);
  submitted(dispatcher, entry);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);  // until 110 ms
  EXPECT_EQ(expected(dispatcher, entry, 50 * kMs), 60 * kMs + 110 * kMs);
  for (int i = 0; i < 3; ++i) submitted(dispatcher, entry);
  EXPECT_EQ(expected(dispatcher, entry), 110 * kMs + 140 * kMs) << "the fourth of a batch of four";
  submitted(dispatcher, entry);
  EXPECT_EQ(expected(dispatcher, entry), 110 * kMs + 140 * kMs + 110 * kMs) << "the first of the next";
  finish(dispatcher, 0, assignment);
  dispatcher.close(entry);
}

TEST_F(OffersTest, OtherModelsGoBeforeIt) {
  Dispatcher dispatcher(1);
  auto* entry = dispatcher.add("m", dynamic(4), 1, nullptr, &costs_);
  KnownCosts dear{500 * kMs, 100 * kMs};
  auto* other = dispatcher.add("other", dynamic(1), 1, nullptr, &dear);
  submitted(dispatcher, other);
  Dispatcher::Assignment assignment;
  dispatcher.take(0, 0, assignment);
  submitted(dispatcher, other);
  const Nanos both = expected(dispatcher, entry);
  EXPECT_GT(both, 600 * kMs + 110 * kMs);
  EXPECT_LE(both, 1200 * kMs + 110 * kMs);
  finish(dispatcher, 0, assignment);
  dispatcher.close(other);
  EXPECT_EQ(expected(dispatcher, entry), 110 * kMs) << "what has left is not counted";
}

TEST_F(OffersTest, AModelThatHasAllItsLanesWaitsForOneOfThem) {
  Dispatcher dispatcher(2);
  auto* entry = dispatcher.add("m", dynamic(1), 1, nullptr, &costs_);
  submitted(dispatcher, entry);
  Dispatcher::Assignment assignment;
  dispatcher.take(1, 0, assignment);
  EXPECT_EQ(expected(dispatcher, entry), 220 * kMs);
  finish(dispatcher, 1, assignment);
}

TEST_F(OffersTest, WithoutCostsTheFewestRequestsForALaneWin) {
  Dispatcher dispatcher(2);
  auto* entry = dispatcher.add("m", dynamic(1), 2, nullptr);
  EXPECT_FALSE(dispatcher.offer(entry, one_, 0).known);
  EXPECT_EQ(dispatcher.offer(entry, one_, 0).end, 0);
  submitted(dispatcher, entry);
  submitted(dispatcher, entry);
  EXPECT_EQ(dispatcher.offer(entry, one_, 0).end, kMs);
  dispatcher.close(entry);
}

}  // namespace
}  // namespace headrace
