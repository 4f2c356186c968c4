#include "front/tensor_parameters.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

namespace headrace {
namespace {

using Parameters = std::vector<wire::Parameter>;
constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

wire::WireInput input(const Parameters& parameters) {
  wire::WireInput made;
  made.name = "x";
  made.parameters = parameters;
  return made;
}
wire::WireOutput output(const Parameters& parameters) {
  wire::WireOutput made;
  made.name = "y";
  made.parameters = parameters;
  return made;
}
std::string refusal(const Parameters& parameters) {
  const auto place = shared_place(input(parameters));
  EXPECT_EQ(place.status().code(), Code::kInvalidArgument);
  return place.status().message();
}

TEST(TensorParameters, APlaceInSharedMemory) {
  const Parameters whole{{"shared_memory_region", std::string_view("r")},
                         {"shared_memory_byte_size", std::int64_t{64}},
                         {"shared_memory_offset", std::uint64_t{8}}};
  for (const auto& place : {shared_place(input(whole)), shared_place(output(whole))}) {
    ASSERT_TRUE(place.ok() && place->has_value());
    EXPECT_EQ((*place)->region, "r");
    EXPECT_EQ((*place)->offset, 8U);
    EXPECT_EQ((*place)->bytes, 64U);
  }
  const auto first = shared_place(input({whole[0], whole[1]}));
  ASSERT_TRUE(first.ok() && first->has_value());
  EXPECT_EQ((*first)->offset, 0U);
  for (const Parameters& none : {Parameters{}, Parameters{{"other", true}}}) {
    const auto place = shared_place(input(none));
    EXPECT_TRUE(place.ok() && !place->has_value());
  }
}

TEST(TensorParameters, WhatIsWrongWithAPlaceIsNamed) {
  const wire::Parameter region{"shared_memory_region", std::string_view("r")};
  const wire::Parameter bytes{"shared_memory_byte_size", std::int64_t{64}};
  EXPECT_EQ(refusal({region}),
            "parameter 'shared_memory_byte_size' of input 'x' must be given, a number of bytes from 0");
  EXPECT_EQ(refusal({bytes}),
            "parameter 'shared_memory_byte_size' of input 'x' must be sent together with 'shared_memory_region'");
  EXPECT_EQ(refusal({{"shared_memory_offset", std::int64_t{1}}}),
            "parameter 'shared_memory_offset' of input 'x' must be sent together with 'shared_memory_region'");
  EXPECT_NE(refusal({region, {"shared_memory_byte_size", std::int64_t{-1}}}).find("byte_size"), std::string::npos);
  EXPECT_NE(refusal({region, {"shared_memory_byte_size", 64.0}}).find("byte_size"), std::string::npos);
  EXPECT_NE(refusal({region, bytes, {"shared_memory_offset", std::int64_t{-1}}}).find("offset"), std::string::npos);
  EXPECT_NE(refusal({{"shared_memory_region", true}, bytes}).find("region"), std::string::npos);
  EXPECT_NE(refusal({{"shared_memory_region", std::string_view()}, bytes}).find("region"), std::string::npos);
}

TEST(TensorParameters, Classes) {
  EXPECT_EQ(*wanted_classes(output({})), 0U);
  EXPECT_EQ(*wanted_classes(output({{"classification", std::int64_t{3}}})), 3U);
  EXPECT_EQ(*wanted_classes(output({{"classification", std::uint64_t{5}}})), 5U);
  EXPECT_EQ(*wanted_classes(output({{"classification", kMost}})), 4294967295U);
  for (const wire::ParameterValue& value :
       {wire::ParameterValue(std::int64_t{0}), wire::ParameterValue(std::int64_t{-1}), wire::ParameterValue(true),
        wire::ParameterValue(std::string_view("3")), wire::ParameterValue()}) {
    const auto refused = wanted_classes(output({{"classification", value}}));
    EXPECT_EQ(refused.status().to_string(),
              "INVALID_ARGUMENT: parameter 'classification' of output 'y' must be a number of classes from 1");
  }
}

TEST(TensorParameters, TheBytesOfAllInputs) {
  const wire::Parameter region{"shared_memory_region", std::string_view("r")};
  const Parameters some{region, {"shared_memory_byte_size", std::int64_t{64}}};
  const Parameters most{region, {"shared_memory_byte_size", kMost}};
  const Parameters stray{{"shared_memory_byte_size", std::int64_t{64}}};
  wire::InferRequest request;
  EXPECT_EQ(shared_inputs(request).bytes, 0U);
  for (const Parameters* each : {&some, &stray, &some}) request.inputs.push_back(input(*each));
  EXPECT_EQ(shared_inputs(request).bytes, 128U);
  EXPECT_EQ(shared_inputs(request).strings, 0U);
  request.inputs[0].datatype = "BYTES";
  EXPECT_EQ(shared_inputs(request).bytes, 128U);
  EXPECT_EQ(shared_inputs(request).strings, 64U);
  for (int i = 0; i < 2; ++i) {
    request.inputs.push_back(input(most));
    request.inputs.back().datatype = "BYTES";
  }
  EXPECT_EQ(shared_inputs(request).bytes, kMost);
  EXPECT_EQ(shared_inputs(request).strings, kMost);
}

}  // namespace
}  // namespace headrace
