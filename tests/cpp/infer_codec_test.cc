#include "wire/infer_codec.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <protozero/pbf_writer.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "infer_wire.h"

namespace headrace::wire {
namespace {

using protozero::pbf_writer;
using testing::as_bytes;
using testing::as_text;
using testing::input;
using testing::int_parameter;
using testing::message;

Status decode(std::string_view data, InferRequest& request, const InferLimits& limits = {}) {
  return decode_infer_request(as_bytes(data), limits, request);
}

std::string refusal(std::string_view data, const InferLimits& limits = {}) {
  InferRequest request;
  const Status status = decode(data, request, limits);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  return status.message();
}

TEST(InferDecode, ReadsAWholeRequestAsViews) {
  const std::string data = message([](pbf_writer& writer) {
    writer.add_string(1, "mlp");
    writer.add_string(2, "3");
    writer.add_string(3, "request 7");
    writer.add_message(4, int_parameter("priority", -5));
    writer.add_message(5, input("x", "FP32", {2, 3}));
    writer.add_message(5, input("y", "BYTES", {}));
    writer.add_message(6, message([](pbf_writer& output) {
                         output.add_string(1, "z");
                         output.add_message(2, int_parameter("classification", 3));
                       }));
    writer.add_bytes(7, std::string(24, 'a'));
    writer.add_bytes(7, "");
  });
  InferRequest request;
  ASSERT_TRUE(decode(data, request).ok());
  EXPECT_EQ(request.model_name, "mlp");
  EXPECT_EQ(request.model_version, "3");
  EXPECT_EQ(request.id, "request 7");
  ASSERT_EQ(request.inputs.size(), 2U);
  EXPECT_EQ(request.inputs[0].name, "x");
  EXPECT_EQ(request.inputs[0].datatype, "FP32");
  EXPECT_EQ(request.inputs[0].shape, (Shape{2, 3}));
  ASSERT_TRUE(request.inputs[0].raw);
  EXPECT_EQ(as_text(*request.inputs[0].raw), std::string(24, 'a'));
  EXPECT_GE(as_text(*request.inputs[0].raw).data(), data.data());  // a view, not a copy
  EXPECT_LT(as_text(*request.inputs[0].raw).data(), data.data() + data.size());
  EXPECT_EQ(request.inputs[1].shape, Shape{});
  ASSERT_TRUE(request.inputs[1].raw);
  EXPECT_TRUE(request.inputs[1].raw->empty());
  ASSERT_EQ(request.outputs.size(), 1U);
  EXPECT_EQ(request.outputs[0].name, "z");
  EXPECT_EQ(*find_parameter(request.outputs[0].parameters, "classification"), ParameterValue(std::int64_t{3}));
  EXPECT_EQ(*request.parameter("priority"), ParameterValue(std::int64_t{-5}));
  EXPECT_EQ(request.parameter("timeout"), nullptr);
  EXPECT_EQ(request.contents_bytes, 0U);
}

TEST(InferDecode, TakesFieldsInAnyOrderAndTheLastOfAScalar) {
  const std::string data = message([](pbf_writer& writer) {
    writer.add_bytes(7, "raw");
    writer.add_string(1, "first");
    writer.add_message(5, message([](pbf_writer& in) {
                         in.add_message(4, int_parameter("a", 1));
                         in.add_int64(3, 1);  // unpacked
                         in.add_string(2, "INT8");
                         const std::vector<std::int64_t> dims = {300, 1};
                         in.add_packed_int64(3, dims.begin(), dims.end());
                         in.add_int64(3, 7);
                         in.add_string(1, "wrong");
                         in.add_string(1, "x");
                       }));
    writer.add_string(1, "second");
  });
  InferRequest request;
  ASSERT_TRUE(decode(data, request).ok());
  EXPECT_EQ(request.model_name, "second");
  ASSERT_EQ(request.inputs.size(), 1U);
  EXPECT_EQ(request.inputs[0].name, "x");
  EXPECT_EQ(request.inputs[0].shape, (Shape{1, 300, 1, 7}));
  EXPECT_EQ(as_text(*request.inputs[0].raw), "raw");
  EXPECT_EQ(*find_parameter(request.inputs[0].parameters, "a"), ParameterValue(std::int64_t{1}));
}

TEST(InferDecode, ReadsEachTypeOfParameterAndTheLastOfAOneof) {
  const auto entry = [](std::string_view key, auto fill) {
    return message([&](pbf_writer& writer) {
      writer.add_string(1, key.data(), key.size());
      writer.add_message(2, message(fill));
    });
  };
  const std::string data = message([&](pbf_writer& writer) {
    writer.add_message(4, entry("bool", [](pbf_writer& value) { value.add_bool(1, true); }));
    writer.add_message(4, entry("text", [](pbf_writer& value) { value.add_string(3, "gr\xC3\xBC\xC3\x9F"); }));
    writer.add_message(4, entry("double", [](pbf_writer& value) { value.add_double(4, 0.5); }));
    writer.add_message(4, entry("uint", [](pbf_writer& value) { value.add_uint64(5, ~std::uint64_t{0}); }));
    writer.add_message(4, entry("none", [](pbf_writer&) {}));
    writer.add_message(4, entry("twice", [](pbf_writer& value) {
                         value.add_bool(1, true);
                         value.add_int64(2, 9);
                       }));
    writer.add_message(4, int_parameter("again", 1));
    writer.add_message(4, int_parameter("again", 2));
    writer.add_message(4, std::string());  // an empty entry is the empty key without a value
    // Field 1 as the two-byte varint 0x80 0x00 is false, though its first byte is not 0.
    writer.add_message(
        4, entry("long", [](pbf_writer& value) { value.add_bool(1, false); }) + std::string("\x12\x03\x08\x80\x00", 5));
  });
  InferRequest request;
  ASSERT_TRUE(decode(data, request).ok());
  EXPECT_EQ(*request.parameter("bool"), ParameterValue(true));
  EXPECT_EQ(*request.parameter("text"), ParameterValue(std::string_view("gr\xC3\xBC\xC3\x9F")));
  EXPECT_EQ(*request.parameter("double"), ParameterValue(0.5));
  EXPECT_EQ(*request.parameter("uint"), ParameterValue(~std::uint64_t{0}));
  EXPECT_EQ(*request.parameter("none"), ParameterValue());
  EXPECT_EQ(*request.parameter("twice"), ParameterValue(std::int64_t{9}));
  EXPECT_EQ(*request.parameter("again"), ParameterValue(std::int64_t{2}));
  EXPECT_EQ(*request.parameter(""), ParameterValue());
  EXPECT_EQ(*request.parameter("long"), ParameterValue(false));
}

TEST(InferDecode, SkipsWhatItDoesNotKnow) {
  std::string data = message([](pbf_writer& writer) {
    writer.add_int64(100, 1);
    writer.add_fixed32(1, 1);  // model_name with another wire type is an unknown field
    writer.add_string(2000, "later");
    writer.add_string(1, "mlp");
  });
  data +=
      "\xE1\xC2\x09"
      "12345678";                                      // field 19500, which protobuf's compiler reserves, as fixed64
  data += "\xA3\x06\x08\x01\xAB\x06\xAC\x06\xA4\x06";  // group 100 {1: 1, group 101 {}}
  InferRequest request;
  ASSERT_TRUE(decode(data, request).ok());
  EXPECT_EQ(request.model_name, "mlp");
  EXPECT_TRUE(request.inputs.empty());
}

TEST(InferDecode, RefusesWhatIsNotProtobuf) {
  const std::pair<std::string_view, const char*> cases[] = {
      {"\x0A", "no length"},
      {"\x0A\x05mlp", "cut string"},
      {"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "length of 2^64 - 1"},
      {std::string_view("\x0A\x83\x80\x80\x80\x80\x00mlp", 10), "length of six bytes"},
      {"\x0A\x83\x80\x80\x80\x10mlp", "length of 2^32 + 3, which 32 bits would cut to 3"},
      {std::string_view("\x00\x00", 2), "field number 0"},
      {"\x8A\x80\x80\x80\x80\x01\x03mlp", "key over 32 bits"},
      {"\x0C", "end of a group that was not begun"},
      {"\x0E\x01", "wire type 6"},
      {"\xA3\x06\x08\x01", "group without an end"},
      {"\xA3\x06\xAC\x06", "group with another's end"},
      {"\xA0\x06\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "varint of eleven bytes"},
      {"\x2A\x02\x1A\x05", "packed shape beyond its input"},
      {"\x2A\x03\x1A\x01\x80", "cut dimension"},
  };
  for (const auto& [data, what] : cases) {
    EXPECT_NE(refusal(data).find("not a valid protobuf message"), std::string::npos) << what;
  }
  std::string deep;
  for (int i = 0; i < 101; ++i) deep += "\xA3\x06";
  for (int i = 0; i < 101; ++i) deep += "\xA4\x06";
  EXPECT_NE(refusal(deep).find("not a valid protobuf message"), std::string::npos);
}

TEST(InferDecode, RefusesTextThatIsNotUtf8) {
  const std::string_view bad[] = {"\xFF",
                                  "\xC3",
                                  "\xC0\x80",
                                  "\xED\xA0\x80",
                                  "\xF4\x90\x80\x80",
                                  "\xE0\x80\x80",
                                  "\x80",
                                  "12345678\xF0\x80\x80\x80",
                                  "\xC3\x41",
                                  "\xE2\x82\x41"};
  const std::string_view good[] = {
      "", "\xC2\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xF4\x8F\xBF\xBF", "12345678\xE2\x82\xAC"};
  for (const std::string_view text : bad) {
    for (const protozero::pbf_tag_type field : {1, 2, 3}) {
      const std::string data = message([&](pbf_writer& writer) { writer.add_string(field, text.data(), text.size()); });
      EXPECT_NE(refusal(data).find("is not valid UTF-8"), std::string::npos);
    }
    const std::string key = message([&](pbf_writer& writer) { writer.add_message(4, int_parameter(text, 1)); });
    EXPECT_NE(refusal(key).find("a parameter's name is not valid UTF-8"), std::string::npos);
    const std::string tensor = message([&](pbf_writer& writer) { writer.add_message(5, input("x", text, {})); });
    EXPECT_NE(refusal(tensor).find("an input's datatype is not valid UTF-8"), std::string::npos);
  }
  for (const std::string_view text : good) {
    InferRequest request;
    const std::string data = message([&](pbf_writer& writer) { writer.add_string(1, text.data(), text.size()); });
    ASSERT_TRUE(decode(data, request).ok());
    EXPECT_EQ(request.model_name, text);
  }
}

TEST(InferDecode, NamesTheLimitThatIsBroken) {
  InferLimits limits;
  limits.max_tensors = 2;
  limits.max_name_bytes = 4;
  limits.max_dims = 3;
  limits.max_parameters = 2;
  const auto request = [](auto fill) { return message(fill); };
  InferRequest decoded;

  const auto tensors = [&](int inputs, int outputs) {
    return request([&](pbf_writer& writer) {
      for (int i = 0; i < outputs; ++i) writer.add_message(6, std::string());
      for (int i = 0; i < inputs; ++i) writer.add_message(5, std::string());
    });
  };
  EXPECT_TRUE(decode(tensors(1, 1), decoded, limits).ok());
  EXPECT_NE(refusal(tensors(2, 1), limits).find("limit of 2 (--max-tensors)"), std::string::npos);
  EXPECT_NE(refusal(tensors(0, 3), limits).find("limit of 2 (--max-tensors)"), std::string::npos);
  const std::string raws = request([](pbf_writer& writer) {
    for (int i = 0; i < 3; ++i) writer.add_bytes(7, "");
  });
  EXPECT_NE(refusal(raws, limits).find("limit of 2 (--max-tensors)"), std::string::npos);

  const std::string name = request([](pbf_writer& writer) { writer.add_message(5, input("12345", "", {})); });
  EXPECT_NE(refusal(name, limits).find("an input's name of 5 bytes, over the limit of 4 (--max-name-bytes)"),
            std::string::npos);
  const std::string fits = request([](pbf_writer& writer) { writer.add_message(5, input("1234", "FP32", {1, 2, 3})); });
  EXPECT_TRUE(decode(fits, decoded, limits).ok());
  const std::string dims = request([](pbf_writer& writer) { writer.add_message(5, input("x", "", {1, 2, 3, 4})); });
  EXPECT_NE(refusal(dims, limits).find("limit of 3 (--max-dims)"), std::string::npos);

  const auto parameters = [&](int own, int of_input) {
    return request([&](pbf_writer& writer) {
      for (int i = 0; i < own; ++i) writer.add_message(4, int_parameter("k", i));
      writer.add_message(5, message([&](pbf_writer& in) {
                           for (int i = 0; i < of_input; ++i) in.add_message(4, int_parameter("k", i));
                         }));
    });
  };
  EXPECT_TRUE(decode(parameters(1, 1), decoded, limits).ok());
  EXPECT_NE(refusal(parameters(3, 0), limits).find("limit of 2 (--max-parameters)"), std::string::npos);
  EXPECT_NE(refusal(parameters(1, 2), limits).find("limit of 2 (--max-parameters)"), std::string::npos);
}

TEST(InferDecode, RefusesWhatCannotBeMeant) {
  const auto with_input = [](const std::string& in, int raws) {
    return message([&](pbf_writer& writer) {
      writer.add_message(5, in);
      for (int i = 0; i < raws; ++i) writer.add_bytes(7, "raw");
    });
  };
  EXPECT_NE(refusal(with_input(input("x", "FP32", {2, -1}), 0))
                .find("input 'x' has the negative dimension -1 in its shape [2,-1]"),
            std::string::npos);
  EXPECT_NE(refusal(with_input(input("x", "FP32", {2}), 2)).find("2 raw_input_contents for 1 inputs"),
            std::string::npos);
  const std::string typed = input("x", "FP32", {}) + std::string("\x2A\x02\x08\x01", 4);
  EXPECT_NE(refusal(with_input(typed, 1)).find("input 'x' has contents as well as raw_input_contents"),
            std::string::npos);
  EXPECT_NE(refusal(with_input(typed + std::string("\x2A\x00", 2), 0)).find("input 'x' has contents twice"),
            std::string::npos);
  InferRequest request;
  ASSERT_TRUE(decode(with_input(typed, 0), request).ok());
  EXPECT_TRUE(request.inputs[0].has_contents);
  EXPECT_FALSE(request.inputs[0].raw);
  EXPECT_EQ(request.contents_bytes, 2U);
}

TEST(InferDecode, InputsInSharedMemoryHaveNoRawContents) {
  const std::string shared = input("s", "FP32", {1}) + message([](pbf_writer& writer) {
                               writer.add_message(4, int_parameter("shared_memory_region", 1));
                             });
  const auto with_raws = [&](const std::vector<std::string>& raws) {
    return message([&](pbf_writer& writer) {
      for (const std::string& in : {shared, input("x", "FP32", {1}), shared}) writer.add_message(5, in);
      for (const std::string& raw : raws) writer.add_bytes(7, raw);
    });
  };
  InferRequest request;
  const std::string one = with_raws({"abcd"});  // the request has views of it
  ASSERT_TRUE(decode(one, request).ok());
  EXPECT_TRUE(!request.inputs[0].raw && as_text(*request.inputs[1].raw) == "abcd" && !request.inputs[2].raw);
  EXPECT_NE(refusal(with_raws({"abcd", ""})).find("2 raw_input_contents for 3 inputs"), std::string::npos);
}

TEST(InferDecode, IsReadyForTheNextMessageWithItsMemory) {
  const std::string full = message([](pbf_writer& writer) {
    writer.add_string(1, "mlp");
    writer.add_string(2, "1");
    writer.add_string(3, "id");
    writer.add_message(4, int_parameter("a", 1));
    for (int i = 0; i < 3; ++i) {
      writer.add_message(5, input("x", "FP32", {1, 2}) + "\x22" +
                                std::string(1, static_cast<char>(int_parameter("b", i).size())) +
                                int_parameter("b", i));
    }
    writer.add_message(6, message([](pbf_writer& out) { out.add_message(2, int_parameter("c", 4)); }));
    for (int i = 0; i < 3; ++i) writer.add_bytes(7, "raw");
  });
  InferRequest request;
  ASSERT_TRUE(decode(full, request).ok());
  ASSERT_EQ(request.inputs.size(), 3U);
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(*find_parameter(request.inputs[static_cast<std::size_t>(i)].parameters, "b"), ParameterValue(i));
  }
  EXPECT_EQ(*find_parameter(request.outputs[0].parameters, "c"), ParameterValue(std::int64_t{4}));
  const void* const memory[] = {request.inputs.data(), request.outputs.data(), request.parameters.data(),
                                request.tensor_parameters.data(), request.raw_contents.data()};

  const std::string small = message([](pbf_writer& writer) { writer.add_message(5, input("y", "INT8", {})); });
  ASSERT_TRUE(decode(small, request).ok());
  EXPECT_EQ(request.model_name, "");
  EXPECT_EQ(request.model_version, "");
  EXPECT_EQ(request.id, "");
  EXPECT_TRUE(request.parameters.empty());
  EXPECT_TRUE(request.outputs.empty());
  ASSERT_EQ(request.inputs.size(), 1U);
  EXPECT_EQ(request.inputs[0].shape, Shape{});
  EXPECT_TRUE(request.inputs[0].parameters.empty());
  EXPECT_FALSE(request.inputs[0].raw);

  ASSERT_TRUE(decode(full, request).ok());
  const void* const again[] = {request.inputs.data(), request.outputs.data(), request.parameters.data(),
                               request.tensor_parameters.data(), request.raw_contents.data()};
  for (std::size_t i = 0; i < std::size(memory); ++i) EXPECT_EQ(memory[i], again[i]) << i;

  const InferRequest moved = std::move(request);
  EXPECT_EQ(*find_parameter(moved.inputs[2].parameters, "b"), ParameterValue(std::int64_t{2}));
}

TEST(InferDecode, SurvivesEveryPrefixAndEveryChangedByte) {
  const std::string data = message([](pbf_writer& writer) {
    writer.add_string(1, "mlp");
    writer.add_message(4, int_parameter("a", 300));
    writer.add_message(5, input("x", "FP32", {1, 200, 3}));
    writer.add_message(6, message([](pbf_writer& out) { out.add_string(1, "out"); }));
    writer.add_bytes(7, "123456789012");
  });
  InferRequest request;
  ASSERT_TRUE(decode(data, request).ok());
  for (std::size_t size = 0; size < data.size(); ++size) {
    const std::vector<char> exact(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(size));  // ASan sees its end
    const Status status = decode({exact.data(), exact.size()}, request);
    EXPECT_TRUE(status.ok() || status.code() == Code::kInvalidArgument);
  }
  std::string changed = data;
  for (std::size_t at = 0; at < data.size(); ++at) {
    for (int byte = 0; byte < 256; ++byte) {
      changed[at] = static_cast<char>(byte);
      const Status status = decode(changed, request);
      ASSERT_TRUE(status.ok() || status.code() == Code::kInvalidArgument);
    }
    changed[at] = data[at];
  }
}

}  // namespace
}  // namespace headrace::wire
