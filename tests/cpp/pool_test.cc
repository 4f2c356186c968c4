#include "memory/pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/sync.h"
#include "pool_fixture.h"

namespace headrace {
namespace {

using testing::expect_zero;
using testing::kKiB;
using testing::kMiB;
using testing::kStep;
using testing::limits;
using testing::resident_bytes;
using testing::take;
using testing::take_addresses;

TEST(Pool, BlocksAreAlignedAndLargeEnough) {
  Pool pool(PoolOptions{});
  for (std::size_t bytes = 0; bytes < 3 * kMiB; bytes += bytes / 7 + 1) {
    const Block block = take(pool, bytes);
    ASSERT_TRUE(block);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.data()) % Pool::kAlignment, 0U) << bytes;
    EXPECT_GE(block.capacity(), bytes);
    EXPECT_LE(block.capacity(), std::max(bytes + 64, bytes + bytes / 4 + 1)) << bytes;
    EXPECT_GE(block.charged(), block.capacity());
    std::memset(block.data(), 0xab, block.capacity());
    EXPECT_EQ(pool.stats().bytes_in_use, block.charged());
  }
  expect_zero(pool);
}

TEST(Pool, ExactPowersOfTwoWasteNothing) {
  Pool pool(PoolOptions{});
  for (std::size_t bytes = 64; bytes <= 16 * kMiB; bytes *= 2) EXPECT_EQ(take(pool, bytes).capacity(), bytes);
  expect_zero(pool);
}

TEST(Pool, AFreeBlockIsUsedAgain) {
  Pool pool(PoolOptions{});
  for (const std::size_t bytes : {std::size_t{100}, 100 * kKiB, 5 * kMiB}) {
    const std::byte* first = take(pool, bytes).data();
    EXPECT_EQ(take(pool, bytes).data(), first) << bytes;
  }
  const PoolStats stats = pool.stats();
  EXPECT_EQ(stats.allocations, 6U);
  EXPECT_EQ(stats.reuses, 3U);
  EXPECT_EQ(stats.classes.size(), 3U);
  EXPECT_EQ(stats.classes[0].block_bytes, 128U);
  EXPECT_EQ(stats.classes[0].free, 1U);
  EXPECT_EQ(stats.classes[0].in_use, 0U);
  expect_zero(pool);
}

TEST(Pool, TheLastCopyGivesTheBytesBack) {
  Pool pool(PoolOptions{});
  Block first = take(pool, 1000);
  Block second = first;
  Block third;
  third = second;
  first.reset();
  second = std::move(third);
  EXPECT_EQ(pool.stats().blocks_in_use, 1U);
  EXPECT_FALSE(third);  // NOLINT(bugprone-use-after-move)
  Block& itself = second;
  second = itself;
  EXPECT_TRUE(second);
  {
    BlockCopies copies(second, 5);
    const Block one = copies.take();
    EXPECT_EQ(one.data(), second.data());
    Block kept = copies.take();
    second = std::move(kept);
  }
  EXPECT_EQ(pool.stats().blocks_in_use, 1U);
  second.reset();
  expect_zero(pool);
}

TEST(Pool, TheCapIsHardAndTheRefusalNamesIt) {
  Pool pool(limits(kMiB, kMiB));
  {
    const Block block = take(pool, 700 * kKiB);
    const Result<Block> refused = pool.allocate(400 * kKiB);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.status().code(), Code::kResourceExhausted);
    EXPECT_NE(refused.status().message().find("409600"), std::string::npos) << refused.status().message();
    EXPECT_NE(refused.status().message().find("1048576"), std::string::npos);
    EXPECT_NE(refused.status().message().find("--pool-bytes"), std::string::npos);
    EXPECT_FALSE(pool.allocate(kMiB + 1));
    EXPECT_FALSE(pool.allocate(static_cast<std::size_t>(-1)));
    EXPECT_FALSE(pool.reserve(static_cast<std::size_t>(-1)));
    EXPECT_EQ(pool.stats().refusals, 4U);
    EXPECT_EQ(pool.stats().bytes_in_use, block.charged());
    EXPECT_EQ(pool.stats().blocks_in_use, 1U);
  }
  expect_zero(pool);
  EXPECT_TRUE(pool.allocate(kMiB)) << "the free block is given back to the system before anybody is refused";
  EXPECT_LE(pool.stats().bytes_in_use_peak, kMiB);
  expect_zero(pool);
}

