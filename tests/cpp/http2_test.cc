#include "wire/http2.h"

#include <gtest/gtest.h>

#include "grpc_wire.h"

namespace headrace::testing {
namespace {

using wire::Call;
using wire::GrpcLimits;
using wire::Message;

std::string frame(std::uint8_t type, std::uint8_t flags, std::uint32_t id, std::string_view payload) {
  const auto size = static_cast<std::uint32_t>(payload.size());
  std::string out;
  for (const std::uint32_t byte :
       {size >> 16, size >> 8, size, std::uint32_t{type}, std::uint32_t{flags}, id >> 24, id >> 16, id >> 8, id}) {
    out.push_back(static_cast<char>(byte));
  }
  return out.append(payload);
}

constexpr std::uint8_t kData = 0, kSettings = 4, kPing = 6, kContinuation = 9;

TEST(Http2, TenSecondsForgets) {
  wire::TenSeconds window;
  window.add(100 * kSecond, 5);
  window.add(105 * kSecond, 7);
  EXPECT_EQ(window.sum(109 * kSecond), 12u);
  EXPECT_EQ(window.sum(110 * kSecond), 7u);
  EXPECT_EQ(window.sum(115 * kSecond), 0u);
  window.add(116 * kSecond, 1);
  EXPECT_EQ(window.sum(1000 * kSecond), 0u);
}

TEST(Http2, SaysItsLimitsAtOnce) {
  GrpcWire wire;
  EXPECT_TRUE(wire.client.feed(wire.output()));
  nghttp2_session* session = wire.client.session();
  EXPECT_EQ(nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS), 1024u);
  EXPECT_EQ(nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE), 1u << 20);
  EXPECT_EQ(nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_MAX_FRAME_SIZE), 1u << 20);
  EXPECT_EQ(nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE), 64u << 10);
  EXPECT_EQ(nghttp2_session_get_remote_window_size(session), 4 << 20);
}

