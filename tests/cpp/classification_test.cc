#include "batching/classification.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace headrace {
namespace {

using Strings = std::vector<std::string>;

class ClassificationTest : public ::testing::Test {
 protected:
  ~ClassificationTest() override {
    tensor_ = Tensor();
    EXPECT_EQ(pool_.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
  }
  template <class T>
  const Tensor& tensor(DType dtype, std::initializer_list<std::int64_t> shape, const std::vector<T>& values) {
    const std::vector<std::int64_t> dims(shape);
    tensor_ = Tensor();
    tensor_.dtype = dtype;
    tensor_.shape.assign(dims);
    tensor_.size = values.size() * sizeof(T);
    tensor_.block = *pool_.allocate(tensor_.size + 1);
    tensor_.data = tensor_.block.data() + 1;  // rows of a batch may begin anywhere
    if (!values.empty()) std::memcpy(tensor_.block.data() + 1, values.data(), tensor_.size);
    return tensor_;
  }
  Strings classes(const Tensor& output, bool batched, std::uint32_t k, const Strings& labels = {}) {
    const Result<Tensor> made = classify(output, batched, k, labels, pool_);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    if (!made.ok()) return {};
    EXPECT_EQ(made->dtype, DType::kBytes);
    shape_ = made->shape;
    EXPECT_TRUE(check_bytes_tensor(made->bytes(), *element_count(shape_.dims())).ok());
    Strings found;
    for (std::size_t at = 0; at < made->size;) {
      std::uint32_t size = 0;
      std::memcpy(&size, made->data + at, 4);
      found.emplace_back(reinterpret_cast<const char*>(made->data) + at + 4, size);
      at += 4 + size;
    }
    return found;
  }

  Pool pool_{PoolOptions{}};
  Tensor tensor_;
  Shape shape_;
};

TEST_F(ClassificationTest, TheBestOfEachRowWithTheirPlacesAndLabels) {
  const Tensor& output = tensor<float>(DType::kFp32, {2, 4}, {0.1F, 0.7F, 0.15F, 0.05F, -1, -2, 300.25F, -4});
  EXPECT_EQ(classes(output, true, 2), (Strings{"0.700000:1", "0.150000:2", "300.250000:2", "-1.000000:0"}));
  EXPECT_EQ(shape_, Shape({2, 2}));
  EXPECT_EQ(classes(output, true, 1, {"cat", "dog", ""}), (Strings{"0.700000:1:dog", "300.250000:2"}));
  EXPECT_EQ(classes(output, true, 9).size(), 8U) << "no more than there are";
  EXPECT_EQ(shape_, Shape({2, 4}));
}

TEST_F(ClassificationTest, WithoutABatchAllValuesAreOneRow) {
  const Tensor& output = tensor<std::int32_t>(DType::kInt32, {2, 2}, {5, -7, 9, 9});
  EXPECT_EQ(classes(output, false, 3), (Strings{"9:2", "9:3", "5:0"})) << "of equals the first";
  EXPECT_EQ(shape_, Shape({3}));
}

TEST_F(ClassificationTest, RowsOfMoreDimensionsAndOfNone) {
  EXPECT_EQ(classes(tensor<std::int8_t>(DType::kInt8, {1, 2, 2}, {1, 2, 4, 3}), true, 1), (Strings{"4:2"}));
  EXPECT_EQ(shape_, Shape({1, 1}));
  EXPECT_EQ(classes(tensor<std::int8_t>(DType::kInt8, {2}, {-1, -2}), true, 3), (Strings{"-1:0", "-2:0"}));
  EXPECT_EQ(shape_, Shape({2, 1}));
  EXPECT_TRUE(classes(tensor<float>(DType::kFp32, {0, 3}, {}), true, 2).empty());
  EXPECT_TRUE(classes(tensor<float>(DType::kFp32, {2, 0}, {}), true, 2).empty());
  EXPECT_EQ(shape_, Shape({2, 0}));
  EXPECT_EQ(classes(tensor<double>(DType::kFp64, {}, {2.5}), false, 2), (Strings{"2.500000:0"}));
}

TEST_F(ClassificationTest, EveryTypeOfNumber) {
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  constexpr auto kLeast = std::numeric_limits<std::int64_t>::min();
  EXPECT_EQ(classes(tensor<std::uint64_t>(DType::kUint64, {2}, {1, kMost}), false, 2),
            (Strings{"18446744073709551615:1", "1:0"}));
  EXPECT_EQ(classes(tensor<std::int64_t>(DType::kInt64, {2}, {kLeast, 0}), false, 2),
            (Strings{"0:1", "-9223372036854775808:0"}));
  EXPECT_EQ(classes(tensor<std::uint8_t>(DType::kUint8, {2}, {200, 100}), false, 1), (Strings{"200:0"}));
  EXPECT_EQ(classes(tensor<std::int16_t>(DType::kInt16, {2}, {-3, 2}), false, 1), (Strings{"2:1"}));
  EXPECT_EQ(classes(tensor<std::uint16_t>(DType::kUint16, {2}, {65535, 2}), false, 1), (Strings{"65535:0"}));
  EXPECT_EQ(classes(tensor<std::uint32_t>(DType::kUint32, {2}, {4294967295U, 2}), false, 1), (Strings{"4294967295:0"}));
  EXPECT_EQ(classes(tensor<double>(DType::kFp64, {1}, {1e300}), false, 1)[0].size(), 301U + 7 + 2);
  // 1, -2, the smallest, the largest, infinity
  EXPECT_EQ(classes(tensor<std::uint16_t>(DType::kFp16, {5}, {0x3C00, 0xC000, 0x0001, 0x7BFF, 0x7C00}), false, 5),
            (Strings{"inf:4", "65504.000000:3", "1.000000:0", "0.000000:2", "-2.000000:1"}));
  EXPECT_EQ(classes(tensor<std::uint16_t>(DType::kBf16, {2}, {0x3FC0, 0xBF80}), false, 2),
            (Strings{"1.500000:0", "-1.000000:1"}));
  for (const DType dtype : {DType::kBool, DType::kBytes}) EXPECT_FALSE(classifiable(dtype));
  for (const DType dtype : {DType::kFp32, DType::kBf16, DType::kInt8}) EXPECT_TRUE(classifiable(dtype));
}

TEST_F(ClassificationTest, ANanComesLast) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(classes(tensor<float>(DType::kFp32, {5}, {kNan, 1, kNan, kInfinity, -kInfinity}), false, 5),
            (Strings{"inf:3", "1.000000:1", "-inf:4", "nan:0", "nan:2"}));
}

TEST_F(ClassificationTest, IsBounded) {
  const Tensor& output = tensor<std::int8_t>(DType::kInt8, {2, 60'000}, std::vector<std::int8_t>(120'000));
  EXPECT_EQ(classes(output, true, 50'000).size(), kMaxClassStrings);
  const Result<Tensor> refused = classify(output, true, 50'001, {}, pool_);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), Code::kResourceExhausted);
  EXPECT_NE(refused.status().message().find("limit of 100000 strings"), std::string::npos);
}

}  // namespace
}  // namespace headrace
