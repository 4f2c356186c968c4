#include "wire/json_codec.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace headrace::wire {
namespace {

using std::string_literals::operator""s;

class JsonCodec : public testing::Test {
 protected:
  void TearDown() override {
    response_ = {};
    out_.clear();
    tensors_.clear();
    const PoolStats stats = pool_.stats();
    EXPECT_EQ(stats.bytes_in_use, 0U);
    EXPECT_EQ(stats.blocks_in_use, 0U);
  }

  void SetUp() override { tensors_.reserve(8); }

  const Tensor& tensor(DType dtype, const Shape& shape, std::string_view bytes) {
    Tensor& made = tensors_.emplace_back();
    made.dtype = dtype;
    made.shape = shape;
    made.block = std::move(*pool_.allocate(bytes.size()));
    if (!bytes.empty()) std::memcpy(made.block.data(), bytes.data(), bytes.size());
    made.data = made.block.data();
    made.size = bytes.size();
    return made;
  }
  template <class Element>
  const Tensor& tensor(DType dtype, const std::vector<Element>& values) {
    return tensor(dtype, Shape{static_cast<std::int64_t>(values.size())},
                  {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Element)});
  }

  Status encode(const std::vector<ResponseOutput>& outputs, const std::vector<OutputForm>& forms) {
    response_.model_name = "m";
    response_.model_version = "1";
    response_.outputs = outputs;
    const Status status = encode_json_response(response_, forms, out_, json_bytes_);
    response_.outputs = {};
    return status;
  }
  std::string whole() const {
    std::string text;
    std::size_t from = 0;
    for (const OutMessage::View& view : out_.views) {
      text += out_.own.substr(from, view.offset - from);
      text.append(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size());
      from = view.offset;
    }
    return text + out_.own.substr(from);
  }
  std::string data_of(const Tensor& value, OutputForm form = OutputForm::kText) {
    const Status status = encode({{"y", &value}}, {form});
    EXPECT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(json_bytes_, 0U);
    const std::string text = whole();
    const std::string head = R"({"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":")" +
                             std::string(dtype_name(value.dtype)) + R"(","shape":)" + value.shape.to_string() +
                             R"(,"data":)";
    EXPECT_EQ(text.substr(0, head.size()), head);
    EXPECT_EQ(text.substr(text.size() - 3), "}]}");
    return text.substr(head.size(), text.size() - head.size() - 3);
  }

  Pool pool_{PoolOptions{}};
  std::vector<Tensor> tensors_;
  InferResponse response_;
  OutMessage out_;
  std::size_t json_bytes_ = 77;
};

TEST_F(JsonCodec, FlatAnswersAndEvents) {
  const Tensor& numbers = tensor<float>(DType::kFp32, {1.5F, 2});
  const Tensor& one = tensor<std::int64_t>(DType::kInt64, {-7});
  const Tensor& none = tensor<std::int64_t>(DType::kInt64, {});
  const Tensor& text = tensor(DType::kBytes, {1, 1}, "\3\0\0\0a\n\""s);
  const std::vector<ResponseOutput> outputs = {{"a", &numbers}, {"b", &one}, {"c", &none}, {"d", &text}};
  const std::vector<ResponseParameter> parameters = {{"p", true}, {"q", std::int64_t{3}}};
  response_ = {.model_name = "m", .model_version = "1", .id = "i\n", .parameters = parameters, .outputs = outputs};
  const std::string flat = R"({"model_name":"m","model_version":"1","id":"i\n","p":true,"q":3,)"
                           R"("a":[1.5,2.0],"b":-7,"c":[],"d":"a\n\""})";
  ASSERT_TRUE(encode_generate_response(response_, false, out_).ok());
  EXPECT_EQ(whole(), flat);
  ASSERT_TRUE(encode_generate_response(response_, true, out_).ok());
  EXPECT_EQ(whole(), "data: " + flat + "\n\n");
  const Tensor& broken = tensor(DType::kBytes, {1}, "\1\0\0\0\xff"s);
  const std::vector<ResponseOutput> bad = {{"e", &broken}};
  response_.outputs = bad;
  EXPECT_EQ(encode_generate_response(response_, true, out_).code(), Code::kInvalidArgument);
  EXPECT_EQ(error_event("a\nb"), "data: {\"error\":\"a\\nb\"}\n\n");
  response_ = {};
}

