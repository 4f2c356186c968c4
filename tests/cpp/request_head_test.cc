#include "wire/request_head.h"

#include <gtest/gtest.h>

namespace headrace::wire {
namespace {

struct Head {
  RequestHead head;
  std::string path;
  Metadata metadata;
  void add(std::string_view name, std::string_view value) { head.add(name, value, path, metadata); }
  void good() {
    add(":method", "POST");
    add(":path", "/s/m");
    add("te", "trailers");
    add("content-type", "application/grpc");
  }
};

TEST(RequestHead, KeepsWhatIsTheCallersOwn) {
  Head h;
  h.good();
  h.add(":scheme", "http");
  h.add(":authority", "host");
  h.add("content-length", "7");
  h.add("grpc-accept-encoding", "gzip");
  h.add("grpc-message-type", "x.Y");
  h.add("user-agent", "test");
  h.add("x-id", "1");
  h.add("x-id", "2");
  EXPECT_FALSE(h.head.refusal().has_value());
  EXPECT_EQ(h.path, "/s/m");
  EXPECT_EQ(h.metadata, (Metadata{{"user-agent", "test"}, {"x-id", "1"}, {"x-id", "2"}}));
}

TEST(RequestHead, DecodesBinaryFields) {
  Head h;
  h.good();
  h.add("a-bin", "Zm9v");
  h.add("b-bin", "Zg==,Zg,");
  EXPECT_EQ(h.metadata, (Metadata{{"a-bin", "foo"}, {"b-bin", "f"}, {"b-bin", "f"}, {"b-bin", ""}}));
  EXPECT_FALSE(h.head.refusal().has_value());
  h.add("c-bin", "!");
  const auto refusal = h.head.refusal();
  ASSERT_TRUE(refusal.has_value());
  EXPECT_EQ(refusal->http_status, 200);
  EXPECT_EQ(refusal->status.code(), Code::kInternal);
  EXPECT_NE(refusal->status.message().find("'c-bin'"), std::string::npos);
}

TEST(RequestHead, ReadsEncodingAndTimeout) {
  Head h;
  h.good();
  EXPECT_EQ(h.head.encoding(), Encoding::kIdentity);
  EXPECT_EQ(h.head.timeout(), kNever);
  h.add("grpc-encoding", "gzip");
  h.add("grpc-timeout", "20m");
  EXPECT_EQ(h.head.encoding(), Encoding::kGzip);
  EXPECT_EQ(h.head.timeout(), 20 * kMillisecond);
  h.head.reset(h.metadata);
  h.good();
  EXPECT_EQ(h.head.encoding(), Encoding::kIdentity);
  EXPECT_EQ(h.head.timeout(), kNever);
  h.add("grpc-encoding", "deflate");
  EXPECT_EQ(h.head.encoding(), Encoding::kDeflate);
}

TEST(RequestHead, RefusesWhatIsNotGrpc) {
  Head get;
  get.good();
  get.add(":method", "GET");
  EXPECT_EQ(get.head.refusal()->http_status, 405);
  Head json;
  json.good();
  json.add("content-type", "application/json");
  EXPECT_EQ(json.head.refusal()->http_status, 415);
  Head te;
  te.add(":method", "POST");
  te.add("content-type", "application/grpc");
  EXPECT_EQ(te.head.refusal()->http_status, 400);
  EXPECT_EQ(te.head.refusal()->status.code(), Code::kInternal);
}

TEST(RequestHead, NamesWhatItCannotRead) {
  Head timeout;
  timeout.good();
  timeout.add("grpc-timeout", "soon");
  EXPECT_NE(timeout.head.refusal()->status.message().find("'soon'"), std::string::npos);
  Head encoding;
  encoding.good();
  encoding.add("grpc-encoding", "zstd");
  EXPECT_EQ(encoding.head.refusal()->status.code(), Code::kUnimplemented);
  EXPECT_TRUE(encoding.head.refusal()->name_encodings);
  EXPECT_NE(encoding.head.refusal()->status.message().find("'zstd'"), std::string::npos);
}

TEST(RequestHead, AnEmptyValueIsNoneThatItKnows) {
  Head h;
  h.good();
  h.add("grpc-timeout", "");
  EXPECT_EQ(h.head.refusal()->status.code(), Code::kInternal);
  h.head.reset(h.metadata);
  h.good();
  h.add("grpc-encoding", "");
  EXPECT_EQ(h.head.refusal()->status.code(), Code::kUnimplemented);
  h.head.reset(h.metadata);
  h.good();
  EXPECT_FALSE(h.head.refusal());
}

TEST(RequestHead, UsesTheMemoryOfTheLastRequest) {
  Head h;
  h.good();
  const std::string value(100, 'v');
  h.add("x-long", value);
  const char* const memory = h.metadata[0].second.data();
  h.head.reset(h.metadata);
  EXPECT_TRUE(h.metadata.empty());
  EXPECT_EQ(h.head.refusal()->http_status, 405);  // nothing is left of the last one
  h.good();
  h.add("y-long", value);
  EXPECT_EQ(h.metadata, (Metadata{{"y-long", value}}));
  EXPECT_EQ(h.metadata[0].second.data(), memory);
}

}  // namespace
}  // namespace headrace::wire
