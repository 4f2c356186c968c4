#include "engine/residency.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace headrace {
namespace {

using State = Residency::State;
using Kind = Residency::Decision;

// Versions by number; their requests are counted by hand.
class ResidencyTest : public ::testing::Test {
 protected:
  void make(std::size_t budget, int loads_at_once = 1) {
    residency_ = std::make_unique<Residency>(budget, loads_at_once);
  }
  Residency::Item* add(std::size_t footprint, std::size_t peak) {
    uses_.push_back(std::make_unique<std::uint64_t>(0));
    return residency_->add(uses_.back().get(), {footprint, peak});
  }
  static std::uint64_t& uses(Residency::Item* item) { return *static_cast<std::uint64_t*>(item->owner); }
  Residency::Decision next() {
    return residency_->next([](void* owner) { return *static_cast<std::uint64_t*>(owner); });
  }
  void ask(Residency::Item* item) { ASSERT_TRUE(residency_->ask(item, now_).ok()); }
  void finish(Residency::Item* item, Nanos took = kMillisecond) {
    residency_->loaded(item, item->memory, took, uses(item));
  }
  void load(Residency::Item* item, Nanos took = kMillisecond) {
    ask(item);
    const Residency::Decision decision = next();
    ASSERT_EQ(decision.kind, Kind::kLoad);
    ASSERT_EQ(decision.item, item);
    finish(item, took);
  }

