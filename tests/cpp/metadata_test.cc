#include "wire/metadata.h"

#include <gtest/gtest.h>

namespace headrace::wire {
namespace {

TEST(Metadata, ContentTypeIsGrpcOrNot) {
  for (const char* good : {"application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8",
                           "application/grpc+proto; x=y", "application/grpc ;x=y"}) {
    EXPECT_TRUE(is_grpc_content_type(good)) << good;
  }
  for (const char* bad :
       {"", "application/grp", "application/grpc-web", "application/grpc-web+proto", "application/grpc+json",
        "application/grpcx", "application/json", "application/grpc+protox"}) {
    EXPECT_FALSE(is_grpc_content_type(bad)) << bad;
  }
}

TEST(Metadata, TimeoutsInAllUnits) {
  EXPECT_EQ(parse_grpc_timeout("2H"), 7200 * kSecond);
  EXPECT_EQ(parse_grpc_timeout("3M"), 180 * kSecond);
  EXPECT_EQ(parse_grpc_timeout("4S"), 4 * kSecond);
  EXPECT_EQ(parse_grpc_timeout("5m"), 5 * kMillisecond);
  EXPECT_EQ(parse_grpc_timeout("6u"), 6 * kMicrosecond);
  EXPECT_EQ(parse_grpc_timeout("7n"), 7);
  EXPECT_EQ(parse_grpc_timeout("0n"), 0);
  EXPECT_EQ(parse_grpc_timeout("99999999S"), 99'999'999 * kSecond);
  EXPECT_EQ(parse_grpc_timeout("99999999H"), kNever);
}

TEST(Metadata, MalformedTimeouts) {
  for (const char* bad : {"", "1", "S", "-1S", "1 S", "1s", "1h", "123456789S", "1.5S", "0x1S", "+1S"}) {
    EXPECT_FALSE(parse_grpc_timeout(bad).has_value()) << bad;
  }
}

std::string decoded(std::string_view text) {
  std::string out;
  return base64_decode(text, out) ? out : "not base64";
}

TEST(Metadata, Base64WithAndWithoutPadding) {
  EXPECT_EQ(decoded(""), "");
  EXPECT_EQ(decoded("Zg=="), "f");
  EXPECT_EQ(decoded("Zg"), "f");
  EXPECT_EQ(decoded("Zm8="), "fo");
  EXPECT_EQ(decoded("Zm8"), "fo");
  EXPECT_EQ(decoded("Zm9v"), "foo");
  EXPECT_EQ(decoded("+/+/"), "\xfb\xff\xbf");
}

TEST(Metadata, WhatIsNotBase64) {
  for (const char* bad : {"Z", "Zg=", "Zm9vZ", "Z===", "====", "Zm 9", "Zm-_", "Zg==Zg=="}) {
    EXPECT_EQ(decoded(bad), "not base64") << bad;
  }
}

TEST(Metadata, Base64RoundTripOfAllLengths) {
  std::string bytes;
  for (int i = 0; i < 300; ++i) {
    std::string text;
    base64_encode(bytes, text);
    EXPECT_EQ(decoded(text), bytes);
    bytes.push_back(static_cast<char>(i * 37));
  }
}

TEST(Metadata, PercentEncoding) {
  EXPECT_EQ(percent_encode("plain ~text!"), "plain ~text!");
  EXPECT_EQ(percent_encode("100% \n\xc3\xa9\x7f"), "100%25 %0A%C3%A9%7F");
}

TEST(Metadata, NamesAndValues) {
  EXPECT_TRUE(is_metadata_name("retry-after_1.x"));
  for (const char* bad : {"", "Upper", "sp ace", ":path", "a:b", "\xc3\xa9"})
    EXPECT_FALSE(is_metadata_name(bad)) << bad;
  EXPECT_TRUE(is_metadata_value("a b ~"));
  EXPECT_FALSE(is_metadata_value("a\nb"));
  EXPECT_FALSE(is_metadata_value("\xc3\xa9"));
  EXPECT_TRUE(is_binary_name("trace-bin"));
  EXPECT_FALSE(is_binary_name("tracebin"));
}

}  // namespace
}  // namespace headrace::wire
