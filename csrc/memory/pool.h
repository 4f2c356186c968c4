// One pool of 64-byte aligned blocks in size classes, under a hard cap, with live statistics.
//
// A Block is a counted reference; the last one gives the bytes back to its class's free list (or to the
// system). A block keeps its pool's books alive, so a Pool may be dropped before its blocks.
// Thread-safe. Never blocks on memory: over the cap is RESOURCE_EXHAUSTED at once.
//
// Two numbers are kept: what is charged, and what is resident (it has been charged once and was not given back to the
// system since). The cap bounds what is resident; what is resident and not charged is retained for reuse, or waste.
//
// Waste is what the pool will not keep and has not given back yet: giving pages back costs 10 us for each 200 kB, which
// is not for the thread that drops the block. Its owner is told by the waste callback and calls sweep() elsewhere.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/error.h"
#include "memory/device.h"

namespace headrace {

namespace pool_detail {

struct Books;

// One per block; before the bytes of a small block, beside those of a mapped one.
struct alignas(64) Header {
  std::atomic<std::uint32_t> references{1};
  std::uint32_t size_class = 0;
  std::byte* data = nullptr;
  std::size_t capacity = 0;
  std::size_t charged = 0;
  std::size_t resident = 0;
  Books* books = nullptr;
  Header* next = nullptr;  // in the free list, or the waste
};

void give_back(Header* header);
bool charge(Header* header, std::size_t upto);

}  // namespace pool_detail

// A single Block is used by one thread at a time; copies of it may be used and dropped on any thread.
class Block {
 public:
  Block() = default;
  Block(const Block& other) : header_(other.header_) {
    if (header_ != nullptr) header_->references.fetch_add(1, std::memory_order_relaxed);
  }
  Block(Block&& other) noexcept : header_(std::exchange(other.header_, nullptr)) {}
  Block& operator=(const Block& other) {
    Block(other).swap(*this);
    return *this;
  }
  Block& operator=(Block&& other) noexcept {
    Block(std::move(other)).swap(*this);
    return *this;
  }
  ~Block() { reset(); }

  explicit operator bool() const { return header_ != nullptr; }
  std::byte* data() const { return header_->data; }           // 64-byte aligned
  std::size_t capacity() const { return header_->capacity; }  // bytes usable at data(), at least what was asked for
  std::size_t charged() const { return header_->charged; }    // bytes counted against the cap
  void swap(Block& other) noexcept { std::swap(header_, other.header_); }
  void reset() {
    pool_detail::Header* header = std::exchange(header_, nullptr);
    if (header == nullptr) return;
    // The only holder needs no read-modify-write: nobody else can be copying from it.
    if (header->references.load(std::memory_order_acquire) == 1 ||
        header->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      pool_detail::give_back(header);
    }
  }

  // For a reserved block: counts bytes [0, upto) against the cap, in steps of kChargeStep. False, and nothing
  // changed, if that would pass the cap.
  [[nodiscard]] bool charge(std::size_t upto) { return upto <= header_->charged || pool_detail::charge(header_, upto); }

 private:
  friend class BlockCopies;
  friend class Pool;
  explicit Block(pool_detail::Header* header) : header_(header) {}
  pool_detail::Header* header_ = nullptr;
};

// Many copies of one block for the price of one atomic operation: what is not taken goes back at the end.
class BlockCopies {
 public:
  BlockCopies(const Block& block, std::uint32_t count) : header_(block.header_), left_(count) {
    if (header_ != nullptr) header_->references.fetch_add(count, std::memory_order_relaxed);
  }
  BlockCopies(const BlockCopies&) = delete;
  BlockCopies& operator=(const BlockCopies&) = delete;
  ~BlockCopies() {
    // `block` outlives this, so these are never the last references.
    if (header_ != nullptr && left_ != 0) header_->references.fetch_sub(left_, std::memory_order_release);
  }
  // At most `count` times.
  Block take() {
    --left_;
    return Block(header_);
  }

 private:
  pool_detail::Header* header_;
  std::uint32_t left_;
};

// Memory from elsewhere than the system: page-locked, say. Thread-safe.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  // Pool::kAlignment aligned; null: there is none.
  virtual void* take(std::size_t bytes) noexcept = 0;
  virtual void give_back(void* data) noexcept = 0;
};

struct PoolOptions {
  std::size_t cap = std::size_t{1} << 30;       // bytes charged + bytes kept in free lists
  std::size_t retain = std::size_t{256} << 20;  // most bytes kept in free lists
  Device device{};
  // Of blocks of Pool::kSourcedBytes and more; null: the system. It is kept as long as the pool and its last block.
  std::shared_ptr<MemorySource> source{};
};

struct PoolClassStats {
  std::size_t block_bytes = 0;
  std::uint64_t in_use = 0;
  std::uint64_t free = 0;
};

struct PoolStats {
  std::size_t cap = 0;
  std::size_t bytes_in_use = 0;  // charged
  std::size_t bytes_in_use_peak = 0;
  // Resident and not charged: free lists, and the uncharged rest of reused blocks. Without the waste.
  std::size_t bytes_retained = 0;
  std::size_t bytes_waste = 0;  // resident in blocks that wait for sweep(); they are neither in use nor free
  std::uint64_t blocks_in_use = 0;
  std::uint64_t allocations = 0;  // since the start
  std::uint64_t reuses = 0;       // of them, answered from a free list
  std::uint64_t refusals = 0;
  std::vector<PoolClassStats> classes;  // those ever used
};

class Pool {
 public:
  static constexpr std::size_t kAlignment = 64;
  static constexpr std::size_t kChargeStep = std::size_t{256} << 10;
  static constexpr std::size_t kWasteBytes = std::size_t{64} << 10;
  static constexpr std::size_t kSourcedBytes = kWasteBytes;

  explicit Pool(const PoolOptions& options);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // A block of at least `bytes` (0 is allowed and gives a valid pointer), charged whole.
  Result<Block> allocate(std::size_t bytes);
  // A block whose addresses are taken but whose bytes are charged by Block::charge as they are used. Refused only
  // when the system has no addresses left. Of a pool with a source it is charged whole: such memory is never sparse.
  Result<Block> reserve(std::size_t bytes);
  // Gives every free block back to the system, and the waste.
  void trim();
  // Gives the free blocks of kWasteBytes and more back that were not needed since the last call. As long as sweep().
  void give_back_unused();
  // Gives the waste back to the system. Not on an event loop: 10 us for each 200 kB.
  void sweep();
  // From now on blocks of kWasteBytes and more that are not kept become waste, and `callback` is told of the first. It
  // sees to it that sweep() is called soon, from where it may take its time; false: it cannot, and whoever dropped the
  // block sweeps. Called under a mutex of the pool: it must not use the pool. Null: nothing becomes waste any more.
  using WasteCallback = bool (*)(void* context);
  void on_waste(WasteCallback callback, void* context);
  PoolStats stats() const;

 private:
  pool_detail::Books* books_;  // lives until the pool and its last block are gone
};

}  // namespace headrace
