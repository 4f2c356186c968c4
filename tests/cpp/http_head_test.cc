#include "wire/http_head.h"

#include <gtest/gtest.h>

#include <string>

namespace headrace::wire {
namespace {

constexpr std::size_t kRoom = 1 << 16;
const std::string kLine = "POST /v2/models/m/infer HTTP/1.1\r\n";

std::string with(const std::string& headers) { return kLine + "Content-Length: 5\r\n" + headers + "\r\n"; }

TEST(HttpHead, ThePlainCase) {
  PlainInfer head;
  const std::string text =
      "POST /v2/models/add_sub-1.x/versions/12/infer HTTP/1.1\r\nHost: a:1\r\nUser-Agent: x/1 (y; \"z\")\r\n"
      "content-LENGTH:7 \r\nInference-Header-Content-Length:\t3\r\nX-Any: \r\nConnection: Keep-Alive\r\n\r\n";
  const std::string sent = text + "1234567";  // what `head` has views of
  ASSERT_TRUE(read_plain_infer(sent, kRoom, head));
  EXPECT_EQ(head.model, "add_sub-1.x");
  EXPECT_EQ(head.version, "12");
  EXPECT_EQ(head.head_bytes, text.size());
  EXPECT_EQ(head.body_bytes, 7U);
  EXPECT_EQ(head.json_bytes, 3U);
  EXPECT_EQ(head.accepts, Encoding::kIdentity);
}

TEST(HttpHead, WithoutAVersionOrALengthOfJson) {
  PlainInfer head;
  const std::string sent = with("");
  ASSERT_TRUE(read_plain_infer(sent, kRoom, head));
  EXPECT_EQ(head.model, "m");
  EXPECT_EQ(head.version, "");
  EXPECT_EQ(head.json_bytes, PlainInfer::kNone);
}

TEST(HttpHead, WhatIsNotWholeIsLeft) {
  PlainInfer head;
  const std::string text = with("Host: b\r\n");
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(read_plain_infer(std::string_view(text).substr(0, size), kRoom, head)) << size;
  }
  EXPECT_TRUE(read_plain_infer(text, text.size(), head));
  EXPECT_FALSE(read_plain_infer(text, text.size() - 1, head)) << "over the bound of a header block";
}

TEST(HttpHead, Accepted) {
  PlainInfer head;
  const auto accepts = [&](const std::string& value) {
    EXPECT_TRUE(read_plain_infer(with("Accept-Encoding: " + value + "\r\n"), kRoom, head)) << value;
    return head.accepts;
  };
  EXPECT_EQ(accepts("gzip"), Encoding::kGzip);
  EXPECT_EQ(accepts("deflate, GZIP , br"), Encoding::kGzip);
  EXPECT_EQ(accepts("br,deflate"), Encoding::kDeflate);
  EXPECT_EQ(accepts("x-gzip"), Encoding::kGzip);
  EXPECT_EQ(accepts("br,\tgzip\t,identity"), Encoding::kGzip);
  EXPECT_EQ(accepts("identity"), Encoding::kIdentity);
  EXPECT_EQ(accepts(""), Encoding::kIdentity);
}

TEST(HttpHead, WhatIsNotPlainIsForTheParser) {
  PlainInfer head;
  for (const char* headers : {"Transfer-Encoding: chunked\r\n",
                              "Expect: 100-continue\r\n",
                              "Connection: close\r\n",
                              "Connection: keep-alive, Upgrade\r\n",
                              "Upgrade: h2c\r\n",
                              "Content-Encoding: gzip\r\n",
                              "Origin: http://a\r\n",
                              "grpc-timeout: 1S\r\n",
                              "TE: trailers\r\n",
                              "Trailer: a\r\n",
                              "Proxy-Connection: close\r\n",
                              "Content-Length: 5\r\n",
                              "Accept-Encoding: gzip;q=0\r\n",
                              "Accept-Encoding: *\r\n",
                              "Accept-Encoding: gzip\r\nAccept-Encoding: gzip\r\n",
                              "Inference-Header-Content-Length: -1\r\n",
                              "Inference-Header-Content-Length: \r\n",
                              "Inference-Header-Content-Length: 1\r\nInference-Header-Content-Length: 1\r\n",
                              "Inference-Header-Content-Length: 1234567890123456\r\n",
                              " folded: x\r\n",
                              "no colon\r\n",
                              ": no name\r\n",
                              "bad name: x\r\n",
                              "a: x\n",
                              "a: x\ry\r\n",
                              "a: \x01\r\n",
                              "a: \x7f\r\n",
                              "a: \xff\r\n",
                              "a : x\r\n"}) {
    EXPECT_FALSE(read_plain_infer(with(headers), kRoom, head)) << headers;
  }
  EXPECT_FALSE(read_plain_infer(with(std::string("a: \0b\r\n", 7)), kRoom, head));
  EXPECT_FALSE(read_plain_infer(kLine + "Host: a\r\n\r\n", kRoom, head)) << "no length";
}

TEST(HttpHead, AnotherRequestLineIsForTheParser) {
  PlainInfer head;
  for (const char* line : {"GET /v2/models/m/infer HTTP/1.1\r\n", "POST /v2/models/m/infer HTTP/1.0\r\n",
                           "POST /v2/models/m/infer  HTTP/1.1\r\n", "POST /v2/models/m/infer?a HTTP/1.1\r\n",
                           "POST /v2/models/m%20/infer HTTP/1.1\r\n", "POST /v2/models//infer HTTP/1.1\r\n",
                           "POST /v2/models/m/versions//infer HTTP/1.1\r\n", "POST /v2/models/m/ready HTTP/1.1\r\n",
                           "POST /v2/models/m/infer/ HTTP/1.1\r\n", "POST /v2/models/m/infer HTTP/1.1\n",
                           "post /v2/models/m/infer HTTP/1.1\r\n"}) {
    EXPECT_FALSE(read_plain_infer(std::string(line) + "Content-Length: 5\r\n\r\n", kRoom, head)) << line;
  }
}

TEST(HttpHead, TheFieldsOfAHead) {
  PlainInfer head;
  const std::string sent = with("X-Any:  a: b\t\r\nx-empty:\r\nX-Space: \t \r\n") + "body: 1";
  ASSERT_TRUE(read_plain_infer(sent, kRoom, head));
  HeadFields fields(std::string_view(sent).substr(0, head.head_bytes));
  std::string seen;
  while (fields.next()) seen += std::string(fields.name()) + "=" + std::string(fields.value()) + ";";
  EXPECT_EQ(seen, "Content-Length=5;X-Any=a: b;x-empty=;X-Space=;");
  EXPECT_FALSE(fields.next());
}

}  // namespace
}  // namespace headrace::wire
