#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "front/http_connection.h"
#include "stream_fixture.h"

namespace headrace::testing {
namespace {

// A ModelStreamInfer in a body, answered in pieces.
class HttpStreamsTest : public InferStreamTest {
 protected:
  void open_http() {
    start(512);
    id_ = loop_->connect_http(1, "127.0.0.1:1");
  }
  HttpConnection& http() { return *loop_->find_http(id_); }

  struct Said {
    std::vector<StreamAnswer> answers;
    bool end = false;
    Status status;
  };
  static std::string message(const Values& values, const std::string& id = {}) {
    return InferText{.id = id, .outputs = {"y"}}(values);
  }
  static void read(const std::vector<AnswerPiece>& pieces, Said& said) {
    for (const auto& [piece, room] : pieces) {
      std::string bytes;
      std::size_t at = 0;
      for (const auto& view : piece.views) {
        bytes += piece.own.substr(at, view.offset - at);
        bytes.append(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size());
        at = view.offset;
      }
      bytes += piece.own.substr(at);
      ASSERT_GE(bytes.size(), 5U);
      EXPECT_EQ(bytes, grpc_frame(bytes.substr(5))) << "one message in its frame";
      said.answers.emplace_back(bytes.substr(5));
    }
  }
  void take(std::uint32_t exchange, Said& said, std::size_t most = 1 << 20) {
    std::vector<AnswerPiece> pieces;
    said.end = http().take_pieces(exchange, most, pieces, said.status);
    read(pieces, said);
  }
  // All that comes until the end.
  Said rest(std::uint32_t exchange) {
    Said said;
    drain_until([&] {
      take(exchange, said);
      return said.end;
    });
    return said;
  }

  std::uint64_t id_ = 0;
};

TEST_F(HttpStreamsTest, EachFrameIsAnsweredAndThenComesTheEnd) {
  open_http();
  std::string body;
  for (int i = 0; i < 5; ++i) body += grpc_frame(message({i}));
  ASSERT_TRUE(http().infer_stream(3, as_bytes(body), {}).ok());
  const Said said = rest(3);
  ASSERT_EQ(said.answers.size(), 5U);
  EXPECT_TRUE(said.status.ok());
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(said.answers[static_cast<std::size_t>(i)].response.outputs, std::vector<Values>{{2 * i}});
    EXPECT_EQ(said.answers[static_cast<std::size_t>(i)].response.parameters, kFinal);
  }
  EXPECT_EQ(http().open_calls(), 0U);
  EXPECT_EQ(http().bits(), 0U);
}

TEST_F(HttpStreamsTest, ABadRequestEndsNothingAndABadFrameDoes) {
  open_http();
  const std::string good = grpc_frame(message({4}));
  ASSERT_TRUE(http().infer_stream(1, as_bytes(good + grpc_frame("\xff\xff") + good), {}).ok());
  Said said = rest(1);
  ASSERT_EQ(said.answers.size(), 3U);
  EXPECT_NE(said.answers[1].error, "");
  EXPECT_EQ(said.answers[2].response.outputs, std::vector<Values>{{8}});
  EXPECT_TRUE(said.status.ok());

  const std::vector<std::pair<std::string, Code>> ends = {
      {good.substr(0, good.size() - 1), Code::kInvalidArgument},
      {std::string(3, '\0'), Code::kInvalidArgument},
      {std::string("\1\0\0\0\1x", 6), Code::kUnimplemented},
      {std::string("\x80\0\0\0\1x", 6), Code::kInvalidArgument},
      {std::string("\0\xff\xff\xff\xff", 5), Code::kResourceExhausted}};
  std::uint32_t exchange = 2;
  for (const auto& [end, code] : ends) {
    ASSERT_TRUE(http().infer_stream(exchange, as_bytes(good + end), {}).ok());
    said = rest(exchange++);
    ASSERT_EQ(said.answers.size(), 1U) << "what came before it is answered";
    EXPECT_EQ(said.answers[0].response.outputs, std::vector<Values>{{8}});
    EXPECT_EQ(said.status.code(), code) << said.status.to_string();
  }
  ASSERT_TRUE(http().infer_stream(99, {}, {}).ok());
  EXPECT_TRUE(rest(99).status.ok()) << "no request at all";
}

// What is not taken is held against the stream: it reads no further.
TEST_F(HttpStreamsTest, AReaderThatDoesNotReadCostsABoundedAmount) {
  loop_options_.grpc.max_output_bytes = 64 << 10;
  open_http();
  constexpr std::size_t kMessages = 2000;
  const Values values(256);
  std::string body;
  for (std::size_t i = 0; i < kMessages; ++i) body += grpc_frame(message(values));
  ASSERT_TRUE(http().infer_stream(1, as_bytes(body), {}).ok());
  const std::size_t share = loop_options_.grpc.max_output_bytes / InferStream::kOutputShare;
  drain_until([&] { return engine_->snapshot().tickets == 0 && http().output_waiting() > share / 2; });
  const std::uint64_t answered = model_->counters.read().success.count;
  const std::size_t waiting = http().output_waiting();
  EXPECT_LE(waiting, share + 2048);
  EXPECT_LT(answered, kMessages);
  const Said said = rest(1);
  EXPECT_EQ(said.answers.size(), kMessages);
  EXPECT_TRUE(said.status.ok());
}

TEST_F(HttpStreamsTest, ACancelledStreamEndsBehindWhatIsThere) {
  hold_ones();
  open_http();
  const std::string one = grpc_frame(message({2}, "a"));
  const std::string held = grpc_frame(message({1}, "b"));
  ASSERT_TRUE(http().infer_stream(1, as_bytes(one), {}).ok());
  EXPECT_EQ(rest(1).answers.size(), 1U);
  ASSERT_TRUE(http().infer_stream(2, as_bytes(held), {}).ok());
  EXPECT_NE(http().cancel_stream(2, {Code::kDeadlineExceeded, "late"}) & kHasOutput, 0U);
  Said said;
  take(2, said);
  EXPECT_TRUE(said.end) << "at once, while its run goes on";
  EXPECT_EQ(said.status.code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(said.answers.empty());
  gate_.open();
  drain_until([&] { return http().open_calls() == 0; });

  // And of one whose connection ends nothing is left.
  ASSERT_TRUE(http().infer_stream(3, as_bytes(one + one), {}).ok());
  loop_->disconnect(id_);
}

}  // namespace
}  // namespace headrace::testing
