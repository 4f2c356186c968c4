#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <protozero/pbf_writer.hpp>
#include <string>
#include <vector>

#include "wire/infer_codec.h"

namespace headrace::wire {
namespace {

using protozero::pbf_writer;

class InferContents : public testing::Test {
 protected:
  void TearDown() override {
    const PoolStats stats = pool_.stats();
    EXPECT_EQ(stats.bytes_in_use, 0U);
    EXPECT_EQ(stats.blocks_in_use, 0U);
  }

  template <class Fill>
  static std::string contents(Fill fill) {
    std::string data;
    pbf_writer writer(data);
    fill(writer);
    return data;
  }

  Result<Tensor> convert(const std::string& data, DType dtype, std::size_t elements) {
    WireInput input;
    input.name = "x";
    input.datatype = dtype_name(dtype);
    input.shape = Shape{static_cast<std::int64_t>(elements)};
    input.contents = {reinterpret_cast<const std::byte*>(data.data()), data.size()};
    input.has_contents = true;
    return convert_contents(input, dtype, elements, pool_);
  }

  template <class Element>
  std::vector<Element> elements(const std::string& data, DType dtype, std::size_t count) {
    const Result<Tensor> tensor = convert(data, dtype, count);
    EXPECT_TRUE(tensor.ok()) << tensor.status().to_string();
    if (!tensor.ok()) return {};
    EXPECT_EQ(tensor->dtype, dtype);
    EXPECT_EQ(tensor->size, count * sizeof(Element));
    EXPECT_EQ(tensor->data, tensor->block.data());
    EXPECT_EQ(tensor->shape, Shape{static_cast<std::int64_t>(count)});
    std::vector<Element> values(count);
    if (count != 0) std::memcpy(values.data(), tensor->data, tensor->size);
    return values;
  }

  std::string refusal(const std::string& data, DType dtype, std::size_t count) {
    const Result<Tensor> tensor = convert(data, dtype, count);
    EXPECT_EQ(tensor.status().code(), Code::kInvalidArgument);
    EXPECT_EQ(tensor.status().message().find("input 'x'"), 0U) << tensor.status().message();
    return tensor.status().message();
  }

  // The values of int_contents or uint_contents (as int64), packed.
  static std::string packed(protozero::pbf_tag_type field, const std::vector<std::int64_t>& values) {
    return contents([&](pbf_writer& writer) { writer.add_packed_int64(field, values.begin(), values.end()); });
  }

  template <class Element>
  void check_integers(DType dtype, protozero::pbf_tag_type field) {
    using Limits = std::numeric_limits<Element>;
    const std::vector<Element> expected = {Limits::min(), 0, 1, 100, Limits::max()};
    std::vector<std::int64_t> wide;
    for (const Element value : expected) wide.push_back(static_cast<std::int64_t>(value));
    EXPECT_EQ(elements<Element>(packed(field, wide), dtype, 5), expected);
    const std::string mixed = contents([&](pbf_writer& writer) {  // one by one, and packed, and one by one
      writer.add_int64(field, wide[0]);
      writer.add_packed_int64(field, wide.begin() + 1, wide.begin() + 4);
      writer.add_packed_int64(field, wide.end(), wide.end());
      writer.add_int64(field, wide[4]);
    });
    EXPECT_EQ(elements<Element>(mixed, dtype, 5), expected);
    if (sizeof(Element) < 4) {
      const auto above = static_cast<std::int64_t>(Limits::max()) + 1;
      const std::string text = refusal(packed(field, {0, above}), dtype, 2);
      EXPECT_NE(text.find("element 1"), std::string::npos) << text;
      EXPECT_NE(text.find("is " + std::to_string(above)), std::string::npos) << text;
      EXPECT_NE(text.find("to " + std::to_string(Limits::max()) + ")"), std::string::npos) << text;
      if (Limits::is_signed) {
        refusal(packed(field, {static_cast<std::int64_t>(Limits::min()) - 1}), dtype, 1);
      }
    }
  }