  Nanos now_ = kSecond;
  std::vector<std::unique_ptr<std::uint64_t>> uses_;
  std::unique_ptr<Residency> residency_;
};

TEST_F(ResidencyTest, ALoadCountsWithItsPeakAndThenWithItsFootprint) {
  make(100);
  Residency::Item* item = add(30, 80);
  ask(item);
  EXPECT_EQ(next().kind, Kind::kLoad);
  EXPECT_EQ(residency_->bytes(), 80U);
  residency_->loaded(item, {40, 90}, kMillisecond, 0);
  EXPECT_EQ(residency_->bytes(), 40U);
  EXPECT_EQ(item->memory.peak, 90U) << "what was measured goes for the next time";
  EXPECT_EQ(residency_->bytes_peak(), 80U);
}

TEST_F(ResidencyTest, WhatWasMeasuredToBeMoreThanReservedIsMadeUpForAtOnce) {
  make(100);
  Residency::Item* cheap = add(40, 40);
  Residency::Item* dear = add(40, 40);
  load(cheap);
  ask(dear);
  ASSERT_EQ(next().kind, Kind::kLoad);
  residency_->loaded(dear, {70, 70}, kSecond, 0);
  EXPECT_EQ(residency_->bytes(), 110U);
  const Residency::Decision decision = next();
  ASSERT_EQ(decision.kind, Kind::kEvict);
  EXPECT_EQ(decision.item, cheap);
  EXPECT_EQ(next().kind, Kind::kNothing) << "one is enough";
  residency_->evicted(cheap);
  EXPECT_EQ(residency_->bytes(), 70U);
  EXPECT_EQ(next().kind, Kind::kNothing);
}

TEST_F(ResidencyTest, WhatAloneIsMoreThanTheBudgetStays) {
  make(100);
  Residency::Item* item = add(40, 40);
  ask(item);
  ASSERT_EQ(next().kind, Kind::kLoad);
  residency_->loaded(item, {170, 170}, kMillisecond, 0);
  EXPECT_EQ(next().kind, Kind::kNothing);
}

TEST_F(ResidencyTest, WhatIsSharedCountsOnce) {
  make(200);
  Residency::Item* one = add(10, 20);
  Residency::Item* two = add(10, 20);
  ask(one);
  ask(two);
  ASSERT_EQ(next().item, one);
  residency_->loaded(one, {10, 120, {{1, 80}, {2, 10}}}, kMillisecond, 0);
  EXPECT_EQ(residency_->bytes(), 100U);
  EXPECT_EQ(residency_->shared_already({{1, 80}, {3, 30}}), 80U);
  ASSERT_EQ(next().item, two);
  residency_->loaded(two, {12, 120, {{1, 80}, {3, 30}}}, kMillisecond, 0);
  EXPECT_EQ(residency_->bytes(), 142U) << "its own, and what it alone has";
  EXPECT_EQ(residency_->part(one), 10U + 40U + 10U);
  EXPECT_EQ(residency_->part(two), 12U + 40U + 30U);
  residency_->retire(one);
  residency_->evicted(one);
  EXPECT_EQ(residency_->bytes(), 122U) << "what the other has stays";
  EXPECT_EQ(residency_->part(two), 122U);
  residency_->remove(two);
  EXPECT_EQ(residency_->bytes(), 0U);
}

TEST_F(ResidencyTest, ThoseWhoShareGoOneAfterTheOtherWhereThatMakesRoom) {
  make(200);
  Residency::Item* one = add(5, 120);
  Residency::Item* two = add(5, 100);
  Residency::Item* large = add(150, 150);
  ask(one);
  ASSERT_EQ(next().item, one);
  residency_->loaded(one, {5, 120, {{1, 100}}}, kMillisecond, 0);
  two->memory.peak = 10;
  ask(two);
  ASSERT_EQ(next().item, two);
  residency_->loaded(two, {5, 120, {{1, 100}}}, kSecond, 0);
  EXPECT_EQ(residency_->bytes(), 110U);
  ask(large);
  Residency::Decision decision = next();
  ASSERT_EQ(decision.kind, Kind::kEvict);
  EXPECT_EQ(decision.item, one) << "it is loaded again sooner";
  decision = next();
  ASSERT_EQ(decision.kind, Kind::kEvict) << "the first alone frees 5";
  EXPECT_EQ(decision.item, two);
  EXPECT_EQ(next().kind, Kind::kNothing);
  residency_->evicted(one);
  EXPECT_EQ(next().kind, Kind::kNothing) << "the rest is on its way";
  residency_->evicted(two);
  EXPECT_EQ(residency_->bytes(), 0U);
  EXPECT_EQ(next().item, large);
}

TEST_F(ResidencyTest, OneLoadForAllWhoAsk) {
  make(100);
  Residency::Item* item = add(10, 20);
  ask(item);
  ask(item);
  EXPECT_EQ(next().item, item);
  ask(item);
  EXPECT_EQ(next().kind, Kind::kNothing);
  finish(item);
  ask(item);
  EXPECT_EQ(next().kind, Kind::kNothing) << "it is there";
}

TEST_F(ResidencyTest, NoMoreLoadsAtOneTimeThanAllowed) {
  make(1000, 2);
  Residency::Item* items[] = {add(10, 10), add(10, 10), add(10, 10)};
  for (Residency::Item* item : items) ask(item);
  EXPECT_EQ(next().item, items[0]);
  EXPECT_EQ(next().item, items[1]);
  EXPECT_EQ(next().kind, Kind::kNothing);
  finish(items[0]);
  EXPECT_EQ(next().item, items[2]);
}

TEST_F(ResidencyTest, TheOneOfLeastWorthGoes) {
  make(100);
  Residency::Item* quick = add(40, 40);
  Residency::Item* slow = add(40, 40);
  Residency::Item* third = add(40, 40);
  load(quick, kMillisecond);
  load(slow, kSecond);
  ask(third);
  const Residency::Decision decision = next();
  ASSERT_EQ(decision.kind, Kind::kEvict);
  EXPECT_EQ(decision.item, quick) << "it is soon back";
  EXPECT_EQ(next().kind, Kind::kNothing) << "room is on its way";
  residency_->evicted(quick);
  EXPECT_EQ(next().item, third);
  EXPECT_EQ(quick->state, State::kAsleep);
}

TEST_F(ResidencyTest, UsesAddToTheWorthAndSizeTakesFromIt) {
  make(100);
  Residency::Item* used = add(40, 40);
  Residency::Item* idle = add(40, 40);
  Residency::Item* third = add(40, 40);
  load(used);
  load(idle);
  uses(used) = 5;
  uses(idle) = 2;
  ask(third);
  EXPECT_EQ(next().item, idle);

  make(100);
  Residency::Item* large = add(60, 60);
  Residency::Item* small = add(20, 20);
  third = add(40, 40);
  load(large);
  load(small);
  ask(third);
  EXPECT_EQ(next().item, large);
}

TEST_F(ResidencyTest, WhatIsNotUsedAges) {
  make(20);
  Residency::Item* once = add(10, 10);
  load(once);
  uses(once) = 1000;  // long ago
  std::vector<Residency::Item*> others = {add(10, 10), add(10, 10)};
  int rounds = 0;
  // Two that take turns, each used a little: in the end the one that nobody uses any more goes.
  for (; once->state == State::kResident && rounds < 10'000; ++rounds) {
    Residency::Item* item = others[static_cast<std::size_t>(rounds) % 2];
    ask(item);
    while (item->state != State::kResident) {
      const Residency::Decision decision = next();
      if (decision.kind == Kind::kEvict) residency_->evicted(decision.item);
      if (decision.kind == Kind::kLoad) finish(decision.item);
      ASSERT_NE(decision.kind, Kind::kNothing);
    }
    uses(item) += 10;
  }
  EXPECT_LT(rounds, 1000);
  EXPECT_GT(rounds, 10);
}

TEST_F(ResidencyTest, WhatIsInUseStaysAndTheLineWaits) {
  make(100);
  Residency::Item* busy = add(80, 80);
  Residency::Item* next_one = add(50, 50);
  Residency::Item* small = add(10, 10);
  load(busy);
  ask(next_one);
  ask(small);
  EXPECT_EQ(next().item, busy);
  residency_->keep(busy);
  EXPECT_EQ(next().kind, Kind::kNothing) << "and nobody is overtaken, though the small one would fit";
  EXPECT_EQ(residency_->bytes(), 80U);
  residency_->became_idle();
  EXPECT_EQ(next().item, busy);
  residency_->evicted(busy);
  EXPECT_EQ(next().item, next_one);
}

TEST_F(ResidencyTest, NothingIsEvictedWhereThatMakesNoRoom) {
  make(100, 2);
  Residency::Item* small = add(10, 10);
  Residency::Item* loading = add(60, 60);
  Residency::Item* large = add(90, 90);
  load(small);
  ask(loading);
  EXPECT_EQ(next().item, loading);
  ask(large);
  EXPECT_EQ(next().kind, Kind::kNothing);
  finish(loading);
  EXPECT_EQ(next().kind, Kind::kEvict);
}

TEST_F(ResidencyTest, OneThatIsLargerThanTheBudgetWhileItLoadsLoadsAlone) {
  make(100);
  Residency::Item* other = add(30, 30);
  Residency::Item* large = add(60, 150);
  load(other);
  ask(large);
  EXPECT_EQ(next().item, other);
  residency_->evicted(other);
  EXPECT_EQ(next().item, large);
  finish(large);
  load(other);
  EXPECT_EQ(residency_->bytes(), 90U);
}

TEST_F(ResidencyTest, AFailedLoadIsTriedAgainAfterAPauseThatDoublesToABound) {
  make(100);
  Residency::Item* item = add(10, 20);
  Nanos pause = Residency::kFirstPause;
  for (int i = 0; i < 40; ++i) {
    ask(item);
    ASSERT_EQ(next().item, item);
    residency_->failed(item, "no such file", now_);
    EXPECT_EQ(residency_->bytes(), 0U);
    const Status refused = residency_->ask(item, now_ + pause - 1);
    EXPECT_EQ(refused.to_string(), "UNAVAILABLE: no such file; it is tried again in 1 ms");
    now_ += pause;
    pause = std::min(2 * pause, Residency::kLongestPause);
  }
  ask(item);
  ASSERT_EQ(next().item, item);
  finish(item);
  residency_->retire(item);
  residency_->remove(item);
  EXPECT_EQ(residency_->bytes(), 0U);
}

TEST_F(ResidencyTest, WhoIsWithdrawnOrRemovedLeavesTheLine) {
  make(10);
  Residency::Item* first = add(10, 10);
  Residency::Item* second = add(10, 10);
  Residency::Item* third = add(10, 10);
  ask(first);
  ask(second);
  ask(third);
  residency_->withdraw(first);
  residency_->remove(second);
  EXPECT_EQ(next().item, third);
  EXPECT_EQ(residency_->size(), 2U);
}

}  // namespace
}  // namespace headrace
