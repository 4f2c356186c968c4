#include "memory/budget.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace headrace {
namespace {

using Charge = InflightBudget::Charge;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kSmall = InflightBudget::kSmallMessage;
constexpr std::size_t kSmallReserve = InflightBudget::kSmallReserve;
constexpr std::size_t kMax = 8 * kMiB;
constexpr std::size_t kCommon = 16 * kMiB;
constexpr std::size_t kCap = kCommon + kSmallReserve + kMax;

// Fills the common tier with half-sent messages of 1 MiB each (of 2 MiB to come).
std::vector<Charge> fill_common(InflightBudget& budget) {
  std::vector<Charge> charges;
  for (std::size_t i = 0; i < kCommon / kMiB; ++i) {
    charges.push_back(budget.begin(2 * kMiB));
    EXPECT_TRUE(charges.back().raise(kMiB)) << i;
  }
  return charges;
}

TEST(Budget, ChargesAndGivesBack) {
  InflightBudget budget(kCap, kMax);
  EXPECT_EQ(budget.cap(), kCap);
  {
    Charge charge = budget.begin(kMiB);
    EXPECT_TRUE(charge);
    EXPECT_EQ(charge.bytes(), 0U);
    EXPECT_TRUE(charge.raise(1000));
    EXPECT_TRUE(charge.raise(500)) << "never lowered";
    EXPECT_EQ(charge.bytes(), 1000U);
    EXPECT_TRUE(charge.raise(kMiB + 1)) << "a last step may reach over the message's end";
    EXPECT_EQ(charge.bytes(), kMiB);
    charge.complete();
    EXPECT_EQ(budget.charged(), kMiB);
    charge.release();
    EXPECT_FALSE(charge);
    EXPECT_EQ(budget.charged(), 0U);
    charge.release();
  }
  EXPECT_EQ(budget.charged(), 0U);
  EXPECT_EQ(budget.peak(), kMiB);
}

TEST(Budget, ACapThatIsTooSmallIsRaisedToTheReserves) {
  InflightBudget budget(1, kMax);
  EXPECT_EQ(budget.cap(), kMax + kSmallReserve);
  Charge oldest = budget.begin(kMax);
  EXPECT_TRUE(oldest.raise(kMax));
  Charge small = budget.take(100);
  EXPECT_TRUE(small);
  Charge younger = budget.begin(kMiB);
  EXPECT_FALSE(younger.raise(1));
  EXPECT_EQ(budget.charged(), kMax + 100);
}

TEST(Budget, YoungerLargeMessagesAreRefusedAndTheOldestFinishes) {
  InflightBudget budget(kCap, kMax);
  Charge oldest = budget.begin(kMax);
  ASSERT_TRUE(oldest.raise(1));
  std::vector<Charge> uploads;
  int refused = 0;
  for (int i = 0; i < 1000; ++i) {
    Charge charge = budget.begin(kMax);
    if (charge.raise(256 << 10)) {
      uploads.push_back(std::move(charge));
    } else {
      ++refused;
      EXPECT_EQ(charge.bytes(), 0U);
    }
  }
  EXPECT_EQ(uploads.size(), kCommon / (256 << 10) - 1);
  EXPECT_GT(refused, 0);
  EXPECT_TRUE(budget.take(kSmall)) << "a small call is served meanwhile";
  for (std::size_t bytes = 256 << 10; bytes <= kMax; bytes += 256 << 10) EXPECT_TRUE(oldest.raise(bytes)) << bytes;
  EXPECT_EQ(oldest.bytes(), kMax);
  EXPECT_TRUE(budget.take(kSmall)) << "the oldest upload took nothing of the small reserve";
  EXPECT_LE(budget.peak(), budget.cap());
  // When it is gone, the next oldest has the same right.
  oldest.complete();
  oldest.release();
  EXPECT_TRUE(uploads.front().raise(kMax));
  EXPECT_FALSE(uploads[1].raise(kMax));
}

TEST(Budget, TheOldestThatGoesLeavesItsRightToTheNext) {
  InflightBudget budget(kCap, kMax);
  std::vector<Charge> charges = fill_common(budget);
  EXPECT_FALSE(charges[1].raise(2 * kMiB));
  EXPECT_FALSE(charges.back().raise(2 * kMiB));
  charges.erase(charges.begin());  // moves every other charge
  EXPECT_TRUE(charges[0].raise(2 * kMiB)) << "what the first one held";
  EXPECT_TRUE(charges[0].raise(2 * kMiB));
  EXPECT_FALSE(charges[1].raise(2 * kMiB));
}

TEST(Budget, AWholeMessageKeepsItsPartOfTheReserveUntilItIsReleased) {
  InflightBudget budget(kCap, kMax);
  Charge first = budget.begin(kMax);
  Charge second = budget.begin(kMax);
  std::vector<Charge> others = fill_common(budget);
  ASSERT_TRUE(first.raise(6 * kMiB));  // all of it from the reserve of 8
  EXPECT_FALSE(second.raise(1)) << "not the oldest";
  first.complete();
  EXPECT_TRUE(second.raise(2 * kMiB)) << "the oldest now: it gets what is left of the reserve";
  EXPECT_FALSE(second.raise(3 * kMiB)) << "the rest serves the whole one";
  EXPECT_EQ(second.bytes(), 2 * kMiB);
  first.release();
  EXPECT_TRUE(second.raise(kMax));
  EXPECT_EQ(budget.charged(), kCommon + kMax);
}

TEST(Budget, TheCommonTierTakesOverWhatWholeMessagesHoldOfTheReserve) {
  InflightBudget budget(kCap, kMax);
  Charge first = budget.begin(kMax);
  Charge second = budget.begin(kMax);
  std::vector<Charge> others = fill_common(budget);
  ASSERT_TRUE(first.raise(kMax));
  first.complete();
  Charge moved = std::move(first);  // as a message takes its charge along
  EXPECT_FALSE(second.raise(kMax));
  others.resize(others.size() - 8);  // room for all that it holds
  EXPECT_TRUE(second.raise(kMax)) << "the reserve is whole again, although its last user still runs";
  EXPECT_EQ(budget.charged(), kCommon + kMax);
  moved.release();
  EXPECT_EQ(budget.charged(), kCommon);
}

TEST(Budget, SmallMessagesHaveAReserveAndHalfSentOnesOnlyHalfOfIt) {
  InflightBudget budget(kCap, kMax);
  const std::vector<Charge> uploads = fill_common(budget);
  std::vector<Charge> half_sent;
  for (;;) {
    Charge charge = budget.begin(kSmall);
    if (!charge.raise(kSmall)) break;
    half_sent.push_back(std::move(charge));
  }
  EXPECT_EQ(half_sent.size(), kSmallReserve / kSmall / 2);
  std::vector<Charge> whole;
  for (;;) {
    Charge charge = budget.take(kSmall);
    if (!charge) break;
    whole.push_back(std::move(charge));
  }
  EXPECT_EQ(whole.size(), kSmallReserve / kSmall / 2);
  EXPECT_FALSE(budget.take(1));
  EXPECT_FALSE(budget.take(kSmall + 1));
  whole.pop_back();
  EXPECT_FALSE(budget.take(kSmall + 1)) << "too large for the small reserve";
  EXPECT_TRUE(budget.take(kSmall));
  whole.clear();
  half_sent.clear();
  EXPECT_EQ(budget.charged(), kCommon);
}

TEST(Budget, ASmallMessageThatIsTheOldestFinishesToo) {
  InflightBudget budget(kCap, kMax);
  Charge oldest = budget.begin(kSmall);
  const std::vector<Charge> uploads = fill_common(budget);
  std::vector<Charge> whole;
  while (Charge charge = budget.take(kSmall)) whole.push_back(std::move(charge));
  EXPECT_TRUE(oldest.raise(kSmall));
}

TEST(Budget, AChargeKeepsItsPlaceWhenItMoves) {
  InflightBudget budget(kCap, kMax);
  auto first = std::make_unique<Charge>(budget.begin(kMax));
  Charge second = budget.begin(kMax);
  const std::vector<Charge> others = fill_common(budget);
  Charge moved = std::move(*first);
  first.reset();
  EXPECT_FALSE(second.raise(1));
  EXPECT_TRUE(moved.raise(kMax)) << "still the oldest";
  Charge target = budget.begin(10);
  target = std::move(moved);  // gives up what it had
  EXPECT_EQ(target.bytes(), kMax);
  EXPECT_EQ(moved.bytes(), 0U);  // NOLINT(bugprone-use-after-move)
  EXPECT_FALSE(second.raise(1));
  Charge& itself = target;
  target = std::move(itself);
  EXPECT_EQ(target.bytes(), kMax);
  target.release();
  EXPECT_TRUE(second.raise(kMax));
}

TEST(Budget, AnEmptyMessageIsAMessage) {
  InflightBudget budget(kCap, kMax);
  EXPECT_TRUE(budget.take(0));
  Charge charge = budget.begin(0);
  EXPECT_TRUE(charge.raise(10));
  charge.complete();
  EXPECT_EQ(charge.bytes(), 0U);
}

// Loops begin, raise, complete or abandon, and hand whole messages to a thread that releases them later.
TEST(Budget, ManyThreadsNeverPassTheCap) {
  InflightBudget budget(kCap, kMax);
  Mutex mutex;
  CondVar changed;
  std::vector<Charge> whole;
  bool over = false;
  std::thread releaser([&] {
    for (;;) {
      std::vector<Charge> taken;
      MutexLock lock(mutex);
      while (whole.empty() && !over) changed.wait(mutex);
      if (whole.empty()) return;
      taken.swap(whole);
      lock.unlock();
      taken.clear();
    }
  });
  std::atomic<int> refused{0};
  const auto loop = [&](unsigned seed) {
    std::mt19937 random(seed);
    std::vector<Charge> open;
    for (int i = 0; i < 5000; ++i) {
      const unsigned what = random() % 8;
      if (what < 3) {
        Charge charge = budget.take(random() % kSmall);
        if (!charge) {
          refused.fetch_add(1);
          continue;
        }
        MutexLock lock(mutex);
        whole.push_back(std::move(charge));
        changed.notify_one();
      } else if (what < 5 || open.empty()) {
        open.push_back(budget.begin(random() % 2 == 0 ? random() % kMax : random() % kSmall));
      } else {
        const std::size_t index = random() % open.size();
        Charge& charge = open[index];
        const bool charged = charge.raise(charge.bytes() + random() % (2 * kMiB));
        if (!charged) refused.fetch_add(1);
        if (!charged || what == 7) {
          Charge done = std::move(charge);
          open.erase(open.begin() + static_cast<std::ptrdiff_t>(index));
          if (charged) {
            done.complete();
            MutexLock lock(mutex);
            whole.push_back(std::move(done));
            changed.notify_one();
          }
        }
      }
      EXPECT_LE(budget.charged(), budget.cap());
    }
  };
  std::vector<std::thread> loops;
  for (unsigned seed = 1; seed <= 3; ++seed) loops.emplace_back(loop, seed);
  for (std::thread& thread : loops) thread.join();
  {
    MutexLock lock(mutex);
    over = true;
    changed.notify_one();
  }
  releaser.join();
  EXPECT_EQ(budget.charged(), 0U);
  EXPECT_LE(budget.peak(), budget.cap());
  EXPECT_GT(refused.load(), 0) << "the budget was never full: the test shows less than it should";
}

}  // namespace
}  // namespace headrace
