#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "wire/json_codec.h"

namespace headrace::wire {
namespace {

class JsonData : public testing::Test {
 protected:
  void TearDown() override {
    const PoolStats stats = pool_.stats();
    EXPECT_EQ(stats.bytes_in_use, 0U);
    EXPECT_EQ(stats.blocks_in_use, 0U);
  }

  Result<Tensor> convert(const std::string& data, DType dtype, const Shape& shape) {
    WireInput input;
    input.name = "x";
    input.datatype = dtype_name(dtype);
    input.shape = shape;
    input.contents = {reinterpret_cast<const std::byte*>(data.data()), data.size()};
    input.has_contents = true;
    return convert_json_data(input, dtype, element_count(shape.dims()).value(), pool_);
  }

  template <class Element>
  std::vector<Element> elements(const std::string& data, DType dtype, const Shape& shape) {
    const Result<Tensor> tensor = convert(data, dtype, shape);
    EXPECT_TRUE(tensor.ok()) << tensor.status().to_string();
    if (!tensor.ok()) return {};
    EXPECT_EQ(tensor->dtype, dtype);
    EXPECT_EQ(tensor->shape, shape);
    EXPECT_EQ(tensor->data, tensor->block.data());
    std::vector<Element> values(tensor->size / sizeof(Element));
    EXPECT_EQ(tensor->size, element_count(shape.dims()).value() * sizeof(Element));
    if (!values.empty()) std::memcpy(values.data(), tensor->data, tensor->size);
    return values;
  }

  std::string bytes(const std::string& data, std::int64_t count) {
    const Result<Tensor> tensor = convert(data, DType::kBytes, Shape{count});
    EXPECT_TRUE(tensor.ok()) << tensor.status().to_string();
    if (!tensor.ok()) return {};
    EXPECT_TRUE(check_bytes_tensor(tensor->bytes(), static_cast<std::size_t>(count)).ok());
    return {reinterpret_cast<const char*>(tensor->data), tensor->size};
  }

  std::string refusal(const std::string& data, DType dtype, const Shape& shape) {
    const Result<Tensor> tensor = convert(data, dtype, shape);
    EXPECT_EQ(tensor.status().code(), Code::kInvalidArgument) << data;
    EXPECT_EQ(tensor.status().message().find("input 'x': "), 0U) << tensor.status().message();
    return tensor.status().message();
  }

  template <class Element>
  void check_integers(DType dtype) {
    using Limits = std::numeric_limits<Element>;
    const std::string least = std::to_string(Limits::min());
    const std::string most = std::to_string(Limits::max());
    const std::string data = "[" + least + ", 0,1 , -0," + most + "]";
    EXPECT_EQ((elements<Element>(data, dtype, Shape{5})),
              (std::vector<Element>{Limits::min(), 0, 1, 0, Limits::max()}));
    std::string above = most;
    ++above.back();  // no maximum ends in 9
    std::string below = Limits::is_signed ? least : "-1";
    if (Limits::is_signed) ++below.back();  // nor any minimum
    for (const std::string& wrong : {above, below, most + "0", std::string("99999999999999999999999"),
                                     std::string("1.0"), std::string("1e2"), std::string("1.5"), std::string("\"1\""),
                                     std::string("true"), std::string("null"), std::string("NaN"), std::string("{}")}) {
      const std::string text = refusal("[0," + wrong + "]", dtype, Shape{2});
      EXPECT_NE(text.find("data[1] is " + wrong), std::string::npos) << text;
      EXPECT_NE(text.find("from " + least + " to " + most), std::string::npos) << text;
    }
    for (const std::string& malformed : {std::string("01"), std::string("+1"), std::string("1 2"), std::string("-"),
                                         std::string("0x1"), std::string("")}) {
      refusal("[0," + malformed + "]", dtype, Shape{2});
    }
  }

