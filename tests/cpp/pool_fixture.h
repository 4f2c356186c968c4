// Small words for tests of the pool.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "memory/pool.h"

namespace headrace::testing {

inline constexpr std::size_t kKiB = std::size_t{1} << 10;
inline constexpr std::size_t kMiB = std::size_t{1} << 20;
inline constexpr std::size_t kStep = Pool::kChargeStep;

inline PoolOptions limits(std::size_t cap, std::size_t retain) {
  PoolOptions options;
  options.cap = cap;
  options.retain = retain;
  return options;
}

inline Block take(Pool& pool, std::size_t bytes) {
  Result<Block> block = pool.allocate(bytes);
  EXPECT_TRUE(block) << block.status().to_string();
  return block ? std::move(*block) : Block();
}

inline Block take_addresses(Pool& pool, std::size_t bytes) {
  Result<Block> block = pool.reserve(bytes);
  EXPECT_TRUE(block) << block.status().to_string();
  return block ? std::move(*block) : Block();
}

inline void expect_zero(const Pool& pool) {
  const PoolStats stats = pool.stats();
  EXPECT_EQ(stats.bytes_in_use, 0U);
  EXPECT_EQ(stats.blocks_in_use, 0U);
  EXPECT_LE(stats.bytes_retained, stats.cap);
}

// Pages of [data, data + bytes) that the system really holds.
inline std::size_t resident_bytes(const std::byte* data, std::size_t bytes) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages(bytes / page);
  EXPECT_EQ(::mincore(const_cast<std::byte*>(data), bytes, pages.data()), 0);
  std::size_t count = 0;
  for (const unsigned char flags : pages) count += flags & 1U;
  return count * page;
}

}  // namespace headrace::testing
