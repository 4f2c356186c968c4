// One pool of 64-byte aligned blocks in size classes, under a hard cap, with live statistics.
//
// A Block is a counted reference; the last one gives the bytes back to its class's free list (or to the
// system). A block keeps its pool's books alive, so a Pool may be dropped before its blocks.
// Thread-safe. Never blocks on memory: over the cap is RESOURCE_EXHAUSTED at once.
#pragma once

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
struct Header;
}  // namespace pool_detail

class Block {
 public:
  Block() = default;
  Block(const Block& other);
  Block(Block&& other) noexcept : header_(std::exchange(other.header_, nullptr)) {}
  Block& operator=(const Block& other);
  Block& operator=(Block&& other) noexcept;
  ~Block() { reset(); }

  explicit operator bool() const { return header_ != nullptr; }
  std::byte* data() const;       // 64-byte aligned
  std::size_t capacity() const;  // bytes usable at data(), at least what was asked for
  std::size_t charged() const;   // bytes counted against the cap
  void reset();

  // For a reserved block: counts bytes [0, upto) against the cap, in steps of kChargeStep. False, and nothing
  // changed, if that would pass the cap.
  [[nodiscard]] bool charge(std::size_t upto);

 private:
  friend class Pool;
  explicit Block(pool_detail::Header* header) : header_(header) {}
  pool_detail::Header* header_ = nullptr;
};

struct PoolOptions {
  std::size_t cap = std::size_t{1} << 30;       // bytes charged + bytes kept in free lists
  std::size_t retain = std::size_t{256} << 20;  // most bytes kept in free lists
  Device device{};
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
  std::size_t bytes_retained = 0;  // in free lists
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

  explicit Pool(const PoolOptions& options);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // A block of at least `bytes` (0 is allowed and gives a valid pointer), charged whole.
  Result<Block> allocate(std::size_t bytes);
  // A block whose addresses are taken but whose bytes are charged by Block::charge as they are used. Refused only
  // when the system has no addresses left.
  Result<Block> reserve(std::size_t bytes);
  // Gives every free block back to the system.
  void trim();
  PoolStats stats() const;

 private:
  std::shared_ptr<pool_detail::Books> books_;
};

}  // namespace headrace