  Pool pool_{PoolOptions{}};
};

TEST_F(InferContents, ConvertsEveryIntegerTypeWithinItsRange) {
  check_integers<std::int8_t>(DType::kInt8, 2);
  check_integers<std::int16_t>(DType::kInt16, 2);
  check_integers<std::int32_t>(DType::kInt32, 2);
  check_integers<std::int64_t>(DType::kInt64, 3);
  check_integers<std::uint8_t>(DType::kUint8, 4);
  check_integers<std::uint16_t>(DType::kUint16, 4);
  check_integers<std::uint32_t>(DType::kUint32, 4);
  check_integers<std::uint64_t>(DType::kUint64, 5);
}

TEST_F(InferContents, CutsAVarintToItsFieldsTypeAsProtobufDoes) {
  const std::int64_t wide = (std::int64_t{1} << 32) + 7;
  EXPECT_EQ(elements<std::int32_t>(packed(2, {wide}), DType::kInt32, 1), std::vector<std::int32_t>{7});
  EXPECT_EQ(elements<std::int8_t>(packed(2, {wide}), DType::kInt8, 1), std::vector<std::int8_t>{7});
  EXPECT_EQ(elements<std::uint16_t>(packed(4, {wide}), DType::kUint16, 1), std::vector<std::uint16_t>{7});
}

TEST_F(InferContents, ConvertsBools) {
  const std::string data = packed(1, {0, 1, 256, -1}) + std::string("\x08\x80\x00\x08\x01", 5);
  EXPECT_EQ(elements<std::uint8_t>(data, DType::kBool, 6), (std::vector<std::uint8_t>{0, 1, 1, 1, 0, 1}));
}

TEST_F(InferContents, CopiesFloats) {
  const std::vector<float> floats = {0.0F, -0.0F, 1.5F, std::numeric_limits<float>::infinity(), 1e-45F};
  const std::vector<double> doubles = {0.0, -2.5, 1e-320};
  const std::string data = contents([&](pbf_writer& writer) {
    writer.add_float(6, floats[0]);
    writer.add_packed_float(6, floats.begin() + 1, floats.end());
  });
  const std::vector<float> got = elements<float>(data, DType::kFp32, 5);
  EXPECT_EQ(std::memcmp(got.data(), floats.data(), 20), 0);
  const std::string wide = contents([&](pbf_writer& writer) {
    writer.add_packed_double(7, doubles.begin(), doubles.begin() + 2);
    writer.add_double(7, doubles[2]);
  });
  EXPECT_EQ(elements<double>(wide, DType::kFp64, 3), doubles);
}

// A 16-bit float by definition: sign, exponent (bias), mantissa.
float widen(std::uint16_t bits, int mantissa_bits, int bias) {
  const int exponent = (bits & 0x7FFF) >> mantissa_bits;
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const float magnitude =
      exponent == 0 ? std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits)
                    : std::ldexp(static_cast<float>(mantissa + (1 << mantissa_bits)), exponent - bias - mantissa_bits);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// Every finite value maps to itself; between two neighbours the middle goes to the even one, and the floats beside the
// middle to the nearer one.
void sixteen_bit_cases(int mantissa_bits, int bias, std::uint16_t infinity, std::vector<float>& in,
                       std::vector<std::uint16_t>& expected) {
  for (unsigned magnitude = 0; magnitude < infinity; ++magnitude) {
    for (const unsigned sign : {0U, 0x8000U}) {
      const auto low = static_cast<std::uint16_t>(magnitude | sign);
      const auto high = static_cast<std::uint16_t>(low + 1);
      const float value = widen(low, mantissa_bits, bias);
      const double next = magnitude + 1U == infinity ? std::ldexp(2.0, bias) * (sign != 0 ? -1 : 1)
                                                     : static_cast<double>(widen(high, mantissa_bits, bias));
      in.push_back(value);
      expected.push_back(low);
      const auto middle = static_cast<float>((static_cast<double>(value) + next) / 2);
      if (static_cast<double>(middle) * 2 != static_cast<double>(value) + next) continue;  // FP32 has no such middle
      in.push_back(middle);
      expected.push_back((low & 1U) == 0 ? low : high);
      in.push_back(std::nextafter(middle, value));
      expected.push_back(low);
      in.push_back(std::nextafter(middle, sign != 0 ? -INFINITY : INFINITY));
      expected.push_back(high);
    }
  }
}

TEST_F(InferContents, RoundsEveryHalfToNearestEven) {
  const struct {
    DType dtype;
    int mantissa_bits;
    int bias;
    std::uint16_t infinity;
  } formats[] = {{DType::kFp16, 10, 15, 0x7C00}, {DType::kBf16, 7, 127, 0x7F80}};
  for (const auto& format : formats) {
    std::vector<float> in;
    std::vector<std::uint16_t> expected;
    sixteen_bit_cases(format.mantissa_bits, format.bias, format.infinity, in, expected);
    ASSERT_GT(in.size(), 200000U);
    const std::uint16_t infinity = format.infinity;
    const auto negative = static_cast<std::uint16_t>(infinity | 0x8000U);
    const float limits = std::numeric_limits<float>::infinity();
    in.insert(in.end(), {limits, -limits, std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest()});
    expected.insert(expected.end(), {infinity, negative, infinity, negative});
    if (format.dtype == DType::kFp16) {
      in.insert(in.end(), {1e-45F, -1e-45F, std::ldexp(1.0F, -25), 70000.0F});
      expected.insert(expected.end(), {0, 0x8000, 0, 0x7C00});
    }
    const std::string data = contents([&](pbf_writer& writer) { writer.add_packed_float(6, in.begin(), in.end()); });
    const std::vector<std::uint16_t> got = elements<std::uint16_t>(data, format.dtype, in.size());
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < in.size() && wrong < 5; ++i) {
      if (got[i] == expected[i]) continue;
      ++wrong;
      ADD_FAILURE() << dtype_name(format.dtype) << " of " << std::hexfloat << in[i] << " is " << std::hex << got[i]
                    << ", not " << expected[i];
    }
    std::vector<float> nans;
    for (const std::uint32_t bits : {0x7F800001U, 0x7FC00000U, 0xFF800001U, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
      nans.push_back(std::bit_cast<float>(bits));
    }
    std::string nan_data;
    pbf_writer writer(nan_data);
    for (const float nan : nans) writer.add_float(6, nan);
    for (const std::uint16_t half : elements<std::uint16_t>(nan_data, format.dtype, nans.size())) {
      EXPECT_GT(half & 0x7FFF, infinity);
    }
  }
}

TEST_F(InferContents, PutsALengthBeforeEachString) {
  const std::string data = contents([](pbf_writer& writer) {
    writer.add_bytes(8, "ab");
    writer.add_bytes(8, "");
    writer.add_bytes(8, "\xFFz");  // bytes need not be UTF-8
  });
  const Result<Tensor> tensor = convert(data, DType::kBytes, 3);
  ASSERT_TRUE(tensor.ok());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(tensor->data), tensor->size),
            std::string("\x02\0\0\0ab\0\0\0\0\x02\0\0\0\xFFz", 16));
  EXPECT_TRUE(check_bytes_tensor(tensor->bytes(), 3).ok());
}

