// generate and generate_stream of models that answer a request any number of times.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "front/http_connection.h"
#include "parts_fixture.h"

namespace headrace::testing {
namespace {

class HttpEventsTest : public PartsTest {
 protected:
  void open(const std::string& more = "answers rows") {
    start_parts(more);
    id_ = loop_->connect_http(1, "127.0.0.1:1");
  }
  HttpConnection& http() { return *loop_->find_http(id_); }

  std::string json(const Values& values, const std::string& more = "") const {
    std::string data;
    for (const std::int32_t value : values) {
      for (int i = 0; i < columns_; ++i) data += (data.empty() ? "" : ",") + std::to_string(value);
    }
    return R"({"inputs":[{"name":"x","datatype":"INT32","shape":[)" + std::to_string(values.size()) + "," +
           std::to_string(columns_) + R"(],"data":[)" + data + "]}]" + more + "}";
  }
  void ask(std::uint32_t exchange, const Values& values, HttpForm form = HttpForm::kEvents, Nanos timeout = kNever) {
    HttpInfer infer;
    infer.exchange = exchange;
    infer.model = "m";
    infer.form = form;
    infer.timeout = timeout;
    http().infer(infer, as_bytes(json(values)));
  }
  HttpAnswer answer() {
    std::vector<HttpAnswer> all;
    drain_until([&] {
      for (HttpAnswer& each : http().take_answers()) all.push_back(std::move(each));
      return !all.empty();
    });
    EXPECT_EQ(all.size(), 1U);
    return std::move(all.front());
  }
  // What is there; true: that was all.
  bool take(std::uint32_t exchange, std::vector<std::string>& events, std::size_t most = 1 << 20) {
    std::vector<AnswerPiece> pieces;
    Status status;
    const bool end = http().take_pieces(exchange, most, pieces, status);
    EXPECT_TRUE(status.ok());
    for (const auto& [piece, room] : pieces) {
      EXPECT_TRUE(piece.views.empty());
      EXPECT_TRUE(piece.own.starts_with("data: ") && piece.own.ends_with("\n\n")) << piece.own;
      events.push_back(piece.own.substr(6, piece.own.size() - 8));
    }
    return end;
  }
  std::vector<std::string> rest(std::uint32_t exchange) {
    std::vector<std::string> events;
    drain_until([&] { return take(exchange, events); });
    return events;
  }
  static std::string event(std::int32_t value) {
    return R"({"model_name":"m","model_version":"3","y":)" + std::to_string(value) + "}";
  }
  static std::vector<std::string> events(const Values& values) {
    std::vector<std::string> all;
    for (const std::int32_t value : values) all.push_back(event(value));
    return all;
  }
  bool idle() { return engine_->snapshot().tickets == 0 && engine_->snapshot().lanes_busy == 0; }

