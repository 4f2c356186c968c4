#include "front/http_answer.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "front/http_connection.h"
#include "front_fixture.h"

namespace headrace::testing {
namespace {

class HttpAnswerTest : public FrontTest {};

// Long text counts against the pool's cap until it has been written out, and what does not fit is refused.
TEST_F(HttpAnswerTest, LongJsonCountsAgainstThePool) {
  engine_options_.pool.cap = std::size_t{16} << 20;
  start(1 << 20);
  const std::uint64_t id = loop_->connect_http(1, "127.0.0.1:1");
  HttpConnection& http = *loop_->find_http(id);
  std::string body;
  const Values values(100000, -123456789);
  for (const std::int32_t value : values) body += (body.empty() ? "" : ",") + std::to_string(value);
  body = R"({"inputs":[{"name":"x","datatype":"INT32","shape":[100000,1],"data":[)" + body + "]}]}";
  const auto ask = [&](std::uint32_t exchange) {
    HttpInfer infer;
    infer.exchange = exchange;
    infer.model = "m";
    http.infer(std::move(infer), as_bytes(body));
    std::vector<HttpAnswer> answers;
    drain_until([&] {
      answers = http.take_answers();
      return !answers.empty();
    });
    return std::move(answers.front());
  };
  {
    const HttpAnswer done = ask(1);
    ASSERT_TRUE(done.status.ok()) << done.status.to_string();
    EXPECT_GT(done.body.own.size(), 1000000U);
    drain_until([&] { return engine_->snapshot().tickets == 0; });
    const std::size_t counted = engine_->pool().stats().bytes_in_use;
    EXPECT_GE(counted, done.body.own.capacity());
    EXPECT_LE(counted, done.body.own.capacity() + (std::size_t{1} << 20)) << "and the tensors are gone";
  }
  EXPECT_EQ(engine_->pool().stats().bytes_in_use, 0U);

  std::vector<HttpAnswer> held;
  Status status;
  for (std::uint32_t i = 0; status.ok(); ++i) {
    ASSERT_LT(i, 20U) << "the cap is reached before";
    held.push_back(ask(2 + i));
    status = held.back().status;
  }
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_NE(status.message().find("--pool-bytes"), std::string::npos) << status.to_string();
  held.clear();
  EXPECT_TRUE(ask(99).status.ok());
}

}  // namespace
}  // namespace headrace::testing
