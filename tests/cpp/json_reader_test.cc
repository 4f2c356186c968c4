#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "wire/json_codec.h"

namespace headrace::wire {
namespace {

class JsonReaderTest : public testing::Test {
 protected:
  void TearDown() override {
    const PoolStats stats = pool_.stats();
    EXPECT_EQ(stats.bytes_in_use, 0U);
    EXPECT_EQ(stats.blocks_in_use, 0U);
  }

  Status decode(const std::string& json, const std::string& blobs = "") {
    body_ = json + blobs;
    return reader_.decode({reinterpret_cast<const std::byte*>(body_.data()), body_.size()}, json.size(), limits_,
                          request_);
  }
  std::string refusal(const std::string& json, const std::string& blobs = "") {
    const Status status = decode(json, blobs);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << json;
    EXPECT_EQ(status.message().find("request "), 0U) << status.message();
    return status.message();
  }
  void expect_refusal(const std::string& json, const std::string& part, const std::string& blobs = "") {
    const std::string text = refusal(json, blobs);
    EXPECT_NE(text.find(part), std::string::npos) << json << "\n" << text;
  }
  static std::string_view view(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  // An input that lacks nothing, with members of the test's own.
  static std::string with_input(const std::string& more) {
    return R"({"inputs":[{"name":"x","datatype":"FP32","shape":[2])" + more + "}]}";
  }

  Pool pool_{PoolOptions{}};
  InferLimits limits_;
  JsonReader reader_;
  InferRequest request_;
  std::string body_;
};

TEST_F(JsonReaderTest, ReadsARequest) {
  const Status status = decode(R"( {
    "id" : "42", "model_name" : "ignored", "unknown" : [1, {"a": [null, true, "\u00e9"]}, NaN],
    "parameters" : {"flag": true, "no": false, "small": -9223372036854775808, "large": 18446744073709551615,
                    "most": 9223372036854775807, "real": 1.5, "exponent": 1e3, "text": "a\tb", "empty": ""},
    "inputs" : [
      {"name": "a", "shape": [2, 3], "datatype": "INT32", "data": [[1, 2, 3], [4, 5, 6]], "other": {}},
      {"data": ["]", "\"}", {"b64": "AA=="}], "datatype": "BYTES", "shape": [3], "name": "b",
       "parameters": {"key": 7}}
    ],
    "outputs" : [{"name": "y", "parameters": {"classification": 3, "binary_data": false}}, {"name": "z"}]
  } )");
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(request_.id, "42");
  EXPECT_EQ(request_.model_name, "");
  ASSERT_EQ(request_.parameters.size(), 9U);
  EXPECT_EQ(std::get<bool>(*request_.parameter("flag")), true);
  EXPECT_EQ(std::get<bool>(*request_.parameter("no")), false);
  EXPECT_EQ(std::get<std::int64_t>(*request_.parameter("small")), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(std::get<std::int64_t>(*request_.parameter("most")), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(std::get<std::uint64_t>(*request_.parameter("large")), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(std::get<double>(*request_.parameter("real")), 1.5);
  EXPECT_EQ(std::get<double>(*request_.parameter("exponent")), 1000.0);
  EXPECT_EQ(std::get<std::string_view>(*request_.parameter("text")), "a\tb");
  EXPECT_EQ(std::get<std::string_view>(*request_.parameter("empty")), "");
  ASSERT_EQ(request_.inputs.size(), 2U);
  const WireInput& a = request_.inputs[0];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.datatype, "INT32");
  EXPECT_EQ(a.shape, (Shape{2, 3}));
  EXPECT_TRUE(a.has_contents);
  EXPECT_FALSE(a.raw.has_value());
  EXPECT_EQ(view(a.contents), "[[1, 2, 3], [4, 5, 6]]");
  const WireInput& b = request_.inputs[1];
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(view(b.contents), R"(["]", "\"}", {"b64": "AA=="}])");
  ASSERT_EQ(b.parameters.size(), 1U);
  EXPECT_EQ(std::get<std::int64_t>(*find_parameter(b.parameters, "key")), 7);
  EXPECT_EQ(request_.contents_bytes, a.contents.size() + b.contents.size());
  ASSERT_EQ(request_.outputs.size(), 2U);
  EXPECT_EQ(request_.outputs[0].name, "y");
  EXPECT_EQ(std::get<std::int64_t>(*find_parameter(request_.outputs[0].parameters, "classification")), 3);
  EXPECT_EQ(request_.outputs[1].name, "z");
  EXPECT_TRUE(request_.outputs[1].parameters.empty());
}

TEST_F(JsonReaderTest, ReadsEscapedNames) {
  ASSERT_TRUE(decode(R"({"i\u006eputs":[{"n\u0061me":"\u00e9\ud83d\ude00","datatyp\u0065":"FP\u00332","shape":[],
      "parameters":{"a\nb":"c\\d"}}],"\u0069d":"\"x\""})")
                  .ok());
  EXPECT_EQ(request_.id, "\"x\"");
  ASSERT_EQ(request_.inputs.size(), 1U);
  EXPECT_EQ(request_.inputs[0].name, "\xC3\xA9\xF0\x9F\x98\x80");
  EXPECT_EQ(request_.inputs[0].datatype, "FP32");
  EXPECT_EQ(request_.inputs[0].shape, Shape{});
  EXPECT_EQ(request_.inputs[0].parameters[0].key, "a\nb");
  EXPECT_EQ(std::get<std::string_view>(request_.inputs[0].parameters[0].value), "c\\d");
}

