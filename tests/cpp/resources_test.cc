// Batches that need named resources while they run.
#include "schedule/resources.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "schedule/dispatcher.h"

namespace headrace {
namespace {

using Tickets = std::vector<Ticket*>;

class ResourcesTest : public ::testing::Test {
 protected:
  static BatchingPolicy alone() {
    BatchingPolicy policy;
    policy.dynamic_batching = true;
    policy.max_batch_size = 1;
    return policy;
  }
  Dispatcher::Entry* model(Dispatcher& dispatcher, std::uint32_t needs) {
    Share share;
    share.needs.push_back({"cores", kEverywhere, needs});
    return dispatcher.add("m", alone(), 4, nullptr, nullptr, share);
  }
  Ticket* submitted(Dispatcher& dispatcher, Dispatcher::Entry* entry, Nanos now) {
    tickets_.push_back(std::make_unique<Ticket>());
    EXPECT_TRUE(dispatcher.submit(entry, tickets_.back().get(), now).ok());
    return tickets_.back().get();
  }
  static void finish(Dispatcher& dispatcher, int lane, Dispatcher::Assignment& assignment) {
    dispatcher.settle(assignment.entry, assignment.tickets);
    dispatcher.release(lane, assignment);
  }

  std::vector<std::unique_ptr<Ticket>> tickets_;
};

TEST_F(ResourcesTest, NoMoreRunsThanThereIs) {
  Dispatcher dispatcher(3);
  dispatcher.set_resource("cores", kEverywhere, 2);
  auto* one = model(dispatcher, 1);
  for (int i = 0; i < 3; ++i) submitted(dispatcher, one, i);
  Dispatcher::Assignment a;
  Dispatcher::Assignment b;
  Dispatcher::Assignment c;
  dispatcher.take(0, 5, a);
  dispatcher.take(1, 5, b);
  dispatcher.take(2, 5, c);
  EXPECT_NE(b.entry, nullptr);
  EXPECT_EQ(c.entry, nullptr);
  EXPECT_FALSE(dispatcher.work_for_idle_lane(5));
  finish(dispatcher, 0, a);
  EXPECT_TRUE(dispatcher.work_for_idle_lane(5));
  dispatcher.take(2, 6, c);
  EXPECT_EQ(c.tickets, (Tickets{tickets_[2].get()}));
  finish(dispatcher, 1, b);
  finish(dispatcher, 2, c);
}

TEST_F(ResourcesTest, WhoNeedsMuchIsNotPassedByThoseWhoNeedLittle) {
  Dispatcher dispatcher(3);
  dispatcher.set_resource("cores", kEverywhere, 2);
  auto* little = model(dispatcher, 1);
  auto* much = model(dispatcher, 2);
  auto* none = dispatcher.add("free", alone(), 4, nullptr);
  submitted(dispatcher, little, 0);
  Dispatcher::Assignment a;
  dispatcher.take(0, 0, a);
  Ticket* large = submitted(dispatcher, much, 1);
  Ticket* later = submitted(dispatcher, little, 2);
  Ticket* other = submitted(dispatcher, none, 3);
  Dispatcher::Assignment b;
  dispatcher.take(1, 4, b);
  EXPECT_EQ(b.tickets, (Tickets{other})) << "one core is free, and kept";
  finish(dispatcher, 0, a);
  dispatcher.take(0, 5, a);
  EXPECT_EQ(a.tickets, (Tickets{large}));
  Dispatcher::Assignment c;
  dispatcher.take(2, 6, c);
  EXPECT_EQ(c.entry, nullptr);
  finish(dispatcher, 0, a);
  dispatcher.take(0, 7, a);
  EXPECT_EQ(a.tickets, (Tickets{later}));
  finish(dispatcher, 0, a);
  finish(dispatcher, 1, b);
}

TEST_F(ResourcesTest, WhoLeavesKeepsNobody) {
  Dispatcher dispatcher(2);
  dispatcher.set_resource("cores", kEverywhere, 2);
  auto* little = model(dispatcher, 1);
  auto* much = model(dispatcher, 2);
  submitted(dispatcher, little, 0);
  Dispatcher::Assignment a;
  dispatcher.take(0, 0, a);
  Ticket* large = submitted(dispatcher, much, 1);
  Ticket* later = submitted(dispatcher, little, 2);
  Dispatcher::Assignment b;
  dispatcher.take(1, 3, b);
  EXPECT_EQ(b.entry, nullptr);
  EXPECT_TRUE(dispatcher.cancel(large, {Code::kCancelled, "gone"}));
  dispatcher.take(1, 4, b);
  EXPECT_EQ(b.tickets, (Tickets{later}));
  finish(dispatcher, 0, a);
  finish(dispatcher, 1, b);
}

TEST_F(ResourcesTest, WhoNeedsMoreThanThereIsRunsAlone) {
  Dispatcher dispatcher(2);
  dispatcher.set_resource("cores", kEverywhere, 2);
  auto* huge = model(dispatcher, 5);
  submitted(dispatcher, huge, 0);
  submitted(dispatcher, huge, 1);
  Dispatcher::Assignment a;
  Dispatcher::Assignment b;
  dispatcher.take(0, 2, a);
  EXPECT_NE(a.entry, nullptr);
  dispatcher.take(1, 2, b);
  EXPECT_EQ(b.entry, nullptr);
  finish(dispatcher, 0, a);
  dispatcher.take(1, 3, b);
  EXPECT_NE(b.entry, nullptr);
  finish(dispatcher, 1, b);
}

TEST(ResourceRoomTest, WhatNobodySaysIsWhatTheNeediestNeeds) {
  Resources resources;
  const ResourceRoom::Needs small{resources.place({"r", 0, 2})};
  const ResourceRoom::Needs large{resources.place({"r", 0, 3})};
  const ResourceRoom::Needs elsewhere{resources.place({"r", 1, 3})};
  EXPECT_EQ(resources.least_running(), 1);
  resources.take(small);
  EXPECT_FALSE(resources.fits(small));
  EXPECT_TRUE(resources.fits(elsewhere));
  resources.give(small);
  resources.set("r", 0, 7);
  resources.set("r", 1, 9);
  EXPECT_EQ(resources.least_running(), 2);
  resources.take(large);
  resources.take(large);
  EXPECT_FALSE(resources.fits(small));
  EXPECT_TRUE(ResourceRoom::share(small, large));
  EXPECT_FALSE(ResourceRoom::share(small, elsewhere));
  resources.give(large);
  resources.give(large);
}

}  // namespace
}  // namespace headrace
