#include "wire/predict_codec.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

namespace headrace::wire {
namespace {

using std::string_literals::operator""s;

class PredictCodec : public testing::Test {
 protected:
  void SetUp() override { tensors_.reserve(8); }
  void TearDown() override {
    request_ = {};
    out_.clear();
    tensors_.clear();
    const PoolStats stats = pool_.stats();
    EXPECT_EQ(stats.bytes_in_use, 0U);
    EXPECT_EQ(stats.blocks_in_use, 0U);
  }

  Status decode(const std::string& body, const std::vector<PredictSpec>& specs) {
    body_ = body;
    return reader_.decode({reinterpret_cast<const std::byte*>(body_.data()), body_.size()}, specs, limits_, pool_,
                          request_);
  }
  void expect_ok(const std::string& body, const std::vector<PredictSpec>& specs) {
    const Status status = decode(body, specs);
    ASSERT_TRUE(status.ok()) << body << "\n" << status.to_string();
  }
  void expect_refusal(const std::string& body, const std::vector<PredictSpec>& specs, const std::string& part) {
    const Status status = decode(body, specs);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << body;
    EXPECT_NE(status.message().find(part), std::string::npos) << body << "\n" << status.message();
    EXPECT_TRUE(request_.inputs.empty());
  }
  template <class Element>
  std::vector<Element> values(std::size_t i) const {
    const Tensor& tensor = request_.inputs.at(i).tensor;
    std::vector<Element> all(tensor.size / sizeof(Element));
    if (!all.empty()) std::memcpy(all.data(), tensor.data, tensor.size);
    return all;
  }
  std::string bytes(std::size_t i) const {
    const Tensor& tensor = request_.inputs.at(i).tensor;
    return {reinterpret_cast<const char*>(tensor.data), tensor.size};
  }
  const Shape& shape(std::size_t i) const { return request_.inputs.at(i).tensor.shape; }

  const Tensor& tensor(DType dtype, const Shape& shape, std::string_view content) {
    Tensor& made = tensors_.emplace_back();
    made.dtype = dtype;
    made.shape = shape;
    made.block = std::move(*pool_.allocate(content.size()));
    if (!content.empty()) std::memcpy(made.block.data(), content.data(), content.size());
    made.data = made.block.data();
    made.size = content.size();
    return made;
  }
  std::string encode(const std::vector<ResponseOutput>& outputs, PredictForm form) {
    const Status status = encode_predict_response(outputs, form, out_);
    EXPECT_TRUE(status.ok()) << status.to_string();
    EXPECT_TRUE(out_.views.empty());
    return out_.own;
  }

