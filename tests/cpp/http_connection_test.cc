#include "front/http_connection.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "front_fixture.h"
#include "wire/deflate.h"

namespace headrace::testing {
namespace {

class HttpConnectionTest : public FrontTest {
 protected:
  void open() {
    start();
    id_ = loop_->connect_http(1, "127.0.0.1:1");
  }
  HttpConnection& http() {
    HttpConnection* found = loop_->find_http(id_);
    HEADRACE_CHECK(found != nullptr);
    return *found;
  }
  static std::string json(const Values& values, const std::string& more = "") {
    std::string data;
    for (const std::int32_t value : values) data += (data.empty() ? "" : ",") + std::to_string(value);
    return R"({"inputs":[{"name":"x","datatype":"INT32","shape":[)" + std::to_string(values.size()) +
           R"(,1],"data":[)" + data + "]}]" + more + "}";
  }
  static std::string binary_json(std::size_t rows) {
    return R"({"inputs":[{"name":"x","datatype":"INT32","shape":[)" + std::to_string(rows) +
           R"(,1],"parameters":{"binary_data_size":)" + std::to_string(rows * 4) +
           R"(}}],"outputs":[{"name":"y","parameters":{"binary_data":true}}]})";
  }
  static std::string raw(const Values& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(std::int32_t)};
  }
  static std::string request(const std::string& body, const std::string& headers = "") {
    return "POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + headers +
           "\r\n" + body;
  }
  static HttpInfer asked(std::uint32_t exchange, std::size_t json_bytes = HttpDecoder::kAllJson) {
    HttpInfer infer;
    infer.exchange = exchange;
    infer.model = "m";
    infer.json_bytes = json_bytes;
    return infer;
  }
  // One read, and the end of the turn.
  HttpConnection::Received receive(std::span<const std::byte> bytes, std::uint32_t next, std::size_t room) {
    const HttpConnection::Received got = http().receive(bytes, next, room);
    loop_->flush();
    return got;
  }
  // Waits for `count` answers.
  std::vector<HttpAnswer> answers(std::size_t count) {
    std::vector<HttpAnswer> all;
    drain_until([&] {
      for (HttpAnswer& answer : http().take_answers()) all.push_back(std::move(answer));
      return all.size() >= count;
    });
    EXPECT_EQ(all.size(), count);
    return all;
  }
  HttpAnswer answer() { return std::move(answers(1).front()); }
  static std::string body_of(const HttpAnswer& answer) {
    std::string body;
    std::size_t at = 0;
    for (const auto& view : answer.body.views) {
      body += answer.body.own.substr(at, view.offset - at);
      body.append(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size());
      at = view.offset;
    }
    return body + answer.body.own.substr(at);
  }

