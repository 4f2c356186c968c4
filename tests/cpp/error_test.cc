#include "base/error.h"

#include <gtest/gtest.h>

#include <memory>

namespace headrace {
namespace {

TEST(Error, StatusIsOkUntilItSaysOtherwise) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.code(), Code::kOk);
  EXPECT_EQ(status.to_string(), "OK");
}

TEST(Error, TextNamesTheCodeAndTheSentence) {
  EXPECT_EQ(invalid_argument("no such input 'x'").to_string(), "INVALID_ARGUMENT: no such input 'x'");
  EXPECT_EQ(resource_exhausted("full").to_string(), "RESOURCE_EXHAUSTED: full");
  EXPECT_EQ(internal_error("broken").to_string(), "INTERNAL: broken");
  EXPECT_EQ(Status(Code::kCancelled, "").to_string(), "CANCELLED");
}

TEST(Error, CodesHaveTheNumbersAndNamesOfGrpc) {
  EXPECT_EQ(static_cast<int>(Code::kDeadlineExceeded), 4);
  EXPECT_EQ(static_cast<int>(Code::kUnavailable), 14);
  EXPECT_EQ(code_name(Code::kOk), "OK");
  EXPECT_EQ(code_name(Code::kDeadlineExceeded), "DEADLINE_EXCEEDED");
  EXPECT_EQ(code_name(Code::kUnavailable), "UNAVAILABLE");
  EXPECT_EQ(code_name(Code::kUnauthenticated), "UNAUTHENTICATED");
  EXPECT_EQ(code_name(static_cast<Code>(17)), "UNKNOWN");
}

TEST(Error, ResultHoldsAValueOrAStatus) {
  Result<int> good = 7;
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(*good, 7);
  EXPECT_TRUE(good.status().ok());
  const Result<int> bad = invalid_argument("no");
  EXPECT_FALSE(bad);
  EXPECT_EQ(bad.status().message(), "no");
}

TEST(Error, ResultGivesUpAMoveOnlyValue) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(3);
  ASSERT_TRUE(result);
  const std::unique_ptr<int> value = std::move(*result);
  EXPECT_EQ(*value, 3);
}

}  // namespace
}  // namespace headrace
