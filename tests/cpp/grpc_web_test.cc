#include "wire/grpc_web.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "memory/pool.h"

namespace headrace::wire {
namespace {

using namespace std::string_view_literals;

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(GrpcWeb, ReadsOneMessage) {
  const auto message = read_web_message(bytes_of("\0\0\0\0\3abc"sv));
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(text_of(*message), "abc");
  const auto empty = read_web_message(bytes_of("\0\0\0\0\0"sv));
  ASSERT_TRUE(empty.ok());
  EXPECT_TRUE(empty.value().empty());
}

TEST(GrpcWeb, WhatIsNotOneMessageIsRefusedWithItsNumbers) {
  EXPECT_EQ(read_web_message(bytes_of("\0\0\0\0"sv)).status().to_string(),
            "INVALID_ARGUMENT: the body has 4 bytes: a gRPC-Web message begins with a frame of 5");
  EXPECT_EQ(read_web_message(bytes_of("\0\0\0\1\0abc"sv)).status().to_string(),
            "INVALID_ARGUMENT: the frame announces a message of 256 bytes, and 3 follow: one is taken");
  EXPECT_EQ(read_web_message(bytes_of("\0\0\0\0\1abc"sv)).status().to_string(),
            "INVALID_ARGUMENT: the frame announces a message of 1 bytes, and 3 follow: one is taken");
  EXPECT_EQ(read_web_message(bytes_of("\1\0\0\0\3abc"sv)).status().code(), Code::kUnimplemented);
  EXPECT_EQ(read_web_message(bytes_of("\x80\0\0\0\3abc"sv)).status().to_string(),
            "INVALID_ARGUMENT: the first frame's flag is 128, not that of a message");
  const auto most = read_web_message(bytes_of("\0\xff\xff\xff\xff!"sv));
  EXPECT_EQ(most.status().code(), Code::kInvalidArgument) << "a length that a small number could not hold";
}

TEST(GrpcWeb, FramesAResponseAroundItsViews) {
  Pool pool{PoolOptions{}};
  {
    Block block = std::move(*pool.allocate(300));
    OutMessage message;
    message.own = "headtail";
    message.views.push_back({4, {block.data(), 300}, block});
    frame_web_response(message);
    EXPECT_EQ(message.own, "\0\0\0\1\x34headtail\x80\0\0\0\x0fgrpc-status:0\r\n"sv);
    ASSERT_EQ(message.views.size(), 1U);
    EXPECT_EQ(message.views[0].offset, 9U) << "still behind `head`";
  }
  EXPECT_EQ(pool.stats().bytes_in_use, 0U);
}

}  // namespace
}  // namespace headrace::wire
