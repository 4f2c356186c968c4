#include "front/request_parameters.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace headrace {
namespace {

using wire::ParameterValue;

std::string read(RequestParameters& parameters, const std::vector<wire::Parameter>& given) {
  wire::InferRequest request;
  request.parameters = given;
  const Status status = read_parameters(request, parameters);
  return status.ok() ? "" : status.to_string();
}
std::string read(std::string_view key, const ParameterValue& value) {
  RequestParameters parameters;
  return read(parameters, {{key, value}});
}

TEST(RequestParameters, NoneAreTheDefaults) {
  RequestParameters parameters;
  parameters.timing = parameters.in_sequence = parameters.empty_final = true;
  parameters.priority = 7;
  parameters.timeout = 7;
  EXPECT_EQ(read(parameters, {}), "");
  EXPECT_FALSE(parameters.timing || parameters.in_sequence || parameters.empty_final);
  EXPECT_EQ(parameters.priority, 0U);
  EXPECT_EQ(parameters.timeout, 0);
}

TEST(RequestParameters, AllOfThem) {
  RequestParameters parameters;
  EXPECT_EQ(read(parameters, {{"priority", std::int64_t{2}},
                              {"timeout", std::int64_t{1500}},
                              {"sequence_id", std::string_view("abc")},
                              {"sequence_start", true},
                              {"sequence_end", false},
                              {"headrace_timing", true},
                              {"triton_enable_empty_final_response", true},
                              {"binary_data_output", true},
                              {"headers", std::string_view("a: b")},
                              {"my_own", 1.5},
                              {"nothing", std::monostate()}}),
            "");
  EXPECT_EQ(parameters.priority, 2U);
  EXPECT_EQ(parameters.timeout, 1500 * kMicrosecond);
  EXPECT_TRUE(parameters.in_sequence && parameters.timing && parameters.empty_final);
}

TEST(RequestParameters, BothKindsOfNumberAndTheirEnds) {
  RequestParameters parameters;
  EXPECT_EQ(read(parameters, {{"priority", ~std::uint64_t{0}}, {"timeout", ~std::uint64_t{0}}}), "");
  EXPECT_EQ(parameters.priority, 0xffffffffU);
  EXPECT_EQ(parameters.timeout, kNever);
  EXPECT_EQ(read(parameters, {{"priority", std::uint64_t{3}}, {"timeout", std::uint64_t{0}}}), "");
  EXPECT_EQ(parameters.priority, 3U);
  EXPECT_EQ(parameters.timeout, 0);
  EXPECT_EQ(read("priority", std::int64_t{-1}),
            "INVALID_ARGUMENT: request parameter 'priority' must be 0 or more, not -1");
  EXPECT_EQ(read("timeout", std::int64_t{-5}),
            "INVALID_ARGUMENT: request parameter 'timeout' must be 0 or more, not -5");
}

TEST(RequestParameters, ASequenceHasANumberOrAName) {
  const auto in_sequence = [](const ParameterValue& value) {
    RequestParameters parameters;
    EXPECT_EQ(read(parameters, {{"sequence_id", value}}), "");
    return parameters.in_sequence;
  };
  EXPECT_TRUE(in_sequence(std::int64_t{1}));
  EXPECT_TRUE(in_sequence(std::int64_t{-1})) << "as Triton's clients send a large one";
  EXPECT_TRUE(in_sequence(std::uint64_t{1}));
  EXPECT_TRUE(in_sequence(std::string_view("a")));
  EXPECT_FALSE(in_sequence(std::int64_t{0}));
  EXPECT_FALSE(in_sequence(std::uint64_t{0}));
  EXPECT_FALSE(in_sequence(std::string_view("")));
}

TEST(RequestParameters, AWrongKindIsNamed) {
  for (const char* key : {"headrace_timing", "sequence_start", "sequence_end", "triton_enable_empty_final_response"}) {
    EXPECT_EQ(read(key, std::int64_t{1}),
              std::string("INVALID_ARGUMENT: request parameter '") + key + "' must be a bool_param");
  }
  for (const char* key : {"priority", "timeout"}) {
    for (const ParameterValue& value :
         {ParameterValue(true), ParameterValue(std::string_view("1")), ParameterValue(1.0), ParameterValue()}) {
      EXPECT_EQ(read(key, value), std::string("INVALID_ARGUMENT: request parameter '") + key +
                                      "' must be an int64_param or a uint64_param");
    }
  }
  EXPECT_EQ(
      read("sequence_id", true),
      "INVALID_ARGUMENT: request parameter 'sequence_id' must be an int64_param, a uint64_param or a string_param");
}

TEST(RequestParameters, ReservedNamesThatNobodyKnows) {
  EXPECT_EQ(
      read("triton_x", true),
      "INVALID_ARGUMENT: request parameter 'triton_x' is not known: names that begin with 'triton_' are reserved, "
      "and the one that a request may have is 'triton_enable_empty_final_response'");
  EXPECT_EQ(read("tritonx", true), "");
}

TEST(RequestParameters, OfSeveralTheLastCounts) {
  RequestParameters parameters;
  EXPECT_EQ(read(parameters, {{"priority", true}, {"priority", std::int64_t{4}}}), "");
  EXPECT_EQ(parameters.priority, 4U);
}

}  // namespace
}  // namespace headrace
