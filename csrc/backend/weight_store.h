// The weights that sessions of a process share: runs of bytes, each there once, however many sessions hold it.
//
// The bytes are copied out of their file, so it may be replaced or cut while they are in use. What is equal is told by
// its digest. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>

#include "backend/digest.h"
#include "base/error.h"
#include "base/sync.h"

namespace headrace {

struct SharedWeight {
  std::byte* data = nullptr;  // 64-byte aligned; nobody writes to it
  std::size_t size = 0;
  std::uint64_t id = 0;  // never used again
  Digest digest{};
};

class WeightStore {
 public:
  WeightStore() = default;
  ~WeightStore();
  WeightStore(const WeightStore&) = delete;
  WeightStore& operator=(const WeightStore&) = delete;

  // The `size` bytes at `offset` of the file, held once more. INVALID_ARGUMENT: they cannot be read;
  // RESOURCE_EXHAUSTED: the system has no memory for them.
  Result<SharedWeight> hold(int file, std::uint64_t offset, std::size_t size) HEADRACE_EXCLUDES(mutex_);
  // Held once less; the last frees it.
  void release(const std::byte* data) HEADRACE_EXCLUDES(mutex_);

  std::size_t bytes() const HEADRACE_EXCLUDES(mutex_);
  // For whatever else sessions share and count by its id.
  std::uint64_t next_id() HEADRACE_EXCLUDES(mutex_);

 private:
  struct Entry {
    SharedWeight weight;
    std::size_t holders = 0;
  };
  using Key = std::pair<Digest, std::size_t>;

  mutable Mutex mutex_;
  std::map<Key, Entry> entries_ HEADRACE_GUARDED_BY(mutex_);
  std::unordered_map<const std::byte*, Entry*> by_data_ HEADRACE_GUARDED_BY(mutex_);
  std::size_t bytes_ HEADRACE_GUARDED_BY(mutex_) = 0;
  std::uint64_t last_id_ HEADRACE_GUARDED_BY(mutex_) = 0;
};

}  // namespace headrace
