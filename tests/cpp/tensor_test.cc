#include "memory/tensor.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

namespace headrace {
namespace {

constexpr std::int64_t kHuge = std::int64_t{1} << 62;

std::vector<std::byte> strings(std::initializer_list<std::string_view> values) {
  std::vector<std::byte> bytes;
  for (const std::string_view value : values) {
    for (unsigned shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<std::byte>(value.size() >> shift));
    for (const char c : value) bytes.push_back(static_cast<std::byte>(c));
  }
  return bytes;
}

TEST(DType, NamesAndSizesAgree) {
  const std::vector<std::pair<std::string_view, std::size_t>> known = {
      {"BOOL", 1},  {"UINT8", 1}, {"UINT16", 2}, {"UINT32", 4}, {"UINT64", 8}, {"INT8", 1},  {"INT16", 2},
      {"INT32", 4}, {"INT64", 8}, {"FP16", 2},   {"FP32", 4},   {"FP64", 8},   {"BYTES", 0}, {"BF16", 2}};
  for (const auto& [name, size] : known) {
    const auto dtype = parse_dtype(name);
    ASSERT_TRUE(dtype) << name;
    EXPECT_EQ(dtype_name(*dtype), name);
    EXPECT_EQ(element_size(*dtype), size) << name;
  }
  EXPECT_EQ(parse_dtype("FLOAT"), std::nullopt);
  EXPECT_EQ(parse_dtype("fp32"), std::nullopt);
  EXPECT_EQ(parse_dtype("INVALID"), std::nullopt);
  EXPECT_EQ(parse_dtype(""), std::nullopt);
  EXPECT_EQ(element_size(DType::kInvalid), 0U);
}

TEST(Shape, HoldsAnyRank) {
  for (std::size_t rank = 0; rank <= 32; ++rank) {
    std::vector<std::int64_t> dims(rank);
    std::iota(dims.begin(), dims.end(), 1);
    Shape shape(dims);
    ASSERT_EQ(shape.rank(), rank);
    EXPECT_TRUE(std::equal(dims.begin(), dims.end(), shape.dims().begin(), shape.dims().end()));

    Shape copy = shape;
    EXPECT_EQ(copy, shape);
    Shape moved = std::move(copy);
    EXPECT_EQ(moved, shape);
    EXPECT_EQ(copy.rank(), 0U);  // NOLINT(bugprone-use-after-move): what is left behind must be safe to read
    if (rank != 0) {
      moved.set(rank - 1, 99);
      EXPECT_NE(moved, shape);
      EXPECT_EQ(moved[rank - 1], 99);
      EXPECT_EQ(shape[rank - 1], static_cast<std::int64_t>(rank));
    }
  }
}

TEST(Shape, IsAssignedAcrossTheInlineBound) {
  const Shape small{1, 2, 3};
  const Shape large{1, 2, 3, 4, 5, 6, 7, 8};
  Shape shape = small;
  shape = large;
  EXPECT_EQ(shape, large);
  shape = small;
  EXPECT_EQ(shape, small);
  const Shape& itself = shape;
  shape = itself;
  EXPECT_EQ(shape, small);
  shape.assign(shape.dims().subspan(1));
  EXPECT_EQ(shape, (Shape{2, 3}));
  shape = large;
  shape.assign(shape.dims().first(7));
  EXPECT_EQ(shape, (Shape{1, 2, 3, 4, 5, 6, 7}));
  shape = Shape(large);
  EXPECT_EQ(shape, large);
}

TEST(Shape, PrintsAsTheProtocolDoes) {
  EXPECT_EQ(Shape().to_string(), "[]");
  EXPECT_EQ((Shape{7}).to_string(), "[7]");
  EXPECT_EQ((Shape{1, -1, 224}).to_string(), "[1,-1,224]");
}

TEST(Sizes, MultiplyOrSayNo) {
  EXPECT_EQ(checked_multiply(6, 7), 42U);
  EXPECT_EQ(checked_multiply(std::size_t{1} << 32, (std::size_t{1} << 32) - 1), ((std::size_t{1} << 32) - 1) << 32);
  EXPECT_EQ(checked_multiply(std::size_t{1} << 32, std::size_t{1} << 32), std::nullopt);
  EXPECT_EQ(checked_multiply(0, std::numeric_limits<std::size_t>::max()), 0U);
}

TEST(Sizes, CountElements) {
  EXPECT_EQ(element_count(Shape().dims()), 1U);  // a scalar
  EXPECT_EQ(element_count((Shape{2, 3, 4}).dims()), 24U);
  EXPECT_EQ(element_count((Shape{2, 0, 4}).dims()), 0U);
  EXPECT_EQ(element_count((Shape{2, -1}).dims()), std::nullopt);
  EXPECT_EQ(element_count((Shape{0, -1}).dims()), std::nullopt);
  EXPECT_EQ(element_count((Shape{kHuge, 4}).dims()), std::nullopt);
  // A zero hides no overflow, wherever it stands.
  EXPECT_EQ(element_count((Shape{0, kHuge, 4}).dims()), std::nullopt);
  EXPECT_EQ(element_count((Shape{kHuge, 4, 0}).dims()), std::nullopt);
}

TEST(Sizes, CountBytes) {
  EXPECT_EQ(tensor_bytes(DType::kFp32, (Shape{1, 3, 224, 224}).dims()), 602112U);
  EXPECT_EQ(tensor_bytes(DType::kBool, Shape().dims()), 1U);
  EXPECT_EQ(tensor_bytes(DType::kInt64, (Shape{0, 5}).dims()), 0U);
  EXPECT_EQ(tensor_bytes(DType::kInt64, (Shape{kHuge}).dims()), std::nullopt);
  EXPECT_EQ(tensor_bytes(DType::kInt8, (Shape{kHuge}).dims()), static_cast<std::size_t>(kHuge));
  EXPECT_EQ(tensor_bytes(DType::kBytes, (Shape{2}).dims()), std::nullopt);
  EXPECT_EQ(tensor_bytes(DType::kInvalid, (Shape{2}).dims()), std::nullopt);
}

TEST(BytesTensor, AcceptsExactlyItsStrings) {
  const auto bytes = strings({"a", "", "three"});
  EXPECT_TRUE(check_bytes_tensor(bytes, 3).ok());
  EXPECT_TRUE(check_bytes_tensor({}, 0).ok());
  EXPECT_EQ(skip_strings(bytes, 0, 0), 0U);
  EXPECT_EQ(skip_strings(bytes, 0, 1), 5U);
  EXPECT_EQ(skip_strings(bytes, 5, 1), 9U);
  EXPECT_EQ(skip_strings(bytes, 5, 2), bytes.size());
}

TEST(BytesTensor, SaysWhichElementIsCut) {
  const auto bytes = strings({"abc", "defgh"});
  const Status in_length = check_bytes_tensor(std::span(bytes).first(9), 2);
  EXPECT_EQ(in_length.code(), Code::kInvalidArgument);
  EXPECT_EQ(in_length.message(), "BYTES element 1 of 2 is cut: its 4-byte length is due, and 2 bytes are left");
  EXPECT_EQ(check_bytes_tensor(std::span(bytes).first(13), 2).message(),
            "BYTES element 1 of 2 is cut: its length says 5 bytes, and 2 are left");
  EXPECT_EQ(check_bytes_tensor(bytes, 1).message(), "9 bytes are left over after the last of 1 BYTES elements");
  EXPECT_EQ(check_bytes_tensor(bytes, 3).message(),
            "BYTES element 2 of 3 is cut: its 4-byte length is due, and 0 bytes are left");
}

TEST(BytesTensor, EveryCutIsRefused) {
  const auto bytes = strings({"abc", "", "defgh"});
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<std::byte> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(check_bytes_tensor(cut, 3).ok()) << size;
  }
}

TEST(BytesTensor, LengthsAndCountsCannotOverflow) {
  const std::vector<std::byte> largest(7, std::byte{0xff});
  EXPECT_EQ(check_bytes_tensor(largest, 1).message(),
            "BYTES element 0 of 1 is cut: its length says 4294967295 bytes, and 3 are left");
  EXPECT_FALSE(check_bytes_tensor(strings({"a"}), std::numeric_limits<std::size_t>::max()).ok());
}

TEST(Tensor, IsAbsentUntilItHasADtype) {
  Pool pool(PoolOptions{});
  {
    Tensor tensor;
    EXPECT_FALSE(tensor);
    EXPECT_TRUE(tensor.bytes().empty());
    auto block = pool.allocate(8);
    ASSERT_TRUE(block);
    tensor.dtype = DType::kInt64;
    tensor.block = *block;
    tensor.data = tensor.block.data();
    tensor.size = 8;
    EXPECT_TRUE(tensor);
    EXPECT_EQ(tensor.bytes().size(), 8U);
  }
  EXPECT_EQ(pool.stats().bytes_in_use, 0U);
  EXPECT_EQ(pool.stats().blocks_in_use, 0U);
}

}  // namespace
}  // namespace headrace
