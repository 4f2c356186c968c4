#include "engine/residency.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
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

// Random traffic over versions of all sizes, loads and evictions that end in any order, versions that come and go.
class Simulation {
 public:
  explicit Simulation(unsigned seed) : random_(seed) {}

  void run(int steps) {
    for (int step = 0; step < steps; ++step) {
      now_ += between(0, 20) * kMillisecond;
      act();
      settle();
      check();
    }
    finish();
  }
  std::map<std::string, int> reached;

 private:
  struct Version {
    Residency::Item* item = nullptr;
    std::uint64_t uses = 0;
    int waiting = 0;  // requests
    bool busy = false;
    std::size_t asked = 0;  // when: its place in the line
  };

  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  void act() {
    const int what = between(0, 99);
    if (versions_.size() < 12 && what < 10) {
      auto version = std::make_unique<Version>();
      const auto footprint = static_cast<std::size_t>(between(1, 60));
      version->item = residency_.add(version.get(), {footprint, footprint * 2});
      versions_.push_back(std::move(version));
      return;
    }
    if (versions_.empty()) return;
    Version& version = *versions_[static_cast<std::size_t>(between(0, static_cast<int>(versions_.size()) - 1))];
    Residency::Item* item = version.item;
    if (what < 60) {
      if (item->state == State::kResident) {
        ++version.uses;
        version.busy = between(0, 1) == 1;
        return;
      }
      if (item->state == State::kAsleep) version.asked = ++asked_;
      if (residency_.ask(item, now_).ok()) {
        ++version.waiting;
      } else {
        ++reached["backing off"];
      }
    } else if (what < 80) {
      end_one();
    } else if (what < 92) {
      if (version.busy) residency_.became_idle();
      version.busy = false;
    } else if (what < 95 && item->state == State::kWaiting) {
      residency_.withdraw(item);
      version.waiting = 0;
      ++reached["withdrawn"];
    } else if (what < 97 && item->state != State::kLoading && item->state != State::kEvicting) {
      residency_.retire(item);
      residency_.remove(item);
      std::erase_if(versions_, [&](const auto& each) { return each.get() == &version; });
      ++reached["removed"];
    }
  }

  void end_one() {
    std::vector<Version*> going;
    for (const auto& version : versions_) {
      if (version->item->state == State::kLoading || version->item->state == State::kEvicting)
        going.push_back(version.get());
    }
    if (going.empty()) return;
    Version& version = *going[static_cast<std::size_t>(between(0, static_cast<int>(going.size()) - 1))];
    if (version.item->state == State::kEvicting) {
      residency_.evicted(version.item);
      ++reached["evicted"];
      EXPECT_EQ(version.item->state, version.waiting > 0 ? State::kWaiting : State::kAsleep);
      if (version.waiting > 0) {
        version.asked = ++asked_;
        ++reached["asked while it went"];
      }
    } else if (between(0, 9) == 0) {
      residency_.failed(version.item, "words", now_);
      version.waiting = 0;
      ++reached["failed"];
    } else {
      residency_.loaded(version.item, version.item->memory, between(1, 1000) * kMillisecond, version.uses);
      version.uses += static_cast<std::uint64_t>(version.waiting);
      version.waiting = 0;
      ++reached["loaded"];
    }
  }

  void settle() {
    while (true) {
      const std::size_t bytes = residency_.bytes();
      const Residency::Item* first = residency_.first_waiting();
      const Residency::Decision decision =
          residency_.next([](void* owner) { return static_cast<Version*>(owner)->uses; });
      if (decision.kind == Kind::kNothing) return;
      auto& version = *static_cast<Version*>(decision.item->owner);
      if (decision.kind == Kind::kLoad) {
        EXPECT_EQ(decision.item, first) << "first asked, first served";
        EXPECT_GT(version.waiting, 0) << "loaded for nobody";
        EXPECT_TRUE(bytes == 0 || residency_.bytes() <= residency_.budget());
        EXPECT_GT(version.asked, last_loaded_) << "overtaken";
        last_loaded_ = version.asked;
        if (bytes == 0 && residency_.bytes() > residency_.budget()) ++reached["alone"];
        continue;
      }
      EXPECT_NE(first, nullptr) << "evicted for nobody";
      if (version.busy) {
        residency_.keep(decision.item);
        ++reached["in use"];
      }
    }
  }

  void check() {
    std::size_t bytes = 0;
    int loading = 0;
    for (const auto& version : versions_) {
      const Residency::Item& item = *version->item;
      if (item.state == State::kResident || item.state == State::kEvicting) bytes += item.memory.footprint;
      if (item.state == State::kLoading) {
        bytes += item.memory.peak;
        ++loading;
      }
      if (item.state != State::kEvicting) {
        EXPECT_EQ(version->waiting > 0, item.state == State::kWaiting || item.state == State::kLoading);
      }
    }
    EXPECT_EQ(bytes, residency_.bytes());
    EXPECT_EQ(loading, residency_.loading());
    EXPECT_LE(loading, 3);
    if (loading > 1) ++reached["two at once"];
    if (loading != 1) {
      EXPECT_LE(bytes, residency_.budget());
    }
  }

  // Whatever state it was left in, once nothing is in use each that waits gets its load.
  void finish() {
    for (int step = 0; step < 10'000; ++step) {
      for (const auto& version : versions_) version->busy = false;
      residency_.became_idle();
      settle();
      end_one();
    }
    for (const auto& version : versions_) EXPECT_EQ(version->waiting, 0) << "starved";
    EXPECT_EQ(residency_.waiting(), 0U);
  }

  std::mt19937 random_;
  Nanos now_ = 0;
  std::size_t asked_ = 0;
  std::size_t last_loaded_ = 0;
  Residency residency_{100, 3};
  std::vector<std::unique_ptr<Version>> versions_;
};

TEST(ResidencySimulation, SeedsHoldTheInvariants) {
  std::map<std::string, int> reached;
  for (unsigned seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Simulation simulation(seed);
    simulation.run(1000);
    for (const auto& [state, times] : simulation.reached) reached[state] += times;
    if (::testing::Test::HasFailure()) return;
  }
  for (const char* state : {"alone", "asked while it went", "backing off", "evicted", "failed", "in use", "loaded",
                            "removed", "two at once", "withdrawn"}) {
    EXPECT_GT(reached[state], 10) << state;
  }
}

}  // namespace
}  // namespace headrace
