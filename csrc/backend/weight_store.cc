#include "backend/weight_store.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>

#include "base/check.h"

namespace headrace {

namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kMapped = std::size_t{256} << 10;  // from here on pages of its own, which go back when it goes

std::byte* allocate(std::size_t size) {
  if (size < kMapped) {
    const std::size_t whole = (size + kAlignment - 1) / kAlignment * kAlignment;
    return static_cast<std::byte*>(std::aligned_alloc(kAlignment, whole));
  }
  void* mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return mapped == MAP_FAILED ? nullptr : static_cast<std::byte*>(mapped);
}

void deallocate(std::byte* data, std::size_t size) {
  if (size < kMapped) {
    std::free(data);
  } else {
    HEADRACE_CHECK(::munmap(data, size) == 0);
  }
}

// "" or why not.
std::string read_all(int file, std::uint64_t offset, std::byte* to, std::size_t size) {
  while (size != 0) {
    const ssize_t got = ::pread(file, to, size, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::generic_category().message(errno);
    if (got == 0) return "the file became shorter while it was read";
    to += got;
    offset += static_cast<std::uint64_t>(got);
    size -= static_cast<std::size_t>(got);
  }
  return {};
}

}  // namespace

WeightStore::~WeightStore() {
  for (const auto& [key, entry] : entries_) deallocate(entry.weight.data, entry.weight.size);
}

Result<SharedWeight> WeightStore::hold(int file, std::uint64_t offset, std::size_t size) {
  SharedWeight weight;
  weight.size = size;
  weight.data = allocate(size);
  if (weight.data == nullptr)
    return resource_exhausted("the system has no memory for weights of " + std::to_string(size) + " bytes");
  if (const std::string why = read_all(file, offset, weight.data, size); !why.empty()) {
    deallocate(weight.data, size);
    return invalid_argument("weights cannot be read: " + why);
  }
  weight.digest = digest_of({weight.data, size});
  std::byte* const mine = weight.data;
  bool added = false;
  {
    MutexLock lock(mutex_);
    Entry& entry = entries_[{weight.digest, size}];
    added = entry.holders++ == 0;
    if (added) {
      weight.id = ++last_id_;
      entry.weight = weight;
      by_data_[mine] = &entry;
      bytes_ += size;
    } else {
      weight = entry.weight;
    }
  }
  if (!added) deallocate(mine, size);
  return weight;
}

void WeightStore::release(const std::byte* data) {
  SharedWeight weight;
  {
    MutexLock lock(mutex_);
    const auto found = by_data_.find(data);
    HEADRACE_CHECK(found != by_data_.end());
    Entry& entry = *found->second;
    if (--entry.holders != 0) return;
    weight = entry.weight;
    bytes_ -= weight.size;
    by_data_.erase(found);
    entries_.erase({weight.digest, weight.size});
  }
  deallocate(weight.data, weight.size);
}

std::size_t WeightStore::bytes() const {
  MutexLock lock(mutex_);
  return bytes_;
}

std::uint64_t WeightStore::next_id() {
  MutexLock lock(mutex_);
  return ++last_id_;
}

}  // namespace headrace
