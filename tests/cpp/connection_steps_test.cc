// A read that is more than one step of the loop is good for: what is left is looked at in the steps that follow.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "front_fixture.h"

namespace headrace::testing {
namespace {

class ConnectionStepsTest : public FrontTest {
 protected:
  static constexpr std::size_t kCalls = 600;

  void SetUp() override {
    FrontTest::SetUp();
    loop_options_.grpc.max_concurrent_streams = kCalls + 1;
    start();
    peer_ = connect();
    exchange(*peer_);
  }
  // As one read, more calls for the owner than a step takes, with a header that makes them long enough for slices.
  void send_many() {
    std::string read;
    for (std::size_t i = 0; i < kCalls; ++i) {
      auto headers = H2Client::grpc_headers(kOwnerPath);
      headers.emplace_back("x-filler", std::to_string(i) + std::string(90, 'f'));
      sent_.insert(peer_->client.request(headers, grpc_frame(std::to_string(i))));
      read += peer_->client.take();  // a call after the other: the client would send all heads first
    }
    peer_->bits = at(*peer_).receive(as_bytes(read));
  }
  std::size_t take() {
    const std::vector<OwnerCall> calls = at(*peer_).take_calls();
    for (const OwnerCall& call : calls) {
      EXPECT_TRUE(seen_.insert(call.id).second);
      EXPECT_GT(call.id, last_) << "in the order in which they came";
      last_ = call.id;
    }
    return calls.size();
  }
  bool more() { return (at(*peer_).bits() & (kHasUnread | kHasCalls)) != 0; }
  void step() {
    pollfd entry{loop_->fileno(), POLLIN, 0};
    ASSERT_EQ(::poll(&entry, 1, 10'000), 1) << "the loop is woken for it";
    ready_.clear();
    loop_->drain(ready_);
  }

  std::unique_ptr<Peer> peer_;
  std::set<std::int32_t> sent_;
  std::set<std::int32_t> seen_;
  std::int32_t last_ = 0;
};

TEST_F(ConnectionStepsTest, AllOfItComesInOrderAndInSteps) {
  send_many();
  EXPECT_NE(peer_->bits & kHasUnread, 0U);
  EXPECT_EQ(peer_->bits & kReadOn, 0U);
  int steps = 1;
  for (take(); more(); take()) {
    step();
    ASSERT_EQ(ready_.size(), 1U) << "its owner is told";
    ++steps;
  }
  EXPECT_EQ(seen_, sent_);
  EXPECT_GE(steps, 3);
  EXPECT_NE(ready_[0].bits & kReadOn, 0U);
  const std::int32_t one_more = peer_->client.call(kOwnerPath, "again");
  send(*peer_);
  EXPECT_EQ(peer_->bits & (kHasUnread | kReadOn), 0U);
  EXPECT_EQ(at(*peer_).take_calls().at(0).id, one_more);
}

TEST_F(ConnectionStepsTest, WhatIsReadMeanwhileComesBehindIt) {
  send_many();
  const std::int32_t late = peer_->client.call(kOwnerPath, "late");
  sent_.insert(late);
  send(*peer_);
  for (take(); more(); take()) step();
  EXPECT_EQ(seen_, sent_);
  EXPECT_EQ(last_, late);
}

TEST_F(ConnectionStepsTest, TheEndIsHeardBehindIt) {
  send_many();
  take();
  at(*peer_).receive_eof();
  EXPECT_EQ(at(*peer_).bits() & kWantsClose, 0U);
  for (; more(); take()) step();
  EXPECT_EQ(seen_, sent_);
  for (const std::int32_t call : seen_) at(*peer_).reply(call, as_bytes("alive"));
  exchange(*peer_);
  EXPECT_NE(at(*peer_).bits() & kWantsClose, 0U);
}

TEST_F(ConnectionStepsTest, AConnectionThatIsGoneLeavesNothingBehind) {
  send_many();
  loop_->disconnect(peer_->id);
  step();
  EXPECT_TRUE(ready_.empty());
}

// However many came at once.
TEST_F(ConnectionStepsTest, TheOwnerTakesSoManyCallsAStep) {
  for (std::size_t i = 0; i < kCalls; ++i) sent_.insert(peer_->client.call(kOwnerPath, "m"));
  send(*peer_);
  std::size_t most = take();
  while (more()) {
    step();
    most = std::max(most, take());
  }
  EXPECT_EQ(seen_, sent_);
  EXPECT_EQ(most, 128U);
}

// Each of many connections has such a read: none waits for all the steps of another.
TEST_F(ConnectionStepsTest, ConnectionsTakeTurns) {
  constexpr std::size_t kPeers = 3;
  std::vector<std::unique_ptr<Peer>> peers;
  for (std::size_t i = 0; i < kPeers; ++i) {
    peer_ = connect();
    exchange(*peer_);
    send_many();
    peers.push_back(std::move(peer_));
  }
  std::vector<std::size_t> seen(kPeers);
  const auto unread = [&] {
    return std::any_of(peers.begin(), peers.end(),
                       [&](const auto& peer) { return (at(*peer).bits() & (kHasUnread | kHasCalls)) != 0; });
  };
  while (unread()) {
    step();
    for (std::size_t i = 0; i < kPeers; ++i) seen[i] += at(*peers[i]).take_calls().size();
    const auto [least, most] = std::minmax_element(seen.begin(), seen.end());
    EXPECT_LE(*most - *least, kCalls / 2);
  }
  EXPECT_EQ(seen, std::vector<std::size_t>(kPeers, kCalls));
}

}  // namespace
}  // namespace headrace::testing
