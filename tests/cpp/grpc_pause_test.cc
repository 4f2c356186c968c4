// A call that is paused: its messages are held, charged, and read on in steps.
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "grpc_wire.h"

namespace headrace::testing {
namespace {

using wire::Call;
using wire::GrpcLimits;
using wire::Message;

using Texts = std::vector<std::string>;

// Pauses after each message, so that the test says when the next one comes.
void pause_each(GrpcWire& wire, Call*& paused) {
  wire.handler.when_message = [&wire, &paused](Call& call, Message&) {
    wire.connection->pause_messages(call);
    paused = &call;
  };
}

TEST(GrpcPause, APausedCallIsReadOneMessageAtATime) {
  GrpcWire wire;
  Call* paused = nullptr;
  pause_each(wire, paused);
  const std::int32_t id =
      wire.client.request(H2Client::grpc_headers("/a.B/C"), grpc_frame("one") + grpc_frame("") + grpc_frame("three"));
  wire.exchange();
  auto& seen = wire.handler.calls[id];
  EXPECT_EQ(seen.messages, (Texts{"one"}));
  EXPECT_FALSE(seen.ended);
  EXPECT_GT(wire.connection->inflight_bytes(), 13U) << "what is held counts";
  EXPECT_TRUE(wire.connection->resume_messages(*paused, wire.now));
  EXPECT_EQ(seen.messages, (Texts{"one", ""}));
  EXPECT_TRUE(wire.connection->resume_messages(*paused, wire.now));
  EXPECT_EQ(seen.messages, (Texts{"one", "", "three"}));
  EXPECT_FALSE(seen.ended) << "paused again";
  EXPECT_TRUE(wire.connection->resume_messages(*paused, wire.now));
  EXPECT_TRUE(seen.ended);
  wire.exchange();
  EXPECT_EQ(wire.status(id), "0");
  EXPECT_EQ(wire.connection->inflight_bytes(), 0U);
}

TEST(GrpcPause, APausedCallFedByteByByteLosesNothing) {
  GrpcWire wire;
  Call* paused = nullptr;
  pause_each(wire, paused);
  const std::int32_t id = wire.client.open("/a.B/C");
  wire.exchange();
  Texts sent;
  for (int i = 0; i < 20; ++i) sent.push_back("message " + std::to_string(i));
  for (const std::string& text : sent) wire.client.write(id, grpc_frame(text));
  wire.client.write(id, "", true);
  auto& seen = wire.handler.calls[id];
  const auto read_on = [&] {
    if (paused == nullptr) return;
    EXPECT_TRUE(wire.connection->resume_messages(*std::exchange(paused, nullptr), wire.now));
  };
  std::size_t count = 0;
  for (const char& byte : wire.client.take()) {
    wire.receive({&byte, 1});
    // Now and then it is read on, wherever the bytes are.
    if (++count % 5 == 0) read_on();
  }
  for (int i = 0; i < 40 && !seen.ended; ++i) read_on();
  EXPECT_TRUE(seen.ended);
  EXPECT_EQ(seen.messages, sent);
}

TEST(GrpcPause, APausedCallGetsNoWindowAndItsMessagesNoTimeLimit) {
  GrpcLimits limits;
  limits.message_stall = 2 * kSecond;
  GrpcWire wire(limits);
  Call* paused = nullptr;
  wire.handler.answers = false;
  wire.handler.when_called = [&](Call& call) {
    paused = &call;
    wire.connection->pause_messages(call);
  };
  const std::int32_t id = wire.client.open("/a.B/C");
  const std::string body = grpc_frame(std::string(3 << 20, 'x'));
  wire.client.write(id, body);
  wire.exchange();
  EXPECT_EQ(wire.client.window_updates, 0U);
  EXPECT_EQ(nghttp2_session_get_stream_remote_window_size(wire.client.session(), id), 0);
  EXPECT_EQ(wire.connection->next_timeout(), kNever);
  wire.now += 3600 * kSecond;
  wire.connection->on_timer(wire.now);
  EXPECT_FALSE(wire.handler.calls[id].cancelled);
  const std::int32_t other = wire.client.open("/a.B/Other");
  wire.exchange();
  EXPECT_EQ(wire.handler.calls[other].path, "/a.B/Other");
  paused = static_cast<Call*>(wire.connection->find(id));
  wire.now += 60 * kSecond;
  EXPECT_TRUE(wire.connection->resume_messages(*paused, wire.now));
  EXPECT_EQ(wire.connection->next_timeout(), wire.now + limits.message_stall) << "half a message now";
  wire.exchange();
  ASSERT_EQ(wire.handler.calls[id].messages.size(), 1U);
  EXPECT_EQ(wire.handler.calls[id].messages[0].size(), std::size_t{3} << 20);
}

TEST(GrpcPause, WhatIsHeldIsReadInSteps) {
  GrpcWire wire;
  wire.handler.answers = false;
  const std::int32_t id = wire.client.open("/a.B/C");
  // A large message first, so that the stream's window has grown.
  for (int i = 0; i < 6; ++i) wire.client.write(id, grpc_frame(std::string(4 << 20, 'x')));
  wire.exchange();
  Call* call = wire.connection->find(id);
  ASSERT_NE(call, nullptr);
  wire.connection->pause_messages(*call);
  wire.client.write(id, grpc_frame(std::string(4 << 20, 'y')));
  wire.exchange();
  EXPECT_EQ(wire.handler.calls[id].messages.size(), 6U);
  int steps = 0;
  while (!wire.connection->resume_messages(*call, wire.now)) ++steps;
  EXPECT_GE(steps, 1);
  wire.exchange();
  EXPECT_EQ(wire.handler.calls[id].messages.size(), 7U);
}

TEST(GrpcPause, NoRoomForWhatIsHeldEndsTheCall) {
  GrpcLimits limits;
  limits.max_inflight_bytes = 100'000;
  GrpcWire wire(limits);
  Call* paused = nullptr;
  pause_each(wire, paused);
  const std::int32_t id = wire.client.open("/a.B/C");
  wire.client.write(id, grpc_frame("x"));
  wire.exchange();
  wire.client.write(id, grpc_frame(std::string(200'000, 'x')));
  wire.exchange();
  EXPECT_EQ(wire.status(id).substr(0, 10), "8 no room ");
  EXPECT_TRUE(wire.handler.calls[id].cancelled);
  EXPECT_EQ(wire.handler.calls[id].reason, Code::kResourceExhausted);
  EXPECT_EQ(wire.connection->inflight_bytes(), 0U);
}

TEST(GrpcPause, APausedCallMayBeResetAndFinished) {
  GrpcWire wire;
  Call* paused = nullptr;
  pause_each(wire, paused);
  const std::string body = grpc_frame("one") + grpc_frame("two") + grpc_frame("three").substr(0, 6);
  const std::int32_t reset = wire.client.open("/a.B/C");
  wire.client.write(reset, body);
  wire.exchange();
  wire.client.reset(reset);
  wire.exchange();
  EXPECT_TRUE(wire.handler.calls[reset].cancelled);
  EXPECT_EQ(wire.connection->inflight_bytes(), 0U);
  const std::int32_t finished = wire.client.open("/a.B/C");
  wire.client.write(finished, body);
  wire.exchange();
  wire.connection->finish(*paused, Status());
  wire.exchange();
  EXPECT_EQ(wire.status(finished), "0");
  EXPECT_EQ(wire.handler.calls[finished].messages, (Texts{"one"}));
  // From within a message that was held.
  const std::int32_t inside = wire.client.request(H2Client::grpc_headers("/a.B/C"), body + "zz");
  wire.exchange();
  wire.handler.when_message = [&](Call& call, Message&) { wire.connection->finish(call, Status()); };
  EXPECT_TRUE(wire.connection->resume_messages(*paused, wire.now)) << "it is gone";
  wire.exchange();
  EXPECT_EQ(wire.status(inside), "0");
  EXPECT_EQ(wire.connection->open_calls(), 0U);
}

TEST(GrpcPause, ACallsOwnOutputIsCounted) {
  H2Client::Options options;
  options.auto_window = false;
  GrpcWire wire({}, options);
  const std::int32_t id = wire.client.open("/a.B/C");
  wire.client.write(id, grpc_frame(std::string(100'000, 'x')));
  wire.exchange();
  Call* call = wire.connection->find(id);
  ASSERT_NE(call, nullptr);
  EXPECT_EQ(wire.connection->output_waiting(*call), 100'005U - 65'535U);
  EXPECT_EQ(wire.connection->output_waiting(), wire.connection->output_waiting(*call));
}

}  // namespace
}  // namespace headrace::testing