TEST(Pool, SmallBlocksCountTheirHeaders) {
  Pool pool(limits(64 * kKiB, 0));
  std::vector<Block> blocks;
  for (;;) {
    Result<Block> block = pool.allocate(64);
    if (!block) break;
    blocks.push_back(std::move(*block));
  }
  EXPECT_EQ(blocks.size(), 64 * kKiB / 128);
  blocks.clear();
  expect_zero(pool);
}

TEST(Pool, WhatIsRetainedStaysUnderItsLimit) {
  Pool pool(limits(64 * kMiB, 4 * kMiB));
  std::vector<Block> blocks;
  for (int i = 0; i < 8; ++i) blocks.push_back(take(pool, kMiB));
  blocks.clear();
  EXPECT_EQ(pool.stats().bytes_retained, 4 * kMiB);
  static_cast<void>(take(pool, 5 * kMiB));  // larger than all that may be kept: no reason to drop the others
  EXPECT_EQ(pool.stats().bytes_retained, 4 * kMiB);
  static_cast<void>(take(pool, 3 * kMiB));  // a class that was not there takes the place of old ones
  EXPECT_EQ(pool.stats().bytes_retained, 4 * kMiB);
  const std::uint64_t reuses = pool.stats().reuses;
  static_cast<void>(take(pool, 3 * kMiB));
  EXPECT_EQ(pool.stats().reuses, reuses + 1);
  pool.trim();
  EXPECT_EQ(pool.stats().bytes_retained, 0U);
  for (const PoolClassStats& stats : pool.stats().classes) EXPECT_EQ(stats.free, 0U);
  expect_zero(pool);
}

TEST(Pool, NothingIsRetainedWhereNothingMayBe) {
  Pool pool(limits(kMiB, 0));
  static_cast<void>(take(pool, 100));
  static_cast<void>(take(pool, 300 * kKiB));
  EXPECT_EQ(pool.stats().bytes_retained, 0U);
  expect_zero(pool);
}

TEST(Pool, AReservedBlockIsChargedInSteps) {
  Pool pool(limits(kMiB, kMiB));
  {
    Block block = take_addresses(pool, 64 * kMiB);  // far over the cap: only its addresses are taken
    EXPECT_GE(block.capacity(), 64 * kMiB);
    EXPECT_EQ(pool.stats().bytes_in_use, 0U);
    EXPECT_TRUE(block.charge(0));
    EXPECT_EQ(block.charged(), 0U);
    EXPECT_TRUE(block.charge(1));
    EXPECT_EQ(block.charged(), kStep);
    EXPECT_TRUE(block.charge(kStep));
    EXPECT_EQ(block.charged(), kStep);
    EXPECT_TRUE(block.charge(kStep + 1));
    EXPECT_EQ(pool.stats().bytes_in_use, 2 * kStep);
    EXPECT_TRUE(block.charge(4 * kStep));
    EXPECT_FALSE(block.charge(4 * kStep + 1));
    EXPECT_EQ(block.charged(), kMiB);
    EXPECT_EQ(pool.stats().refusals, 1U);
  }
  EXPECT_EQ(pool.stats().bytes_retained, 0U) << "a block that is hardly touched is not kept";
  expect_zero(pool);
}

TEST(Pool, ASmallReservedBlockIsChargedWhole) {
  Pool pool(limits(kMiB, kMiB));
  {
    Block block = take_addresses(pool, 1000);
    EXPECT_EQ(block.charged(), 0U);
    EXPECT_TRUE(block.charge(1));
    EXPECT_EQ(block.charged(), block.capacity() + sizeof(pool_detail::Header));
    EXPECT_TRUE(block.charge(1000));
  }
  static_cast<void>(take_addresses(pool, 2000));
  EXPECT_EQ(pool.stats().bytes_retained, 1024 + sizeof(pool_detail::Header)) << "only the touched one is kept";
  expect_zero(pool);
}

