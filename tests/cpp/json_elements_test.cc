#include "wire/json_elements.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "wire/json_codec.h"

namespace headrace::wire {
namespace {

constexpr DType kAll[] = {DType::kBool, DType::kUint8, DType::kUint16, DType::kUint32, DType::kUint64,
                          DType::kInt8, DType::kInt16, DType::kInt32,  DType::kInt64,  DType::kFp16,
                          DType::kFp32, DType::kFp64,  DType::kBytes,  DType::kBf16};

class JsonElementsTest : public testing::Test {
 protected:
  void TearDown() override {
    const PoolStats stats = pool_.stats();
    EXPECT_EQ(stats.bytes_in_use, 0U);
    EXPECT_EQ(stats.blocks_in_use, 0U);
  }

  // Any bits: edges as often as the rest. NaN is the one that is read back; its payload cannot travel.
  std::string random_bytes(DType dtype, std::size_t elements) {
    std::string bytes;
    for (std::size_t i = 0; i < elements; ++i) {
      std::uint64_t bits = random_();
      switch (random_() % 8) {
        case 0:
          bits = 0;
          break;
        case 1:
          bits = ~std::uint64_t{0};
          break;
        case 2:
          bits = std::uint64_t{1} << (random_() % 64);
          break;
        case 3:
          bits >>= random_() % 64;
          break;
        default:
          break;
      }
      if (dtype == DType::kBytes) {
        append_string(bytes);
        continue;
      }
      if (dtype == DType::kBool) bits &= 1U;
      if (dtype == DType::kFp64 && std::isnan(std::bit_cast<double>(bits))) bits = 0x7FF8000000000000U;
      if (dtype == DType::kFp32 && std::isnan(std::bit_cast<float>(static_cast<std::uint32_t>(bits)))) {
        bits = 0x7FC00000U;
      }
      if (dtype == DType::kFp16 && (bits & 0x7FFFU) > 0x7C00U) bits = 0x7E00U;
      if (dtype == DType::kBf16 && (bits & 0x7FFFU) > 0x7F80U) bits = 0x7FC0U;
      bytes.append(reinterpret_cast<const char*>(&bits), element_size(dtype));
    }
    return bytes;
  }

  // Text of every kind of character: control, quotes, two, three and four bytes of UTF-8.
  void append_string(std::string& bytes) {
    static const char* const kCharacters[] = {
        "a", "\"", "\\", "\n", "\x01", "\x7F", "/", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xEE\x80\x80",
        " "};
    std::string text;
    for (std::uint64_t left = random_() % 24; left > 0; --left) text += kCharacters[random_() % std::size(kCharacters)];
    if (random_() % 8 == 0) text += '\0';
    const auto size = static_cast<std::uint32_t>(text.size());
    bytes.append(reinterpret_cast<const char*>(&size), sizeof(size));
    bytes += text;
  }

  Shape random_shape() {
    std::vector<std::int64_t> dims;
    for (std::uint64_t rank = random_() % 4; rank > 0; --rank) dims.push_back(static_cast<std::int64_t>(random_() % 5));
    return Shape(dims);
  }

  Tensor borrowed(DType dtype, const Shape& shape, const std::string& bytes) {
    Tensor tensor;
    tensor.dtype = dtype;
    tensor.shape = shape;
    tensor.data = reinterpret_cast<const std::byte*>(bytes.data());
    tensor.size = bytes.size();
    return tensor;
  }