TEST_F(JsonCodec, WritesEachDtype) {
  EXPECT_EQ(data_of(tensor(DType::kBool, "\0\1\1"s.size() == 3 ? Shape{3} : Shape{}, "\0\1\1"s)), "[false,true,true]");
  EXPECT_EQ(data_of(tensor<std::uint8_t>(DType::kUint8, {0, 7, 255})), "[0,7,255]");
  EXPECT_EQ(data_of(tensor<std::uint16_t>(DType::kUint16, {0, 65535})), "[0,65535]");
  EXPECT_EQ(data_of(tensor<std::uint32_t>(DType::kUint32, {4294967295U})), "[4294967295]");
  EXPECT_EQ(data_of(tensor<std::uint64_t>(DType::kUint64, {18446744073709551615U, 9007199254740993U})),
            "[18446744073709551615,9007199254740993]");
  EXPECT_EQ(data_of(tensor<std::int8_t>(DType::kInt8, {-128, 127})), "[-128,127]");
  EXPECT_EQ(data_of(tensor<std::int16_t>(DType::kInt16, {-32768, 1})), "[-32768,1]");
  EXPECT_EQ(data_of(tensor<std::int32_t>(DType::kInt32, {-2147483647 - 1, 0})), "[-2147483648,0]");
}

TEST_F(JsonCodec, WritesFloatsInTheShortestFormThatReadsBack) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(data_of(tensor<std::int64_t>(DType::kInt64, {std::numeric_limits<std::int64_t>::min(), -1})),
            "[-9223372036854775808,-1]");
  EXPECT_EQ(data_of(tensor<float>(DType::kFp32, {0.1F, 1, -0.0F, 16777216, 1e20F, 1.17549435e-38F, kInfinity,
                                                 -kInfinity, std::numeric_limits<float>::quiet_NaN()})),
            R"([0.1,1.0,-0.0,16777216.0,1e+20,1.1754944e-38,"Infinity","-Infinity","NaN"])");
  EXPECT_EQ(data_of(tensor<double>(DType::kFp64, {0.1, 3, 1.7976931348623157e308, 5e-324, -kInfinity})),
            R"([0.1,3.0,1.7976931348623157e+308,5e-324,"-Infinity"])");
  EXPECT_EQ(
      data_of(tensor<std::uint16_t>(DType::kFp16, {0x3C00, 0xC000, 0x0001, 0x7BFF, 0x7C00, 0xFC00, 0x7E01, 0x8000})),
      R"([1.0,-2.0,5.9604645e-08,65504.0,"Infinity","-Infinity","NaN",-0.0])");
  EXPECT_EQ(data_of(tensor<std::uint16_t>(DType::kBf16, {0x3F80, 0x7F7F, 0x7F80, 0xFF80, 0x7FC1})),
            R"([1.0,3.3895314e+38,"Infinity","-Infinity","NaN"])");
}

