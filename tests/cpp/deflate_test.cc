#include "wire/deflate.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "wire/grpc.h"

namespace headrace::wire {
namespace {

struct Deflate : ::testing::Test {
  Pool pool{PoolOptions{}};
  InflightBudget budget{std::size_t{1} << 30, std::size_t{64} << 20};

  ~Deflate() override { EXPECT_EQ(pool.stats().blocks_in_use, 0U); }
  std::string there_and_back(OutMessage& message, Encoding encoding) {
    EXPECT_TRUE(deflate(encoding, message).ok());
    EXPECT_TRUE(message.views.empty());
    Message packed;
    packed.bytes = {reinterpret_cast<const std::byte*>(message.own.data()), message.own.size()};
    packed.encoding = encoding;
    Result<Message> inflated = inflate(packed, std::size_t{16} << 20, pool, budget);
    EXPECT_TRUE(inflated.ok()) << inflated.status().to_string();
    return {reinterpret_cast<const char*>(inflated->bytes.data()), inflated->bytes.size()};
  }
};

TEST_F(Deflate, OwnBytesAndViewsInTheirOrder) {
  for (const Encoding encoding : {Encoding::kGzip, Encoding::kDeflate}) {
    OutMessage message;
    message.own = "head-tail";
    Block block = *pool.allocate(200'000);
    for (std::size_t i = 0; i < 200'000; ++i) block.data()[i] = static_cast<std::byte>(i * i >> 3);
    const std::string middle(reinterpret_cast<const char*>(block.data()), 200'000);
    message.views.push_back({5, {block.data(), 200'000}, block});
    EXPECT_EQ(there_and_back(message, encoding), "head-" + middle + "tail");
  }
}

TEST_F(Deflate, AnEmptyMessage) {
  OutMessage message;
  EXPECT_EQ(there_and_back(message, Encoding::kGzip), "");
}

TEST_F(Deflate, WhatRepeatsShrinks) {
  OutMessage message;
  message.own.assign(1'000'000, 'x');
  ASSERT_TRUE(deflate(Encoding::kGzip, message).ok());
  EXPECT_LT(message.own.size(), 10'000U);
}

TEST_F(Deflate, IdentityIsLeftAlone) {
  OutMessage message;
  message.own = "as it is";
  ASSERT_TRUE(deflate(Encoding::kIdentity, message).ok());
  EXPECT_EQ(message.own, "as it is");
}

}  // namespace
}  // namespace headrace::wire