  const std::vector<PredictSpec> one_{{"x", DType::kInt32, {}, false}};
  const std::vector<PredictSpec> two_{{"x", DType::kInt32, {}, false}, {"s", DType::kBytes, {}, false}};
  const std::vector<PredictSpec> more_{{"x", DType::kInt32, {}, false}, {"o", DType::kFp32, {}, true}};
  Pool pool_{PoolOptions{}};
  InferLimits limits_;
  PredictReader reader_;
  PredictRequest request_;
  std::vector<Tensor> tensors_;
  std::string body_;
  OutMessage out_;
};

TEST_F(PredictCodec, ReadsRowsOfValues) {
  expect_ok(R"({"signature_name":"serving\u005fdefault","instances":[[1,2,3],[4, 5,6]],"unknown":{"a":[]}})", one_);
  EXPECT_EQ(request_.form, PredictForm::kRows);
  EXPECT_EQ(request_.signature_name, "serving_default");
  ASSERT_EQ(request_.inputs.size(), 1U);
  EXPECT_EQ(request_.inputs[0].spec, 0U);
  EXPECT_EQ(shape(0), (Shape{2, 3}));
  EXPECT_EQ(values<std::int32_t>(0), (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6}));
  expect_ok(R"({"instances":[7,8,9]})", one_);
  EXPECT_EQ(shape(0), Shape{3});
  EXPECT_EQ(request_.signature_name, "");
  expect_ok(R"({"instances":[[[1],[2]],[[3],[4]]]})", more_);  // the other one is optional
  EXPECT_EQ(shape(0), (Shape{2, 2, 1}));
  expect_ok(R"({"instances":[[],[]]})", one_);
  EXPECT_EQ(shape(0), (Shape{2, 0}));
  const std::vector<PredictSpec> strings{{"s", DType::kBytes, {}, false}};
  expect_ok(R"({"instances":["a",{"b64":"Yg=="}]})", strings);
  EXPECT_EQ(bytes(0), "\1\0\0\0a\1\0\0\0b"s);
  expect_ok(R"({"instances":[{"b64":"Yg=="},"a"]})", strings);
  EXPECT_EQ(bytes(0), "\1\0\0\0b\1\0\0\0a"s);
}

TEST_F(PredictCodec, ReadsRowsOfObjects) {
  expect_ok(R"({"instances":[{"x":[1,2],"s":"a"},{"s":{"b64":"Yg=="},"x":[3,4]},{"\u0078":[5,6],"s":"ccc"}]})", two_);
  ASSERT_EQ(request_.inputs.size(), 2U);
  EXPECT_EQ(shape(0), (Shape{3, 2}));
  EXPECT_EQ(values<std::int32_t>(0), (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(shape(1), Shape{3});
  EXPECT_EQ(bytes(1), "\1\0\0\0a\1\0\0\0b\3\0\0\0ccc"s);
  expect_ok(R"({"instances":[{"x":5}]})", more_);
  EXPECT_EQ(request_.inputs.size(), 1U);
  EXPECT_EQ(shape(0), Shape{1});
  expect_ok(R"({"instances":[{"o":0.5,"x":5},{"x":6,"o":1.5}]})", more_);
  EXPECT_EQ(values<float>(1), (std::vector<float>{0.5F, 1.5F}));
}

TEST_F(PredictCodec, ReadsColumns) {
  expect_ok(R"({"inputs":{"s":[["a","b"]],"x":[[1,2],[3,4]]}})", two_);
  EXPECT_EQ(request_.form, PredictForm::kColumns);
  ASSERT_EQ(request_.inputs.size(), 2U);
  EXPECT_EQ(request_.inputs[0].spec, 0U);
  EXPECT_EQ(shape(0), (Shape{2, 2}));
  EXPECT_EQ(shape(1), (Shape{1, 2}));
  EXPECT_EQ(bytes(1), "\1\0\0\0a\1\0\0\0b"s);
  expect_ok(R"({"inputs":[[1],[2]]})", one_);
  EXPECT_EQ(shape(0), (Shape{2, 1}));
  expect_ok(R"({"inputs":17})", one_);
  EXPECT_EQ(shape(0), Shape{});
  EXPECT_EQ(values<std::int32_t>(0), std::vector<std::int32_t>{17});
  expect_ok(R"({"inputs":{"b64":"Yg=="}})", {{"s", DType::kBytes, {}, false}});
  EXPECT_EQ(bytes(0), "\1\0\0\0b"s);
  expect_ok(R"({"inputs":{"b64":"Yg=="}})", {{"b64", DType::kBytes, {}, false}});
  EXPECT_EQ(bytes(0), "\4\0\0\0Yg=="s);
}

TEST_F(PredictCodec, RefusesWhatIsNoRequest) {
  expect_refusal("{}", one_, "neither 'instances' (rows) nor 'inputs' (columns)");
  expect_refusal(R"({"instances":[1],"inputs":[1]})", one_, "send one of the two");
  expect_refusal(R"({"instances":[1],"instances":[1]})", one_, "'instances' twice");
  expect_refusal(R"({"inputs":[1],"inputs":[1]})", one_, "'inputs' twice");
  expect_refusal(R"({"instances":[]})", one_, "no instances");
  expect_refusal(R"({"instances":{}})", one_, "'instances' that are no array");
  expect_refusal(R"({"instances":3})", one_, "'instances' that are no array");
  expect_refusal(R"({"signature_name":3,"instances":[1]})", one_, "signature_name that is no string");
  expect_refusal(R"({"instances":[1,2]})", two_, "values without names in 'instances', but the model has 2 inputs");
  expect_refusal(R"({"inputs":[1,2]})", two_, "values without names in 'inputs', but the model has 2 inputs");
  expect_refusal(R"({"inputs":{"y":1}})", one_, "an input 'y' that the model has not; it has 'x'");
  expect_refusal(R"({"inputs":{"x":1,"x":2}})", one_, "input 'x' twice");
  expect_refusal(R"({"inputs":{"x":1}})", two_, "has no input 's'; the model needs it");
  expect_refusal(R"({"inputs":{"o":1}})", more_, "has no input 'x'; the model needs it");
  expect_refusal(R"({"instances":[{}]})", one_, "has no input 'x'");
}

TEST_F(PredictCodec, RefusesRaggedRowsWithTheirPlace) {
  expect_refusal(R"({"instances":[[1,2],[3]]})", one_,
                 "input 'x': instances[1] has 1 elements, its shape [2,2] needs 2");
  expect_refusal(R"({"instances":[[[1],[2]],[[3],[4,5]]]})", one_, "instances[1][1] has 2 elements");
  expect_refusal(R"({"instances":[[1,2],3]})", one_, "instances mixes elements and arrays");
  expect_refusal(R"({"instances":[1,[2]]})", one_, "instances mixes elements and arrays");
  expect_refusal(R"({"instances":[{"x":[1,2]},{"x":[3]}]})", one_,
                 "instances[1] has 1 elements, its shape [2] needs 2");
  expect_refusal(R"({"instances":[{"x":[1,2]},{"x":3}]})", one_,
                 "instances[1] is nested 0 deep, its shape [2] wants 1");
  expect_refusal(R"({"instances":[{"x":1},{"x":[3]}]})", one_, "instances[1] is nested 1 deep, its shape [] wants 0");
  expect_refusal(R"({"instances":[{"x":1},{"x":1.5}]})", one_, "instances[1] is 1.5, which is no INT32");
  expect_refusal(R"({"instances":[1,true]})", one_, "instances[1] is true, which is no INT32");
  expect_refusal(R"({"instances":[{"x":1,"s":"a"},{"x":1}]})", two_, "no input 's' in instances[1]");
  expect_refusal(R"({"instances":[{"x":1},{"x":1,"o":1}]})", more_,
                 "input 'o' in instances[1], but not in instances[0]");
  expect_refusal(R"({"instances":[{"x":1},{"x":1,"x":1}]})", one_, "input 'x' twice in instances[1]");
  expect_refusal(R"({"instances":[{"x":1,"x":1}]})", one_, "input 'x' twice in instances[0]");
  expect_refusal(R"({"instances":[{"x":1},{"y":1}]})", one_, "instances[1] with an input 'y'");
  expect_refusal(R"({"instances":[{"x":1},2]})", one_, "instances[1] that is no object");
  expect_refusal(R"({"instances":[[1,2,3,4,5,6,7,8,9,0],[],[],[],[],[],[]]})", one_, "instances");
}

TEST_F(PredictCodec, RefusesShapesBeyondItsLimits) {
  limits_.max_dims = 3;
  expect_ok(R"({"inputs":[[[1]]]})", one_);
  expect_refusal(R"({"inputs":[[[[1]]]]})", one_, "nested in too many arrays");
  expect_refusal(R"({"instances":[{"x":[[[1]]]}]})", one_, "limit of 3 (--max-dims)");
  expect_refusal(R"({"u":)" + std::string(100, '[') + std::string(100, ']') + "}", one_, "limit of 100");
  expect_refusal(R"({"inputs":)" + std::string(100, '[') + std::string(100, ']') + "}", one_, "limit of 100");
  const std::uint64_t before = pool_.stats().allocations;
  std::string wide = R"({"instances":[{"x":[1)";
  for (int i = 0; i < 1000; ++i) wide += ",1";
  wide += "]}";
  for (int i = 0; i < 1000; ++i) wide += R"(,{"x":1})";
  expect_refusal(wide + "]}", one_, "rows that are not nested as the first is");
  EXPECT_EQ(pool_.stats().allocations, before);
}

TEST_F(PredictCodec, EveryCutIsRefused) {
  const std::string bodies[] = {
      R"({"signature_name":"s\n","instances":[{"x":[1,-2],"s":"a\u00e9"},{"s":{"b64":"Yg=="},"x":[3,4]}]})",
      R"({"inputs":{"x":[[1],[2]],"s":["a","b"]},"u":[{"v":null}]})",
  };
  for (const std::string& body : bodies) {
    expect_ok(body, two_);
    for (std::size_t size = 0; size < body.size(); ++size) {
      const std::vector<std::byte> exact(reinterpret_cast<const std::byte*>(body.data()),
                                         reinterpret_cast<const std::byte*>(body.data()) + size);
      EXPECT_EQ(reader_.decode(exact, two_, limits_, pool_, request_).code(), Code::kInvalidArgument) << size;
    }
  }
  for (const char* body : {R"({"instances":[{"x":1}}])", R"({"instances":[{"x":1]]})", R"({"instances":[[1}]})",
                           R"({"instances":[1,]})", R"({"instances":[{"x":1},]})", R"({"instances":[{"x":1,}]})",
                           R"({"instances":[1]}})", R"({"inputs":{"x":[1}}})", R"({"inputs":[1 2]})"}) {
    EXPECT_EQ(decode(body, one_).code(), Code::kInvalidArgument) << body;
  }
}

TEST_F(PredictCodec, SaysWhenThePoolIsFull) {
  Pool small(PoolOptions{.cap = 64, .retain = 0, .device = {}});
  std::string body = "{\"instances\":[1";
  for (int i = 0; i < 100000; ++i) body += ",1";
  body += "]}";
  EXPECT_EQ(
      reader_.decode({reinterpret_cast<const std::byte*>(body.data()), body.size()}, one_, limits_, small, request_)
          .code(),
      Code::kResourceExhausted);
}

TEST_F(PredictCodec, WritesRows) {
  const Tensor& a = tensor(DType::kUint8, Shape{2, 3}, "\1\2\3\4\5\6");
  const Tensor& b = tensor(DType::kBool, Shape{2}, "\1\0"s);
  EXPECT_EQ(encode({{"a", &a}}, PredictForm::kRows), R"({"predictions":[[1,2,3],[4,5,6]]})");
  EXPECT_EQ(encode({{"b", &b}}, PredictForm::kRows), R"({"predictions":[true,false]})");
  EXPECT_EQ(encode({{"a", &a}, {"b", &b}}, PredictForm::kRows),
            R"({"predictions":[{"a":[1,2,3],"b":true},{"a":[4,5,6],"b":false}]})");
  const Tensor& empty = tensor(DType::kFp32, Shape{2, 0}, "");
  EXPECT_EQ(encode({{"e", &empty}}, PredictForm::kRows), R"({"predictions":[[],[]]})");
  const Tensor& none = tensor(DType::kFp32, Shape{0, 2}, "");
  EXPECT_EQ(encode({{"e", &none}}, PredictForm::kRows), R"({"predictions":[]})");
}

TEST_F(PredictCodec, WritesColumns) {
  const Tensor& a = tensor(DType::kUint8, Shape{2, 1, 2}, "\1\2\3\4");
  const Tensor& b = tensor(DType::kUint8, Shape{}, "\7");
  EXPECT_EQ(encode({{"a", &a}}, PredictForm::kColumns), R"({"outputs":[[[1,2]],[[3,4]]]})");
  EXPECT_EQ(encode({{"b", &b}}, PredictForm::kColumns), R"({"outputs":7})");
  EXPECT_EQ(encode({{"a", &a}, {"b\"", &b}}, PredictForm::kColumns), R"({"outputs":{"a":[[[1,2]],[[3,4]]],"b\"":7}})");
}

TEST_F(PredictCodec, WritesStringsAsBase64ByTheirName) {
  const Tensor& text = tensor(DType::kBytes, Shape{2}, "\1\0\0\0a\2\0\0\0\xFF\xFE"s);
  const Tensor& number = tensor(DType::kUint8, Shape{2}, "\1\2");
  EXPECT_EQ(encode({{"image_bytes", &text}}, PredictForm::kRows), R"({"predictions":[{"b64":"YQ=="},{"b64":"//4="}]})");
  EXPECT_EQ(encode({{"n_bytes", &number}}, PredictForm::kColumns), R"({"outputs":[1,2]})");
  for (const PredictForm form : {PredictForm::kRows, PredictForm::kColumns}) {
    const std::vector<ResponseOutput> outputs = {{"image", &text}};
    const Status status = encode_predict_response(outputs, form, out_);
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("output 'image': element 1 is not UTF-8"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("_bytes"), std::string::npos);
    EXPECT_EQ(out_.size(), 0U);
  }
}

TEST_F(PredictCodec, RefusesRowsOfOutputsWithoutOneBatch) {
  const Tensor& a = tensor(DType::kUint8, Shape{2}, "\1\2");
  const Tensor& b = tensor(DType::kUint8, Shape{3}, "\1\2\3");
  const Tensor& c = tensor(DType::kUint8, Shape{}, "\1");
  for (const std::vector<ResponseOutput>& outputs :
       {std::vector<ResponseOutput>{{"a", &a}, {"b", &b}}, std::vector<ResponseOutput>{{"c", &c}},
        std::vector<ResponseOutput>{{"a", &a}, {"c", &c}}}) {
    const Status status = encode_predict_response(outputs, PredictForm::kRows, out_);
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("column form"), std::string::npos) << status.message();
    EXPECT_TRUE(encode_predict_response(outputs, PredictForm::kColumns, out_).ok());
  }
}

}  // namespace
}  // namespace headrace::wire