TEST_F(JsonReaderTest, KeepsManyEscapedStringsAtOnce) {
  std::string json = R"({"inputs":[],"parameters":{)";
  for (int i = 0; i < 200; ++i) {
    json += (i == 0 ? "" : ",") + ("\"k\\u002d" + std::to_string(i)) + "\":\"" + std::string(100, 'v') + "\\n" +
            std::to_string(i) + "\"";
  }
  json += "}}";
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(decode(json).ok());
    ASSERT_EQ(request_.parameters.size(), 200U);
    for (int i = 0; i < 200; ++i) {
      const auto* value = request_.parameter("k-" + std::to_string(i));
      ASSERT_NE(value, nullptr);
      EXPECT_EQ(std::get<std::string_view>(*value), std::string(100, 'v') + "\n" + std::to_string(i));
    }
  }
}

TEST_F(JsonReaderTest, NullIsAnAbsentMember) {
  ASSERT_TRUE(decode(R"({"id":null,"parameters":null,"outputs":null,
      "inputs":[{"name":"x","shape":[0],"datatype":"FP32","parameters":null,"data":null}]})")
                  .ok());
  EXPECT_FALSE(request_.inputs[0].has_contents);
  refusal(R"({"inputs":null})");
}

TEST_F(JsonReaderTest, ReadsBinaryTensorsInTheirOrder) {
  const std::string json = R"({"inputs":[
      {"name":"a","shape":[3],"datatype":"UINT8","parameters":{"binary_data_size":3}},
      {"name":"b","shape":[1],"datatype":"UINT8","data":[9]},
      {"name":"c","shape":[0],"datatype":"UINT8","parameters":{"binary_data_size":0}},
      {"parameters":{"binary_data_size":2,"more":1},"name":"d","shape":[2],"datatype":"UINT8"}]})";
  ASSERT_TRUE(decode(json, "abcde").ok());
  EXPECT_EQ(view(*request_.inputs[0].raw), "abc");
  EXPECT_FALSE(request_.inputs[1].raw.has_value());
  EXPECT_EQ(view(*request_.inputs[2].raw), "");
  EXPECT_EQ(view(*request_.inputs[3].raw), "de");
  expect_refusal(json, "binary_data_size of 2 for input 'd', but 1 of the 4 bytes", "abcd");
  expect_refusal(json, "6 bytes behind its JSON, of which 1 are left over: 3 inputs have", "abcdef");
  expect_refusal(with_input(""), "1 bytes behind its JSON, of which 1 are left over", "a");
  expect_refusal(with_input(R"(,"data":[1,2],"parameters":{"binary_data_size":0})"),
                 "input 'x' with data as well as binary_data_size");
  for (const char* size : {"-1", "1.0", "true", "\"3\"", "9223372036854775808"}) {
    expect_refusal(with_input(std::string(R"(,"parameters":{"binary_data_size":)") + size + "}"),
                   "binary_data_size of input 'x' that is no integer", "abc");
  }
  expect_refusal(with_input(R"(,"parameters":{"binary_data_size":9223372036854775807})"), "but 3 of the 3", "abc");
}