  Pool pool_{PoolOptions{}};
};

TEST_F(JsonData, ConvertsEveryIntegerTypeWithinItsRange) {
  check_integers<std::int8_t>(DType::kInt8);
  check_integers<std::int16_t>(DType::kInt16);
  check_integers<std::int32_t>(DType::kInt32);
  check_integers<std::int64_t>(DType::kInt64);
  check_integers<std::uint8_t>(DType::kUint8);
  check_integers<std::uint16_t>(DType::kUint16);
  check_integers<std::uint32_t>(DType::kUint32);
  check_integers<std::uint64_t>(DType::kUint64);
}

TEST_F(JsonData, ConvertsFloats) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(
      (elements<float>("[0.1, -2.5e-3,16777217 ,1e-46,3.4028235e38,\"Infinity\",-Infinity]", DType::kFp32, Shape{7})),
      (std::vector<float>{0.1F, -2.5e-3F, 16777216.0F, 0.0F, std::numeric_limits<float>::max(), kInfinity,
                          -kInfinity}));
  EXPECT_EQ((elements<double>("[0.1,9007199254740993,1.7976931348623157e308,5e-324,Infinity,\"-Infinity\"]",
                              DType::kFp64, Shape{6})),
            (std::vector<double>{0.1, 9007199254740992.0, std::numeric_limits<double>::max(), 5e-324, kInfinity,
                                 -kInfinity}));
  EXPECT_EQ((elements<std::uint16_t>("[1,-0.0,65504,6e-8,\"NaN\",Infinity,-Infinity,2049]", DType::kFp16, Shape{8})),
            (std::vector<std::uint16_t>{0x3C00, 0x8000, 0x7BFF, 0x0001, 0x7E00, 0x7C00, 0xFC00, 0x6800}));
  EXPECT_EQ((elements<std::uint16_t>("[1,-0.0,3.3895e38,NaN,Infinity,-Infinity,257]", DType::kBf16, Shape{7})),
            (std::vector<std::uint16_t>{0x3F80, 0x8000, 0x7F7F, 0x7FC0, 0x7F80, 0xFF80, 0x4380}));
  EXPECT_TRUE(std::signbit(elements<float>("[-0]", DType::kFp32, Shape{1}).at(0)));
  for (const char* text : {"[NaN]", "[\"NaN\"]"}) {
    EXPECT_TRUE(std::isnan(elements<float>(text, DType::kFp32, Shape{1}).at(0)));
    EXPECT_TRUE(std::isnan(elements<double>(text, DType::kFp64, Shape{1}).at(0)));
  }
}

TEST_F(JsonData, RefusesWhatIsNoFloat) {
  EXPECT_NE(refusal("[1e39]", DType::kFp32, Shape{1}).find("data[0] is 1e39"), std::string::npos);
  refusal("[1e309]", DType::kFp64, Shape{1});
  refusal("[65520]", DType::kFp16, Shape{1});
  refusal("[3.4e38]", DType::kBf16, Shape{1});
  for (const char* data : {"[true]",    "[\"1\"]",      "[\"nan\"]", "[\"NaN]", "[\"\"]", "[nan]", "[-NaN]",
                           "[+1]",      "[.5]",         "[5.]",      "[1e]",    "[00]",   "[{}]",  "[null]",
                           "[Infinit]", "[\"Infinity]", "[\"NaN",    "[1",      "[1,",    "[",     ""}) {
    for (const DType dtype : {DType::kFp32, DType::kFp64, DType::kFp16, DType::kBf16}) refusal(data, dtype, Shape{1});
  }
}

TEST_F(JsonData, ConvertsBools) {
  EXPECT_EQ((elements<std::uint8_t>("[true,false , 1,0]", DType::kBool, Shape{4})),
            (std::vector<std::uint8_t>{1, 0, 1, 0}));
  for (const char* data : {"[2]", "[1.0]", "[\"true\"]", "[tru]", "[True]", "[10]", "[truefalse]", "[-1]"}) {
    refusal(data, DType::kBool, Shape{1});
  }
}

TEST_F(JsonData, ConvertsStrings) {
  using std::string_literals::operator""s;
  EXPECT_EQ(bytes(R"(["", "ab" , "\u00e9\n\"\/\\\b\f\r\t"])", 3),
            "\0\0\0\0\2\0\0\0ab\x0A\0\0\0\xC3\xA9\n\"/\\\b\f\r\t"s);
  EXPECT_EQ(bytes(R"(["\uD83D\uDE00", "\u0000", "é€😀"])", 3),
            "\4\0\0\0\xF0\x9F\x98\x80\1\0\0\0\0\x9\0\0\0\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"s);
  EXPECT_EQ(bytes(R"([{"b64": "AP8B"}, { "b64" :"/w=="}, {"b64":""},{"b64":"\/w"}, {"b64":"AAA="}])", 5),
            "\3\0\0\0\0\xFF\1\1\0\0\0\xFF\0\0\0\0\1\0\0\0\xFF\2\0\0\0\0\0"s);
  for (const char* data : {R"(["\ud83d"])",
                           R"(["\ude00\ud83d"])",
                           R"(["\ud83d\u0041"])",
                           R"(["\x"])",
                           R"(["\u12g4"])",
                           R"(["\u12"])",
                           "[\"\xFF\"]",
                           "[\"\xED\xA0\x80\"]",
                           "[\"a\nb\"]",
                           R"(["abc])",
                           R"(["abc\"])",
                           "[1]",
                           "[null]",
                           "[true]",
                           "[[]]",
                           R"([{}])",
                           R"([{"b65":"AA=="}])",
                           R"([{"b64":1}])",
                           R"([{"b64":"A"}])",
                           R"([{"b64":"A*=="}])",
                           R"([{"b64":"AA==","b64":"AA=="}])",
                           R"([{"b64":"=AAA"}])",
                           R"([{"b64":"AA=="])"}) {
    refusal(data, DType::kBytes, Shape{1});
  }
}

