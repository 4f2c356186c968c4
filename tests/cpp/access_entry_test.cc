#include "front/access_entry.h"

#include <gtest/gtest.h>

#include <string>

namespace headrace::testing {
namespace {

TEST(AccessEntry, HeadersAreToldAsTheyCame) {
  AccessEntry entry;
  const std::string longest(AccessEntry::kMaxHeaderValue, 'v');
  entry.set_headers({{"x-a", "1"}, {"x-b", ""}, {"x-a", longest}});
  EXPECT_EQ(entry.headers, (wire::Metadata{{"x-a", "1"}, {"x-b", ""}, {"x-a", longest}}));
}

TEST(AccessEntry, HeadersHaveBounds) {
  AccessEntry entry;
  entry.set_headers({{"x-a", std::string(AccessEntry::kMaxHeaderValue + 1, 'v')}});
  EXPECT_EQ(entry.headers, (wire::Metadata{{"x-a", std::string(AccessEntry::kMaxHeaderValue, 'v') + "..."}}));

  wire::Metadata many(300, {"x-name", "0123"});
  AccessEntry bounded;
  bounded.set_headers(many);
  ASSERT_EQ(bounded.headers.size(), AccessEntry::kMaxHeaders / 10 + 1);
  EXPECT_EQ(bounded.headers.back().first, "...") << "and there were more";
}

}  // namespace
}  // namespace headrace::testing