  std::uint64_t id_ = 0;
};

TEST_F(HttpConnectionTest, JsonInJsonOut) {
  open();
  const std::string body = json({1, 2}, R"(,"id":"q")");
  http().infer(asked(7), as_bytes(body));
  const HttpAnswer done = answer();
  EXPECT_EQ(done.exchange, 7U);
  ASSERT_TRUE(done.status.ok()) << done.status.to_string();
  const std::string said = body_of(done);
  EXPECT_NE(said.find(R"("id":"q")"), std::string::npos) << said;
  EXPECT_NE(said.find(R"("data":[2,4])"), std::string::npos) << said;
  EXPECT_EQ(done.head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " +
                           std::to_string(said.size()) + "\r\n\r\n");
  EXPECT_EQ(http().open_calls(), 0U);
}

TEST_F(HttpConnectionTest, BinaryInBinaryOutInOneReadAndByteByByte) {
  open();
  const Values values{1, 2, 3};
  const std::string head = binary_json(3);
  const std::string text =
      request(head + raw(values), "Inference-Header-Content-Length: " + std::to_string(head.size()) + "\r\n");
  const std::size_t head_end = text.find("\r\n\r\n") + 4;
  for (const std::size_t first : {text.size(), head_end, head_end + 1, text.size() - 1}) {
    const auto got = receive(as_bytes(std::string_view(text).substr(0, first)), 9, 10);
    EXPECT_EQ(got.started, 1U);
    EXPECT_EQ(got.left, 0U);
    EXPECT_EQ(http().receiving_since() == kNever, first == text.size());
    for (std::size_t at = first; at < text.size(); ++at) {
      const auto more = receive(as_bytes(std::string_view(text).substr(at, 1)), 10, 10);
      EXPECT_EQ(more.started + more.left, 0U);
    }
    const HttpAnswer done = answer();
    EXPECT_EQ(done.exchange, 9U);
    ASSERT_TRUE(done.status.ok()) << done.status.to_string();
    const std::string said = body_of(done);
    EXPECT_EQ(said.substr(said.size() - 12), raw({2, 4, 6}));
    EXPECT_NE(done.head.find("Inference-Header-Content-Length: " + std::to_string(said.size() - 12)),
              std::string::npos);
    EXPECT_NE(done.head.find("application/octet-stream"), std::string::npos);
  }
}

TEST_F(HttpConnectionTest, ManyInOneReadAndWhatIsNotPlainIsLeft) {
  open();
  const std::string one = request(json({5}));
  const std::string other = "GET /v2 HTTP/1.1\r\n\r\n";
  auto got = receive(as_bytes(one + one + other), 0, 10);
  EXPECT_EQ(got.started, 2U);
  EXPECT_EQ(got.left, other.size());
  got = receive(as_bytes(one + one + one), 2, 2);
  EXPECT_EQ(got.started, 2U) << "no room for more";
  EXPECT_EQ(got.left, one.size());
  std::vector<bool> seen(4);
  for (const HttpAnswer& done : answers(4)) seen[done.exchange] = done.status.ok();
  EXPECT_EQ(seen, std::vector<bool>(4, true));
}

// A head that comes again is compared, so one that only begins like it, or ends otherwise, must not be taken for it.
TEST_F(HttpConnectionTest, AHeadThatComesAgain) {
  open();
  std::uint32_t next = 0;
  const auto one = [&](const std::string& text, Code code) {
    const auto got = receive(as_bytes(text), next, 1);
    ASSERT_EQ(got.started, 1U) << text;
    EXPECT_EQ(got.left, 0U);
    const HttpAnswer done = answer();
    EXPECT_EQ(done.exchange, next++);
    EXPECT_EQ(done.status.code(), code) << text;
  };
  const std::string plain = request(json({5}));
  std::string elsewhere = plain;
  elsewhere.replace(elsewhere.find("/models/") + 8, 1, "n");
  const std::string longer = request(json({5, 6, 7}), "Some: thing\r\n");
  for (int i = 0; i < 3; ++i) {
    for (int again = 0; again < 3; ++again) one(plain, Code::kOk);
    for (int again = 0; again < 3; ++again) one(longer, Code::kOk);
    for (int again = 0; again < 3; ++again) one(elsewhere, Code::kNotFound);
    const std::size_t head = plain.find("\r\n\r\n");
    for (std::size_t cut : {std::size_t{1}, head, head + 3}) {
      one(plain, Code::kOk);
      EXPECT_EQ(receive(as_bytes(std::string_view(plain).substr(0, cut)), next, 1).left, cut) << "not whole";
    }
  }
}

// What stands in front of binary outputs is compared with what was written before, instead of written.
TEST_F(HttpConnectionTest, AnAnswerThatComesAgain) {
  open();
  std::uint32_t next = 0;
  const auto one = [&](const Values& values, const std::string& more, const std::string& headers) {
    const std::string json = binary_json(values.size()).substr(0, binary_json(values.size()).size() - 1) + more + "}";
    receive(as_bytes(request(json + raw(values),
                             "Inference-Header-Content-Length: " + std::to_string(json.size()) + "\r\n" + headers)),
            next++, 1);
    HttpAnswer done = answer();
    EXPECT_TRUE(done.status.ok()) << done.status.to_string();
    return done;
  };
  for (int again = 0; again < 3; ++again) {
    for (const std::size_t rows : {std::size_t{1}, std::size_t{3}, std::size_t{2}, std::size_t{60}}) {
      for (const std::string more : {"", R"(,"id":"q")"}) {
        for (const std::string headers : {"", "Accept-Encoding: gzip\r\n"}) {
          Values values(rows, again + 1);
          Values doubled(rows, 2 * (again + 1));
          const HttpAnswer done = one(values, more, headers);
          const std::string said = body_of(done);
          EXPECT_NE(done.head.find("Content-Length: " + std::to_string(said.size()) + "\r\n\r\n"), std::string::npos);
          const std::size_t json_bytes = said.size() - rows * 4;
          EXPECT_EQ(said.substr(json_bytes), raw(doubled));
          EXPECT_NE(done.head.find("Inference-Header-Content-Length: " + std::to_string(json_bytes)),
                    std::string::npos);
          const std::string id = more.empty() ? "" : R"("id":"q",)";
          EXPECT_EQ(said.substr(0, json_bytes), R"({"model_name":"m","model_version":"3",)" + id +
                                                    R"("outputs":[{"name":"y","datatype":"INT32","shape":[)" +
                                                    std::to_string(rows) + R"(,1],"parameters":{"binary_data_size":)" +
                                                    std::to_string(rows * 4) + "}}]}");
        }
      }
    }
  }
}

TEST_F(HttpConnectionTest, TheRawForm) {
  open();
  http().infer(asked(1, 0), as_bytes(raw({21})));
  const HttpAnswer done = answer();
  ASSERT_TRUE(done.status.ok()) << done.status.to_string();
  const std::string said = body_of(done);
  EXPECT_NE(said.find(raw({42})), std::string::npos);
}

TEST_F(HttpConnectionTest, RefusalsAreStatusesAtOnce) {
  open();
  HttpInfer unknown = asked(1);
  unknown.model = "n";
  EXPECT_EQ(http().infer(unknown, as_bytes(json({1}))), static_cast<unsigned>(kHasOutput));
  http().infer(asked(2), as_bytes("{"));
  http().infer(asked(3), as_bytes(R"({"inputs":[{"name":"x","datatype":"INT32","shape":[2,1],"data":[1]}]})"));
  http().infer(asked(4, 100), as_bytes("{}"));
  const std::vector<HttpAnswer> refused = http().take_answers();
  ASSERT_EQ(refused.size(), 4U);
  EXPECT_EQ(refused[0].status.code(), Code::kNotFound);
  for (int i = 1; i < 4; ++i) EXPECT_EQ(refused[static_cast<std::size_t>(i)].status.code(), Code::kInvalidArgument);
  EXPECT_EQ(http().bits(), 0U);
  EXPECT_EQ(engine_->budget().charged(), 0U);
}

// The body of the request before, which had an id, is gone by then.
TEST_F(HttpConnectionTest, WhatIsRefusedUnreadIsLoggedWithoutAnId) {
  loop_options_.access_log = true;
  open();
  HttpInfer unknown = asked(3, 0);
  unknown.model = "n";
  for (const HttpInfer& unread : {asked(2, 100), unknown}) {
    http().infer(asked(1), as_bytes(json({1}, R"(,"id":"the first")")));
    EXPECT_TRUE(answer().status.ok());
    http().infer(unread, as_bytes("{}"));
    EXPECT_FALSE(answer().status.ok());
    const auto [entries, dropped] = loop_->take_access_log(10);
    ASSERT_EQ(entries.size(), 2U);
    EXPECT_EQ(entries[0].request_id, "the first");
    EXPECT_EQ(entries[1].request_id, "");
    EXPECT_EQ(dropped, 0U);
  }
}

TEST_F(HttpConnectionTest, ALargeBodyAndALargeAnswerAreTheWorkers) {
  loop_options_.measure_steps = true;
  start(200'000);
  id_ = loop_->connect_http(1, "");
  Values values(100'000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int32_t>(i);
  const std::string body = json(values);
  ASSERT_TRUE(http().begin_body(body.size(), 0, wire::Encoding::kIdentity, 0).ok());
  ASSERT_TRUE(http().append_body(as_bytes(body)).ok());
  http().infer(asked(1));
  const HttpAnswer done = answer();
  ASSERT_TRUE(done.status.ok()) << done.status.to_string();
  EXPECT_NE(body_of(done).find("199996,199998]"), std::string::npos);
}

TEST_F(HttpConnectionTest, CompressedBothWays) {
  start(200'000);
  id_ = loop_->connect_http(1, "");
  for (const std::size_t rows : {std::size_t{400}, std::size_t{20'000}}) {
    wire::OutMessage message;
    message.own = json(Values(rows, 12345));
    const std::size_t plain = message.own.size();
    ASSERT_TRUE(wire::deflate(wire::Encoding::kGzip, message).ok());
    ASSERT_TRUE(http().begin_body(wire::BodyIntake::kUnknown, 0, wire::Encoding::kGzip, 0).ok());
    ASSERT_TRUE(http().append_body(as_bytes(message.own)).ok());
    HttpInfer infer = asked(1);
    infer.accepts = wire::Encoding::kDeflate;
    http().infer(infer);
    const HttpAnswer done = answer();
    ASSERT_TRUE(done.status.ok()) << done.status.to_string();
    EXPECT_NE(done.head.find("Content-Encoding: deflate\r\n"), std::string::npos);
    EXPECT_LT(body_of(done).size(), plain / 4);
  }
}

TEST_F(HttpConnectionTest, ABombIsStoppedAtTheLimit) {
  loop_options_.grpc.max_message_bytes = 10'000;
  open();
  for (const auto& [text, http_status, code] : {std::tuple(std::string(1'000'000, ' '), 413, Code::kOutOfRange),
                                                std::tuple(std::string("{}"), 0, Code::kInvalidArgument)}) {
    wire::OutMessage message;
    message.own = text;
    ASSERT_TRUE(wire::deflate(wire::Encoding::kGzip, message).ok());
    if (http_status == 0) message.own.resize(message.own.size() / 2);
    ASSERT_TRUE(http().begin_body(message.own.size(), 0, wire::Encoding::kGzip, 0).ok());
    ASSERT_TRUE(http().append_body(as_bytes(message.own)).ok());
    http().infer(asked(1));
    const HttpAnswer done = answer();
    EXPECT_EQ(done.http, http_status);
    EXPECT_EQ(done.status.code(), code) << done.status.to_string();
  }
}

TEST_F(HttpConnectionTest, NoRoomForABodyLeavesTheConnectionInStep) {
  loop_options_.grpc.max_inflight_bytes = 1000;
  open();
  const std::string large = request(std::string(2000, ' '));
  const std::string small = request(json({4}));
  const auto got = receive(as_bytes(large.substr(0, 500)), 0, 10);
  EXPECT_EQ(got.started, 1U);
  EXPECT_EQ(http().take_answers().front().status.code(), Code::kResourceExhausted);
  const auto rest = receive(as_bytes(large.substr(500) + small), 1, 10);
  EXPECT_EQ(rest.started, 1U);
  EXPECT_EQ(rest.left, 0U);
  EXPECT_TRUE(answer().status.ok());
  EXPECT_EQ(receive(as_bytes(large), 2, 10).started, 1U) << "refused at first sight";
  EXPECT_EQ(http().take_answers().front().status.code(), Code::kResourceExhausted);
}

TEST_F(HttpConnectionTest, AConnectionThatIsGoneCancelsWhatItAsked) {
  open();
  trial_.hold();
  http().infer(asked(1), as_bytes(json({1})));
  trial_.await_inside(1);
  http().infer(asked(2), as_bytes(json({2})));
  trial_.await_inside(2);
  ASSERT_TRUE(http().begin_body(1'000'000, 0, wire::Encoding::kIdentity, 0).ok());
  ASSERT_TRUE(http().append_body(as_bytes("half")).ok());
  loop_->disconnect(id_);
  EXPECT_EQ(loop_->find_http(id_), nullptr);
  drain_until([&] { return engine_->snapshot().tickets == 0 && trial_.interrupted() == 2; });
  id_ = loop_->connect_http(2, "");
  EXPECT_TRUE(http().take_answers().empty());
}

TEST_F(HttpConnectionTest, ADeadline) {
  open();
  trial_.hold();
  HttpInfer infer = asked(1);
  infer.timeout = kSecond;
  http().infer(infer, as_bytes(json({1})));
  trial_.await_inside(1);
  clock_.advance(2 * kSecond);
  EXPECT_EQ(answer().status.code(), Code::kDeadlineExceeded);
}

TEST_F(HttpConnectionTest, AbortAnswersWhatIsOpen) {
  open();
  trial_.hold();
  http().infer(asked(1), as_bytes(json({1})));
  trial_.await_inside(1);
  EXPECT_EQ(http().open_calls(), 1U);
  EXPECT_EQ(http().abort_calls({Code::kUnavailable, "over"}), static_cast<unsigned>(kHasOutput));
  EXPECT_EQ(http().take_answers().front().status.to_string(), "UNAVAILABLE: over");
}

TEST_F(HttpConnectionTest, ARunThatFailsIsInternal) {
  trial_.fail_on(13);
  open();
  http().infer(asked(1), as_bytes(json({13})));
  EXPECT_EQ(answer().status.code(), Code::kInternal);
}

TEST_F(HttpConnectionTest, TheOwnersHeadersAndFlatAnswers) {
  open();
  HttpInfer infer = asked(1);
  infer.headers = "X-A: b\r\n";
  http().infer(infer, as_bytes(json({1})));
  EXPECT_TRUE(answer().head.ends_with("X-A: b\r\n\r\n"));
  infer.form = HttpForm::kGenerate;
  http().infer(infer, as_bytes(json({1}, R"(,"id":"q","parameters":{"binary_data_output":true})")));
  HttpAnswer flat = answer();
  EXPECT_NE(flat.head.find("Content-Type: application/json\r\n"), std::string::npos) << flat.head;
  EXPECT_EQ(body_of(flat), R"({"model_name":"m","model_version":"3","id":"q","y":2,"z":-1})");
  infer.form = HttpForm::kEvents;
  http().infer(infer, as_bytes(json({1, 2})));
  flat = answer();
  EXPECT_NE(flat.head.find("Content-Type: text/event-stream"), std::string::npos) << flat.head;
  EXPECT_EQ(body_of(flat), "data: {\"model_name\":\"m\",\"model_version\":\"3\",\"y\":[2,4],\"z\":[-1,-2]}\n\n");
}

TEST_F(HttpConnectionTest, TensorFlowServingsForm) {
  start(200'000);
  id_ = loop_->connect_http(1, "");
  HttpInfer infer = asked(1);
  infer.form = HttpForm::kPredict;
  http().infer(infer, as_bytes(R"({"instances":[[1],[2]]})"));
  const HttpAnswer rows = answer();
  ASSERT_TRUE(rows.status.ok()) << rows.status.to_string();
  EXPECT_EQ(body_of(rows).rfind(R"({"predictions":)", 0), 0U) << body_of(rows);
  http().infer(infer, as_bytes(R"({"inputs":[[3]]})"));
  EXPECT_EQ(body_of(answer()).rfind(R"({"outputs":)", 0), 0U);
  http().infer(infer, as_bytes(R"({"instances":[]})"));
  EXPECT_EQ(answer().status.code(), Code::kInvalidArgument);
  infer.model = "n";
  http().infer(infer, as_bytes(R"({"instances":[[1]]})"));
  EXPECT_EQ(answer().status.code(), Code::kNotFound);
  infer.model = "m";
  std::string large = R"({"instances":[)";
  for (int i = 0; i < 100'000; ++i) large += (i == 0 ? "[" : ",[") + std::to_string(i) + "]";
  http().infer(infer, as_bytes(large + "]}"));
  const HttpAnswer done = answer();
  ASSERT_TRUE(done.status.ok()) << done.status.to_string();
  EXPECT_NE(body_of(done).find("199998"), std::string::npos);
}

TEST_F(HttpConnectionTest, ABodyForTheOwner) {
  open();
  ASSERT_TRUE(http().begin_body(wire::BodyIntake::kUnknown, 0, wire::Encoding::kIdentity, 0).ok());
  ASSERT_TRUE(http().append_body(as_bytes("what it ")).ok());
  ASSERT_TRUE(http().append_body(as_bytes("says")).ok());
  EXPECT_EQ(http().take_body(), "what it says");
}

TEST_F(HttpConnectionTest, TheAccessLogHasALineForEach) {
  loop_options_.access_log = true;
  open();
  http().infer(asked(1), as_bytes(json({1, 2}, R"(,"id":"q")")));
  answer();
  http().infer(asked(2), as_bytes("{"));
  http().take_answers();
  const auto [entries, dropped] = loop_->take_access_log(10);
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].path, "/v2/models/m/infer");
  EXPECT_EQ(entries[0].request_id, "q");
  EXPECT_EQ(entries[0].version, "3");
  EXPECT_EQ(entries[0].rows, 2);
  EXPECT_GT(entries[0].response_bytes, 0U);
  EXPECT_EQ(entries[1].code, Code::kInvalidArgument);
  EXPECT_EQ(dropped, 0U);
}

TEST_F(HttpConnectionTest, HeadersBecomeParametersAndTheLogTellsThem) {
  loop_options_.access_log = true;
  loop_options_.http_headers = [](std::string_view name) { return name == "headrace_timing" || name == "priority"; };
  loop_options_.grpc_headers = [](std::string_view name) { return name == "x-web"; };
  open();
  const auto timed = [&] { return body_of(answer()).find("headrace_batch_size") != std::string::npos; };
  receive(as_bytes(request(json({5}), "Headrace_Timing: true\r\nX-Web: 1\r\n")), 0, 1);
  EXPECT_TRUE(timed()) << "a plain head";
  receive(as_bytes(request(json({5}, R"(,"parameters":{"headrace_timing":false})"), "headrace_timing: true\r\n")), 1,
          1);
  EXPECT_FALSE(timed()) << "what the request says counts";
  HttpInfer given = asked(2);
  given.request_headers = {{"HEADRACE_TIMING", "true"}, {"x-web", "1"}};
  http().infer(given, as_bytes(json({5})));
  EXPECT_TRUE(timed()) << "the owner's way";
  given.exchange = 3;
  http().infer(given, as_bytes(json({5}, R"(,"pad":")" + std::string(300'000, 'a') + "\"")));
  EXPECT_TRUE(timed()) << "decoded by the worker";
  receive(as_bytes(request(json({5}), "priority: high\r\n")), 4, 1);
  const HttpAnswer refused = answer();
  EXPECT_EQ(refused.status.code(), Code::kInvalidArgument);
  EXPECT_EQ(refused.status.message().substr(0, 18), "header 'priority' ");
  const auto [entries, dropped] = loop_->take_access_log(10);
  ASSERT_EQ(entries.size(), 5U);
  for (const std::size_t i : {0U, 2U, 3U}) {
    EXPECT_EQ(entries[i].headers, (wire::Metadata{{"headrace_timing", "true"}})) << i;
  }
  EXPECT_EQ(entries[4].headers, (wire::Metadata{{"priority", "high"}}));
}

TEST_F(HttpConnectionTest, TooManyNewNamesInOneReadAreLeftToTheOwnerAndRefused) {
  loop_options_.grpc.max_header_bytes = 1 << 20;
  loop_options_.http_headers = [](std::string_view) { return false; };
  open();
  HttpInfer given = asked(0);
  std::string lines;
  for (std::size_t i = 0; i <= HeaderForward::kMaxAsked; ++i) {
    lines += "X-" + std::to_string(i) + ": 1\r\n";
    given.request_headers.emplace_back("Y-" + std::to_string(i), "1");
  }
  const std::string text = request(json({5}), lines);
  const auto got = receive(as_bytes(text), 0, 1);
  EXPECT_EQ(got.started, 0U);
  EXPECT_EQ(got.left, text.size());
  http().infer(given, as_bytes(json({5})));
  EXPECT_EQ(answer().status.code(), Code::kResourceExhausted);
  const std::string body = json({5});
  ASSERT_TRUE(http().begin_body(body.size(), 0, wire::Encoding::kIdentity, body.size()).ok());
  ASSERT_TRUE(http().append_body(as_bytes(body)).ok());
  for (auto& [name, value] : given.request_headers) name = "Z" + name;
  http().infer(given);
  EXPECT_EQ(answer().status.code(), Code::kResourceExhausted);
  EXPECT_EQ(engine_->budget().charged(), 0U);
}

}  // namespace
}  // namespace headrace::testing