TEST_F(JsonData, TakesFlatAndNestedArrays) {
  const std::vector<std::int32_t> expected = {1, 2, 3, 4, 5, 6};
  for (const char* data : {"[1,2,3,4,5,6]", "[[1,2,3],[4,5,6]]", " [ [ 1 , 2,3 ] ,\n[4,5,6\t]\r] "}) {
    EXPECT_EQ((elements<std::int32_t>(data, DType::kInt32, Shape{2, 3})), expected) << data;
  }
  EXPECT_EQ((elements<std::int32_t>("[[[1],[2],[3]],[[4],[5],[6]]]", DType::kInt32, Shape{2, 3, 1})), expected);
  EXPECT_EQ((elements<std::int32_t>("[7]", DType::kInt32, Shape{})), std::vector<std::int32_t>{7});
  EXPECT_EQ((elements<std::int32_t>("[7]", DType::kInt32, Shape{1, 1, 1})), std::vector<std::int32_t>{7});
  EXPECT_EQ((elements<std::int32_t>("[[[7]]]", DType::kInt32, Shape{1, 1, 1})), std::vector<std::int32_t>{7});
  const std::vector<std::int32_t> none;
  EXPECT_EQ((elements<std::int32_t>("[]", DType::kInt32, Shape{0})), none);
  EXPECT_EQ((elements<std::int32_t>("[ ]", DType::kInt32, Shape{2, 0})), none);
  EXPECT_EQ((elements<std::int32_t>("[[],[]]", DType::kInt32, Shape{2, 0})), none);
  EXPECT_EQ((elements<std::int32_t>("[[],[]]", DType::kInt32, Shape{2, 0, 3})), none);
  EXPECT_EQ((elements<std::int32_t>("[]", DType::kInt32, Shape{0, 3})), none);
}

TEST_F(JsonData, RefusesACountThatIsNotTheShapes) {
  EXPECT_NE(refusal("[1,2,3]", DType::kInt32, Shape{2, 2}).find("data has 3 elements, its shape [2,2] needs 4"),
            std::string::npos);
  EXPECT_NE(refusal("[1,2,3,4,5]", DType::kInt32, Shape{2, 2}).find("data has 5 elements, its shape [2,2] needs 4"),
            std::string::npos);
  EXPECT_NE(refusal("[]", DType::kInt32, Shape{2, 2}).find("data has 0 elements, its shape [2,2] needs 4"),
            std::string::npos);
  EXPECT_NE(refusal("[1]", DType::kInt32, Shape{0}).find("data has 1 elements, its shape [0] needs 0"),
            std::string::npos);
  EXPECT_NE(
      refusal("[[1,2],[3,4,5]]", DType::kInt32, Shape{2, 2}).find("data[1] has 3 elements, its shape [2,2] needs 2"),
      std::string::npos);
  EXPECT_NE(refusal("[[1,2],[3]]", DType::kInt32, Shape{2, 2}).find("data[1] has 1 elements, its shape [2,2] needs 2"),
            std::string::npos);
  EXPECT_NE(
      refusal("[[1,2],[3,4],[5,6]]", DType::kInt32, Shape{2, 2}).find("data has 3 elements, its shape [2,2] needs 2"),
      std::string::npos);
  EXPECT_NE(refusal("[[1,2]]", DType::kInt32, Shape{2, 2}).find("data has 2 elements, its shape [2,2] needs 4"),
            std::string::npos);
}