  std::mt19937_64 random_{20261121};
  Pool pool_{PoolOptions{}};
};

// Through a whole response and a whole request, whose data is the response's.
TEST_F(JsonElementsTest, EveryTensorComesBackBitForBit) {
  JsonReader reader;
  InferRequest request;
  OutMessage out;
  for (int round = 0; round < 400; ++round) {
    for (const DType dtype : kAll) {
      const Shape shape = random_shape();
      const std::size_t elements = element_count(shape.dims()).value();
      const std::string bytes = random_bytes(dtype, elements);
      const Tensor tensor = borrowed(dtype, shape, bytes);
      for (const OutputForm form : {OutputForm::kText, OutputForm::kBase64, OutputForm::kBinary}) {
        const ResponseOutput output{"t", &tensor};
        InferResponse response;
        response.outputs = {&output, 1};
        std::size_t json_bytes = 0;
        ASSERT_TRUE(encode_json_response(response, {&form, 1}, out, json_bytes).ok());
        // An output has an input's members.
        std::string body = out.own;
        body.replace(body.find("\"outputs\""), 9, "\"inputs\"");
        const std::size_t json = json_bytes == 0 ? body.size() : json_bytes - 1;
        const Status status =
            reader.decode({reinterpret_cast<const std::byte*>(body.data()), body.size()}, json, {}, request);
        ASSERT_TRUE(status.ok()) << status.to_string() << "\n" << body;
        const WireInput& input = request.inputs.at(0);
        ASSERT_EQ(input.shape, shape);
        ASSERT_EQ(input.datatype, dtype_name(dtype));
        if (form == OutputForm::kBinary) {
          ASSERT_EQ(std::string(reinterpret_cast<const char*>(input.raw->data()), input.raw->size()), bytes);
          continue;
        }
        const Result<Tensor> back = convert_json_data(input, dtype, elements, pool_);
        ASSERT_TRUE(back.ok()) << back.status().to_string() << "\n" << body;
        ASSERT_EQ(std::string(reinterpret_cast<const char*>(back->data), back->size), bytes) << body;
      }
    }
  }
}

TEST_F(JsonElementsTest, EveryHalfComesBackBitForBit) {
  for (const DType dtype : {DType::kFp16, DType::kBf16}) {
    const std::uint16_t infinity = dtype == DType::kFp16 ? 0x7C00 : 0x7F80;
    std::vector<std::uint16_t> all;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      if ((bits & 0x7FFFU) <= infinity) all.push_back(static_cast<std::uint16_t>(bits));
    }
    const std::string bytes(reinterpret_cast<const char*>(all.data()), all.size() * 2);
    const Shape shape{static_cast<std::int64_t>(all.size())};
    const Tensor tensor = borrowed(dtype, shape, bytes);
    std::string text = "[";
    ASSERT_TRUE(JsonElements(tensor, false).append(all.size(), text));
    text += "]";
    WireInput input;
    input.shape = shape;
    input.contents = {reinterpret_cast<const std::byte*>(text.data()), text.size()};
    input.has_contents = true;
    const Result<Tensor> back = convert_json_data(input, dtype, all.size(), pool_);
    ASSERT_TRUE(back.ok()) << back.status().to_string();
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(back->data), back->size), bytes);
    EXPECT_LE(text.size(), json_data_bytes(tensor));
  }
}

TEST_F(JsonElementsTest, WritesARunAtATime) {
  const std::string bytes("\1\0\0\0a\0\0\0\0\2\0\0\0bc", 15);
  const Tensor tensor = borrowed(DType::kBytes, Shape{3}, bytes);
  JsonElements elements(tensor, false);
  std::string text;
  EXPECT_EQ(elements.left(), 3U);
  EXPECT_TRUE(elements.append(2, text));
  EXPECT_EQ(text, R"("a","")");
  EXPECT_EQ(elements.next(), 2U);
  EXPECT_TRUE(elements.append(0, text));
  EXPECT_TRUE(elements.append(1, text));
  EXPECT_EQ(text, R"("a","""bc")");
  EXPECT_EQ(elements.left(), 0U);
}

TEST_F(JsonElementsTest, StopsAtAStringThatIsNoText) {
  const std::string bytes("\1\0\0\0a\1\0\0\0\xFF", 10);
  const Tensor tensor = borrowed(DType::kBytes, Shape{2}, bytes);
  JsonElements elements(tensor, false);
  std::string text;
  EXPECT_FALSE(elements.append(2, text));
  EXPECT_EQ(elements.next(), 1U);
}

}  // namespace
}  // namespace headrace::wire
