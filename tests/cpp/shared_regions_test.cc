#include "engine/shared_regions.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "shared_object.h"

namespace headrace {
namespace {

using testing::SharedObject;

TEST(SharedRegions, KeepsRegionsByName) {
  const SharedObject object(100);
  SharedRegions regions(10);
  EXPECT_TRUE(regions.allowed());
  ASSERT_TRUE(regions.add("b", object.key(), 0, 100).ok());
  ASSERT_TRUE(regions.add("a", object.key(), 10, 20).ok()) << "two regions may lie in one object";
  ASSERT_EQ(regions.all().size(), 2U);
  EXPECT_EQ(regions.all()[0]->name(), "a");
  EXPECT_EQ(regions.all()[1]->name(), "b");
  const auto a = regions.find("a");
  ASSERT_TRUE(a.ok());
  EXPECT_EQ((*a)->offset(), 10U);
  EXPECT_EQ(regions.add("a", object.key(), 0, 1).to_string(),
            "ALREADY_EXISTS: shared memory region 'a' already exists; unregister it first");
  regions.remove("a");
  regions.remove("a");
  EXPECT_EQ(regions.find("a").status().to_string(), "NOT_FOUND: shared memory region 'a' is not registered");
  std::vector<std::byte> bytes(20);
  EXPECT_TRUE((*a)->read(0, bytes).ok()) << "whoever uses it goes on with it";
  ASSERT_TRUE(regions.add("a", object.key(), 0, 1).ok());
  regions.clear();
  EXPECT_TRUE(regions.all().empty());
}

TEST(SharedRegions, WhatCannotBeOpenedIsNotKept) {
  SharedRegions regions(10);
  EXPECT_EQ(regions.add("a", "/../x", 0, 1).code(), Code::kInvalidArgument);
  EXPECT_EQ(regions.add("a", "/headrace_test_nothing", 0, 1).code(), Code::kNotFound);
  EXPECT_EQ(regions.add("", "/x", 0, 1).code(), Code::kInvalidArgument);
  EXPECT_EQ(regions.add(std::string(1025, 'n'), "/x", 0, 1).code(), Code::kInvalidArgument);
  EXPECT_TRUE(regions.all().empty());
}

TEST(SharedRegions, IsBounded) {
  const SharedObject object(10);
  SharedRegions regions(2);
  ASSERT_TRUE(regions.add("a", object.key(), 0, 1).ok());
  ASSERT_TRUE(regions.add("b", object.key(), 0, 1).ok());
  const Status refused = regions.add("c", object.key(), 0, 1);
  EXPECT_EQ(refused.code(), Code::kResourceExhausted);
  EXPECT_NE(refused.message().find("--max-shm-regions"), std::string::npos);
  regions.remove("a");
  EXPECT_TRUE(regions.add("c", object.key(), 0, 1).ok());
}

TEST(SharedRegions, OffTheFlagIsNamed) {
  const SharedObject object(10);
  SharedRegions regions(0);
  EXPECT_FALSE(regions.allowed());
  for (const Status& refused : {regions.add("a", object.key(), 0, 1), regions.find("a").status()}) {
    EXPECT_EQ(refused.code(), Code::kPermissionDenied);
    EXPECT_NE(refused.message().find("--allow-client-shm"), std::string::npos);
  }
}

TEST(SharedRegions, ThreadsRegisterAndLookUp) {
  const SharedObject object(10);
  SharedRegions regions(100);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::string name = "r" + std::to_string(t % 2);
      for (int i = 0; i < 500; ++i) {
        const Status added = regions.add(name, object.key(), 0, 10);
        EXPECT_TRUE(added.ok() || added.code() == Code::kAlreadyExists);
        if (const auto found = regions.find(name); found.ok()) {
          std::byte one{};
          EXPECT_TRUE((*found)->read(0, {&one, 1}).ok());
        }
        regions.remove(name);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(regions.all().empty());
}

}  // namespace
}  // namespace headrace
