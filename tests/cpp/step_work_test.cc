#include "front/step_work.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "infer_wire.h"

namespace headrace::testing {
namespace {

class StepWorkTest : public ::testing::Test {
 protected:
  bool takes(const std::string& message) {
    wire::InferRequest request;
    EXPECT_TRUE(wire::decode_infer_request(wire::testing::as_bytes(message), {}, request).ok());
    return work_.take(request);
  }
  // One input whose raw bytes, typed elements or place in shared memory is as said.
  static std::string raw(std::string_view datatype, std::size_t bytes) {
    return wire::testing::message([&](protozero::pbf_writer& writer) {
      writer.add_message(5, wire::testing::input("x", datatype, {1}));
      writer.add_bytes(7, std::string(bytes, '\0'));
    });
  }
  static std::string typed(std::size_t bytes) {
    std::string input = wire::testing::input("x", "UINT8", {1});
    const std::vector<std::uint32_t> values(bytes, 1);
    const std::string contents = wire::testing::message(
        [&](protozero::pbf_writer& writer) { writer.add_packed_uint32(4, values.begin(), values.end()); });
    protozero::pbf_writer(input).add_message(5, contents);
    return wire::testing::message([&](protozero::pbf_writer& writer) { writer.add_message(5, input); });
  }
  static std::string shared(std::int64_t bytes, int inputs = 1, std::string_view datatype = "BYTES") {
    std::string input = wire::testing::input("x", datatype, {bytes});
    const std::string region = wire::testing::message([](protozero::pbf_writer& entry) {
      entry.add_string(1, "shared_memory_region");
      entry.add_message(2, wire::testing::message([](protozero::pbf_writer& value) { value.add_string(3, "r"); }));
    });
    protozero::pbf_writer writer(input);
    writer.add_message(4, region);
    writer.add_message(4, wire::testing::int_parameter("shared_memory_byte_size", bytes));
    return wire::testing::message([&](protozero::pbf_writer& message) {
      for (int i = 0; i < inputs; ++i) message.add_message(5, input);
    });
  }

  StepWork work_;
};

TEST_F(StepWorkTest, OnlyWhatIsLookedAtOneByOneIsTooMuch) {
  EXPECT_TRUE(takes(raw("FP32", 2 * StepWork::kEachBytes))) << "raw numbers are never looked at";
  EXPECT_TRUE(takes(raw("BYTES", StepWork::kEachBytes)));
  EXPECT_FALSE(takes(raw("BYTES", StepWork::kEachBytes + 1))) << "strings are walked";
  EXPECT_TRUE(takes(typed(1000)));
  EXPECT_FALSE(takes(typed(StepWork::kEachBytes + 1)));
}

TEST_F(StepWorkTest, AStepCopiesSoMuchSharedMemoryForAllOfItsRequests) {
  constexpr std::int64_t kMany = 600 << 10;
  EXPECT_TRUE(takes(shared(kMany)));
  EXPECT_FALSE(takes(shared(kMany))) << "a second one";
  EXPECT_TRUE(takes(raw("INT32", 64))) << "the others are as before";
  EXPECT_TRUE(takes(shared(kMany, 1, "FP32"))) << "numbers are copied by lanes";
  work_.begin();
  EXPECT_TRUE(takes(shared(kMany)));
}

// However few bytes each of them names.
TEST_F(StepWorkTest, ACopyIsASystemCallAtLeast) {
  constexpr std::size_t kMost = StepWork::kCopyBytes / StepWork::kLeastCopy;
  for (std::size_t i = 0; i < kMost; ++i) ASSERT_TRUE(takes(shared(1))) << i;
  EXPECT_FALSE(takes(shared(1)));
  work_.begin();
  EXPECT_TRUE(takes(shared(1, kMost)));
  EXPECT_FALSE(takes(shared(1)));
}

// The client's number: checked against its region later.
TEST_F(StepWorkTest, LargestNumbersDoNotWrap) {
  EXPECT_FALSE(takes(shared(std::numeric_limits<std::int64_t>::max())));
  EXPECT_FALSE(takes(shared(std::numeric_limits<std::int64_t>::max(), 4)));
  EXPECT_TRUE(takes(shared(1)));
}

}  // namespace
}  // namespace headrace::testing
