// Limits, memory and time of a connection.
#include "wire/grpc_connection.h"

#include <gtest/gtest.h>

#include "grpc_wire.h"

namespace headrace::testing {
namespace {

using wire::Call;
using wire::GrpcLimits;
using wire::Message;

std::string large_frame(std::size_t size) { return grpc_frame(std::string(size, 'x')); }

TEST(GrpcLimitsOf, AMessageOverTheLimitIsNamed) {
  GrpcLimits limits;
  limits.max_message_bytes = 1000;
  GrpcWire wire(limits);
  const std::int32_t fits = wire.client.call("/s/m", std::string(1000, 'x'));
  const std::int32_t over = wire.client.call("/s/m", std::string(1001, 'x'));
  wire.exchange();
  EXPECT_EQ(wire.status(fits), "0");
  EXPECT_EQ(wire.status(over),
            "8 the message of 1001 bytes is over the limit of 1000 bytes (--max-request-bytes): send less at once, or "
            "raise the limit");
  EXPECT_EQ(wire.handler.calls[over].reason, Code::kResourceExhausted);
}

TEST(GrpcLimitsOf, AnAnnouncedBodyCostsNothing) {
  GrpcWire wire;
  wire.handler.answers = false;
  const std::string prefix("\0\x03\0\0\0", 5);  // 48 MiB
  for (int i = 0; i < 1000; ++i) wire.client.write(wire.client.open("/s/m"), prefix);
  wire.exchange();
  EXPECT_EQ(wire.connection->open_calls(), 1000u);
  EXPECT_EQ(wire.connection->inflight_bytes(), 0u);
  EXPECT_EQ(wire.pool.stats().bytes_in_use, 0u);
}

TEST(GrpcLimitsOf, BodiesAreChargedInStepsAsTheyCome) {
  GrpcWire wire;
  wire.handler.answers = false;
  const std::int32_t id = wire.client.open("/s/m");
  wire.client.write(id, large_frame(10'000'000).substr(0, 300'000));
  wire.exchange();
  EXPECT_EQ(wire.connection->inflight_bytes(), 2 * Pool::kChargeStep);
  EXPECT_EQ(wire.budget.charged(), 2 * Pool::kChargeStep);
  EXPECT_LE(wire.pool.stats().bytes_in_use, 3 * Pool::kChargeStep);
}

TEST(GrpcLimitsOf, TheConnectionsCapRefusesAndGivesBack) {
  GrpcLimits limits;
  limits.max_inflight_bytes = 3 << 20;
  GrpcWire wire(limits);
  wire.handler.answers = false;
  std::vector<Message> kept;
  wire.handler.when_message = [&](Call&, Message& message) { kept.push_back(std::move(message)); };
  wire.exchange();
  const std::int32_t first = wire.client.call("/s/m", std::string(2'000'000, 'x'));
  wire.exchange();
  const std::int32_t second = wire.client.call("/s/m", std::string(2'000'000, 'x'));
  wire.exchange();
  EXPECT_EQ(kept.size(), 1u);
  EXPECT_TRUE(wire.status(second).starts_with("8 no room for a message of 2000000 bytes: this connection has"))
      << wire.status(second);
  EXPECT_NE(wire.status(second).find("--connection-inflight-bytes"), std::string::npos);
  EXPECT_EQ(wire.connection->inflight_bytes(), 2'000'000u);
  wire.connection->release_bytes(*wire.connection->find(first), 1'500'000);
  EXPECT_EQ(wire.connection->inflight_bytes(), 500'000u);
  const std::int32_t third = wire.client.call("/s/m", std::string(2'000'000, 'x'));
  wire.exchange();
  EXPECT_EQ(kept.size(), 2u);
  for (const std::int32_t id : {first, third}) wire.connection->finish(*wire.connection->find(id), Status());
  EXPECT_EQ(wire.connection->inflight_bytes(), 0u);
}

TEST(GrpcLimitsOf, TheConnectionIsUsableAfterAThousandRefusedUploads) {
  GrpcLimits limits;
  limits.max_inflight_bytes = 1 << 20;
  GrpcWire wire(limits);
  const std::string upload(1'200'000, 'x');
  for (int i = 0; i < 1000; ++i) {
    const std::int32_t id = wire.client.call("/s/m", upload);
    wire.exchange();
    ASSERT_TRUE(wire.status(id).starts_with("8 ")) << i << wire.status(id);
    ASSERT_TRUE(wire.answer(id).closed);
  }
  EXPECT_EQ(wire.connection->inflight_bytes(), 0u);
  const std::int32_t good = wire.client.call("/s/m", std::string(1'000'000, 'y'));
  wire.exchange();
  EXPECT_EQ(wire.status(good), "0");
  EXPECT_EQ(wire.answer(good).messages().at(0).size(), 1'000'000u);
}

TEST(GrpcLimitsOf, TheOldestUploadFinishesWhenNoOtherCan) {
  GrpcLimits limits;
  limits.max_message_bytes = 4 << 20;
  GrpcWire wire(limits, {}, 24 << 20);
  const std::string upload = large_frame(4'000'000);
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 40; ++i) {
    ids.push_back(wire.client.open("/s/m"));
    wire.client.write(ids.back(), upload.substr(0, 600'000));
    wire.exchange();
  }
  std::size_t refused = 0;
  for (const std::int32_t id : ids) refused += wire.answer(id).ended ? 1 : 0;
  EXPECT_GT(refused, 5u);
  EXPECT_LT(refused, 35u);
  EXPECT_FALSE(wire.answer(ids[0]).ended);
  // A small call still has room, and so has the rest of the oldest.
  const std::int32_t small = wire.client.call("/s/m", "hello");
  wire.client.write(ids[0], upload.substr(600'000), true);
  wire.exchange();
  EXPECT_EQ(wire.status(small), "0");
  EXPECT_EQ(wire.status(ids[0]), "0");
  for (const std::int32_t id : ids) {
    if (!wire.answer(id).ended) continue;
    if (id == ids[0]) continue;
    EXPECT_NE(wire.status(id).find("--process-inflight-bytes"), std::string::npos) << wire.status(id);
  }
}

TEST(GrpcLimitsOf, AFullPoolRefuses) {
  GrpcLimits limits;
  PoolOptions options;
  options.cap = 2 << 20;
  Pool pool(options);
  InflightBudget budget(std::size_t{1} << 30, limits.max_message_bytes);
  EchoHandler handler;
  wire::GrpcConnection connection(limits, pool, budget, handler, 0);
  handler.connection = &connection;
  H2Client client;
  const std::int32_t id = client.open("/s/m");
  client.write(id, large_frame(8 << 20));
  for (int i = 0; i < 20; ++i) {
    connection.receive(bytes_of(client.take()), 0);
    std::vector<wire::OutputChunk> chunks;
    connection.take_output(chunks, 1 << 20, 0);
    for (const auto& chunk : chunks) client.feed(text_of(chunk.bytes));
  }
  EXPECT_EQ(client.answer(id).grpc("grpc-status"), "8");
  EXPECT_NE(client.answer(id).grpc("grpc-message").find("--pool-bytes"), std::string::npos);
  EXPECT_EQ(pool.stats().bytes_in_use, 0u);
  EXPECT_EQ(pool.stats().blocks_in_use, 0u);
}

TEST(GrpcLimitsOf, AHeldSlotCountsAsAStream) {
  GrpcLimits limits;
  limits.max_concurrent_streams = 4;
  GrpcWire wire(limits);
  wire.handler.answers = false;
  std::vector<std::size_t> held;
  wire.handler.when_cancelled = [&](Call& call, Code) { held.push_back(wire.connection->hold_slot(call)); };
  wire.exchange();
  for (int i = 0; i < 3; ++i) {
    const std::int32_t id = wire.client.call("/s/m", std::string(1000, 'x'));
    wire.exchange();
    wire.client.reset(id);
    wire.exchange();
  }
  EXPECT_EQ(wire.connection->open_calls(), 0u);
  EXPECT_EQ(wire.connection->inflight_bytes(), 3000u);
  const std::int32_t last = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.connection->open_calls(), 1u);
  const std::int32_t over = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.answer(over).reset, static_cast<std::uint32_t>(NGHTTP2_REFUSED_STREAM));
  EXPECT_EQ(wire.handler.calls.count(over), 0u);
  wire.connection->release_slot(held[0]);
  EXPECT_EQ(wire.connection->inflight_bytes(), 2001u);
  const std::int32_t fits = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.handler.calls.count(fits), 1u);
  for (const std::int32_t id : {last, fits}) wire.connection->finish(*wire.connection->find(id), Status());
  wire.exchange();
  wire.connection->release_slot(held[1]);
  wire.connection->release_slot(held[2]);
  EXPECT_EQ(wire.connection->inflight_bytes(), 0u);
}

// ---- time

TEST(GrpcTime, ADeadlineThatWasNotHandedOver) {
  GrpcWire wire;
  wire.handler.answers = false;
  wire.exchange();
  const std::int32_t late = wire.client.call("/s/m", "x", {{"grpc-timeout", "100m"}});
  const std::int32_t later = wire.client.call("/s/m", "x", {{"grpc-timeout", "2S"}});
  const std::int32_t never = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.connection->next_timeout(), wire.now + 100 * kMillisecond);
  wire.connection->on_timer(wire.now + 100 * kMillisecond - 1);
  EXPECT_FALSE(wire.handler.calls[late].cancelled);
  wire.connection->on_timer(wire.now + 100 * kMillisecond);
  EXPECT_TRUE(wire.handler.calls[late].cancelled);
  EXPECT_EQ(wire.handler.calls[late].reason, Code::kDeadlineExceeded);
  EXPECT_FALSE(wire.handler.calls[later].cancelled);
  EXPECT_EQ(wire.connection->next_timeout(), wire.now + 2 * kSecond);
  wire.exchange();
  EXPECT_TRUE(wire.status(late).starts_with("4 ")) << wire.status(late);
  wire.connection->finish(*wire.connection->find(never), Status());
  wire.connection->finish(*wire.connection->find(later), Status());
}

TEST(GrpcTime, ADeadlineThatWasHandedOverIsNotOurs) {
  GrpcWire wire;
  wire.handler.answers = false;
  wire.handler.when_message = [](Call& call, Message&) { call.deadline_handed_over = true; };
  const std::int32_t id = wire.client.call("/s/m", "x", {{"grpc-timeout", "100m"}});
  wire.exchange();
  EXPECT_EQ(wire.connection->next_timeout(), kNever);
  wire.connection->on_timer(wire.now + kSecond);
  EXPECT_FALSE(wire.handler.calls[id].cancelled);
  wire.connection->finish(*wire.connection->find(id), Status());
}

TEST(GrpcTime, DeadlinesOfEndedCallsDoNotPileUp) {
  GrpcWire wire;
  wire.handler.answers = false;
  for (int i = 0; i < 5000; ++i) {
    const std::int32_t id = wire.client.call("/s/m", "x", {{"grpc-timeout", std::to_string(1000 + i) + "S"}});
    wire.exchange();
    wire.connection->finish(*wire.connection->find(id), Status());
    wire.exchange();
  }
  // All that is left is due late, and ends nothing.
  wire.connection->on_timer(wire.now + 500 * kSecond);
  EXPECT_FALSE(wire.connection->wants_close());
  for (const auto& [id, seen] : wire.handler.calls) EXPECT_FALSE(seen.cancelled);
}

TEST(GrpcTime, HalfAMessageAndSilence) {
  GrpcLimits limits;
  limits.message_stall = 30 * kSecond;
  GrpcWire wire(limits);
  const std::int32_t id = wire.client.open("/s/m");
  wire.client.write(id, large_frame(100'000).substr(0, 50'000));
  wire.exchange();
  EXPECT_EQ(wire.connection->next_timeout(), wire.now + 30 * kSecond);
  wire.now += 29 * kSecond;
  wire.client.write(id, "x");
  wire.exchange();
  EXPECT_EQ(wire.connection->next_timeout(), wire.now + 30 * kSecond);
  wire.now += 30 * kSecond;
  wire.connection->on_timer(wire.now);
  wire.exchange();
  EXPECT_EQ(wire.status(id), "4 half a message, and no byte of it for 30 s");
  EXPECT_EQ(wire.connection->inflight_bytes(), 0u);
  const std::int32_t next = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.status(next), "0");
}

TEST(GrpcTime, AMessageHasFiveMinutes) {
  GrpcWire wire;
  const std::int32_t id = wire.client.open("/s/m");
  const Nanos begin = wire.now;
  wire.client.write(id, large_frame(100'000).substr(0, 50'000));
  for (; wire.now < begin + 300 * kSecond; wire.now += 10 * kSecond) {
    wire.client.write(id, "x");
    wire.exchange();
    wire.connection->on_timer(wire.now);
    ASSERT_FALSE(wire.handler.calls[id].cancelled);
  }
  EXPECT_EQ(wire.connection->next_timeout(), begin + 300 * kSecond);
  wire.connection->on_timer(wire.now);
  wire.exchange();
  EXPECT_EQ(wire.status(id), "4 the message was not whole within 300 s of its first byte");
}

TEST(GrpcTime, AUnaryCallWithoutItsMessage) {
  GrpcWire wire;
  wire.handler.when_called = [](Call& call) { call.awaits_message = true; };
  const std::int32_t id = wire.client.open("/s/m");
  const std::int32_t prompt = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.status(prompt), "0");
  EXPECT_EQ(wire.connection->next_timeout(), wire.now + 30 * kSecond);
  wire.connection->on_timer(wire.now + 30 * kSecond);
  wire.exchange();
  EXPECT_TRUE(wire.status(id).starts_with("4 ")) << wire.status(id);
  // A stream may be silent between its messages.
  wire.handler.when_called = nullptr;
  wire.client.open("/s/stream");
  wire.exchange();
  EXPECT_EQ(wire.connection->next_timeout(), kNever);
}

TEST(GrpcTime, HalfAPrefaceOrHeaderBlock) {
  for (const std::size_t cut : {0, 10, 24, 60}) {
    GrpcWire wire;
    wire.client.call("/s/m", "x");
    const std::string bytes = wire.client.take();
    wire.receive(std::string_view(bytes).substr(0, cut));
    wire.output();
    if (cut == 60) {
      // Behind the preface and SETTINGS: HEADERS without END_HEADERS.
      GrpcWire half;
      const std::string head = H2Client().take();
      const std::string frame = {0, 0, 1, 1, 0, 0, 0, 0, 1, static_cast<char>(0x83)};
      half.receive(head + frame);
      half.output();
      EXPECT_EQ(half.connection->next_timeout(), half.now + 30 * kSecond);
      half.connection->on_timer(half.now + 30 * kSecond);
      half.output();
      EXPECT_TRUE(half.connection->wants_close());
      continue;
    }
    EXPECT_EQ(wire.connection->next_timeout(), wire.now + 30 * kSecond) << cut;
    wire.connection->on_timer(wire.now + 30 * kSecond);
    wire.output();
    EXPECT_TRUE(wire.connection->wants_close()) << cut;
  }
}

TEST(GrpcTime, AnIdleConnectionIsClosed) {
  GrpcWire wire;
  wire.handler.answers = false;
  const std::int32_t id = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.connection->next_timeout(), kNever);  // a call is open
  wire.connection->finish(*wire.connection->find(id), Status());
  wire.exchange();
  EXPECT_EQ(wire.connection->next_timeout(), wire.now + 600 * kSecond);
  wire.now += 100 * kSecond;
  wire.client.ping();
  wire.exchange();
  EXPECT_EQ(wire.connection->next_timeout(), wire.now + 600 * kSecond);
  wire.now += 600 * kSecond;
  wire.connection->on_timer(wire.now);
  EXPECT_TRUE(wire.client.feed(wire.output()));
  EXPECT_TRUE(wire.client.goaway);
  EXPECT_EQ(wire.client.goaway_code, 0u);
  EXPECT_EQ(wire.client.goaway_reason, "idle");
  EXPECT_TRUE(wire.connection->wants_close());
}

TEST(GrpcTime, APeerThatDoesNotRead) {
  H2Client::Options options;
  options.auto_window = false;
  GrpcWire wire({}, options);
  wire.handler.when_message = [&](Call& call, Message&) {
    wire::OutMessage out;
    out.own = std::string(200'000, 'x');
    wire.connection->send(call, out);
  };
  wire.handler.when_ended = [](Call&) {};
  const std::int32_t id = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.connection->next_timeout(), wire.now + 30 * kSecond);
  wire.now += 20 * kSecond;
  wire.client.consume(id, 40'000);
  wire.exchange();  // some of it moves
  EXPECT_EQ(wire.connection->next_timeout(), wire.now + 30 * kSecond);
  wire.client.ping();
  wire.now += 30 * kSecond;
  wire.exchange();  // a ping's answer is no progress of what waits, but bytes move
  EXPECT_FALSE(wire.connection->wants_close());
  wire.now += 30 * kSecond;
  wire.connection->on_timer(wire.now);
  EXPECT_TRUE(wire.connection->wants_close());
  EXPECT_TRUE(wire.handler.calls[id].cancelled);
  EXPECT_EQ(wire.output(), "");
  EXPECT_EQ(wire.connection->output_waiting(), 0u);
}

TEST(GrpcTime, ABlockedTransport) {
  GrpcWire wire;
  wire.exchange();
  wire.handler.answers = false;
  const std::int32_t id = wire.client.call("/s/m", "x");
  wire.exchange();
  wire.connection->output_blocked(true, wire.now);
  EXPECT_EQ(wire.connection->next_timeout(), wire.now + 30 * kSecond);
  wire.now += 10 * kSecond;
  wire.connection->output_progress(wire.now);
  EXPECT_EQ(wire.connection->next_timeout(), wire.now + 30 * kSecond);
  wire.connection->output_blocked(false, wire.now);
  EXPECT_EQ(wire.connection->next_timeout(), kNever);
  wire.connection->output_blocked(true, wire.now);
  wire.connection->on_timer(wire.now + 30 * kSecond);
  EXPECT_TRUE(wire.connection->wants_close());
  EXPECT_TRUE(wire.handler.calls[id].cancelled);
}

TEST(GrpcTime, AnAnswerLongAfterTheLastReadDoesNotStartStalled) {
  GrpcWire wire;
  wire.handler.answers = false;
  const std::int32_t id = wire.client.call("/s/m", "x");
  wire.exchange();
  wire.now += 500 * kSecond;
  wire::OutMessage out;
  out.own = "late";
  wire.connection->send(*wire.connection->find(id), out);
  wire.connection->on_timer(wire.now);
  EXPECT_FALSE(wire.connection->wants_close());
  wire.connection->finish(*wire.connection->find(id), Status());
  wire.exchange();
  EXPECT_EQ(wire.status(id), "0");
}

}  // namespace
}  // namespace headrace::testing
