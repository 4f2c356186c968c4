#include "backend/ort_abi.h"

#include <string>
#include <vector>

#include "ort_fixture.h"

namespace headrace::testing {
namespace {

class OrtAbiTest : public OrtTest {};

TEST_F(OrtAbiTest, TheVersionIsInTheLibrarysName) {
  const std::string version = library_->version();
  EXPECT_NE(options_.onnxruntime_library.find(version), std::string::npos) << version;
}

// The first slots, one in the middle and the last one: functions whose answers are known.
TEST_F(OrtAbiTest, SlotsAreWhereTheyAreSaidToBe) {
  const ort::Api api = library_->api();

  const ort::Failure fault =
      ort::take(api, api.call<ort::AddSessionConfigEntry>(static_cast<ort::SessionOptions*>(nullptr), "", ""));
  EXPECT_EQ(fault.code, ort::Error::kInvalidArgument);
  EXPECT_FALSE(fault.message.empty());

  char** providers = nullptr;
  int count = 0;
  ASSERT_FALSE(ort::take(api, api.call<ort::GetAvailableProviders>(&providers, &count)));
  std::vector<std::string> names(providers, providers + count);
  EXPECT_FALSE(ort::take(api, api.call<ort::ReleaseAvailableProviders>(providers, count)));
  EXPECT_NE(std::find(names.begin(), names.end(), "CPUExecutionProvider"), names.end());

  const std::string build = api.call<ort::GetBuildInfoString>();
  EXPECT_EQ(build.rfind("ORT Build Info", 0), 0U) << build;
}

TEST_F(OrtAbiTest, ElementTypesAndDimensionsComeBackAsTheyWentIn) {
  const ort::Api api = library_->api();
  for (int number = 1; number <= static_cast<int>(ort::Element::kBfloat16); ++number) {
    const auto element = static_cast<ort::Element>(number);
    const std::int64_t dims[] = {2, 0, 3};
    ort::Owned<ort::Value, ort::ReleaseValue> value(api);
    const ort::Failure made = ort::take(
        api, api.call<ort::CreateTensorAsOrtValue>(library_->allocator(), static_cast<const std::int64_t*>(dims),
                                                   std::size_t{3}, element, value.out()));
    if (made) continue;  // complex numbers
    ort::Owned<ort::TensorInfo, ort::ReleaseTensorTypeAndShapeInfo> info(api);
    ASSERT_FALSE(
        ort::take(api, api.call<ort::GetTensorTypeAndShape>(static_cast<const ort::Value*>(value.get()), info.out())));
    const ort::TensorInfo* shape = info.get();
    ort::Element seen = ort::Element::kUndefined;
    std::size_t rank = 0;
    std::int64_t sizes[3] = {};
    ASSERT_FALSE(ort::take(api, api.call<ort::GetTensorElementType>(shape, &seen)));
    ASSERT_FALSE(ort::take(api, api.call<ort::GetDimensionsCount>(shape, &rank)));
    ASSERT_EQ(rank, 3U);
    ASSERT_FALSE(ort::take(api, api.call<ort::GetDimensions>(shape, static_cast<std::int64_t*>(sizes), rank)));
    EXPECT_EQ(seen, element);
    EXPECT_EQ(sizes[0], 2);
    EXPECT_EQ(sizes[1], 0);
    EXPECT_EQ(sizes[2], 3);
  }
}

TEST_F(OrtAbiTest, StringsMayHoldZeros) {
  const ort::Api api = library_->api();
  const std::int64_t one = 1;
  ort::Owned<ort::Value, ort::ReleaseValue> value(api);
  ASSERT_FALSE(ort::take(api, api.call<ort::CreateTensorAsOrtValue>(library_->allocator(), &one, std::size_t{1},
                                                                    ort::Element::kString, value.out())));
  char* element = nullptr;
  ASSERT_FALSE(ort::take(
      api, api.call<ort::GetResizedStringTensorElementBuffer>(value.get(), std::size_t{0}, std::size_t{3}, &element)));
  std::memcpy(element, "a\0b", 3);
  std::size_t length = 0;
  ASSERT_FALSE(
      ort::take(api, api.call<ort::GetStringTensorDataLength>(static_cast<const ort::Value*>(value.get()), &length)));
  EXPECT_EQ(length, 3U);
}

TEST_F(OrtAbiTest, OneLibraryAProcess) {
  const auto again = ort::Library::open(options_.onnxruntime_library);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(*again, library_);
}

}  // namespace
}  // namespace headrace::testing