TEST_F(InferContents, CountsTheElements) {
  EXPECT_EQ(refusal(packed(2, {1, 300, 2}), DType::kInt32, 4),
            "input 'x': int_contents has 3 elements, its shape [4] needs 4");
  EXPECT_NE(refusal(packed(2, {1, 300, 2}), DType::kInt32, 2).find("3 elements"), std::string::npos);
  EXPECT_NE(refusal("", DType::kFp32, 1).find("fp32_contents has 0 elements"), std::string::npos);
  for (const DType dtype : {DType::kBool, DType::kInt8, DType::kFp16, DType::kFp32, DType::kFp64, DType::kBytes}) {
    const Result<Tensor> none = convert("", dtype, 0);
    ASSERT_TRUE(none.ok());
    EXPECT_EQ(none->size, 0U);
    EXPECT_NE(none->data, nullptr);
  }
}

TEST_F(InferContents, AllocatesNothingForAShapeThatIsNotFilled) {
  const std::uint64_t before = pool_.stats().allocations;
  refusal(packed(5, {1}), DType::kUint64, std::numeric_limits<std::size_t>::max() / 2);
  EXPECT_EQ(pool_.stats().allocations, before);
}

TEST_F(InferContents, RefusesAnotherTypesField) {
  const DType dtypes[] = {DType::kBool,   DType::kInt32, DType::kInt64, DType::kUint32,
                          DType::kUint64, DType::kFp32,  DType::kFp64,  DType::kBytes};
  const std::string fields[] = {packed(1, {1}),
                                packed(2, {1}),
                                packed(3, {1}),
                                packed(4, {1}),
                                packed(5, {1}),
                                contents([](pbf_writer& writer) { writer.add_float(6, 1); }),
                                contents([](pbf_writer& writer) { writer.add_double(7, 1); }),
                                contents([](pbf_writer& writer) { writer.add_bytes(8, ""); })};
  for (std::size_t i = 0; i < 8; ++i) {
    for (std::size_t j = 0; j < 8; ++j) {
      if (i == j) {
        EXPECT_TRUE(convert(fields[j], dtypes[i], 1).ok());
      } else {
        EXPECT_NE(refusal(fields[j], dtypes[i], 1).find("is sent in"), std::string::npos);
        EXPECT_NE(refusal(fields[i] + fields[j], dtypes[i], 1).find("is sent in"), std::string::npos);
      }
    }
  }
  EXPECT_EQ(refusal(fields[5], DType::kInt8, 1),
            "input 'x': datatype INT8 is sent in int_contents, not in fp32_contents");
  // Nothing is sent in a packed field of no elements; unknown fields say nothing.
  EXPECT_TRUE(convert(fields[1] + std::string("\x32\x00\x50\x01\x09", 5) + "12345678", DType::kInt32, 1).ok());
  EXPECT_NE(refusal(fields[0], DType::kInvalid, 1).find("contents can carry"), std::string::npos);
}