TEST_F(JsonCodec, WritesStringsAndBase64) {
  const Tensor& text = tensor(DType::kBytes, Shape{4},
                              "\0\0\0\0"
                              "\3\0\0\0a\"\\"
                              "\5\0\0\0\n\r\t\x01\x7F"
                              "\4\0\0\0\xF0\x9F\x98\x80"s);
  EXPECT_EQ(data_of(text), "[\"\",\"a\\\"\\\\\",\"\\n\\r\\t\\u0001\x7F\",\"\xF0\x9F\x98\x80\"]");
  const Tensor& bytes = tensor(DType::kBytes, Shape{4}, "\0\0\0\0\1\0\0\0\xFF\2\0\0\0\xFF\xFE\3\0\0\0\0\1\2"s);
  EXPECT_EQ(data_of(bytes, OutputForm::kBase64), R"([{"b64":""},{"b64":"/w=="},{"b64":"//4="},{"b64":"AAEC"}])");
  const Status status = encode({{"y", &bytes}}, {OutputForm::kText});
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("output 'y': element 1 is not UTF-8"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("binary tensor data extension"), std::string::npos);
  EXPECT_EQ(out_.size(), 0U);
  EXPECT_EQ(data_of(tensor<std::uint8_t>(DType::kUint8, {1}), OutputForm::kBase64), "[1]");
}

TEST_F(JsonCodec, WritesScalarsAndEmptyTensors) {
  EXPECT_EQ(data_of(tensor(DType::kUint8, Shape{}, "\5")), "[5]");
  EXPECT_EQ(data_of(tensor(DType::kFp32, Shape{2, 0}, "")), "[]");
  EXPECT_EQ(data_of(tensor(DType::kBytes, Shape{0}, "")), "[]");
}

TEST_F(JsonCodec, WritesTheHead) {
  const std::vector<ResponseParameter> parameters = {{"a", 1}, {"b\"", -2}, {"c", true}, {"d", false}};
  response_.parameters = parameters;
  response_.id = "i\n";
  ASSERT_TRUE(encode({}, {}).ok());
  EXPECT_EQ(
      whole(),
      R"({"model_name":"m","model_version":"1","id":"i\n","parameters":{"a":1,"b\"":-2,"c":true,"d":false},"outputs":[]})");
  EXPECT_EQ(json_bytes_, 0U);
}

TEST_F(JsonCodec, WritesBinaryOutputsBehindTheJson) {
  const std::string large(kViewBytes + 1, 'L');
  const Tensor& a = tensor<std::uint8_t>(DType::kUint8, {1, 2, 3});
  const Tensor& b = tensor<std::uint8_t>(DType::kUint8, {4});
  const Tensor& c = tensor(DType::kInt8, Shape{static_cast<std::int64_t>(large.size())}, large);
  const Tensor& d = tensor(DType::kFp32, Shape{0}, "");
  ASSERT_TRUE(encode({{"a", &a}, {"b", &b}, {"c", &c}, {"d", &d}},
                     {OutputForm::kBinary, OutputForm::kText, OutputForm::kBinary, OutputForm::kBinary})
                  .ok());
  const std::string head = R"({"model_name":"m","model_version":"1","outputs":[)"
                           R"({"name":"a","datatype":"UINT8","shape":[3],"parameters":{"binary_data_size":3}},)"
                           R"({"name":"b","datatype":"UINT8","shape":[1],"data":[4]},)"
                           R"({"name":"c","datatype":"INT8","shape":[65537],"parameters":{"binary_data_size":65537}},)"
                           R"({"name":"d","datatype":"FP32","shape":[0],"parameters":{"binary_data_size":0}}]})";
  EXPECT_EQ(json_bytes_, head.size());
  EXPECT_EQ(whole(), head + "\1\2\3" + large);
  ASSERT_EQ(out_.views.size(), 1U);
  EXPECT_EQ(out_.views[0].bytes.data(), c.data);
  EXPECT_EQ(out_.size(), head.size() + 3 + large.size());
}

