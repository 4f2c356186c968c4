#include "backend/weight_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace headrace {
namespace {

class WeightStoreTest : public ::testing::Test {
 protected:
  // A file that goes with its descriptor.
  int file_of(const std::string& bytes) {
    std::FILE* file = std::tmpfile();
    EXPECT_NE(file, nullptr);
    files_.push_back(file);
    EXPECT_EQ(std::fwrite(bytes.data(), 1, bytes.size(), file), bytes.size());
    EXPECT_EQ(std::fflush(file), 0);
    return ::fileno(file);
  }
  void TearDown() override {
    EXPECT_EQ(store_.bytes(), 0U);
    for (std::FILE* file : files_) std::fclose(file);
  }
  SharedWeight hold(int file, std::uint64_t offset, std::size_t size) {
    Result<SharedWeight> held = store_.hold(file, offset, size);
    EXPECT_TRUE(held.ok()) << held.status().to_string();
    return held.ok() ? *held : SharedWeight{};
  }

  WeightStore store_;
  std::vector<std::FILE*> files_;
};

TEST_F(WeightStoreTest, EqualBytesAreThereOnce) {
  for (const std::size_t size : {std::size_t{1024}, std::size_t{1} << 20}) {  // from the heap, and pages of their own
    const std::string bytes(size, 'w');
    const SharedWeight one = hold(file_of(bytes), 0, size);
    const SharedWeight same = hold(file_of("before " + bytes), 7, size);
    EXPECT_EQ(one.data, same.data);
    EXPECT_EQ(one.id, same.id);
    EXPECT_EQ(store_.bytes(), size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(one.data) % 64, 0U);
    store_.release(one.data);
    EXPECT_EQ(store_.bytes(), size) << "the other holds it";
    EXPECT_EQ(std::memcmp(same.data, bytes.data(), size), 0);
    store_.release(same.data);
    EXPECT_EQ(store_.bytes(), 0U);
    const SharedWeight again = hold(file_of(bytes), 0, size);
    EXPECT_NE(again.id, one.id) << "an id is never used again";
    store_.release(again.data);
  }
}

TEST_F(WeightStoreTest, OtherBytesAreOthers) {
  std::string bytes(2048, 'w');
  const SharedWeight one = hold(file_of(bytes), 0, 2048);
  const SharedWeight shorter = hold(file_of(bytes), 0, 2047);
  bytes[2047] = 'v';
  const SharedWeight other = hold(file_of(bytes), 0, 2048);
  EXPECT_NE(one.data, shorter.data);
  EXPECT_NE(one.data, other.data);
  for (const SharedWeight& weight : {one, shorter, other}) store_.release(weight.data);
}

TEST_F(WeightStoreTest, WhatBecomesOfTheFileDoesNotMatter) {
  const std::string bytes(std::size_t{512} << 10, 'w');
  const int file = file_of(bytes);
  const SharedWeight held = hold(file, 0, bytes.size());
  ASSERT_EQ(::ftruncate(file, 0), 0);
  EXPECT_EQ(std::memcmp(held.data, bytes.data(), bytes.size()), 0);
  store_.release(held.data);
}

TEST_F(WeightStoreTest, AFileThatIsTooShortIsSaidToBe) {
  const Result<SharedWeight> held = store_.hold(file_of("short"), 0, 2048);
  EXPECT_EQ(held.status().code(), Code::kInvalidArgument);
  EXPECT_EQ(held.status().message(), "weights cannot be read: the file became shorter while it was read");
}

TEST_F(WeightStoreTest, ManyThreadsHoldOne) {
  const std::string bytes(std::size_t{300} << 10, 'w');
  const int file = file_of(bytes);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        const SharedWeight held = hold(file, 0, bytes.size());
        EXPECT_EQ(std::memcmp(held.data, bytes.data(), bytes.size()), 0);
        store_.release(held.data);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace headrace
