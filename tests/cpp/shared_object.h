// An object of POSIX shared memory, as a client makes it: with a name of its own, gone with the test.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace headrace::testing {

class SharedObject {
 public:
  explicit SharedObject(std::size_t bytes) {
    static std::atomic<int> made{0};
    key_ = "/headrace_test_" + std::to_string(::getpid()) + "_" + std::to_string(made++);
    descriptor_ = ::shm_open(key_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    EXPECT_GE(descriptor_, 0);
    resize(bytes);
  }
  ~SharedObject() {
    ::close(descriptor_);
    ::shm_unlink(key_.c_str());
  }
  SharedObject(const SharedObject&) = delete;
  SharedObject& operator=(const SharedObject&) = delete;

  const std::string& key() const { return key_; }
  void resize(std::size_t bytes) const { EXPECT_EQ(::ftruncate(descriptor_, static_cast<off_t>(bytes)), 0); }
  std::size_t size() const { return static_cast<std::size_t>(::lseek(descriptor_, 0, SEEK_END)); }
  void put(std::size_t offset, std::span<const std::byte> bytes) const {
    EXPECT_EQ(::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset)),
              static_cast<ssize_t>(bytes.size()));
  }
  template <class T>
  void put_values(std::size_t offset, const std::vector<T>& values) const {
    put(offset, std::as_bytes(std::span<const T>(values)));
  }
  template <class T>
  std::vector<T> values(std::size_t offset, std::size_t count) const {
    std::vector<T> found(count);
    EXPECT_EQ(::pread(descriptor_, found.data(), count * sizeof(T), static_cast<off_t>(offset)),
              static_cast<ssize_t>(count * sizeof(T)));
    return found;
  }

 private:
  std::string key_;
  int descriptor_ = -1;
};

}  // namespace headrace::testing