TEST_F(JsonCodec, SaysWhereAnOutputIsInSharedMemory) {
  Tensor written = tensor<std::uint8_t>(DType::kUint8, {1, 2, 3});
  written.block.reset();
  written.size = 0;
  ASSERT_TRUE(
      encode({{"a", &written, {"r", 8, 3}}, {"b", &written, {"\"", 0, 3}}}, {OutputForm::kText, OutputForm::kBinary})
          .ok());
  EXPECT_EQ(whole(), R"({"model_name":"m","model_version":"1","outputs":[)"
                     R"({"name":"a","datatype":"UINT8","shape":[3],"parameters":{"shared_memory_region":"r",)"
                     R"("shared_memory_byte_size":3,"shared_memory_offset":8}},)"
                     R"({"name":"b","datatype":"UINT8","shape":[3],"parameters":{"shared_memory_region":"\"",)"
                     R"("shared_memory_byte_size":3}}]})");
  EXPECT_EQ(json_bytes_, 0U);
}

TEST_F(JsonCodec, EscapesAnyText) {
  EXPECT_EQ(json_error("a \"b\"\\\n"), R"({"error":"a \"b\"\\\n"})");
  EXPECT_EQ(json_error("\xFF"
                       "a\xC3\xA9\xC3"
                       "b\xED\xA0\x80\xF0\x9F\x98"s),
            "{\"error\":\"\xEF\xBF\xBD"
            "a\xC3\xA9\xEF\xBF\xBD"
            "b\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"}");
  EXPECT_EQ(json_error("\0\x1F"s), R"({"error":"\u0000\u001f"})");
  EXPECT_EQ(json_error(""), R"({"error":""})");
}

TEST_F(JsonCodec, TellsTheFormOfAnOutput) {
  JsonReader reader;
  InferRequest request;
  const auto form = [&](const std::string& json, std::string_view name) {
    const Status status =
        reader.decode({reinterpret_cast<const std::byte*>(json.data()), json.size()}, json.size(), {}, request);
    EXPECT_TRUE(status.ok()) << status.to_string();
    return output_form(request, name);
  };
  const std::string both = R"({"inputs":[],"parameters":{"binary_data_output":true},
      "outputs":[{"name":"a","parameters":{"binary_data":false}},{"name":"b"},{"name":"c","parameters":{"b64":true,"binary_data":false}}]})";
  EXPECT_EQ(*form(both, "a"), OutputForm::kText);
  EXPECT_EQ(*form(both, "b"), OutputForm::kBinary);
  EXPECT_EQ(*form(both, "c"), OutputForm::kBase64);
  EXPECT_EQ(*form(both, "d"), OutputForm::kBinary);
  EXPECT_EQ(*form(R"({"inputs":[]})", "d"), OutputForm::kText);
  EXPECT_EQ(*form(R"({"inputs":[],"outputs":[{"name":"a","parameters":{"binary_data":true,"b64":true}}]})", "a"),
            OutputForm::kBinary);
  for (const char* json : {R"({"inputs":[],"parameters":{"binary_data_output":1}})",
                           R"({"inputs":[],"outputs":[{"name":"a","parameters":{"binary_data":"true"}}]})",
                           R"({"inputs":[],"outputs":[{"name":"a","parameters":{"b64":0}}]})"}) {
    const Result<OutputForm> wrong = form(json, "a");
    EXPECT_EQ(wrong.status().code(), Code::kInvalidArgument);
    EXPECT_NE(wrong.status().message().find("must be true or false"), std::string::npos) << wrong.status().message();
  }
}

TEST_F(JsonCodec, EstimatesAtLeastWhatItWrites) {
  for (const DType dtype : {DType::kBool, DType::kUint8, DType::kInt32, DType::kFp16}) {
    const Tensor& value =
        tensor(dtype, Shape{static_cast<std::int64_t>(4096 / element_size(dtype))}, std::string(4096, '\1'));
    const std::vector<ResponseOutput> outputs = {{"y", &value}};
    const std::vector<OutputForm> text = {OutputForm::kText};
    ASSERT_TRUE(encode(outputs, text).ok());
    InferResponse response;
    response.outputs = outputs;
    EXPECT_GE(json_response_bytes(response, text), out_.size());
    const std::vector<OutputForm> binary = {OutputForm::kBinary};
    EXPECT_LT(json_response_bytes(response, binary), 1024U);
  }
}

