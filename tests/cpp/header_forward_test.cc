#include "front/header_forward.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace headrace::testing {
namespace {

using wire::Metadata;
using wire::ParameterValue;

// ---- which

struct Chooser {
  std::vector<std::string> asked;
  HeaderForward forward{[this](std::string_view name) {
    asked.emplace_back(name);
    return name.starts_with("x-") || name.ends_with("-bin");
  }};

  Metadata choose(const Metadata& headers, std::uint64_t step = 1) {
    const Status status = forward.choose(headers, step);
    EXPECT_TRUE(status.ok()) << status.to_string();
    return forward.chosen();
  }
};

TEST(HeaderForward, NothingIsWantedWithoutAPattern) {
  EXPECT_FALSE(HeaderForward(nullptr).on());
  EXPECT_TRUE(Chooser().forward.on());
}

TEST(HeaderForward, ThoseThatAreWantedInTheirOrderAndInLowerCase) {
  Chooser made;
  EXPECT_EQ(made.choose({{"X-Tenant", "Acme"}, {"other", "1"}, {"x-tenant", ""}, {"x-a", "b"}}),
            (Metadata{{"x-tenant", "Acme"}, {"x-tenant", ""}, {"x-a", "b"}}));
  EXPECT_EQ(made.choose({{"other", "x-"}}), Metadata());
}

TEST(HeaderForward, EachNameIsAskedForOnce) {
  Chooser made;
  for (int i = 0; i < 3; ++i) made.choose({{"x-a", "1"}, {"X-A", "2"}, {"b", "3"}});
  EXPECT_EQ(made.asked, (std::vector<std::string>{"x-a", "b"}));
}

TEST(HeaderForward, BytesAndLongNamesAreNotAskedFor) {
  Chooser made;
  const std::string longest = "x-" + std::string(HeaderForward::kMaxNameBytes - 2, 'a');
  EXPECT_EQ(made.choose({{"x-bin", "\x01"}, {longest + "a", "1"}, {longest, "2"}}), (Metadata{{longest, "2"}}));
  EXPECT_EQ(made.asked, std::vector<std::string>{longest});
}

TEST(HeaderForward, NamesThatSomebodyMakesUpAreBoundedByTheStepAndForgotten) {
  Chooser made;
  const auto name = [](std::size_t i) { return "x-" + std::to_string(i); };
  Metadata many;
  for (std::size_t i = 0; i < HeaderForward::kMaxAsked; ++i) many.emplace_back(name(i), "");
  EXPECT_EQ(made.choose(many).size(), many.size());
  const Status refused = made.forward.choose({{"x-new", ""}}, 1);
  EXPECT_EQ(refused.code(), Code::kResourceExhausted);
  EXPECT_NE(refused.message().find("--grpc-header-forward-pattern"), std::string::npos) << refused.to_string();
  EXPECT_EQ(made.choose(many).size(), many.size()) << "those that are known cost nothing";
  EXPECT_EQ(made.asked.size(), many.size());
  EXPECT_EQ(made.choose({{"x-new", "1"}}, 2), (Metadata{{"x-new", "1"}})) << "the next step";
  made.choose({{name(0), ""}}, 2);
  EXPECT_EQ(made.asked.size(), many.size() + 2) << "the first of them are forgotten by then";
}

// ---- what they mean

struct Added {
  std::string error;
  wire::InferRequest request;
};

Added add(const Metadata& headers, const std::vector<wire::Parameter>& own = {}, std::size_t max_parameters = 256) {
  Added added;
  added.request.parameters = own;
  wire::InferLimits limits;
  limits.max_parameters = max_parameters;
  const Status status = add_parameters(headers, limits, added.request);
  if (!status.ok()) added.error = status.to_string();
  return added;
}

TEST(AddParameters, EachHasTheTypeOfItsMeaning) {
  const Metadata headers{{"priority", "2"},
                         {"timeout", "18446744073709551615"},
                         {"headrace_timing", "true"},
                         {"sequence_id", "7"},
                         {"sequence_start", "false"},
                         {"binary_data_output", "true"},
                         {"triton_enable_empty_final_response", "true"},
                         {"x-tenant", "a b"}};
  const Added added = add(headers);
  EXPECT_EQ(added.error, "");
  const auto value = [&](std::string_view key) {
    const ParameterValue* found = added.request.parameter(key);
    return found == nullptr ? ParameterValue() : *found;
  };
  EXPECT_EQ(value("priority"), ParameterValue(std::uint64_t{2}));
  EXPECT_EQ(value("timeout"), ParameterValue(~std::uint64_t{0}));
  EXPECT_EQ(value("headrace_timing"), ParameterValue(true));
  EXPECT_EQ(value("sequence_id"), ParameterValue(std::string_view("7")));
  EXPECT_EQ(value("sequence_start"), ParameterValue(false));
  EXPECT_EQ(value("binary_data_output"), ParameterValue(true));
  EXPECT_EQ(value("triton_enable_empty_final_response"), ParameterValue(true));
  EXPECT_EQ(value("x-tenant"), ParameterValue(std::string_view("a b")));
}

TEST(AddParameters, TheRequestsOwnCountsAndTheLastHeader) {
  const Metadata headers{{"priority", "no number"}, {"x-a", "1"}, {"x-a", "2"}};
  const Added added = add(headers, {{"priority", std::int64_t{3}}});
  EXPECT_EQ(added.error, "") << "a header that does not count is not read";
  EXPECT_EQ(*added.request.parameter("priority"), ParameterValue(std::int64_t{3}));
  EXPECT_EQ(*added.request.parameter("x-a"), ParameterValue(std::string_view("2")));
}

TEST(AddParameters, WhatIsWrongIsSaidOfTheHeader) {
  for (const std::string text : {"", "-1", "+1", " 1", "1.5", "0x1", "18446744073709551616"}) {
    const Metadata headers{{"timeout", text}};
    EXPECT_NE(add(headers).error.find("header 'timeout'"), std::string::npos) << text;
    EXPECT_NE(add(headers).error.find("whole number from 0 to 18446744073709551615 then, not '" + text + "'"),
              std::string::npos)
        << add(headers).error;
  }
  for (const std::string text : {"", "True", "1", "yes"}) {
    const Metadata headers{{"headrace_timing", text}};
    EXPECT_NE(add(headers).error.find("true or false then, not '" + text + "'"), std::string::npos) << text;
  }
  const Metadata reserved{{"triton_x", "1"}};
  EXPECT_NE(add(reserved).error.find("header 'triton_x' is not known"), std::string::npos) << add(reserved).error;
}

TEST(AddParameters, AWrongValueIsShownShortAndInAscii) {
  const Metadata headers{{"priority", "\xff\n" + std::string(1000, 'a')}};
  const std::string error = add(headers).error;
  EXPECT_NE(error.find("'??" + std::string(62, 'a') + "'"), std::string::npos) << error;
}

TEST(AddParameters, TheyCountAgainstTheLimitOfParameters) {
  const Metadata headers{{"x-a", "1"}, {"x-b", "2"}};
  EXPECT_EQ(add(headers, {{"own", true}}, 3).error, "");
  const std::string error = add(headers, {{"own", true}}, 2).error;
  EXPECT_NE(error.find("header 'x-b'"), std::string::npos) << error;
  EXPECT_NE(error.find("--max-parameters"), std::string::npos) << error;
}

}  // namespace
}  // namespace headrace::testing