TEST_F(InferContents, RefusesWhatIsNotProtobuf) {
  const std::pair<std::string, DType> cases[] = {
      {std::string("\x32\x03\0\0\0", 5), DType::kFp32},          // 3 bytes of floats
      {std::string("\x3A\x07\0\0\0\0\0\0\0", 9), DType::kFp64},  // 7 bytes of doubles
      {std::string("\x35\0\0", 3), DType::kFp16},                // half a float
      {std::string("\x12\x02\x01\x80", 4), DType::kInt32},       // cut varint, with a whole one before it
      {"\x12\x0C\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", DType::kInt32},  // varint of twelve bytes
      {"\x42\x05"
       "ab",
       DType::kBytes},         // cut string
      {"\x0C", DType::kBool},  // end of a group
  };
  for (const auto& [data, dtype] : cases) {
    EXPECT_NE(refusal(data, dtype, 1).find("not a valid protobuf message"), std::string::npos);
  }
}

TEST(InferContentsPool, SaysWhenThePoolIsFull) {
  Pool pool(PoolOptions{.cap = 4096, .retain = 0, .device = {}});
  const std::string data = [] {
    std::string bytes;
    pbf_writer writer(bytes);
    const std::vector<float> floats(4096, 1.0F);
    writer.add_packed_float(6, floats.begin(), floats.end());
    return bytes;
  }();
  WireInput input;
  input.name = "x";
  input.contents = {reinterpret_cast<const std::byte*>(data.data()), data.size()};
  EXPECT_EQ(convert_contents(input, DType::kFp32, 4096, pool).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(pool.stats().bytes_in_use, 0U);
  EXPECT_EQ(pool.stats().blocks_in_use, 0U);
}

}  // namespace
}  // namespace headrace::wire