class RawRequest : public JsonCodec {
 protected:
  Status decode(const std::string& body, DType dtype, const std::vector<std::int64_t>& dims, bool batched) {
    body_ = body;
    const RawInputSpec spec{"x", dtype, dims, batched};
    return decode_raw_request({reinterpret_cast<const std::byte*>(body_.data()), body_.size()}, spec, request_);
  }
  void expect_shape(const std::string& body, DType dtype, const std::vector<std::int64_t>& dims, bool batched,
                    const Shape& shape) {
    const Status status = decode(body, dtype, dims, batched);
    ASSERT_TRUE(status.ok()) << status.to_string();
    ASSERT_EQ(request_.inputs.size(), 1U);
    EXPECT_EQ(request_.inputs[0].name, "x");
    EXPECT_EQ(request_.inputs[0].datatype, dtype_name(dtype));
    EXPECT_EQ(request_.inputs[0].shape, shape);
    ASSERT_TRUE(request_.inputs[0].raw.has_value());
    EXPECT_EQ(request_.inputs[0].raw->data(), reinterpret_cast<const std::byte*>(body_.data()));
    EXPECT_EQ(request_.inputs[0].raw->size(), body_.size());
    EXPECT_EQ(*output_form(request_, "anything"), OutputForm::kBinary);
  }
  std::string body_;
  InferRequest request_;
};

TEST_F(RawRequest, MakesTheShapeOfTheSize) {
  const std::string body(24, 'x');
  expect_shape(body, DType::kFp32, {-1, 6}, true, Shape{1, 6});
  expect_shape(body, DType::kFp32, {-1, -1}, true, Shape{1, 6});
  expect_shape(body, DType::kFp32, {-1, 3}, false, Shape{2, 3});
  expect_shape(body, DType::kFp32, {2, 3}, false, Shape{2, 3});
  expect_shape(body.substr(0, 4), DType::kFp32, {}, false, Shape{});
  expect_shape("", DType::kFp32, {-1}, false, Shape{0});
  EXPECT_NE(decode(body, DType::kFp32, {-1, -1}, false).message().find("more than one dimension is variable"),
            std::string::npos);
  EXPECT_NE(decode(body, DType::kFp32, {-1, -1, -1}, true).message().find("more than one dimension is variable"),
            std::string::npos);
  EXPECT_NE(decode(body, DType::kFp32, {-1, 4}, false).message().find("24 bytes are no multiple of 16"),
            std::string::npos);
  EXPECT_NE(decode(body, DType::kFp32, {4}, false).message().find("24 bytes, its shape needs 16"), std::string::npos);
  EXPECT_NE(decode(body, DType::kFp32, {-1, 0}, false).message().find("no multiple of 0"), std::string::npos);
  EXPECT_FALSE(decode(body, DType::kFp32, {std::int64_t{1} << 62, 4}, false).ok());
  EXPECT_FALSE(decode(body, DType::kFp32, {std::int64_t{1} << 62}, false).ok());
}

TEST_F(RawRequest, TakesOneString) {
  for (const std::vector<std::int64_t>& dims : {std::vector<std::int64_t>{-1, 1}, {-1, -1}, {1}}) {
    ASSERT_TRUE(decode("a\0\xFF"s, DType::kBytes, dims, dims.size() == 2).ok());
    const Result<Tensor> tensor = convert_raw_string(request_.inputs[0], pool_);
    ASSERT_TRUE(tensor.ok());
    EXPECT_EQ(tensor->shape, request_.inputs[0].shape);
    EXPECT_EQ(element_count(tensor->shape.dims()), 1U);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(tensor->data), tensor->size), "\3\0\0\0a\0\xFF"s);
  }
  EXPECT_NE(decode("ab", DType::kBytes, {2}, false).message().find("its shape has to be [1]"), std::string::npos);
}

}  // namespace
}  // namespace headrace::wire
