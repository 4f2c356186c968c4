#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "base/sync.h"
#include "memory/pool.h"
#include "pool_fixture.h"

namespace headrace {
namespace {

using testing::expect_zero;
using testing::kMiB;
using testing::kStep;
using testing::limits;
using testing::resident_bytes;
using testing::take;
using testing::take_addresses;

// The owner of the waste callback, who sweeps when the test says so.
struct Sweeper {
  static bool told(void* context) {
    auto& self = *static_cast<Sweeper*>(context);
    ++self.calls;
    return self.willing;
  }
  int calls = 0;
  bool willing = true;
};

// Half-filled blocks, which are not kept.
std::vector<Block> halves(Pool& pool, int count) {
  std::vector<Block> blocks;
  for (int i = 0; i < count; ++i) {
    blocks.push_back(take_addresses(pool, kMiB));
    EXPECT_TRUE(blocks.back() && blocks.back().charge(1));
    blocks.back().data()[0] = std::byte{1};
  }
  return blocks;
}

TEST(PoolWaste, IsCountedUntilItIsSwept) {
  Sweeper sweeper;
  Pool pool(limits(64 * kMiB, 32 * kMiB));
  pool.on_waste(&Sweeper::told, &sweeper);
  std::vector<Block> blocks = halves(pool, 3);
  const std::byte* first = blocks[0].data();
  blocks.clear();
  EXPECT_EQ(sweeper.calls, 1) << "told of the first alone";
  EXPECT_EQ(pool.stats().bytes_waste, 3 * kStep);
  EXPECT_EQ(pool.stats().bytes_retained, 0U);
  EXPECT_EQ(pool.stats().classes[0].free, 0U);
  EXPECT_EQ(resident_bytes(first, kMiB), 4096U) << "it is still there";
  expect_zero(pool);
  pool.sweep();
  EXPECT_EQ(pool.stats().bytes_waste, 0U);
  std::vector<unsigned char> pages(kMiB / 4096);
  EXPECT_NE(::mincore(const_cast<std::byte*>(first), kMiB, pages.data()), 0) << "the system has the addresses back";
  halves(pool, 1).clear();
  EXPECT_EQ(sweeper.calls, 2);
  pool.trim();
  EXPECT_EQ(pool.stats().bytes_waste, 0U);
  static_cast<void>(take_addresses(pool, Pool::kWasteBytes / 2));
  EXPECT_EQ(sweeper.calls, 2) << "a small block goes at once";
}

TEST(PoolWaste, WhoeverDropsTheBlockSweepsWhenNobodyElseWill) {
  Sweeper sweeper;
  sweeper.willing = false;
  Pool pool(limits(64 * kMiB, 32 * kMiB));
  pool.on_waste(&Sweeper::told, &sweeper);
  halves(pool, 3).clear();
  EXPECT_EQ(sweeper.calls, 3);
  EXPECT_EQ(pool.stats().bytes_waste, 0U);
  pool.on_waste(nullptr, nullptr);
  halves(pool, 3).clear();
  EXPECT_EQ(sweeper.calls, 3);
  EXPECT_EQ(pool.stats().bytes_waste, 0U);
  expect_zero(pool);
}

TEST(PoolWaste, MakesRoomBeforeFreeBlocksDoAndBeforeAnybodyIsRefused) {
  Sweeper sweeper;
  Pool pool(limits(4 * kMiB, 4 * kMiB));
  pool.on_waste(&Sweeper::told, &sweeper);
  static_cast<void>(take(pool, 2 * kMiB));
  halves(pool, 8).clear();
  EXPECT_EQ(pool.stats().bytes_waste, 8 * kStep);
  EXPECT_EQ(pool.stats().bytes_retained, 2 * kMiB);
  Block one = take(pool, kMiB);
  EXPECT_EQ(pool.stats().bytes_waste, 4 * kStep) << "no more than it takes";
  EXPECT_EQ(pool.stats().bytes_retained, 2 * kMiB);
  one.reset();
  static_cast<void>(take(pool, 4 * kMiB));
  EXPECT_EQ(pool.stats().bytes_waste, 0U);
  EXPECT_EQ(pool.stats().refusals, 0U);
  expect_zero(pool);
}

TEST(PoolWaste, IsNoReasonToKeepLess) {
  Sweeper sweeper;
  Pool pool(limits(64 * kMiB, 2 * kMiB));
  pool.on_waste(&Sweeper::told, &sweeper);
  halves(pool, 8).clear();
  static_cast<void>(take(pool, kMiB));
  EXPECT_EQ(pool.stats().bytes_retained, kMiB);
  Block two = take(pool, 2 * kMiB);
  two.reset();  // takes the other's place, which becomes waste and is not unmapped here
  EXPECT_EQ(pool.stats().bytes_retained, 2 * kMiB);
  EXPECT_EQ(pool.stats().bytes_waste, 8 * kStep + kMiB);
  pool.sweep();
  EXPECT_EQ(pool.stats().bytes_retained, 2 * kMiB);
  EXPECT_EQ(pool.stats().bytes_waste, 0U);
  expect_zero(pool);
}

TEST(PoolWaste, OneBlockIsNotKeptAtTheCostOfManySmallOnes) {
  Pool pool(limits(64 * kMiB, kMiB));
  std::vector<Block> blocks;
  for (std::size_t i = 0; i < kMiB / 128; ++i) blocks.push_back(take(pool, 64));
  blocks.clear();
  EXPECT_EQ(pool.stats().bytes_retained, kMiB);
  static_cast<void>(take(pool, kMiB));
  EXPECT_EQ(pool.stats().bytes_retained, kMiB - 64 * 128) << "64 made way, and it went itself";
  expect_zero(pool);
}

TEST(PoolWaste, ABlockThatOutlivesThePoolGoesAtOnce) {
  Sweeper sweeper;
  std::optional<Pool> pool(limits(64 * kMiB, 32 * kMiB));
  pool->on_waste(&Sweeper::told, &sweeper);
  std::vector<Block> swept = halves(*pool, 2);
  std::vector<Block> later = halves(*pool, 2);
  swept.clear();
  EXPECT_EQ(sweeper.calls, 1);
  pool.reset();
  later.clear();
  EXPECT_EQ(sweeper.calls, 1);
}

#if defined(__SANITIZE_ADDRESS__)
TEST(PoolWasteDeathTest, UseAfterFreeIsSeen) {
  Pool pool(PoolOptions{});
  Sweeper sweeper;
  pool.on_waste(&Sweeper::told, &sweeper);
  std::byte* data = halves(pool, 1)[0].data();
  EXPECT_DEATH(data[0] = std::byte{1}, "use-after-poison");
}
#endif

// A thread that sweeps, told by the callback, as the engine's worker is.
class SweepThread {
 public:
  explicit SweepThread(Pool& pool) : pool_(pool), thread_([this] { work(); }) {
    pool.on_waste(&SweepThread::told, this);
  }
  ~SweepThread() {
    pool_.on_waste(nullptr, nullptr);
    {
      MutexLock lock(mutex_);
      ended_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  SweepThread(const SweepThread&) = delete;
  SweepThread& operator=(const SweepThread&) = delete;

 private:
  static bool told(void* context) {
    auto& self = *static_cast<SweepThread*>(context);
    MutexLock lock(self.mutex_);
    if (++self.calls_ % 4 == 0) return false;  // a worker may be full
    self.due_ = true;
    self.changed_.notify_one();
    return true;
  }
  void work() {
    mutex_.lock();
    while (!ended_) {
      if (!std::exchange(due_, false)) {
        changed_.wait(mutex_);
        continue;
      }
      mutex_.unlock();
      pool_.sweep();
      mutex_.lock();
    }
    mutex_.unlock();
  }

  Pool& pool_;
  Mutex mutex_;
  CondVar changed_;
  bool due_ HEADRACE_GUARDED_BY(mutex_) = false;
  bool ended_ HEADRACE_GUARDED_BY(mutex_) = false;
  unsigned calls_ HEADRACE_GUARDED_BY(mutex_) = 0;
  std::thread thread_;
};

// Each thread wants a quarter of the cap, and what the others drop is waste that somebody else is sweeping: nobody may
// be refused, for there is always room once the waste is gone.
TEST(PoolWaste, NobodyIsRefusedBecauseAnotherThreadIsGivingBytesBack) {
  constexpr std::size_t kShare = 16 * kStep;
  Pool pool(limits(4 * kShare, kShare));
  {
    const SweepThread sweeper(pool);
    const auto work = [&](unsigned seed) {
      std::mt19937 random(seed);
      for (int i = 0; i < 2000; ++i) {
        std::vector<Block> blocks;
        std::size_t left = kShare;
        while (left != 0) {
          const std::size_t bytes = std::min<std::size_t>(left, (1 + random() % 4) * kStep);
          if (random() % 2 == 0) {
            blocks.push_back(take(pool, bytes));
          } else {
            blocks.push_back(take_addresses(pool, 8 * bytes));  // other classes than the whole ones
            EXPECT_TRUE(blocks.back().charge(bytes));
          }
          blocks.back().data()[0] = std::byte{1};
          left -= bytes;
        }
      }
    };
    std::vector<std::thread> threads;
    for (unsigned seed = 1; seed <= 4; ++seed) threads.emplace_back(work, seed);
    for (std::thread& thread : threads) thread.join();
  }
  EXPECT_EQ(pool.stats().refusals, 0U);
  EXPECT_LE(pool.stats().bytes_in_use_peak, 4 * kShare);
  pool.trim();
  EXPECT_EQ(pool.stats().bytes_retained, 0U);
  EXPECT_EQ(pool.stats().bytes_waste, 0U);
  expect_zero(pool);
}

TEST(PoolUnused, WhatWasNotNeededSinceTheLastLookGoesBack) {
  Pool pool(limits(std::size_t{64} * kMiB, std::size_t{64} * kMiB));
  const auto burst = [&pool](int count) {
    std::vector<Block> blocks;
    for (int i = 0; i < count; ++i) blocks.push_back(take(pool, kMiB));
  };
  burst(8);
  Block small = take(pool, 1024);
  small.reset();
  EXPECT_GE(pool.stats().bytes_retained, 8 * kMiB);
  pool.give_back_unused();
  EXPECT_GE(pool.stats().bytes_retained, 8 * kMiB) << "they were needed since the pool began";
  burst(3);
  pool.give_back_unused();
  EXPECT_GE(pool.stats().bytes_retained, 3 * kMiB);
  EXPECT_LT(pool.stats().bytes_retained, 4 * kMiB) << "five of them were free all the time";
  burst(3);
  EXPECT_EQ(pool.stats().reuses, 6U) << "none of these were mapped anew";
  pool.give_back_unused();
  pool.give_back_unused();
  EXPECT_LT(pool.stats().bytes_retained, kMiB) << "small ones stay";
  EXPECT_GE(pool.stats().bytes_retained, 1024U);
  burst(2);
  pool.trim();
  pool.give_back_unused();
  EXPECT_EQ(pool.stats().bytes_retained, 0U);
  expect_zero(pool);
}

TEST(PoolUnused, BesideThreadsThatUseIt) {
  Pool pool(limits(std::size_t{64} * kMiB, std::size_t{64} * kMiB));
  std::atomic<int> left{3};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 500; ++round) {
        const Block one = take(pool, kStep + static_cast<std::size_t>(round) * 1024);
        const Block two = take(pool, kStep);
        one.data()[0] = two.data()[kStep - 1] = std::byte{1};
      }
      --left;
    });
  }
  while (left.load() != 0) pool.give_back_unused();
  for (std::thread& thread : threads) thread.join();
  pool.give_back_unused();
  pool.give_back_unused();
  EXPECT_EQ(pool.stats().bytes_retained, 0U);
  expect_zero(pool);
}

}  // namespace
}  // namespace headrace
