#include "wire/grpc.h"

#include <gtest/gtest.h>

#include <random>

#include "grpc_wire.h"

namespace headrace::testing {
namespace {

using wire::Call;
using wire::Encoding;
using wire::GrpcLimits;
using wire::Message;

using Texts = std::vector<std::string>;

Fields with(Fields fields, const std::string& name, const std::string& value) {
  for (auto& field : fields) {
    if (field.first == name) {
      field.second = value;
      return fields;
    }
  }
  fields.emplace_back(name, value);
  return fields;
}
Fields without(Fields fields, const std::string& name) {
  std::erase_if(fields, [&](const auto& field) { return field.first == name; });
  return fields;
}

TEST(Grpc, AnswersAUnaryCall) {
  GrpcWire wire;
  const std::int32_t id = wire.client.call("/a.B/C", "hello");
  wire.exchange();
  EXPECT_EQ(wire.handler.calls[id].path, "/a.B/C");
  EXPECT_EQ(wire.answer(id).header(":status"), "200");
  EXPECT_EQ(wire.answer(id).header("content-type"), "application/grpc");
  EXPECT_EQ(wire.answer(id).messages(), Texts{"hello"});
  EXPECT_EQ(wire.status(id), "0");
  EXPECT_TRUE(wire.answer(id).closed);
  EXPECT_EQ(wire.answer(id).reset, 0u);
  EXPECT_EQ(wire.connection->open_calls(), 0u);
  EXPECT_EQ(wire.connection->output_waiting(), 0u);
  EXPECT_EQ(wire.connection->inflight_bytes(), 0u);
  EXPECT_EQ(wire.connection->counters().calls, 1u);
  EXPECT_EQ(wire.connection->counters().messages, 1u);
}

TEST(Grpc, HandsOnMetadataAndDeadline) {
  GrpcWire wire;
  const std::int32_t id = wire.client.call(
      "/a.B/C", "x", {{"grpc-timeout", "250m"}, {"x-id", "7"}, {"trace-bin", "Zm9v"}, {"grpc-encoding", "identity"}});
  Nanos received = 0;
  wire.handler.when_called = [&](Call& call) { received = call.received; };
  wire.exchange();
  EXPECT_EQ(wire.handler.calls[id].metadata, (wire::Metadata{{"x-id", "7"}, {"trace-bin", "foo"}}));
  EXPECT_EQ(wire.handler.calls[id].deadline, wire.now + 250 * kMillisecond);
  EXPECT_EQ(received, wire.now);
}

TEST(Grpc, AStreamOfMessagesBothWays) {
  GrpcWire wire;
  const std::int32_t id = wire.client.open("/s/m");
  wire.exchange();
  wire.client.write(id, grpc_frame("one") + grpc_frame("") + grpc_frame("three").substr(0, 7));
  wire.exchange();
  EXPECT_EQ(wire.handler.calls[id].messages, (Texts{"one", ""}));
  EXPECT_EQ(wire.answer(id).messages(), (Texts{"one", ""}));
  EXPECT_FALSE(wire.answer(id).ended);
  wire.client.write(id, grpc_frame("three").substr(7), true);
  wire.exchange();
  EXPECT_EQ(wire.answer(id).messages(), (Texts{"one", "", "three"}));
  EXPECT_EQ(wire.status(id), "0");
}

TEST(Grpc, RequestTrailersEndTheRequest) {
  GrpcWire wire;
  const std::int32_t id = wire.client.open("/s/m");
  wire.client.write(id, grpc_frame("body"));
  wire.client.trailers(id, {{"x-checksum", "1"}});
  wire.exchange();
  EXPECT_TRUE(wire.handler.calls[id].ended);
  EXPECT_TRUE(wire.handler.calls[id].metadata.empty());
  EXPECT_EQ(wire.status(id), "0");
}

TEST(Grpc, ARequestWithNoMessageEnds) {
  GrpcWire wire;
  const std::int32_t id = wire.client.request(H2Client::grpc_headers("/s/m"), "", true);
  wire.exchange();
  EXPECT_TRUE(wire.handler.calls[id].ended);
  EXPECT_EQ(wire.answer(id).messages(), Texts{});
  EXPECT_EQ(wire.answer(id).header(":status"), "200");
  EXPECT_EQ(wire.status(id), "0");
}

TEST(Grpc, WhatIsNotGrpcGetsAnHttpStatus) {
  GrpcWire wire;
  const Fields good = H2Client::grpc_headers("/s/m");
  const std::int32_t json = wire.client.request(with(good, "content-type", "application/json"), "{}");
  const std::int32_t none = wire.client.request(without(good, "content-type"), "{}");
  const std::int32_t get = wire.client.request(with(good, ":method", "GET"), "");
  const std::int32_t te = wire.client.request(without(good, "te"), grpc_frame("x"));
  wire.exchange();
  EXPECT_EQ(wire.answer(json).header(":status"), "415");
  EXPECT_EQ(wire.answer(none).header(":status"), "415");
  EXPECT_EQ(wire.answer(get).header(":status"), "405");
  EXPECT_EQ(wire.answer(get).header("allow"), "POST");
  EXPECT_EQ(wire.answer(te).header(":status"), "400");
  EXPECT_TRUE(wire.status(te).starts_with("13 the header 'te: trailers' is missing")) << wire.status(te);
  for (const std::int32_t id : {json, none, get, te}) EXPECT_TRUE(wire.answer(id).closed);
  EXPECT_TRUE(wire.handler.calls.empty());
}

TEST(Grpc, RefusesWhatItCannotRead) {
  GrpcWire wire;
  const std::int32_t timeout = wire.client.call("/s/m", "x", {{"grpc-timeout", "1h"}});
  const std::int32_t late = wire.client.call("/s/m", "x", {{"grpc-timeout", "0m"}});
  const std::int32_t encoding = wire.client.call("/s/m", "x", {{"grpc-encoding", "br"}});
  const std::int32_t binary = wire.client.call("/s/m", "x", {{"a-bin", "?"}});
  wire.exchange();
  EXPECT_TRUE(wire.status(timeout).starts_with("13 grpc-timeout '1h'")) << wire.status(timeout);
  EXPECT_TRUE(wire.status(late).starts_with("4 ")) << wire.status(late);
  EXPECT_TRUE(wire.status(encoding).starts_with("12 grpc-encoding 'br'")) << wire.status(encoding);
  EXPECT_EQ(wire.answer(encoding).header("grpc-accept-encoding"), "identity,deflate,gzip");
  EXPECT_TRUE(wire.status(binary).starts_with("13 the value of the header 'a-bin'")) << wire.status(binary);
  EXPECT_TRUE(wire.handler.calls.empty());
  const std::int32_t good = wire.client.call("/s/m", "x");
  wire.exchange();
  EXPECT_EQ(wire.status(good), "0");
}

TEST(Grpc, CompressedMessagesAreHandedOnAsTheyAre) {
  GrpcWire wire;
  std::vector<Encoding> encodings;
  wire.handler.when_message = [&](Call& call, Message& message) {
    encodings.push_back(message.encoding);
    if (encodings.size() % 2 == 0) wire.connection->finish(call, Status());
  };
  const auto both = grpc_frame("zipped", true) + grpc_frame("plain");
  Fields headers = H2Client::grpc_headers("/s/m");
  wire.client.request(with(headers, "grpc-encoding", "gzip"), both);
  wire.client.request(with(headers, "grpc-encoding", "deflate"), both);
  wire.exchange();
  EXPECT_EQ(encodings, (std::vector{Encoding::kGzip, Encoding::kIdentity, Encoding::kDeflate, Encoding::kIdentity}));
}

TEST(Grpc, MalformedMessagesAreInternal) {
  GrpcWire wire;
  const Fields headers = H2Client::grpc_headers("/s/m");
  const std::int32_t flagged = wire.client.request(headers, grpc_frame("x", true));
  std::string odd = grpc_frame("x");
  odd[0] = 2;
  const std::int32_t flag = wire.client.request(headers, odd);
  const std::int32_t cut = wire.client.request(headers, grpc_frame("hello").substr(0, 8));
  const std::int32_t prefix = wire.client.request(headers, grpc_frame("hello").substr(0, 3));
  wire.exchange();
  EXPECT_TRUE(wire.status(flagged).starts_with("13 a message is flagged as compressed")) << wire.status(flagged);
  EXPECT_TRUE(wire.status(flag).starts_with("13 a message's compressed flag is 2")) << wire.status(flag);
  EXPECT_EQ(wire.status(cut), "13 the request ended in the middle of a message");
  EXPECT_EQ(wire.status(prefix), "13 the request ended in the middle of a message");
  for (const std::int32_t id : {flagged, flag, cut, prefix}) {
    EXPECT_TRUE(wire.handler.calls[id].cancelled);
    EXPECT_EQ(wire.handler.calls[id].reason, Code::kInternal);
  }
}

TEST(Grpc, AResetCancelsTheCall) {
  GrpcWire wire;
  const std::int32_t id = wire.client.open("/s/m");
  wire.client.write(id, grpc_frame("hello").substr(0, 8));
  wire.exchange();
  EXPECT_NE(wire.connection->find(id), nullptr);
  wire.handler.when_cancelled = [&](Call& call, Code) { EXPECT_EQ(wire.connection->find(call.stream_id), nullptr); };
  wire.client.reset(id);
  wire.exchange();
  EXPECT_TRUE(wire.handler.calls[id].cancelled);
  EXPECT_EQ(wire.handler.calls[id].reason, Code::kCancelled);
  EXPECT_EQ(wire.connection->find(id), nullptr);
  EXPECT_EQ(wire.connection->inflight_bytes(), 0u);
  EXPECT_EQ(wire.connection->counters().resets_received, 1u);
}

TEST(Grpc, FinishInTheMiddleOfTheRequestDropsTheRest) {
  GrpcWire wire;
  const std::int32_t id = wire.client.open("/s/m");
  wire.handler.when_message = [&](Call& call, Message&) {
    wire.connection->finish(call, Status(Code::kNotFound, "no such model"));
  };
  wire.client.write(id, grpc_frame("one") + grpc_frame("two"));
  wire.exchange();
  EXPECT_EQ(wire.handler.calls[id].messages, Texts{"one"});
  EXPECT_FALSE(wire.handler.calls[id].cancelled);
  EXPECT_EQ(wire.status(id), "5 no such model");
  EXPECT_TRUE(wire.answer(id).closed);  // by RST_STREAM(NO_ERROR)
  EXPECT_EQ(wire.answer(id).reset, 0u);
}

TEST(Grpc, TheEndOfTheConnectionCancelsAll) {
  GrpcWire wire;
  wire.handler.answers = false;
  const std::int32_t whole = wire.client.call("/s/m", "x");
  const std::int32_t half = wire.client.open("/s/m");
  wire.client.write(half, grpc_frame(std::string(100'000, 'x')).substr(0, 60'000));
  wire.exchange();
  EXPECT_EQ(wire.connection->open_calls(), 2u);
  EXPECT_GT(wire.connection->inflight_bytes(), 60'000u);
  wire.connection->receive_eof(wire.now);
  EXPECT_TRUE(wire.handler.calls[whole].cancelled);
  EXPECT_TRUE(wire.handler.calls[half].cancelled);
  EXPECT_EQ(wire.connection->inflight_bytes(), 0u);
  EXPECT_EQ(wire.pool.stats().blocks_in_use, 0u);
  EXPECT_TRUE(wire.connection->wants_close());
  EXPECT_EQ(wire.connection->next_timeout(), kNever);
}

// A lane that has come to the end of a batch would else start the next oldest, only to be told to stop.
TEST(Grpc, TheNewestCallIsCancelledFirst) {
  GrpcWire wire;
  wire.handler.answers = false;
  const std::int32_t gone = wire.client.call("/s/m", "x");
  std::vector<std::int32_t> newest_first;
  for (int i = 0; i < 3; ++i) newest_first.insert(newest_first.begin(), wire.client.call("/s/m", "x"));
  wire.exchange();
  wire.connection->finish(*wire.connection->find(gone), Status());
  wire.exchange();
  newest_first.insert(newest_first.begin(), wire.client.call("/s/m", "x"));  // in the place of the first
  wire.exchange();
  EXPECT_EQ(wire.connection->open_streams(), newest_first);
  std::vector<std::int32_t> cancelled;
  wire.handler.when_cancelled = [&](wire::Call& call, Code) { cancelled.push_back(call.stream_id); };
  wire.connection->receive_eof(wire.now);
  EXPECT_EQ(cancelled, newest_first);
}

TEST(Grpc, TheDestructorCancelsAll) {
  GrpcWire wire;
  wire.handler.answers = false;
  const std::int32_t id = wire.client.open("/s/m");
  wire.client.write(id, grpc_frame(std::string(1'000'000, 'x')).substr(0, 60'000));
  wire.exchange();
  wire.connection.reset();
  EXPECT_TRUE(wire.handler.calls[id].cancelled);
}

// What a client sends in one conversation: many kinds of calls, and one that is reset.
struct Recording {
  std::string bytes;
  Recording() {
    H2Client client;
    std::mt19937 random(3);
    std::int32_t reset = 0;
    for (int i = 0; i < 12; ++i) {
      std::string body;
      for (auto messages = random() % 4; messages > 0; --messages) {
        const std::size_t size = random() % 5 == 0 ? random() % 3000 : random() % 20;
        body += grpc_frame(std::string(size, static_cast<char>('a' + i)));
      }
      Fields headers = H2Client::grpc_headers("/s/m" + std::to_string(i));
      if (i % 3 == 0) headers.emplace_back("x-bin", "Zm9v");
      if (i == 5) headers = with(headers, "content-type", "text/plain");
      if (i == 7) body += "xx";
      client.request(headers, body);
      if (i == 8) reset = client.open("/s/reset");
      if (i == 9) client.reset(reset);
      if (i == 10) client.ping();
      bytes += client.take();
    }
  }
};

struct Outcome {
  std::map<std::int32_t, EchoHandler::Seen> calls;
  std::map<std::int32_t, std::string> answers;
  bool operator==(const Outcome&) const = default;
};

Outcome outcome_of(GrpcWire& wire) {
  Outcome out{wire.handler.calls, {}};
  for (std::int32_t id = 1; id < 40; id += 2) {
    std::string& text = out.answers[id];
    text = wire.answer(id).header(":status") + "|" + wire.status(id) + "|";
    for (const std::string& message : wire.answer(id).messages()) text += message + ",";
  }
  return out;
}

// Feeds the recording in pieces of the given sizes; answers are taken after each piece.
template <class NextSize>
Outcome outcome_in_pieces(const std::string& bytes, NextSize next) {
  GrpcWire wire;
  wire.client.take();
  std::string down;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t size = std::min<std::size_t>(next(), bytes.size() - at);
    wire.receive(std::string_view(bytes).substr(at, size));
    at += size;
    down += wire.output();
  }
  // A client that has opened the same streams reads the answers.
  for (int i = 0; i < 20; ++i) wire.client.request(H2Client::grpc_headers("/"), "");
  wire.client.take();
  EXPECT_TRUE(wire.client.feed(down));
  return outcome_of(wire);
}

TEST(Grpc, ByteAtATimeIsTheSame) {
  const Recording recording;
  const Outcome whole = outcome_in_pieces(recording.bytes, [&] { return recording.bytes.size(); });
  EXPECT_EQ(whole.calls.size(), 12u);  // 13 streams, one of them not gRPC
  EXPECT_EQ(outcome_in_pieces(recording.bytes, [] { return std::size_t{1}; }), whole);
}

TEST(Grpc, CutAtEachPositionIsTheSame) {
  const Recording recording;
  const Outcome whole = outcome_in_pieces(recording.bytes, [&] { return recording.bytes.size(); });
  for (std::size_t cut = 1; cut < recording.bytes.size(); ++cut) {
    bool first = true;
    ASSERT_EQ(
        outcome_in_pieces(recording.bytes, [&] { return std::exchange(first, false) ? cut : recording.bytes.size(); }),
        whole)
        << cut;
  }
}

TEST(Grpc, RandomCutsAreTheSame) {
  const Recording recording;
  const Outcome whole = outcome_in_pieces(recording.bytes, [&] { return recording.bytes.size(); });
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    ASSERT_EQ(outcome_in_pieces(recording.bytes, [&] { return 1 + random() % (1U << (seed % 12)); }), whole) << seed;
  }
}

}  // namespace
}  // namespace headrace::testing
