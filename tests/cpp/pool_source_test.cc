// A pool whose large blocks are memory from elsewhere than the system.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "base/sync.h"
#include "memory/pool.h"
#include "pool_fixture.h"

namespace headrace {
namespace {

using testing::expect_zero;
using testing::kKiB;
using testing::kMiB;
using testing::take;
using testing::take_addresses;

class Source final : public MemorySource {
 public:
  explicit Source(bool& gone) : gone_(gone) {}
  ~Source() override {
    EXPECT_TRUE(out_.empty()) << "it is kept as long as the last block";
    gone_ = true;
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  void* take(std::size_t bytes) noexcept override {
    MutexLock lock(mutex_);
    if (empty_) return nullptr;
    void* data = std::aligned_alloc(Pool::kAlignment, bytes);
    out_.insert(data);
    return data;
  }
  void give_back(void* data) noexcept override {
    MutexLock lock(mutex_);
    EXPECT_EQ(out_.erase(data), 1U);
    std::free(data);
  }
  std::size_t out() const {
    MutexLock lock(mutex_);
    return out_.size();
  }
  void run_dry(bool dry) {
    MutexLock lock(mutex_);
    empty_ = dry;
  }

 private:
  mutable Mutex mutex_;
  bool empty_ HEADRACE_GUARDED_BY(mutex_) = false;
  std::set<void*> out_ HEADRACE_GUARDED_BY(mutex_);
  bool& gone_;
};

class PoolSourceTest : public ::testing::Test {
 protected:
  PoolSourceTest() {
    auto source = std::make_shared<Source>(gone_);
    source_ = source.get();
    pool_.emplace(PoolOptions{.cap = 8 * kMiB, .retain = 8 * kMiB, .source = std::move(source)});
  }
  void TearDown() override {
    if (!pool_) return;
    expect_zero(*pool_);
    pool_.reset();
    EXPECT_TRUE(gone_);
  }
  bool gone_ = false;
  Source* source_ = nullptr;
  std::optional<Pool> pool_;
};

TEST_F(PoolSourceTest, LargeBlocksAreItsAndSmallOnesTheSystems) {
  const Block small = take(*pool_, 48 * kKiB);
  EXPECT_EQ(source_->out(), 0U) << "under kSourcedBytes";
  const Block large = take(*pool_, Pool::kSourcedBytes);
  EXPECT_EQ(source_->out(), 1U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(large.data()) % Pool::kAlignment, 0U);
  std::memset(large.data(), 1, large.capacity());
}

TEST_F(PoolSourceTest, FreeBlocksAreKeptUntilTheyAreGivenBack) {
  take(*pool_, kMiB).reset();
  EXPECT_EQ(source_->out(), 1U);
  EXPECT_EQ(pool_->stats().bytes_retained, kMiB);
  take(*pool_, kMiB).reset();
  EXPECT_EQ(pool_->stats().reuses, 1U);
  pool_->give_back_unused();  // it was needed since
  EXPECT_EQ(source_->out(), 1U);
  pool_->give_back_unused();
  EXPECT_EQ(source_->out(), 0U);
  take(*pool_, kMiB).reset();
  pool_->trim();
  EXPECT_EQ(source_->out(), 0U);
  EXPECT_EQ(pool_->stats().bytes_retained, 0U);
}

TEST_F(PoolSourceTest, TheCapBoundsIt) {
  const Block half = take(*pool_, 5 * kMiB);
  take(*pool_, 2 * kMiB).reset();
  EXPECT_EQ(pool_->allocate(4 * kMiB).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(source_->out(), 1U) << "what was free made room, though not enough";
  const Block rest = take(*pool_, 3 * kMiB);
  EXPECT_EQ(source_->out(), 2U);
}

TEST_F(PoolSourceTest, WhatItHasNotIsRefusedAndNothingIsCharged) {
  source_->run_dry(true);
  EXPECT_EQ(pool_->allocate(kMiB).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(pool_->reserve(kMiB).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(pool_->stats().bytes_in_use, 0U);
  source_->run_dry(false);
  const Block all = take(*pool_, 8 * kMiB);
}

TEST_F(PoolSourceTest, ReservedBlocksAreChargedWhole) {
  Block block = take_addresses(*pool_, 2 * kMiB);
  EXPECT_EQ(block.charged(), 2 * kMiB) << "page-locked memory is never sparse";
  EXPECT_TRUE(block.charge(2 * kMiB));
}

TEST_F(PoolSourceTest, ABlockKeepsItWhenThePoolIsGone) {
  Block block = take(*pool_, kMiB);
  take(*pool_, 2 * kMiB).reset();
  pool_.reset();
  EXPECT_FALSE(gone_);
  EXPECT_EQ(source_->out(), 1U) << "what was free has gone with the pool";
  std::memset(block.data(), 1, block.capacity());
  block.reset();
  EXPECT_TRUE(gone_);
}

}  // namespace
}  // namespace headrace
