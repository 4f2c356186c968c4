// Batches that need named resources while they run.
#include "schedule/resources.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <utility>
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
    share.cores = needs;
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
  dispatcher.set_cores(2);
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
  dispatcher.set_cores(2);
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
  dispatcher.set_cores(2);
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
  dispatcher.set_cores(2);
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

TEST_F(ResourcesTest, WhoLacksANamedResourceKeepsNobodyFromCores) {
  Dispatcher dispatcher(3);
  dispatcher.set_cores(2);
  dispatcher.set_resource("camera", 0, 1);
  Share share;
  share.cores = 1;
  share.needs.push_back({"camera", 0, 1});
  auto* one = dispatcher.add("one", alone(), 4, nullptr, nullptr, share);
  auto* other = dispatcher.add("other", alone(), 4, nullptr, nullptr, share);
  auto* free = model(dispatcher, 1);
  submitted(dispatcher, one, 0);
  Dispatcher::Assignment a;
  dispatcher.take(0, 0, a);
  Ticket* waits = submitted(dispatcher, other, 1);
  EXPECT_FALSE(dispatcher.work_for_idle_lane(1));
  Ticket* passes = submitted(dispatcher, free, 2);
  EXPECT_TRUE(dispatcher.work_for_idle_lane(2));
  Dispatcher::Assignment b;
  dispatcher.take(1, 3, b);
  EXPECT_EQ(b.tickets, (Tickets{passes}));
  const auto seen = dispatcher.resources(other);
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_EQ(seen[0].name, "camera");
  EXPECT_EQ(seen[0].used, 1U);
  EXPECT_EQ(dispatcher.cores_used(), 2U);
  finish(dispatcher, 0, a);
  dispatcher.take(0, 4, a);
  EXPECT_EQ(a.tickets, (Tickets{waits}));
  finish(dispatcher, 0, a);
  finish(dispatcher, 1, b);
}

TEST_F(ResourcesTest, TwoResourcesAreKeptForWhoNeedsBoth) {
  Dispatcher dispatcher(3);
  dispatcher.set_resource("x", kEverywhere, 1);
  dispatcher.set_resource("y", kEverywhere, 1);
  const auto add = [&dispatcher](const std::vector<std::string>& names) {
    Share share;
    for (const std::string& name : names) share.needs.push_back({name, kEverywhere, 1});
    return dispatcher.add("m", alone(), 4, nullptr, nullptr, share);
  };
  auto* x = add({"x"});
  auto* y = add({"y"});
  auto* both = add({"x", "y"});
  submitted(dispatcher, x, 0);
  Dispatcher::Assignment a;
  dispatcher.take(0, 0, a);
  Ticket* needs_both = submitted(dispatcher, both, 1);
  Ticket* later = submitted(dispatcher, y, 2);
  Dispatcher::Assignment b;
  dispatcher.take(1, 3, b);
  EXPECT_EQ(b.entry, nullptr) << "y is kept";
  finish(dispatcher, 0, a);
  Ticket* last = submitted(dispatcher, x, 4);
  dispatcher.take(0, 5, a);
  EXPECT_EQ(a.tickets, (Tickets{needs_both}));
  finish(dispatcher, 0, a);
  dispatcher.take(0, 6, a);
  dispatcher.take(1, 6, b);
  EXPECT_EQ(a.tickets, (Tickets{later}));
  EXPECT_EQ(b.tickets, (Tickets{last}));
  finish(dispatcher, 0, a);
  finish(dispatcher, 1, b);
}

TEST_F(ResourcesTest, MoreOfItLetsThoseGoWhoWait) {
  Dispatcher dispatcher(2);
  dispatcher.set_cores(1);
  auto* one = model(dispatcher, 1);
  submitted(dispatcher, one, 0);
  submitted(dispatcher, one, 1);
  Dispatcher::Assignment a;
  Dispatcher::Assignment b;
  dispatcher.take(0, 2, a);
  dispatcher.take(1, 2, b);
  EXPECT_EQ(b.entry, nullptr);
  dispatcher.set_cores(2);
  EXPECT_TRUE(dispatcher.work_for_idle_lane(2));
  dispatcher.take(1, 3, b);
  EXPECT_NE(b.entry, nullptr);
  finish(dispatcher, 0, a);
  finish(dispatcher, 1, b);
}

