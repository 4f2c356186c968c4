#include "front/socket_send.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>

namespace headrace {
namespace {

class SocketSendTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends_.data()), 0); }
  void TearDown() override {
    ::close(ends_[0]);
    if (ends_[1] >= 0) ::close(ends_[1]);
  }

  std::string read_all() const {
    std::string all(std::size_t{4} << 20, '\0');
    std::size_t size = 0;
    for (ssize_t got = 0; (got = ::read(ends_[1], all.data() + size, all.size() - size)) > 0;) {
      size += static_cast<std::size_t>(got);
    }
    all.resize(size);
    return all;
  }

  std::array<int, 2> ends_{-1, -1};
};

TEST_F(SocketSendTest, BothTextsGoOutInOrder) {
  EXPECT_EQ(send_now(ends_[0], "head ", "body"), 9U);
  EXPECT_EQ(send_now(ends_[0], "", "more"), 4U);
  EXPECT_EQ(read_all(), "head bodymore");
}

TEST_F(SocketSendTest, WhatDoesNotFitIsLeftToTheCaller) {
  const std::string head(1000, 'h');
  const std::string body(std::size_t{2} << 20, 'b');
  const std::size_t sent = send_now(ends_[0], head, body);
  ASSERT_LT(sent, head.size() + body.size()) << "the system's buffer is larger than was thought";
  EXPECT_EQ(read_all(), (head + body).substr(0, sent));
}

TEST_F(SocketSendTest, AFullOrABrokenSocketTakesNothing) {
  const std::string block(std::size_t{64} << 10, 'x');
  while (send_now(ends_[0], block, {}) != 0) {
  }
  EXPECT_EQ(send_now(ends_[0], "a", "b"), 0U) << "full";
  ::close(ends_[1]);
  ends_[1] = -1;
  EXPECT_EQ(send_now(ends_[0], "a", "b"), 0U) << "and no signal ends the process";
  EXPECT_EQ(send_now(-1, "a", "b"), 0U);
}

}  // namespace
}  // namespace headrace
