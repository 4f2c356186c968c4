#include "front/owner_streams.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

namespace headrace {
namespace {

using Next = OwnerStreams::Next;

constexpr std::byte kBytes[100] = {};

wire::Message message(std::size_t size, wire::Encoding encoding = wire::Encoding::kIdentity) {
  wire::Message made;
  made.bytes = {kBytes, size};
  made.encoding = encoding;
  return made;
}

struct OwnerStreamsTest : ::testing::Test {
  OwnerStreamsTest() { streams.open(1); }
  Next next() {
    Next found = streams.next(1, taken);
    return found;
  }
  OwnerStreams streams;
  wire::Message taken;
};

TEST_F(OwnerStreamsTest, MessagesComeInTheirOrderAndThenTheEndOnce) {
  EXPECT_EQ(next(), Next::kNothing);
  EXPECT_TRUE(streams.push(1, message(1)));
  EXPECT_TRUE(streams.push(1, message(2)));
  streams.end(1);
  EXPECT_EQ(next(), Next::kMessage);
  EXPECT_EQ(taken.bytes.size(), 1U);
  EXPECT_EQ(next(), Next::kMessage);
  EXPECT_EQ(taken.bytes.size(), 2U);
  EXPECT_EQ(next(), Next::kEnd);
  EXPECT_EQ(next(), Next::kNothing);
}

TEST_F(OwnerStreamsTest, AMessageThatIsInflatedHoldsBackThoseBehindIt) {
  streams.push(1, message(5, wire::Encoding::kGzip));
  streams.push(1, message(2));
  streams.end(1);
  EXPECT_EQ(next(), Next::kInflate);
  EXPECT_EQ(taken.bytes.size(), 5U);
  EXPECT_EQ(next(), Next::kNothing);
  streams.inflated(1, message(50));
  EXPECT_EQ(next(), Next::kMessage);
  EXPECT_EQ(taken.bytes.size(), 50U);
  EXPECT_EQ(next(), Next::kMessage);
  EXPECT_EQ(taken.bytes.size(), 2U);
  EXPECT_EQ(next(), Next::kEnd);
}

TEST_F(OwnerStreamsTest, WhatTheOwnerHasNotDealtWithIsBounded) {
  for (std::size_t i = 0; i < OwnerStreams::kMaxWaiting; ++i) {
    EXPECT_TRUE(streams.push(1, message(i)));
    EXPECT_EQ(next(), Next::kMessage) << "handed over is not dealt with";
  }
  EXPECT_FALSE(streams.push(1, message(1)));
  EXPECT_EQ(streams.release(1), 0U);
  EXPECT_TRUE(streams.push(1, message(99)));
  EXPECT_EQ(streams.release(1), 1U) << "the oldest, as it was sent";
}

TEST_F(OwnerStreamsTest, WhatIsNotThereIsNotReleased) {
  EXPECT_EQ(streams.release(1), 0U);
  EXPECT_EQ(streams.release(2), 0U);
  streams.close(1);
  EXPECT_FALSE(streams.contains(1));
}

}  // namespace
}  // namespace headrace