// Whatever comes and goes: never more than there is, in the order of turns, and no lane idle for nothing.
TEST_F(ResourcesTest, AnyLoadKeepsToWhatThereIs) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 60; ++round) {
    constexpr int kLanes = 5;
    Dispatcher dispatcher(kLanes);
    const auto cores = static_cast<std::uint32_t>(1 + random() % 4);
    dispatcher.set_cores(cores);
    dispatcher.set_resource("r", kEverywhere, 2);
    struct Model {
      Dispatcher::Entry* entry;
      std::uint32_t cores;
      std::uint32_t named;
    };
    std::vector<Model> models;
    for (int i = 0; i < 6; ++i) {
      Share share;
      share.cores = static_cast<std::uint32_t>(random() % (cores + 2));
      const auto named = static_cast<std::uint32_t>(random() % 3);
      if (named > 0) share.needs.push_back({"r", kEverywhere, named});
      models.push_back({dispatcher.add("m", alone(), 1 + static_cast<int>(random() % 3), nullptr, nullptr, share),
                        share.cores, named});
    }
    Dispatcher::Assignment lanes[kLanes];
    std::vector<Ticket*> queued;
    Nanos now = 0;
    const auto used = [&](bool of_cores) {
      std::uint32_t sum = 0;
      std::uint32_t runs = 0;
      for (const Dispatcher::Assignment& lane : lanes) {
        for (const Model& model : models) {
          if (lane.entry != model.entry) continue;
          sum += of_cores ? model.cores : model.named;
          ++runs;
        }
      }
      EXPECT_TRUE(!of_cores || sum == dispatcher.cores_used());
      return std::pair(sum, runs);
    };
    for (int step = 0; step < 400; ++step) {
      ++now;
      const std::uint64_t dice = random() % 10;
      if (dice < 5) queued.push_back(submitted(dispatcher, models[random() % models.size()].entry, now));
      if (dice == 5 && !queued.empty()) {
        Ticket* gone = queued[random() % queued.size()];
        dispatcher.cancel(gone, {Code::kCancelled, "gone"});
      }
      if (dice > 5) {
        const auto lane = static_cast<std::size_t>(random() % kLanes);
        if (lanes[lane].entry != nullptr) finish(dispatcher, static_cast<int>(lane), lanes[lane]);
      }
      for (int i = 0; i < kLanes; ++i) {
        auto& lane = lanes[static_cast<std::size_t>(i)];
        if (lane.entry != nullptr) continue;
        const bool work = dispatcher.work_for_idle_lane(now);
        dispatcher.take(i, now, lane);
        EXPECT_EQ(work, lane.entry != nullptr);
      }
      const auto [kept_busy, runs] = used(true);
      bool only_huge = runs > 0;
      for (const auto& lane : lanes) {
        for (const Model& model : models)
          only_huge = only_huge && (lane.entry != model.entry || model.cores == 0 || model.cores > cores);
      }
      EXPECT_TRUE(kept_busy <= cores || only_huge) << kept_busy << " of " << cores;
      EXPECT_LE(used(false).first, 2U);
    }
    // And in the end nobody was forgotten.
    for (int step = 0; step < 2000; ++step) {
      for (int i = 0; i < kLanes; ++i) {
        auto& lane = lanes[static_cast<std::size_t>(i)];
        if (lane.entry != nullptr) finish(dispatcher, i, lane);
        dispatcher.take(i, ++now, lane);
      }
    }
    for (const Model& model : models) EXPECT_TRUE(dispatcher.idle(model.entry));
  }
}