TEST(Pool, AMessageThatFilledItsBlockIsKept) {
  Pool pool(limits(64 * kMiB, 32 * kMiB));
  const std::size_t message = 602112;  // 1 x 3 x 224 x 224 floats: less than its class
  const std::byte* first = nullptr;
  {
    Block block = take_addresses(pool, message);
    ASSERT_TRUE(block.charge(message));
    first = block.data();
  }
  const std::size_t kept = pool.stats().bytes_retained;
  EXPECT_GE(kept, message);
  {
    Block block = take_addresses(pool, message);
    EXPECT_EQ(block.data(), first);
    EXPECT_EQ(pool.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool.stats().bytes_retained, kept) << "resident and uncharged: still retained";
    ASSERT_TRUE(block.charge(message));
    EXPECT_EQ(pool.stats().bytes_in_use, kept);
    EXPECT_EQ(pool.stats().bytes_retained, 0U);
  }
  EXPECT_EQ(pool.stats().bytes_retained, kept);
  expect_zero(pool);
}

TEST(Pool, APartlyTouchedBlockCountsWhatItTouched) {
  Pool pool(limits(64 * kMiB, 32 * kMiB));
  {
    Block block = take_addresses(pool, 8 * kMiB);
    ASSERT_TRUE(block.charge(6 * kMiB));
  }
  EXPECT_EQ(pool.stats().bytes_retained, 6 * kMiB);
  Block whole = take(pool, 8 * kMiB);
  EXPECT_EQ(pool.stats().reuses, 1U);
  EXPECT_EQ(pool.stats().bytes_in_use, 8 * kMiB);
  EXPECT_EQ(pool.stats().bytes_retained, 0U);
  whole.reset();
  expect_zero(pool);
}

TEST(Pool, AReusedBlockThatCannotBeChargedWholeIsRefused) {
  Pool pool(limits(8 * kMiB, 8 * kMiB));
  Block other = take(pool, kMiB);
  {
    Block block = take_addresses(pool, 8 * kMiB);
    ASSERT_TRUE(block.charge(6 * kMiB));
  }
  EXPECT_FALSE(pool.allocate(8 * kMiB));
  EXPECT_EQ(pool.stats().bytes_in_use, kMiB);
  EXPECT_EQ(pool.stats().blocks_in_use, 1U);
  other.reset();
  expect_zero(pool);
}

TEST(Pool, OneStepCostsTheSystemOneStep) {
  Pool pool(PoolOptions{});
  Block block = take_addresses(pool, 64 * kMiB);
  ASSERT_TRUE(block.charge(1));
  block.data()[0] = std::byte{1};
  EXPECT_LE(resident_bytes(block.data(), 64 * kMiB), kStep);
  ASSERT_TRUE(block.charge(4 * kMiB));
  std::memset(block.data(), 1, 4 * kMiB);
  EXPECT_EQ(resident_bytes(block.data(), 64 * kMiB), 4 * kMiB);
  block.reset();
  expect_zero(pool);
}

TEST(Pool, ABlockOutlivesItsPool) {
  std::optional<Pool> pool(PoolOptions{});
  Block small = take(*pool, 100);
  Block large = take(*pool, kMiB);
  Block half = take_addresses(*pool, kMiB);
  static_cast<void>(take(*pool, 50));  // one in a free list
  pool.reset();
  std::memset(small.data(), 1, small.capacity());
  std::memset(large.data(), 1, large.capacity());
  EXPECT_TRUE(half.charge(kMiB));
  EXPECT_EQ(half.charged(), kMiB);
  const Block copy = small;
  small.reset();
  large.reset();
}

#if defined(__SANITIZE_ADDRESS__)
TEST(PoolDeathTest, UseAfterFreeIsSeen) {
  Pool pool(PoolOptions{});
  for (const std::size_t bytes : {std::size_t{100}, kMiB}) {
    std::byte* data = take(pool, bytes).data();
    EXPECT_DEATH(data[0] = std::byte{1}, "use-after-poison");
  }
}
#endif