TEST(Http2, WhatIsNotHttp2IsTurnedAway) {
  GrpcWire wire;
  wire.receive("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
  const std::string out = wire.output();
  EXPECT_NE(out.find("Received bad client magic"), std::string::npos);
  EXPECT_TRUE(wire.connection->wants_close());
  wire.receive("more");
  EXPECT_EQ(wire.output(), "");
}

TEST(Http2, BodiesUnderTheFirstWindowNeedNoUpdate) {
  GrpcWire wire;
  wire.exchange();
  const std::int32_t id = wire.client.call("/s/m", std::string(1'000'000, 'x'));
  wire.exchange();
  EXPECT_EQ(wire.status(id), "0");
  EXPECT_EQ(wire.client.window_updates, 0u);
}

TEST(Http2, LargeBodiesArriveWhateverTheirSize) {
  for (const std::size_t size : {1 << 20, (1 << 20) + 1, 3'000'000, 20'000'000, 60'000'000}) {
    GrpcWire wire;
    wire.handler.answers = false;
    std::size_t got = 0;
    wire.handler.when_message = [&](Call&, Message& message) { got = message.bytes.size(); };
    wire.handler.when_ended = [&](Call& call) { wire.connection->finish(call, Status()); };
    // The first flight leaves before the client knows our settings, and the next one after.
    const std::int32_t id = wire.client.call("/s/m", std::string(size, 'x'));
    wire.exchange();
    EXPECT_EQ(got, size);
    EXPECT_EQ(wire.status(id), "0");
  }
}

TEST(Http2, AStreamOfManyMessagesNeverRunsOutOfWindow) {
  GrpcWire wire;
  wire.handler.when_message = [&](Call& call, Message& message) {
    wire.connection->release_bytes(call, message.bytes.size());
  };
  const std::int32_t id = wire.client.open("/s/m");
  for (std::size_t i = 1; i <= 60; ++i) wire.client.write(id, grpc_frame(std::string(i * 37'001 % 2'000'000, 'x')));
  wire.client.write(id, "", true);
  wire.exchange();
  EXPECT_EQ(wire.handler.calls[id].messages.size(), 60u);
  EXPECT_EQ(wire.status(id), "0");
}

TEST(Http2, WindowsGrowWhileTheyAreUsedUpFast) {
  for (const Nanos pause : {kMillisecond, kSecond}) {
    GrpcWire wire;
    wire.handler.when_message = [](Call&, Message&) {};
    wire.exchange();
    for (int i = 0; i < 200; ++i) {
      wire.client.call("/s/m", std::string(900'000, 'x'));
      wire.now += pause;
      wire.exchange();
    }
    const std::int32_t window = nghttp2_session_get_remote_window_size(wire.client.session());
    if (pause == kMillisecond) {
      EXPECT_GT(window, 24 << 20);  // 64 MiB, less what is in use
    } else {
      EXPECT_LE(window, 4 << 20);
    }
  }
}

TEST(Http2, ARefusedUploadGetsNoMoreWindow) {
  GrpcLimits limits;
  limits.max_message_bytes = 1 << 20;
  GrpcWire wire(limits);
  wire.exchange();
  const std::int32_t id = wire.client.open("/s/m");
  wire.client.write(id, grpc_frame(std::string(2 << 20, 'x')));
  const std::string up = wire.client.take();
  EXPECT_LT(up.size(), (1u << 20) + 4096);
  wire.receive(up);
  EXPECT_TRUE(wire.client.feed(wire.output()));
  EXPECT_EQ(wire.client.window_updates, 0u);
  EXPECT_TRUE(wire.answer(id).closed);
  EXPECT_EQ(wire.client.take().size(), 0u);
  // The connection's window came back.
  EXPECT_GT(nghttp2_session_get_remote_window_size(wire.client.session()), 2 << 20);
}

TEST(Http2, AHeaderBlockOverTheLimitResetsItsStream) {
  GrpcWire wire;
  Fields many;
  for (int i = 0; i < 70; ++i) many.emplace_back("x-" + std::to_string(i), std::string(1000, 'h'));
  const std::int32_t over = wire.client.call("/s/m", "x", many);
  many.resize(50);
  const std::int32_t fits = wire.client.call("/s/m", "x", many);
  wire.exchange();
  EXPECT_EQ(wire.answer(over).reset, static_cast<std::uint32_t>(NGHTTP2_ENHANCE_YOUR_CALM));
  EXPECT_EQ(wire.handler.calls.count(over), 0u);
  EXPECT_EQ(wire.status(fits), "0");
  EXPECT_EQ(wire.handler.calls[fits].metadata.size(), 50u);
}

TEST(Http2, TrailersCountToTheLimitToo) {
  GrpcWire wire;
  const std::int32_t id = wire.client.open("/s/m");
  Fields many;
  for (int i = 0; i < 70; ++i) many.emplace_back("x-" + std::to_string(i), std::string(1000, 'h'));
  wire.client.trailers(id, many);
  wire.exchange();
  EXPECT_EQ(wire.answer(id).reset, static_cast<std::uint32_t>(NGHTTP2_ENHANCE_YOUR_CALM));
  EXPECT_TRUE(wire.handler.calls[id].cancelled);
}

TEST(Http2, AMalformedRequestResetsItsStreamOnly) {
  GrpcWire wire;
  wire.exchange();
  Fields headers = H2Client::grpc_headers("/s/m");
  headers.emplace_back("content-length", "3");  // and the body has more
  const std::int32_t bad = wire.client.request(headers, grpc_frame("hello"));
  const std::int32_t good = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.answer(bad).reset, static_cast<std::uint32_t>(NGHTTP2_PROTOCOL_ERROR));
  EXPECT_EQ(wire.status(good), "0");
  EXPECT_EQ(wire.connection->open_calls(), 0u);
}

// ---- floods

bool calmed(GrpcWire& wire) {
  wire.client.feed(wire.output());
  EXPECT_EQ(wire.client.goaway, wire.connection->wants_close());
  return wire.client.goaway && wire.client.goaway_code == NGHTTP2_ENHANCE_YOUR_CALM;
}

TEST(Http2, RapidResetEndsTheConnection) {
  GrpcWire wire;
  wire.handler.answers = false;
  wire.exchange();
  int resets = 0;
  while (resets < 3000 && !wire.client.goaway) {
    const std::int32_t id = wire.client.call("/s/m", "x");
    wire.exchange();
    wire.client.reset(id);
    ++resets;
    wire.now += kMillisecond;
    wire.exchange();
  }
  EXPECT_EQ(resets, 1001);
  EXPECT_EQ(wire.client.goaway_code, static_cast<std::uint32_t>(NGHTTP2_ENHANCE_YOUR_CALM));
  EXPECT_EQ(wire.client.goaway_reason, "too many streams reset right after their opening");
  EXPECT_TRUE(wire.connection->wants_close());
  EXPECT_EQ(wire.connection->open_calls(), 0u);
}

TEST(Http2, HonestCancelsDoNot) {
  // Slow ones, however many; quick ones among as many that are not; and many over a long time.
  for (const int kind : {0, 1, 2}) {
    GrpcWire wire;
    wire.handler.answers = false;
    wire.exchange();
    for (int i = 0; i < 5000; ++i) {
      if (kind == 1) {
        const std::int32_t kept = wire.client.call("/s/m", "x");
        wire.exchange();
        wire.connection->finish(*wire.connection->find(kept), Status());
      }
      const std::int32_t id = wire.client.call("/s/m", "x");
      wire.exchange();
      wire.now += kind == 0 ? 11 * kMillisecond : kind == 1 ? kMillisecond / 2 : 0;
      wire.client.reset(id);
      wire.exchange();
      if (kind == 2) wire.now += 12 * kMillisecond;
    }
    EXPECT_FALSE(wire.client.goaway) << kind;
    EXPECT_EQ(wire.connection->counters().resets_received, 5000u);
  }
}

TEST(Http2, ResetsThatThePeerProvokesCountAsItsOwn) {
  GrpcWire wire;
  wire.handler.answers = false;
  wire.exchange();
  int rounds = 0;
  while (rounds < 3000 && !wire.client.goaway) {
    const std::int32_t id = wire.client.open("/s/m");
    const std::string overflow = frame(8, 0, static_cast<std::uint32_t>(id), "\x7f\xff\xff\xff");
    wire.receive(wire.client.take() + overflow);
    wire.client.feed(wire.output());
    ++rounds;
  }
  EXPECT_EQ(rounds, 1001);
  EXPECT_EQ(wire.client.goaway_code, static_cast<std::uint32_t>(NGHTTP2_ENHANCE_YOUR_CALM));
}

TEST(Http2, EmptyDataFramesEndTheConnection) {
  GrpcWire wire;
  const std::int32_t id = wire.client.open("/s/m");
  wire.exchange();
  const std::string empty = frame(kData, 0, static_cast<std::uint32_t>(id), "");
  for (int i = 0; i < 1000; ++i) wire.receive(empty);
  EXPECT_FALSE(calmed(wire));
  wire.receive(empty);
  EXPECT_TRUE(calmed(wire));
  EXPECT_TRUE(wire.handler.calls[id].cancelled);
}

TEST(Http2, PingsAreAnsweredAndTheirFloodIsNot) {
  GrpcWire wire;
  wire.client.ping();
  wire.exchange();
  EXPECT_EQ(wire.client.ping_acks, 1);
  std::string flood;
  for (int i = 0; i < 2000; ++i) flood += frame(kPing, 0, 0, "12345678");
  wire.receive(flood);
  EXPECT_TRUE(calmed(wire));
}

TEST(Http2, SettingsFlood) {
  GrpcWire wire;
  wire.exchange();
  std::string flood;
  for (int i = 0; i < 2000; ++i) flood += frame(kSettings, 0, 0, "");
  wire.receive(flood);
  EXPECT_TRUE(calmed(wire));
}

TEST(Http2, ContinuationFlood) {
  GrpcWire wire;
  wire.exchange();
  std::string flood = frame(1, 0, 1, "\x83");
  for (int i = 0; i < 2000; ++i) flood += frame(kContinuation, 0, 1, "");
  wire.receive(flood);
  EXPECT_TRUE(calmed(wire));
}

TEST(Http2, AnswersThatNobodyReadsAreBounded) {
  GrpcWire wire;
  wire.exchange();
  // Calls that are refused, each reset by the peer, too late for the rapid-reset rule; no output is taken. Neither the
  // streams nor the bytes of answers bound this, only the frames that wait.
  int calls = 0;
  for (; calls < 20'000 && wire.connection->next_timeout() != kNever; ++calls) {
    const std::int32_t id = wire.client.call("/s/m", "x", {{"grpc-timeout", "?"}});
    wire.receive(wire.client.take());
    wire.now += 11 * kMillisecond;
    wire.client.reset(id);
    wire.receive(wire.client.take());
  }
  EXPECT_LT(calls, 10'000);
  EXPECT_GT(calls, 1024);
  EXPECT_TRUE(calmed(wire));
  EXPECT_EQ(wire.client.goaway_reason, "too many answers wait to be read");
}

TEST(Http2, StreamsOverTheLimitAreRefusedBeforeThePeerKnowsIt) {
  GrpcLimits limits;
  limits.max_concurrent_streams = 4;
  GrpcWire wire(limits);
  wire.handler.answers = false;
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 10; ++i) ids.push_back(wire.client.call("/s/m", "x"));
  wire.exchange();
  EXPECT_EQ(wire.connection->open_calls(), 4u);
  for (std::size_t i = 0; i < 10; ++i) {
    EXPECT_EQ(wire.answer(ids[i]).reset, static_cast<std::uint32_t>(i < 4 ? NGHTTP2_NO_ERROR : NGHTTP2_REFUSED_STREAM));
    if (i < 4) wire.connection->finish(*wire.connection->find(ids[i]), Status());
  }
  wire.exchange();
  const std::int32_t next = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.connection->open_calls(), 1u);
  wire.connection->finish(*wire.connection->find(next), Status());
}

// ---- the end

TEST(Http2, GracefulShutdown) {
  GrpcWire wire;
  wire.handler.answers = false;
  const std::int32_t before = wire.client.call("/s/m", "x");
  wire.exchange();
  wire.connection->shutdown_notice();
  const std::int32_t on_its_way = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_TRUE(wire.client.goaway);
  EXPECT_EQ(wire.client.goaway_last_id, 0x7fffffff);
  EXPECT_EQ(wire.connection->open_calls(), 2u);
  wire.connection->shutdown_final();
  wire.exchange();
  EXPECT_EQ(wire.client.goaway_last_id, on_its_way);
  EXPECT_EQ(wire.client.goaway_code, 0u);
  EXPECT_FALSE(wire.connection->wants_close());
  for (const std::int32_t id : {before, on_its_way}) {
    wire.connection->finish(*wire.connection->find(id), Status());
    wire.exchange();
    EXPECT_EQ(wire.status(id), "0");
  }
  EXPECT_TRUE(wire.connection->wants_close());
}

TEST(Http2, CallsAfterTheFinalGoawayAreIgnored) {
  GrpcWire wire;
  wire.handler.answers = false;
  const std::int32_t before = wire.client.call("/s/m", "x");
  wire.exchange();
  wire.connection->shutdown_final();
  const std::string goaway = wire.output();
  const std::int32_t late = wire.client.call("/s/m", "x");
  wire.receive(wire.client.take());
  EXPECT_EQ(wire.handler.calls.count(late), 0u);
  EXPECT_TRUE(wire.client.feed(goaway));
  wire.connection->finish(*wire.connection->find(before), Status());
  wire.exchange();
  EXPECT_EQ(wire.status(before), "0");
  EXPECT_TRUE(wire.connection->wants_close());
}

}  // namespace
}  // namespace headrace::testing