TEST_F(JsonReaderTest, RefusesAHeaderThatGoesBeyondTheBody) {
  const std::string body = "{}";
  const Status status =
      reader_.decode({reinterpret_cast<const std::byte*>(body.data()), body.size()}, 3, limits_, request_);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("Inference-Header-Content-Length is 3"), std::string::npos);
}

TEST_F(JsonReaderTest, RefusesWhatIsMissingTwiceOrOfAnotherType) {
  expect_refusal("{}", "has no 'inputs'");
  expect_refusal(R"({"inputs":{}})", "'inputs' that are no array");
  expect_refusal(R"({"inputs":[[]]})", "inputs[0] that is no object");
  expect_refusal(R"({"inputs":[{"shape":[1],"datatype":"FP32"}]})", "inputs[0] without 'name'");
  expect_refusal(R"({"inputs":[{"name":"x","datatype":"FP32"}]})", "input 'x' without 'shape'");
  expect_refusal(R"({"inputs":[{"name":"x","shape":[1]}]})", "input 'x' without 'datatype'");
  expect_refusal(R"({"inputs":[{"name":1}]})", "no string as the name of inputs[0]");
  expect_refusal(R"({"inputs":[{"datatype":[]}]})", "no string as the datatype of inputs[0]");
  expect_refusal(R"({"inputs":[],"id":7})", "no string as id");
  expect_refusal(R"({"inputs":[],"parameters":[]})", "'parameters' of the request that are no object");
  expect_refusal(R"({"inputs":[],"outputs":{}})", "'outputs' that are no array");
  expect_refusal(R"({"inputs":[],"outputs":[{}]})", "outputs[0] without 'name'");
  expect_refusal(with_input(R"(,"data":{})"), "'data' of inputs[0] that is no array");
  expect_refusal(with_input(R"(,"data":3)"), "'data' of inputs[0] that is no array");
  expect_refusal(R"({"inputs":[],"inputs":[]})", "'inputs' twice in the request");
  expect_refusal(R"({"inputs":[],"id":"a","i\u0064":"b"})", "'id' twice in the request");
  expect_refusal(with_input(R"(,"shape":[2])"), "'shape' twice in inputs[0]");
  expect_refusal(with_input(R"(,"data":[],"data":[])"), "'data' twice in inputs[0]");
  expect_refusal(R"({"inputs":[],"parameters":{"a":1,"b":2,"\u0061":3}})", "parameter 'a' of the request twice");
  expect_refusal(R"({"inputs":[],"outputs":[{"name":"y","name":"z"}]})", "'name' twice in outputs[0]");
}

TEST_F(JsonReaderTest, RefusesShapesThatAreNone) {
  const auto shape = [](const std::string& dims) {
    return R"({"inputs":[{"name":"x","datatype":"FP32","shape":)" + dims + "}]}";
  };
  ASSERT_TRUE(decode(shape("[9223372036854775807, 0, 1]")).ok());
  EXPECT_EQ(request_.inputs[0].shape, (Shape{std::numeric_limits<std::int64_t>::max(), 0, 1}));
  expect_refusal(shape("[2,-1]"), "negative dimension -1 in the shape of input 'x'");
  expect_refusal(shape("[9223372036854775808]"), "dimension 9223372036854775808 in the shape of input 'x'");
  expect_refusal(shape("[2.0]"), "dimension 2.0 in the shape");
  expect_refusal(shape("[1e2]"), "dimension 1e2 in the shape");
  expect_refusal(shape("[\"2\"]"), "dimension of input 'x' that is no number");
  expect_refusal(shape("[[2]]"), "dimension of input 'x' that is no number");
  expect_refusal(shape("2"), "shape of input 'x' that is no array");
  expect_refusal(shape("null"), "shape of input 'x' that is no array");
}

TEST_F(JsonReaderTest, RefusesParametersThatAreNoScalar) {
  for (const char* value : {"null", "{}", "[]", "18446744073709551616", "-9223372036854775809", "1e999"}) {
    expect_refusal(std::string(R"({"inputs":[],"parameters":{"p":)") + value + "}}",
                   "parameter 'p' of the request that is");
  }
}