TEST_F(JsonData, RefusesNestingThatIsNotTheShapes) {
  for (const char* data : {"[1,[2],3,4]", "[[1,2],3,4]", "[[1,2],[3,[4]]]", "[[1,2],[[3],4]]", "[[[1,2],[3,4]]]",
                           "[1,2,3,4]]", "[[1,2],[3,4]", "[[1,2][3,4]]", "[[1,2],[3,4]],", "[[1,2],[3,4],]",
                           "[,1,2,3,4]", "[1,2,3,4] 5", "[[1,2},[3,4]]", "1,2,3,4", "{}", "\"1234\"", "null"}) {
    refusal(data, DType::kInt32, Shape{2, 2});
  }
  EXPECT_NE(refusal("[[1,2,3,4]]", DType::kInt32, Shape{1, 2, 2}).find("nested 2 deep, its shape [1,2,2] wants 3"),
            std::string::npos);
  refusal("[[]]", DType::kInt32, Shape{0});
  refusal("[[[]]]", DType::kInt32, Shape{1, 0, 1});
  refusal(std::string(101, '[') + std::string(101, ']'), DType::kInt32, Shape{0});
}

TEST_F(JsonData, AllocatesNothingForAShapeThatTheTextCannotFill) {
  const std::uint64_t before = pool_.stats().allocations;
  const std::int64_t many = std::int64_t{1} << 40;
  EXPECT_NE(refusal("[1,2]", DType::kFp32, Shape{many}).find("data has 2 elements"), std::string::npos);
  refusal("[1,2]", DType::kBytes, Shape{many, 16});
  refusal("[[1,2]", DType::kFp32, Shape{many});
  EXPECT_EQ(pool_.stats().allocations, before);
}

TEST_F(JsonData, SaysWhenThePoolIsFull) {
  Pool small(PoolOptions{.cap = 64, .retain = 0, .device = {}});
  std::string data = "[0";
  for (int i = 1; i < 100000; ++i) data += ",0";
  data += "]";
  WireInput input;
  input.name = "x";
  input.shape = Shape{100000};
  input.contents = {reinterpret_cast<const std::byte*>(data.data()), data.size()};
  input.has_contents = true;
  EXPECT_EQ(convert_json_data(input, DType::kFp32, 100000, small).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(convert_json_data(input, DType::kInvalid, 100000, pool_).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(convert_json_data(input, DType::kFp32, 99999, pool_).status().code(), Code::kInternal);
}

TEST_F(JsonData, AnInputWithoutDataHasNoElements) {
  WireInput input;
  input.name = "x";
  input.shape = Shape{2, 0};
  const Result<Tensor> none = convert_json_data(input, DType::kFp32, 0, pool_);
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->size, 0U);
  input.shape = Shape{2};
  const Status status = convert_json_data(input, DType::kFp32, 2, pool_).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("has no data, its shape [2] needs 2 elements"), std::string::npos);
}

// Whatever the text is cut to, the answer is a refusal, and nothing behind the cut is read (a sanitizer would see it).
TEST_F(JsonData, EveryCutIsRefused) {
  const std::pair<std::string, DType> whole[] = {
      {"[[1, -22],[333,0]]", DType::kInt32},
      {"[[1.5e-3, NaN],[\"-Infinity\",12345678.123456789]]", DType::kFp32},
      {"[[1.5e-3, NaN],[\"-Infinity\",1234.12345678912]]", DType::kFp16},
      {"[[true,false],[1,0]]", DType::kBool},
      {R"([["a\u00e9\ud83d\ude00","é"],[{"b64":"AAECAw=="},""]])", DType::kBytes},
  };
  for (const auto& [text, dtype] : whole) {
    EXPECT_TRUE(convert(text, dtype, Shape{2, 2}).ok()) << text;
    for (std::size_t size = 0; size < text.size(); ++size) {
      const std::vector<char> exact(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(size));
      refusal(std::string(exact.data(), exact.size()), dtype, Shape{2, 2});
    }
  }
}

}  // namespace
}  // namespace headrace::wire
