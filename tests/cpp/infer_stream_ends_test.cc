// How a stream ends, and what it does at its bounds.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "stream_fixture.h"

namespace headrace::testing {
namespace {

using InferStreamEndsTest = InferStreamTest;

TEST_F(InferStreamEndsTest, AHalfCloseWaitsForWhatIsInFlight) {
  start();
  trial_.hold();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  for (std::int32_t i = 1; i <= 5; ++i) ask(*peer, call, InferText{.id = "x"}({i}));
  half_close(*peer, call);
  send(*peer);
  trial_.await_inside(1);
  exchange(*peer);
  EXPECT_FALSE(peer->client.answer(call).closed);
  trial_.let_go();
  EXPECT_EQ(status(*peer, call), "0");
  EXPECT_EQ(answers(*peer, call).size(), 5U);
}

TEST_F(InferStreamEndsTest, AResetCancelsWhateverState) {
  batching_.preserve_ordering = true;
  start(1, 1);
  loop_options_.grpc.max_concurrent_streams = 1;
  trial_.obey_interrupts(false);
  trial_.hold();
  auto peer = connect();
  const std::int32_t call = open(*peer, {{"grpc-encoding", "gzip"}});
  ask(*peer, call, InferText{.id = "running"}({1}));
  send(*peer);
  trial_.await_inside(1);
  ask(*peer, call, InferText{.id = "queued"}({2}));
  ask(*peer, call, InferText{.model = "n"}({3}));  // answered, out of its turn
  ask(*peer, call, InferText{.model = "n", .id = "told"}({3}));
  peer->client.write(call, grpc_frame(gzip(InferText{}({4})), true));  // with a worker
  ask(*peer, call, InferText{.id = "held"}({5}));
  peer->client.write(call, grpc_frame(InferText{.id = "half"}({6})).substr(0, 9));
  send(*peer);
  peer->client.reset(call);
  send(*peer);
  EXPECT_EQ(tickets(), 0U);
  drain_until([&] { return model_->counters.read().cancel.count == 2; });
  trial_.let_go();
  const std::int32_t next = open(*peer);
  ask(*peer, next, InferText{}({7}));
  half_close(*peer, next);
  EXPECT_EQ(status(*peer, next), "0");
  for (const Values& run : trial_.runs()) EXPECT_TRUE(run == Values{1} || run == Values{7}) << run[0];
}

TEST_F(InferStreamEndsTest, AStreamThatComesAndIsResetInOneReadIsCancelled) {
  start(64, 1);
  auto peer = connect();
  exchange(*peer);
  trial_.hold();
  const std::int32_t first = open(*peer);
  ask(*peer, first, InferText{}({1}));
  send(*peer);
  trial_.await_inside(1);
  const std::int32_t call = open(*peer);
  ask(*peer, call, InferText{}({2}));
  std::string bytes = peer->client.take();
  peer->client.reset(call);
  bytes += peer->client.take();
  at(*peer).receive(as_bytes(bytes));
  EXPECT_EQ(tickets(), 1U);
  drain_until([&] { return model_->counters.read().cancel.count == 1; });
}

TEST_F(InferStreamEndsTest, TheDeadlineOfTheCallEndsTheStream) {
  start(1, 1);
  trial_.hold();
  auto peer = connect();
  const std::int32_t call = open(*peer, {{"grpc-timeout", "100m"}});
  for (std::int32_t i = 1; i <= 3; ++i) ask(*peer, call, InferText{}({i}));
  send(*peer);
  trial_.await_inside(1);
  clock_.advance(100 * kMillisecond);
  loop_->on_timer(ready_);
  EXPECT_EQ(status(*peer, call), "4 the deadline of the call passed (grpc-timeout)");
  drain_until([&] { return tickets() == 0; });
}

TEST_F(InferStreamEndsTest, AStreamsPlaceStaysTakenUntilItsTicketsAreBack) {
  loop_options_.grpc.max_concurrent_streams = 1;
  start(1, 1);
  trial_.hold();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  for (std::int32_t i = 1; i <= 3; ++i) ask(*peer, call, InferText{}({i}));
  send(*peer);
  trial_.await_inside(1);
  peer->client.reset(call);
  send(*peer);
  const std::int32_t early = open(*peer);
  exchange(*peer);
  EXPECT_EQ(peer->client.answer(early).reset, static_cast<std::uint32_t>(NGHTTP2_REFUSED_STREAM));
  drain_until([&] { return model_->counters.read().cancel.count == 3; });
  const std::int32_t late = open(*peer);
  half_close(*peer, late);
  EXPECT_EQ(status(*peer, late), "0");
}

TEST_F(InferStreamEndsTest, ALostConnectionCancelsItsStreams) {
  start(1, 1);
  auto peer = connect();
  trial_.hold();
  trial_.obey_interrupts(false);
  for (int s = 0; s < 3; ++s) {
    const std::int32_t call = open(*peer);
    for (std::int32_t i = 1; i <= 10; ++i) ask(*peer, call, InferText{}({i}));
  }
  send(*peer);
  trial_.await_inside(1);
  loop_->disconnect(peer->id);
  EXPECT_EQ(tickets(), 0U);
  drain_until([&] { return model_->counters.read().cancel.count == 30; });
}

TEST_F(InferStreamEndsTest, ALoopClosesWithAThousandInFlight) {
  start(16);
  auto peer = connect();
  auto other = connect();
  trial_.hold();
  for (Peer* each : {peer.get(), other.get()}) {
    for (int s = 0; s < 2; ++s) {
      const std::int32_t call = open(*each);
      for (std::int32_t i = 1; i <= 250; ++i) ask(*each, call, InferText{}({i}));
    }
    send(*each);
  }
  EXPECT_EQ(tickets(), 1000U);
  loop_->close();
  EXPECT_EQ(tickets(), 0U);
}

TEST_F(InferStreamEndsTest, ADrainAnswersWhatIsInFlightAndEndsTheStreams) {
  start(4);
  trial_.hold();
  auto peer = connect();
  const std::int32_t busy = open(*peer);
  const std::int32_t idle = open(*peer);
  const std::int32_t ended = open(*peer);
  for (const std::int32_t call : {busy, ended}) {
    for (std::int32_t i = 1; i <= 3; ++i) ask(*peer, call, InferText{}({i}));
  }
  half_close(*peer, ended);
  send(*peer);
  at(*peer).shutdown_notice();
  at(*peer).shutdown_final();
  ask(*peer, busy, InferText{}({4}));
  exchange(*peer);
  const std::string shutting =
      "14 the server is shutting down: what was sent on this stream and has no answer was not run";
  EXPECT_EQ(status(*peer, idle), shutting);
  EXPECT_FALSE(peer->client.answer(busy).closed);
  trial_.let_go();
  EXPECT_EQ(status(*peer, busy), shutting);
  EXPECT_EQ(firsts(answers(*peer, busy)), (Values{2, 4, 6}));
  EXPECT_EQ(status(*peer, ended), "0");
  EXPECT_EQ(answers(*peer, ended).size(), 3U);
  EXPECT_NE(at(*peer).bits() & kWantsClose, 0U);
}

TEST_F(InferStreamEndsTest, AbortEndsStreamsToo) {
  start();
  trial_.hold();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  ask(*peer, call, InferText{}({1}));
  send(*peer);
  trial_.await_inside(1);
  at(*peer).abort_calls({Code::kUnavailable, "the time is over"});
  EXPECT_EQ(status(*peer, call), "14 the time is over");
  EXPECT_EQ(at(*peer).open_calls(), 0U);
}

// ---- bounds

TEST_F(InferStreamEndsTest, AStreamWithSoManyInFlightIsNotReadOn) {
  start(1, 1);
  trial_.hold();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  const std::int32_t other = open(*peer);
  constexpr std::size_t kAll = InferStream::kMaxInFlight + 100;
  for (std::size_t i = 1; i <= kAll; ++i) ask(*peer, call, InferText{}({static_cast<std::int32_t>(i)}));
  half_close(*peer, call);
  exchange(*peer);
  EXPECT_EQ(tickets(), InferStream::kMaxInFlight);
  ask(*peer, other, InferText{}({5000}));
  exchange(*peer);
  EXPECT_EQ(tickets(), InferStream::kMaxInFlight + 1) << "it stalls itself only";
  trial_.let_go();
  EXPECT_EQ(status(*peer, call), "0");
  const Values got = firsts(answers(*peer, call));
  ASSERT_EQ(got.size(), kAll);
  for (std::size_t i = 0; i < kAll; ++i) EXPECT_EQ(got[i], static_cast<std::int32_t>(2 * (i + 1)));
  EXPECT_EQ(engine_->budget().charged(), 0U);
}

TEST_F(InferStreamEndsTest, AStreamThatIsNotReadHoldsBackItself) {
  start(1 << 20);
  H2Client::Options narrow;
  narrow.auto_window = false;
  auto peer = connect(narrow);
  nghttp2_session_set_local_window_size(peer->client.session(), 0, 0, 1 << 30);
  const std::int32_t call = open(*peer);
  // 1 MiB each way, and again in the second output.
  const Values many(256 << 10, 7);
  constexpr int kAsked = 40;
  for (int i = 0; i < kAsked; ++i) ask(*peer, call, InferText{.outputs = {"y"}}(many));
  exchange(*peer);
  std::size_t before = 0;
  drain_until([&] {
    exchange(*peer);
    return tickets() == 0 && std::exchange(before, trial_.runs().size()) == trial_.runs().size();
  });
  EXPECT_LE(trial_.runs().size(), 17U) << "a quarter of 64 MiB, and the answer that goes past it";
  EXPECT_GT(trial_.runs().size(), 4U);
  const std::int32_t other = open(*peer);
  ask(*peer, other, InferText{}({1}));
  EXPECT_EQ(firsts(await_answers(*peer, other, 1)), (Values{2}));
  nghttp2_session_set_local_window_size(peer->client.session(), 0, call, 1 << 30);
  EXPECT_EQ(await_answers(*peer, call, kAsked).size(), static_cast<std::size_t>(kAsked));
}

TEST_F(InferStreamEndsTest, WhatIsHeldIsCharged) {
  loop_options_.grpc.max_inflight_bytes = 256 << 10;
  start(1, 1);
  trial_.hold();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  for (std::int32_t i = 0; i < 20'000; ++i) ask(*peer, call, InferText{}({i}));
  const std::string told = status(*peer, call);
  EXPECT_EQ(told.substr(0, 10), "8 no room ") << told;
  EXPECT_NE(told.find("--connection-inflight-bytes"), std::string::npos) << told;
  drain_until([&] { return tickets() == 0; });
  EXPECT_EQ(status(*peer, peer->client.call(kModelInferPath, InferText{.model = "n"}({1}))).substr(0, 2), "5 ");
}

}  // namespace
}  // namespace headrace::testing