TEST_F(JsonReaderTest, KeepsTheLimits) {
  limits_ = {.max_tensors = 2, .max_name_bytes = 4, .max_dims = 2, .max_parameters = 2};
  const std::string input = R"({"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"p":1}})";
  ASSERT_TRUE(decode(R"({"parameters":{"q":1},"inputs":[)" + input + R"(],"outputs":[{"name":"y"}]})").ok());
  expect_refusal(R"({"inputs":[)" + input + "," + input + R"(],"outputs":[{"name":"y"}]})",
                 "limit of 2 (--max-tensors)");
  expect_refusal(R"({"parameters":{"q":1,"r":2},"inputs":[)" + input + "]}", "limit of 2 (--max-parameters)");
  expect_refusal(R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1,2,3]}]})", "limit of 2 (--max-dims)");
  expect_refusal(R"({"inputs":[{"name":"xxxxx"}]})",
                 "the name of inputs[0] of 5 bytes, over the limit of 4 (--max-name-bytes)");
  expect_refusal(R"({"inputs":[{"datatype":"FP32\u0020"}]})", "(--max-name-bytes)");
  expect_refusal(R"({"inputs":[],"id":"xxxxx"})", "(--max-name-bytes)");
  expect_refusal(R"({"inputs":[],"parameters":{"xxxxx":1}})", "(--max-name-bytes)");
  ASSERT_TRUE(
      decode(R"({"inputs":[],"id":"\u0041\u0042\u0043\u0044","unknown_and_long":"values are not names"})").ok());
}

TEST_F(JsonReaderTest, RefusesDepthOver100) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  ASSERT_TRUE(decode(R"({"inputs":[],"u":)" + nested(99) + "}").ok());
  expect_refusal(R"({"inputs":[],"u":)" + nested(100) + "}", "limit of 100");
  ASSERT_TRUE(decode(with_input(R"(,"data":)" + nested(97))).ok());
  expect_refusal(with_input(R"(,"data":)" + nested(98)), "limit of 100");
  expect_refusal(R"({"inputs":[],"u":)" + std::string(1000000, '['), "limit of 100");
  expect_refusal(with_input(R"(,"data":)" + std::string(1000000, '{')), "'data'");
}

TEST_F(JsonReaderTest, RefusesMalformedJson) {
  for (const char* json : {"",
                           " ",
                           "null",
                           "[]",
                           "1",
                           "\"inputs\"",
                           "{",
                           "{\"inputs\"",
                           "{\"inputs\":",
                           "{inputs:[]}",
                           "{'inputs':[]}",
                           "{\"inputs\":[]",
                           "{\"inputs\":[],}",
                           "{\"inputs\":[]}}",
                           "{\"inputs\":[]} x",
                           "{\"inputs\":[]}{}",
                           "{\"inputs\":[] \"id\":\"a\"}",
                           "{\"inputs\" []}",
                           "{\"inputs\":[}]",
                           "{,\"inputs\":[]}",
                           "{\"inputs\":[{}",
                           "{\"inputs\":[],\"u\":tru}",
                           "{\"inputs\":[],\"u\":[1,]}",
                           "{\"inputs\":[],\"u\":[1 2]}",
                           "{\"inputs\":[],\"u\":{\"a\"}}",
                           "{\"inputs\":[],\"u\":{\"a\":1,}}",
                           "{\"inputs\":[],\"u\":{1:2}}",
                           "{\"inputs\":[],\"u\":01}",
                           "{\"inputs\":[],\"u\":\"\\x\"}",
                           "{\"inputs\":[],\"u\":\"\x01\"}",
                           "{\"inputs\":[],\"u\":\"\xFF\"}",
                           "{\"inputs\":[],\"\xFF\":1}",
                           "{\"inputs\":[],\"id\":\"\xC0\x80\"}",
                           "{\"inputs\":[],\"id\":\"\\ud800\"}",
                           "{\"inputs\":[],\"u\":[1}}",
                           "{\"inputs\":[],\"u\":{\"a\":1]}",
                           "{\"inputs\":[],/**/\"id\":\"a\"}",
                           "\xEF\xBB\xBF{\"inputs\":[]}",
                           "{\"inputs\":[],\"parameters\":{\"a\":tru}}",
                           "{\"inputs\":[],\"parameters\":{\"a\":}}",
                           "{\"inputs\":[],\"parameters\":{\"a\":nul}}"}) {
    const Status status = decode(json);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << json;
  }
  expect_refusal(R"({"inputs":[],"u":tru})", "not valid JSON: expected a value, at byte 17");
  EXPECT_EQ(decode(std::string("{\"inputs\":[]}\0", 14)).code(), Code::kInvalidArgument);
}

