// How calls are answered: messages, views, status, trailers, flow control of what goes out.
#include <gtest/gtest.h>

#include <cstring>

#include "grpc_wire.h"
#include "wire/grpc.h"

namespace headrace::testing {
namespace {

using wire::Call;
using wire::Message;
using wire::OutMessage;

TEST(GrpcAnswers, AnErrorAtOnceIsTrailersOnly) {
  GrpcWire wire;
  wire.handler.when_called = [&](Call& call) {
    wire.connection->finish(call, Status(Code::kUnimplemented, "no method \"/s/m\": 100%\n\xc3\xa9"),
                            {{"retry-after", "3"}, {"detail-bin", std::string("\0\xff", 2)}});
  };
  const std::int32_t id = wire.client.call("/s/m", "x");
  wire.exchange();
  const H2Client::Answer& answer = wire.answer(id);
  EXPECT_TRUE(answer.trailers.empty());
  EXPECT_EQ(answer.header(":status"), "200");
  EXPECT_EQ(answer.header("content-type"), "application/grpc");
  EXPECT_EQ(answer.header("grpc-status"), "12");
  EXPECT_EQ(answer.header("grpc-message"), "no method \"/s/m\": 100%25%0A%C3%A9");
  EXPECT_EQ(answer.header("retry-after"), "3");
  EXPECT_EQ(answer.header("detail-bin"), "AP8");
  EXPECT_TRUE(answer.closed);
}

TEST(GrpcAnswers, AnErrorAfterAMessageComesInTheTrailers) {
  GrpcWire wire;
  wire.handler.when_ended = [&](Call& call) {
    wire.connection->finish(call, Status(Code::kAborted, "half way"), {{"part", "2"}});
  };
  const std::int32_t id = wire.client.call("/s/m", "first");
  wire.exchange();
  EXPECT_EQ(wire.answer(id).messages(), std::vector<std::string>{"first"});
  EXPECT_EQ(wire.answer(id).trailer("grpc-status"), "10");
  EXPECT_EQ(wire.answer(id).trailer("grpc-message"), "half way");
  EXPECT_EQ(wire.answer(id).trailer("part"), "2");
}

TEST(GrpcAnswers, AnswersLaterThanTheRead) {
  GrpcWire wire;
  wire.handler.answers = false;
  const std::int32_t id = wire.client.call("/s/m", "x");
  wire.exchange();
  OutMessage message;
  for (const char* text : {"one", "two"}) {
    message.own = text;
    wire.connection->send(*wire.connection->find(id), message);
    wire.exchange();
  }
  EXPECT_EQ(wire.answer(id).messages(), (std::vector<std::string>{"one", "two"}));
  EXPECT_FALSE(wire.answer(id).ended);
  wire.connection->finish(*wire.connection->find(id), Status());
  EXPECT_EQ(wire.connection->find(id), nullptr);
  const std::size_t frames = wire.client.data_frames;
  wire.exchange();
  EXPECT_EQ(wire.status(id), "0");
  EXPECT_EQ(wire.client.data_frames, frames);  // no empty frame for the end
  EXPECT_TRUE(wire.answer(id).closed);
}

TEST(GrpcAnswers, ViewsGoOutAsTheyLie) {
  H2Client::Options options;
  options.window = 8 << 20;
  options.max_frame = 1 << 20;
  GrpcWire wire({}, options);
  constexpr std::size_t kSize = 300'000;
  const std::byte* address = nullptr;
  wire.handler.when_message = [&](Call& call, Message&) {
    OutMessage message;
    message.own = "headtail";
    Block block = std::move(wire.pool.allocate(kSize).value());
    std::memset(block.data(), 'v', kSize);
    address = block.data();
    message.views.push_back({4, {block.data(), kSize}, std::move(block)});
    wire.connection->send(call, message);
    EXPECT_EQ(message.size(), 0u);
    wire.connection->finish(call, Status());
  };
  wire.exchange();
  const std::int32_t id = wire.client.call("/s/m", "x");
  wire.receive(wire.client.take());
  EXPECT_EQ(wire.connection->output_waiting(), 5 + 8 + kSize);
  std::vector<wire::OutputChunk> chunks;
  wire.connection->take_output(chunks, 1 << 20, wire.now);
  EXPECT_EQ(wire.connection->output_waiting(), 0u);
  ASSERT_EQ(chunks.size(), 5u);  // what comes before, a frame of the view, a head, the rest of the view, what follows
  std::size_t viewed = 0;
  std::string all;
  for (const wire::OutputChunk& chunk : chunks) {
    all += text_of(chunk.bytes);
    if (!chunk.block) continue;
    EXPECT_EQ(chunk.bytes.data(), address + viewed);
    viewed += chunk.bytes.size();
  }
  EXPECT_GT(viewed, std::size_t{250'000});
  EXPECT_TRUE(wire.client.feed(all));
  chunks.clear();
  wire.exchange();
  EXPECT_EQ(wire.answer(id).messages(), std::vector<std::string>{"head" + std::string(kSize, 'v') + "tail"});
  EXPECT_EQ(wire.status(id), "0");
}

TEST(GrpcAnswers, TakeOutputStopsAtItsBudget) {
  H2Client::Options options;
  options.window = 8 << 20;
  options.max_frame = 1 << 20;
  GrpcWire wire({}, options);
  wire.handler.when_message = [&](Call& call, Message&) {
    OutMessage message;
    message.own = std::string(3'000'000, 'x');
    wire.connection->send(call, message);
    wire.connection->finish(call, Status());
  };
  wire.exchange();
  const std::int32_t id = wire.client.call("/s/m", "x");
  wire.receive(wire.client.take());
  std::string all;
  int turns = 0;
  for (;; ++turns) {
    std::vector<wire::OutputChunk> chunks;
    wire.connection->take_output(chunks, 100'000, wire.now);
    if (chunks.empty()) break;
    std::size_t size = 0;
    for (const wire::OutputChunk& chunk : chunks) {
      all += text_of(chunk.bytes);
      size += chunk.bytes.size();
    }
    EXPECT_LT(size, 100'000u + (256u << 10) + 64);
  }
  EXPECT_GE(turns, 11);
  EXPECT_TRUE(wire.client.feed(all));
  EXPECT_EQ(wire.answer(id).messages().at(0).size(), 3'000'000u);
}

TEST(GrpcAnswers, FlowControlHoldsBackOnlyItsStream) {
  H2Client::Options options;
  options.auto_window = false;
  GrpcWire wire({}, options);
  wire.handler.when_message = [&](Call& call, Message& message) {
    OutMessage out;
    out.own = std::string(message.bytes.size() == 1 ? 60'000 : 10, 'x');
    wire.connection->send(call, out);
    wire.connection->finish(call, Status());
  };
  const std::int32_t first = wire.client.call("/s/m", "L");
  const std::int32_t second = wire.client.call("/s/m", "L");  // the connection's 65,535 bytes end here
  wire.exchange();
  EXPECT_EQ(wire.status(first), "0");
  EXPECT_EQ(wire.status(second), "");
  EXPECT_GT(wire.connection->output_waiting(), 50'000u);
  wire.client.consume(first, 60'005);
  wire.exchange();
  EXPECT_EQ(wire.status(second), "0");
  EXPECT_EQ(wire.connection->output_waiting(), 0u);
}

TEST(GrpcAnswers, ASmallAnswerDoesNotWaitBehindALargeOne) {
  H2Client::Options options;
  options.window = 64 << 20;
  options.max_frame = 1 << 20;
  GrpcWire wire({}, options);
  wire.handler.when_message = [&](Call& call, Message& message) {
    OutMessage out;
    out.own = std::string(message.bytes.size() == 1 ? 20'000'000 : 10, 'x');
    wire.connection->send(call, out);
    wire.connection->finish(call, Status());
  };
  wire.exchange();
  const std::int32_t large = wire.client.call("/s/m", "L");
  const std::int32_t other = wire.client.call("/s/m", "L");
  const std::int32_t small = wire.client.call("/s/m", "small");
  wire.receive(wire.client.take());
  std::vector<wire::OutputChunk> chunks;
  for (int turn = 0; turn < 4; ++turn) {
    chunks.clear();
    wire.connection->take_output(chunks, 1 << 20, wire.now);
    for (const wire::OutputChunk& chunk : chunks) EXPECT_TRUE(wire.client.feed(text_of(chunk.bytes)));
  }
  EXPECT_EQ(wire.status(small), "0");
  EXPECT_FALSE(wire.answer(large).ended);
  EXPECT_GT(wire.answer(large).body.size(), 1'000'000u);
  EXPECT_GT(wire.answer(other).body.size(), 1'000'000u);
  wire.exchange();
  EXPECT_EQ(wire.status(large), "0");
  EXPECT_EQ(wire.status(other), "0");
}

TEST(GrpcAnswers, AResetStreamGivesItsOutputBack) {
  H2Client::Options options;
  options.auto_window = false;
  GrpcWire wire({}, options);
  wire.handler.when_message = [&](Call& call, Message&) {
    OutMessage out;
    Block block = std::move(wire.pool.allocate(1'000'000).value());
    std::memset(block.data(), 0, 1'000'000);
    out.views.push_back({0, {block.data(), 1'000'000}, std::move(block)});
    wire.connection->send(call, out);
    wire.connection->finish(call, Status());
  };
  const std::int32_t id = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_GT(wire.connection->output_waiting(), 900'000u);
  EXPECT_EQ(wire.pool.stats().blocks_in_use, 1u);
  wire.client.reset(id);
  wire.exchange();
  EXPECT_EQ(wire.connection->output_waiting(), 0u);
  EXPECT_EQ(wire.pool.stats().blocks_in_use, 0u);
}

TEST(GrpcAnswers, TrailersThatCannotBeSentAreNamed) {
  GrpcWire wire;
  std::vector<std::pair<wire::Metadata, std::string>> cases = {
      {{{"Upper", "x"}}, "'Upper'"},
      {{{"grpc-status", "0"}}, "'grpc-status'"},
      {{{"line", "a\nb"}}, "'line'"},
      {wire::Metadata(65, {"many", "x"}), "65 trailers"},
  };
  for (const auto& [trailers, named] : cases) {
    wire.handler.when_called = [&, sent = trailers](Call& call) { wire.connection->finish(call, Status(), sent); };
    const std::int32_t id = wire.client.call("/s/m", "x");
    wire.exchange();
    EXPECT_TRUE(wire.status(id).starts_with("13 ")) << wire.status(id);
    EXPECT_NE(wire.status(id).find(named), std::string::npos) << wire.status(id);
  }
}

TEST(GrpcAnswers, ALongStatusMessageIsCut) {
  GrpcWire wire;
  wire.handler.when_called = [&](Call& call) {
    wire.connection->finish(call, Status(Code::kInternal, std::string(100'000, 'x')));
  };
  const std::int32_t id = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.status(id), "13 " + std::string(4096, 'x'));
}

TEST(GrpcAnswers, ManyCallsInOneReadAreOneRunOfBytes) {
  GrpcWire wire;
  wire.exchange();
  for (int i = 0; i < 32; ++i) wire.client.call("/s/m", "hello");
  wire.receive(wire.client.take());
  std::vector<wire::OutputChunk> chunks;
  wire.connection->take_output(chunks, 1 << 20, wire.now);
  ASSERT_EQ(chunks.size(), 1u);
  // Three frames' heads, a prefix, the message, and header blocks of a few bytes.
  EXPECT_LT(chunks[0].bytes.size(), 32 * (3 * 9 + 5 + 5 + 4) + 64u);
}

TEST(GrpcAnswers, OverTheOutputCapNewCallsAreRefused) {
  H2Client::Options options;
  options.auto_window = false;
  wire::GrpcLimits limits;
  limits.max_output_bytes = 100'000;
  GrpcWire wire(limits, options);
  wire.handler.when_message = [&](Call& call, Message&) {
    OutMessage out;
    out.own = std::string(200'000, 'x');  // one answer may be larger than the cap
    wire.connection->send(call, out);
    wire.connection->finish(call, Status());
  };
  const std::int32_t first = wire.client.call("/s/m", "x");
  wire.exchange();
  const std::int32_t second = wire.client.call("/s/m", "x");
  wire.client.ping();
  wire.exchange();
  EXPECT_TRUE(wire.status(second).starts_with("8 ")) << wire.status(second);
  EXPECT_NE(wire.status(second).find("100000 (--max-output-bytes)"), std::string::npos) << wire.status(second);
  EXPECT_EQ(wire.handler.calls.count(second), 0u);
  EXPECT_EQ(wire.client.ping_acks, 1);  // frames are read on
  while (!wire.answer(first).ended) {
    wire.client.consume(first, 30'000);
    wire.exchange();
  }
  const std::int32_t third = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.handler.calls.count(third), 1u);
}

}  // namespace
}  // namespace headrace::testing
