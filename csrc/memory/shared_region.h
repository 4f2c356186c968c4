// A region of POSIX shared memory that a client has named: a descriptor, an offset, a size. It is never mapped: a
// client may truncate it at any time, which makes a read short and would make a touched page a SIGBUS.
//
// Immutable, so threads share it. The descriptor goes with the last reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/error.h"

namespace headrace {

class SharedRegion {
 public:
  static constexpr std::size_t kMaxKey = 255;  // what a file name may have

  // `key` is the name that shm_open takes: one '/', then anything but '/' (the '/' may be left out, as Python's
  // multiprocessing does). INVALID_ARGUMENT: a key of another form, one of the system's own (named semaphores lie
  // beside), no regular file, or a region that ends behind the object. NOT_FOUND: no such object.
  static Result<std::shared_ptr<const SharedRegion>> open(std::string name, std::string key, std::uint64_t offset,
                                                          std::uint64_t bytes);
  ~SharedRegion();
  SharedRegion(const SharedRegion&) = delete;
  SharedRegion& operator=(const SharedRegion&) = delete;

  const std::string& name() const { return name_; }
  const std::string& key() const { return key_; }
  std::uint64_t offset() const { return offset_; }  // of the region in the object
  std::uint64_t bytes() const { return bytes_; }

  // That [offset, offset + bytes) lies within the region. INVALID_ARGUMENT names both sizes.
  Status check_range(std::uint64_t offset, std::uint64_t bytes) const;
  // Copies from `offset` of the region. INVALID_ARGUMENT when the object ends before that.
  Status read(std::uint64_t offset, std::span<std::byte> into) const;
  // Copies to `offset` of the region. INVALID_ARGUMENT when the object ends before that: it is not made larger again.
  Status write(std::uint64_t offset, std::span<const std::byte> from) const;

 private:
  SharedRegion(std::string name, std::string key, std::uint64_t offset, std::uint64_t bytes, int descriptor);
  Status shrank() const;

  const std::string name_;
  const std::string key_;
  const std::uint64_t offset_;
  const std::uint64_t bytes_;
  const int descriptor_;
};

}  // namespace headrace