TEST(ResourceRoomTest, WhatNobodySaysIsWhatTheNeediestNeeds) {
  Resources resources;
  const auto small = resources.add({"r", 0, 2});
  const auto large = resources.add({"r", 0, 3});
  const auto elsewhere = resources.add({"r", 1, 3});
  EXPECT_EQ(resources.least_on_named(), 1);
  resources.take({small});
  EXPECT_FALSE(resources.fits(small));
  EXPECT_TRUE(resources.fits(elsewhere));
  resources.give({small});
  resources.set("r", 0, 7);
  resources.set("r", 1, 9);
  EXPECT_EQ(resources.least_on_named(), 2);
  resources.take({large, large});
  EXPECT_FALSE(resources.fits(small));
  EXPECT_EQ(resources.view(large).used, 6U);
  EXPECT_EQ(resources.view(large).count, 7U);
  resources.give({large, large});
  resources.drop(large);
  EXPECT_EQ(resources.least_on_named(), 3) << "of those who need it now";
}

TEST(ResourceRoomTest, ALimitIsOfADeviceOrOfEach) {
  Resources resources;
  resources.set("r", kEverywhere, 4);
  resources.set("r", 1, 2);
  EXPECT_EQ(resources.view(resources.add({"r", 0, 1})).count, 4U);
  EXPECT_EQ(resources.view(resources.add({"r", 1, 1})).count, 2U);
  EXPECT_EQ(resources.view(resources.add({"r", kEverywhere, 1})).count, 4U);
  resources.set("s", 0, 3);
  EXPECT_EQ(resources.view(resources.add({"s", kEverywhere, 1})).count, 3U) << "its device is of no account";
  EXPECT_EQ(resources.limit("s", 1), nullptr);
  EXPECT_EQ(resources.limit("t", 0), nullptr);
}

TEST_F(ResourcesTest, WhatCanNeverBeHadIsRefusedWithItsLimit) {
  Dispatcher dispatcher(1);
  Share share;
  share.needs.push_back({"r", 0, 3});
  EXPECT_TRUE(dispatcher.can_have(share).ok()) << "nobody has said how much there is";
  dispatcher.set_resource("r", kEverywhere, 2);
  const Status status = dispatcher.can_have(share);
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "a batch needs 3 of the resource 'r' (count in config.pbtxt's instance_group.rate_limiter), and there are "
            "2 on device 0 (--rate-limit-resource r:2): it could never run; lower the one or raise the other");
  dispatcher.set_resource("r", 0, 3);
  EXPECT_TRUE(dispatcher.can_have(share).ok());
}

TEST(ResourceRoomTest, AModelThatIsGoneNeedsNothing) {
  Resources resources;
  const auto small = resources.add({"r", 0, 2});
  const auto large = resources.add({"r", 0, 3});
  EXPECT_EQ(resources.view(small).count, 3U);
  resources.drop(large);
  EXPECT_EQ(resources.view(small).count, 2U);
}

TEST(ResourceRoomTest, SoManyRunWhileOneWaitsForCores) {
  Resources resources;
  EXPECT_GT(resources.least_on_cores(8), 1'000'000) << "nobody has said how many there are";
  resources.set_cores(8);
  EXPECT_EQ(resources.least_on_cores(1), 8);
  EXPECT_EQ(resources.least_on_cores(3), 2);
  EXPECT_EQ(resources.least_on_cores(8), 1);
  EXPECT_EQ(resources.least_on_cores(9), 1);
}

TEST(ResourceRoomTest, WhoWaitsForWhatKeepsOthersFromIt) {
  const ResourceRoom::Needs needs{{ResourceRoom::kCores, 1}, {2, 1}};
  EXPECT_TRUE(ResourceRoom::keeps(needs, false, ResourceRoom::kCores));
  EXPECT_FALSE(ResourceRoom::keeps(needs, true, ResourceRoom::kCores));
  EXPECT_TRUE(ResourceRoom::keeps(needs, true, 2));
  EXPECT_FALSE(ResourceRoom::keeps(needs, true, 1));
}

}  // namespace
}  // namespace headrace