  std::uint64_t id_ = 0;
};

TEST_F(HttpEventsTest, EachAnswerIsAnEvent) {
  open();
  ask(3, {5, 6, 7});
  const HttpAnswer begun = answer();
  EXPECT_TRUE(begun.in_pieces);
  EXPECT_EQ(begun.exchange, 3U);
  EXPECT_EQ(rest(3), events({5, 6, 7}));
  EXPECT_EQ(http().open_calls(), 0U);
  EXPECT_EQ(http().bits(), 0U);
}

TEST_F(HttpEventsTest, TheAccessLogHasOneLineForAll) {
  loop_options_.access_log = true;
  open();
  ask(1, {5, 6});
  EXPECT_TRUE(answer().in_pieces);
  EXPECT_EQ(rest(1).size(), 2U);
  ask(2, {5, -1});
  EXPECT_TRUE(answer().in_pieces);
  EXPECT_EQ(rest(2).size(), 2U);
  ask(3, {-1});
  answer();
  ask(4, {5, 6}, HttpForm::kGenerate);
  answer();
  ask(5, {5, -2});
  EXPECT_TRUE(answer().in_pieces);
  loop_->disconnect(id_);
  drain_until([&] { return idle(); });
  const std::vector<AccessEntry> log = loop_->take_access_log(10).first;
  ASSERT_EQ(log.size(), 5U);
  EXPECT_EQ(log[0].path, "/v2/models/m/generate_stream");
  EXPECT_EQ(log[0].response_bytes, 2 * (event(5).size() + 8));
  EXPECT_EQ(log[3].path, "/v2/models/m/generate");
  std::vector<Code> codes;
  for (const AccessEntry& each : log) codes.push_back(each.code);
  EXPECT_EQ(codes,
            (std::vector<Code>{Code::kOk, Code::kInternal, Code::kInternal, Code::kInvalidArgument, Code::kCancelled}));
}

TEST_F(HttpEventsTest, ThereMayBeNoAnswerAtAll) {
  max_batch_size_ = 0;
  open();
  ask(4, {});
  EXPECT_TRUE(answer().in_pieces);
  EXPECT_EQ(rest(4), events({}));
  ask(5, {}, HttpForm::kGenerate);
  const HttpAnswer refused = answer();
  EXPECT_EQ(refused.status.code(), Code::kInvalidArgument);
  EXPECT_NE(refused.status.message().find("exactly 1 response"), std::string::npos) << refused.status.to_string();
}

TEST_F(HttpEventsTest, TheLastAnswerMayBeTheEnd) {
  open("answers rows last");
  ask(1, {5, 6});
  EXPECT_TRUE(answer().in_pieces);
  EXPECT_EQ(rest(1), events({5, 6}));
}

TEST_F(HttpEventsTest, GenerateHasExactlyOneAnswer) {
  for (const std::string more : {"answers rows", "answers rows last"}) {
    open(more);
    ask(1, {5}, HttpForm::kGenerate);
    const HttpAnswer one = answer();
    ASSERT_TRUE(one.status.ok()) << one.status.to_string();
    EXPECT_EQ(one.body.own, event(5));
    for (const Values& values : {Values{5, 6}, count(5000)}) {
      ask(2, values, HttpForm::kGenerate);
      const HttpAnswer refused = answer();
      EXPECT_EQ(refused.status.code(), Code::kInvalidArgument);
      EXPECT_NE(refused.status.message().find("exactly 1 response"), std::string::npos) << refused.status.to_string();
    }
    drain_until([&] { return idle(); });
    EXPECT_EQ(http().open_calls(), 0U);
    TearDown();
  }
}

TEST_F(HttpEventsTest, OtherCallsOfOneAnswerAreRefused) {
  open();
  for (const HttpForm form : {HttpForm::kInfer, HttpForm::kPredict}) {
    HttpInfer infer;
    infer.exchange = 1;
    infer.model = "m";
    infer.form = form;
    http().infer(infer, as_bytes(form == HttpForm::kInfer ? json({5}) : R"({"instances":[[5]]})"));
    EXPECT_EQ(answer().status.code(), Code::kUnimplemented);
  }
}

TEST_F(HttpEventsTest, AnErrorIsAnAnswerOfItsOwnOrTheLastEvent) {
  open();
  ask(1, {-1, 5});
  const HttpAnswer failed = answer();
  EXPECT_FALSE(failed.in_pieces);
  EXPECT_EQ(failed.status.code(), Code::kInternal);
  ask(2, {5, -1, 6});
  EXPECT_TRUE(answer().in_pieces);
  const std::vector<std::string> said = rest(2);
  ASSERT_EQ(said.size(), 2U);
  EXPECT_EQ(said[0], event(5));
  EXPECT_TRUE(said[1].starts_with(R"({"error":")")) << said[1];
  ask(3, {-1}, HttpForm::kGenerate);
  EXPECT_EQ(answer().status.code(), Code::kInternal);
}

// The reader takes nothing: the lane goes to others, and what waits has a bound.
TEST_F(HttpEventsTest, NoLaneWaitsForAReader) {
  loop_options_.grpc.max_output_bytes = 16 << 10;
  open();
  ask(1, count(20000));
  EXPECT_TRUE(answer().in_pieces);
  const std::size_t share = loop_options_.grpc.max_output_bytes / InferStream::kOutputShare;
  const std::size_t most = share + 2 * kPartCredit * event(20000).size();
  drain_until([&] { return http().output_waiting() > share && engine_->snapshot().lanes_busy == 0; });
  EXPECT_LE(http().output_waiting(), most);
  ask(2, {3}, HttpForm::kGenerate);
  EXPECT_EQ(answer().body.own, event(3));
  EXPECT_LE(http().output_waiting(), most);
  // Those behind it, whose turn has not come, have the connection's bound.
  for (std::uint32_t i = 10; i < 26; ++i) ask(i, count(2000));
  drain_until([&] { return http().output_waiting() > 4 * share && engine_->snapshot().lanes_busy == 0; });
  EXPECT_LE(http().output_waiting(), 5 * share + 17 * 2 * kPartCredit * event(20000).size());
  EXPECT_EQ(rest(1), events(count(20000)));
  for (std::uint32_t i = 10; i < 12; ++i) EXPECT_EQ(rest(i), events(count(2000)));
  loop_->disconnect(id_);
  drain_until([&] { return idle(); });
}

TEST_F(HttpEventsTest, CancelledAtAnyPoint) {
  loop_options_.grpc.max_output_bytes = 16 << 10;
  open();
  ask(1, count(20000));
  EXPECT_TRUE(answer().in_pieces);
  EXPECT_NE(http().cancel_stream(1, {Code::kUnavailable, "no more"}), 0U);
  EXPECT_EQ(rest(1).back(), R"({"error":"no more"})");
  ask(2, {-2, 5});
  ask(3, {5, -2});
  drain_until([&] { return engine_->snapshot().lanes_busy == 1; });
  http().abort_calls({Code::kUnavailable, "shutting down"});
  for (const HttpAnswer& each : http().take_answers()) EXPECT_EQ(each.status.code(), Code::kUnavailable);
  drain_until([&] { return idle(); });
  ask(4, {5, -2});
  EXPECT_TRUE(answer().in_pieces);
  http().abort_calls({Code::kUnavailable, "shutting down"});
  EXPECT_EQ(rest(4), (std::vector<std::string>{event(5), R"({"error":"shutting down"})"}));
  ask(5, {5, -2});
  EXPECT_TRUE(answer().in_pieces);
  loop_->disconnect(id_);
  drain_until([&] { return idle(); });
}

TEST_F(HttpEventsTest, ADeadlineHolds) {
  open();
  ask(1, {5, -2}, HttpForm::kEvents, 50 * kMillisecond);
  EXPECT_TRUE(answer().in_pieces);
  std::vector<std::string> said;
  clock_.advance(kSecond);
  drain_until([&] { return take(1, said); });
  ASSERT_EQ(said.size(), 2U);
  EXPECT_EQ(said[0], event(5));
  EXPECT_NE(said[1].find("deadline"), std::string::npos) << said[1];
  drain_until([&] { return idle(); });
}

// Large events are a worker's, one at a time, and keep their order; their text counts against the pool.
TEST_F(HttpEventsTest, LargeEventsAreWrittenByAWorker) {
  columns_ = 200'000;
  open();
  const Values values = {1'234'567'890, 1'234'567'891, 1'234'567'892};
  ask(1, values);
  EXPECT_TRUE(answer().in_pieces);
  std::vector<AnswerPiece> all;
  drain_until([&] {
    std::vector<AnswerPiece> pieces;
    Status status;
    const bool end = http().take_pieces(1, 1, pieces, status);
    for (AnswerPiece& piece : pieces) all.push_back(std::move(piece));
    return end;
  });
  ASSERT_EQ(all.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NE(all[i].message.own.find(":[" + std::to_string(values[i])), std::string::npos);
    EXPECT_GE(all[i].room.charged(), all[i].message.own.size());
  }
  all.clear();
  ask(2, values);
  EXPECT_TRUE(answer().in_pieces);
  http().cancel_stream(2, {Code::kCancelled, "enough"});
  EXPECT_EQ(rest(2).back(), R"({"error":"enough"})");
  ask(3, values);
  loop_->disconnect(id_);
  drain_until([&] { return idle(); });
}

}  // namespace
}  // namespace headrace::testing