TEST_F(JsonReaderTest, EveryCutIsRefused) {
  const std::string json =
      R"({"id":"a\u00e9","u":[1.5e3,true,{"k":null}],"parameters":{"p":-12,"q":"\n"},"inputs":[{"name":"x",)"
      R"("datatype":"FP32","shape":[2,1],"data":[[1.5],["NaN"]]},{"name":"y","datatype":"BYTES","shape":[1],)"
      R"("parameters":{"binary_data_size":5}}],"outputs":[{"name":"z","parameters":{"binary_data":true}}]})";
  ASSERT_TRUE(decode(json, std::string("\1\0\0\0a", 5)).ok());
  for (std::size_t size = 0; size < json.size(); ++size) {
    const std::vector<std::byte> exact(reinterpret_cast<const std::byte*>(json.data()),
                                       reinterpret_cast<const std::byte*>(json.data()) + size);
    EXPECT_EQ(reader_.decode(exact, size, limits_, request_).code(), Code::kInvalidArgument) << size;
  }
  for (std::size_t size = 0; size < 5; ++size) refusal(json, std::string(size, '\0'));
}

// What is said of a request, whether its JSON was read or known.
std::string all_of(const InferRequest& request) {
  std::string said(request.id);
  const auto add = [&](std::span<const Parameter> parameters) {
    for (const Parameter& parameter : parameters) {
      said += " " + std::string(parameter.key) + "#" + std::to_string(parameter.value.index());
      if (const auto* text = std::get_if<std::string_view>(&parameter.value)) said += *text;
      if (const auto* number = std::get_if<std::int64_t>(&parameter.value)) said += std::to_string(*number);
    }
  };
  add(request.parameters);
  for (const WireInput& input : request.inputs) {
    said += " in " + std::string(input.name) + std::string(input.datatype) + input.shape.to_string();
    said.append(reinterpret_cast<const char*>(input.contents.data()), input.contents.size());
    if (input.raw) said.append(reinterpret_cast<const char*>(input.raw->data()), input.raw->size());
    said += input.has_contents ? " data" : "";
    add(input.parameters);
  }
  for (const WireOutput& output : request.outputs) {
    said += " out " + std::string(output.name);
    add(output.parameters);
  }
  return said + " " + std::to_string(request.contents_bytes);
}

TEST_F(JsonReaderTest, WhatIsKnownSaysTheSame) {
  std::vector<std::string> texts;
  for (int i = 0; i < 40; ++i) {  // more than there are places
    const std::string n = std::to_string(i);
    texts.push_back(R"({"id":"a\u00e9)" + n + R"(","parameters":{"p":-)" + n + R"(,"q":"\n"},"inputs":[{"name":"x)" +
                    n +
                    R"(","datatype":"FP32","shape":[1,2,3,4,5],"data":[1.5]},{"name":"y","datatype":"UINT8",)"
                    R"("shape":[5],"parameters":{"binary_data_size":5}}],"outputs":[{"name":"z"},)"
                    R"({"name":"w","parameters":{"binary_data":true}}]})");
  }
  texts.push_back(R"({"inputs":[{"name":"y","datatype":"UINT8","shape":[5],"parameters":{"binary_data_size":5}}]})");
  for (int round = 0; round < 4; ++round) {
    for (const std::string& text : texts) {
      for (int again = 0; again <= round; ++again) {
        const std::string blob = std::to_string(10000 + round * 100 + again);
        ASSERT_TRUE(decode(text, blob).ok());
        const std::string body = text + blob;
        JsonReader fresh;
        InferRequest expected;
        ASSERT_TRUE(
            fresh.decode({reinterpret_cast<const std::byte*>(body.data()), body.size()}, text.size(), limits_, expected)
                .ok());
        EXPECT_EQ(all_of(request_), all_of(expected));
        EXPECT_NE(all_of(request_).find(blob), std::string::npos);
      }
      // What lies behind the text is looked at each time.
      expect_refusal(text, "binary_data_size of 5", "1234");
      expect_refusal(text, "1 are left over", "123456");
    }
  }
}

TEST_F(JsonReaderTest, WhatIsKnownIsHeldToTheLimitsOfTheDay) {
  const std::string text = with_input(R"(,"parameters":{"binary_data_size":8})");
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(decode(text, "12345678").ok());
  limits_.max_dims = 0;
  for (int i = 0; i < 3; ++i) expect_refusal(text, "--max-dims", "12345678");
  const std::string broken = text.substr(0, text.size() - 1);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(decode(broken, "12345678").code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace headrace::wire
