#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/residency.h"

namespace headrace {
namespace {

using State = Residency::State;
using Kind = Residency::Decision;

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
      // Some share: a part of 5 bytes, one of 10, one of 15.
      for (std::uint64_t id = 1; id <= 3; ++id) {
        if (between(0, 3) != 0) continue;
        version->item->memory.shared.push_back({id, id * 5});
        version->item->memory.peak += id * 5;
      }
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
    std::size_t parts = 0;
    std::map<std::uint64_t, std::size_t> shared;
    int loading = 0;
    for (const auto& version : versions_) {
      const Residency::Item& item = *version->item;
      if (item.state == State::kResident || item.state == State::kEvicting) {
        bytes += item.memory.footprint;
        parts += residency_.part(&item);
        for (const SharedMemory& memory : item.memory.shared) {
          if (!shared.emplace(memory.id, memory.bytes).second) ++reached["shared"];
        }
      }
      if (item.state == State::kLoading) {
        bytes += item.memory.peak;
        ++loading;
      }
      if (item.state != State::kEvicting) {
        EXPECT_EQ(version->waiting > 0, item.state == State::kWaiting || item.state == State::kLoading);
      }
    }
    std::size_t peaks = 0;
    for (const auto& version : versions_) {
      if (version->item->state == State::kLoading) peaks += version->item->memory.peak;
    }
    for (const auto& [id, size] : shared) bytes += size;
    EXPECT_LE(parts, bytes - peaks) << "the parts of all are no more than all there is";
    EXPECT_GE(parts + versions_.size() * 3, bytes - peaks) << "but for what is lost in dividing";
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
                            "removed", "shared", "two at once", "withdrawn"}) {
    EXPECT_GT(reached[state], 10) << state;
  }
}

}  // namespace
}  // namespace headrace
