#include "memory/shared_region.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shared_object.h"

namespace headrace {
namespace {

using testing::SharedObject;
using Opened = Result<std::shared_ptr<const SharedRegion>>;
constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

Opened open(const std::string& key, std::uint64_t offset, std::uint64_t bytes) {
  return SharedRegion::open("r", key, offset, bytes);
}

TEST(SharedRegion, ReadsAndWritesWithinItsPartOfTheObject) {
  const SharedObject object(4096);
  const Opened region = open(object.key(), 100, 16);
  ASSERT_TRUE(region) << region.status().to_string();
  EXPECT_EQ((*region)->name(), "r");
  EXPECT_EQ((*region)->key(), object.key());
  EXPECT_EQ((*region)->offset(), 100U);
  EXPECT_EQ((*region)->bytes(), 16U);
  object.put_values<std::int32_t>(104, {7, 8});
  std::vector<std::int32_t> got(2);
  EXPECT_TRUE((*region)->read(4, std::as_writable_bytes(std::span(got))).ok());
  EXPECT_EQ(got, (std::vector<std::int32_t>{7, 8}));
  EXPECT_TRUE((*region)->write(8, std::as_bytes(std::span(got))).ok());
  EXPECT_EQ(object.values<std::int32_t>(100, 4), (std::vector<std::int32_t>{0, 7, 7, 8}));
  EXPECT_TRUE((*region)->read(16, {}).ok());
  for (const auto& [offset, bytes] : {std::pair<std::uint64_t, std::uint64_t>{9, 8}, {17, 0}, {kMost, 8}, {8, kMost}}) {
    const Status refused = (*region)->check_range(offset, bytes);
    EXPECT_EQ(refused.code(), Code::kInvalidArgument) << offset << " " << bytes;
    EXPECT_NE(refused.message().find("which has 16 bytes"), std::string::npos) << refused.message();
  }
  EXPECT_FALSE((*region)->read(9, std::as_writable_bytes(std::span(got))).ok());
  EXPECT_FALSE((*region)->write(9, std::as_bytes(std::span(got))).ok());
  EXPECT_EQ(object.size(), 4096U);
}

TEST(SharedRegion, TheSlashMayBeLeftOut) {
  const SharedObject object(10);
  EXPECT_TRUE(open(object.key().substr(1), 0, 10));
}

TEST(SharedRegion, KeysStayInTheNameSpaceOfSharedMemory) {
  for (const std::string& key :
       {std::string(), std::string("/"), std::string("//"), std::string("/."), std::string("/.."), std::string(".."),
        std::string("/../etc/passwd"), std::string("/a/b"), std::string("//a"), std::string("/a/../b"),
        std::string("/a\0b", 4), "/" + std::string(256, 'a'), std::string("/sem.lock")}) {
    const Opened refused = open(key, 0, 1);
    ASSERT_FALSE(refused) << key;
    EXPECT_EQ(refused.status().code(), Code::kInvalidArgument) << key;
    if (key.size() > 3) {
      EXPECT_EQ(refused.status().message().find(key), std::string::npos) << "keys are not echoed";
    }
  }
  EXPECT_EQ(open("/headrace_test_that_is_not_there", 0, 1).status().code(), Code::kNotFound);
}

TEST(SharedRegion, OnlyARegularFileIsOpened) {
  const std::string stem = "/dev/shm/headrace_test_" + std::to_string(::getpid());
  const std::string link = stem + "_link";
  const std::string pipe = stem + "_pipe";
  const std::string folder = stem + "_folder";
  std::filesystem::create_symlink("/etc/hostname", link);
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::filesystem::create_directory(folder);
  for (const std::string& path : {link, pipe, folder}) {
    EXPECT_EQ(open(path.substr(std::string("/dev/shm").size()), 0, 1).status().code(), Code::kInvalidArgument) << path;
    std::filesystem::remove(path);
  }
}

TEST(SharedRegion, TheObjectMustHoldTheRegion) {
  const SharedObject object(1000);
  EXPECT_TRUE(open(object.key(), 0, 1000));
  EXPECT_TRUE(open(object.key(), 999, 1));
  for (const auto& [offset, bytes] : {std::pair<std::uint64_t, std::uint64_t>{0, 1001},
                                      {1000, 1},
                                      {1001, 1},
                                      {1, kMost},
                                      {kMost, 1},
                                      {kMost, kMost},
                                      {kMost / 2, kMost / 2},
                                      {0, 0}}) {
    EXPECT_EQ(open(object.key(), offset, bytes).status().code(), Code::kInvalidArgument) << offset << " " << bytes;
  }
  EXPECT_NE(open(object.key(), 0, 1001).status().message().find("has 1000 bytes"), std::string::npos);
}

TEST(SharedRegion, AnObjectThatWasCutIsAnErrorAndIsNotMadeLargerAgain) {
  const SharedObject object(8192);
  const Opened region = open(object.key(), 0, 8192);
  object.resize(5000);
  std::vector<std::byte> bytes(8192);
  const Status refused = (*region)->read(0, bytes);
  EXPECT_EQ(refused.code(), Code::kInvalidArgument);
  EXPECT_NE(refused.message().find("has become smaller"), std::string::npos) << refused.message();
  EXPECT_EQ((*region)->write(0, bytes).code(), Code::kInvalidArgument);
  EXPECT_EQ(object.size(), 5000U);
  EXPECT_TRUE((*region)->read(0, std::span(bytes).first(5000)).ok());
}

// A mapping would end the process here.
TEST(SharedRegion, AClientMayCutItsObjectWhileItIsRead) {
  constexpr std::size_t kBytes = 1 << 20;
  const SharedObject object(kBytes);
  const Opened region = open(object.key(), 0, kBytes);
  std::atomic<bool> stop = false;
  std::thread cutter([&] {
    while (!stop) {
      object.resize(100);
      object.resize(kBytes);
    }
  });
  int whole = 0;
  int cut = 0;
  std::vector<std::byte> bytes(kBytes);
  while (whole < 20 || cut < 20) {
    const Status status = (*region)->read(0, bytes);
    EXPECT_TRUE(status.ok() || status.code() == Code::kInvalidArgument) << status.to_string();
    ++(status.ok() ? whole : cut);
    const Status written = (*region)->write(0, bytes);
    EXPECT_TRUE(written.ok() || written.code() == Code::kInvalidArgument) << written.to_string();
  }
  stop = true;
  cutter.join();
  EXPECT_LE(object.size(), kBytes);
}

TEST(SharedRegion, TheDescriptorGoesWithTheLastReference) {
  const SharedObject object(10);
  const auto descriptors = [] {
    const std::filesystem::directory_iterator begin("/proc/self/fd");
    return std::distance(begin, std::filesystem::directory_iterator());
  };
  const auto before = descriptors();
  {
    Opened region = open(object.key(), 0, 10);
    const std::shared_ptr<const SharedRegion> other = *region;
    region = invalid_argument("");
    EXPECT_EQ(descriptors(), before + 1);
  }
  EXPECT_FALSE(open(object.key(), 0, 11));
  EXPECT_EQ(descriptors(), before);
}

}  // namespace
}  // namespace headrace