// Random sizes on several threads, each freeing what the others allocated: contents stay whole, the cap holds, and all
// comes back.
TEST(Pool, ThreadsAllocateAndFreeForEachOther) {
  constexpr std::size_t kCap = 24 * kMiB;
  Pool pool(limits(kCap, 6 * kMiB));
  Mutex mutex;
  std::deque<std::pair<Block, std::byte>> shared;
  std::atomic<std::uint64_t> refused{0};
  const auto work = [&](unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 4000; ++i) {
      const std::size_t bytes = random() % 8 == 0 ? random() % (3 * kMiB) : random() % 4096;
      const bool reserve = random() % 3 == 0;
      Result<Block> block = reserve ? pool.reserve(bytes) : pool.allocate(bytes);
      const bool full = !block || (reserve && bytes != 0 && !block->charge(bytes));
      if (full) {
        refused.fetch_add(1);
      } else if (bytes != 0) {
        const auto mark = static_cast<std::byte>(random());
        block->data()[0] = block->data()[bytes - 1] = mark;
        MutexLock lock(mutex);
        shared.emplace_back(std::move(*block), mark);
      }
      std::pair<Block, std::byte> taken;
      {
        MutexLock lock(mutex);
        if (shared.size() > 150 || (full && !shared.empty())) {
          taken = std::move(shared.front());
          shared.pop_front();
        }
      }
      if (taken.first) {
        const Block copy = taken.first;
        EXPECT_EQ(copy.data()[0], taken.second);
      }
      if (i % 512 == 0) {
        EXPECT_LE(pool.stats().bytes_in_use, kCap);
        if (random() % 2 == 0) pool.trim();
      }
    }
  };
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 4; ++seed) threads.emplace_back(work, seed);
  for (std::thread& thread : threads) thread.join();
  shared.clear();
  const PoolStats stats = pool.stats();
  EXPECT_LE(stats.bytes_in_use_peak, kCap);
  EXPECT_LE(stats.bytes_retained, 6 * kMiB);
  EXPECT_GT(stats.reuses, 0U);
  EXPECT_GT(refused.load(), 0U) << "the cap was never met: the test shows less than it should";
  expect_zero(pool);
}

// What the system was told of the page: VmFlags of proc_pid_smaps(5).
std::string page_flags(const std::byte* page) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(page);
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t from = 0;
    std::uintptr_t to = 0;
    char dash = 0;
    if (std::istringstream(line) >> std::hex >> from >> dash >> to && dash == '-')
      inside = from <= wanted && wanted < to;
    if (inside && line.rfind("VmFlags:", 0) == 0) return line + " ";
  }
  return {};
}

TEST(Pool, HugePagesAreAskedForWhatWillBeUsedAndForNothingElse) {
  if (!std::filesystem::exists("/sys/kernel/mm/transparent_hugepage")) GTEST_SKIP() << "this kernel has no huge pages";
  Pool pool(PoolOptions{});
  // A block of 5 MiB for 4 MiB and a bit: the last one may never be touched.
  const Block whole = take(pool, 4 * kMiB + 1);
  EXPECT_NE(page_flags(whole.data()).find(" hg "), std::string::npos);
  EXPECT_NE(page_flags(whole.data() + 4 * kMiB - 1).find(" hg "), std::string::npos);
  EXPECT_EQ(page_flags(whole.data() + 4 * kMiB).find(" hg "), std::string::npos);
  const Block small = take(pool, 2 * kMiB - 1);
  EXPECT_EQ(page_flags(small.data()).find(" hg "), std::string::npos);
  const Result<Block> sparse = pool.reserve(8 * kMiB);
  ASSERT_TRUE(sparse);
  EXPECT_NE(page_flags(sparse->data()).find(" nh "), std::string::npos);
}

TEST(Pool, TheLastBlocksMayGoOnOtherThreadsWhilePoolGoes) {
  for (int round = 0; round < 50; ++round) {
    std::optional<Pool> pool(PoolOptions{});
    std::vector<Block> mine;
    std::vector<Block> yours;
    for (std::size_t i = 0; i < 20; ++i) {
      mine.push_back(take(*pool, 100 * i * i));
      yours.push_back(take(*pool, 100 * i * i));
    }
    std::thread first([&] { mine.clear(); });
    std::thread second([&] { yours.clear(); });
    pool.reset();
    first.join();
    second.join();
    EXPECT_TRUE(mine.empty() && yours.empty());
  }
}

}  // namespace
}  // namespace headrace
