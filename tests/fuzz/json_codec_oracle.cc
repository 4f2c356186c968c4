#include "json_codec_oracle.h"

#include <simdjson.h>

#include <cmath>
#include <cstring>
#include <string_view>
#include <vector>

#include "wire/json_codec.h"
#include "wire/json_text.h"
#include "wire/predict_codec.h"

namespace headrace::wire {

namespace {

using simdjson::dom::element;
using simdjson::dom::element_type;

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
std::string_view text_of(const Tensor& tensor) { return text_of(tensor.bytes()); }

// What simdjson refuses and the codec does not: in a number, or a word that JSON does not have.
bool more_than_simdjson(simdjson::error_code error, std::string_view text) {
  const std::string_view message = simdjson::error_message(error);
  return error == simdjson::NUMBER_ERROR || message.find("integer") != std::string_view::npos ||
         text.find("NaN") != std::string_view::npos || text.find("Infinity") != std::string_view::npos;
}

void leaves(element value, std::vector<element>& out) {
  simdjson::dom::array array;
  if (value.get(array) != simdjson::SUCCESS) {
    out.push_back(value);
    return;
  }
  for (const element child : array) leaves(child, out);
}

template <class Element>
Element at(const Tensor& tensor, std::size_t i) {
  Element value;
  std::memcpy(&value, tensor.data + i * sizeof(Element), sizeof(Element));
  return value;
}

template <class Element>
bool same_integer(const Tensor& tensor, std::size_t i, element leaf) {
  const auto value = at<Element>(tensor, i);
  std::int64_t small = 0;
  if (leaf.get(small) == simdjson::SUCCESS) {
    return small == static_cast<std::int64_t>(value) && (small < 0) == (value < 0);
  }
  std::uint64_t large = 0;
  return leaf.get(large) == simdjson::SUCCESS && large == static_cast<std::uint64_t>(value) && value > 0;
}

bool same_real(double ours, element leaf, double error) {
  double value = 0;
  std::string_view word;
  if (leaf.get(value) == simdjson::SUCCESS) return std::abs(ours - value) <= std::abs(value) * error;
  return leaf.get(word) == simdjson::SUCCESS && !std::isfinite(ours) && (word == "NaN") == std::isnan(ours) &&
         (word == "-Infinity") == (ours < 0);
}

// The element as simdjson reads it. BYTES: `offset` moves on.
bool same(const Tensor& tensor, std::size_t i, std::size_t& offset, element leaf) {
  switch (tensor.dtype) {
    case DType::kBool: {
      bool value = false;
      if (leaf.get(value) == simdjson::SUCCESS) return value == (at<std::uint8_t>(tensor, i) != 0);
      return same_integer<std::uint8_t>(tensor, i, leaf);
    }
    case DType::kUint8:
      return same_integer<std::uint8_t>(tensor, i, leaf);
    case DType::kUint16:
      return same_integer<std::uint16_t>(tensor, i, leaf);
    case DType::kUint32:
      return same_integer<std::uint32_t>(tensor, i, leaf);
    case DType::kUint64:
      return same_integer<std::uint64_t>(tensor, i, leaf);
    case DType::kInt8:
      return same_integer<std::int8_t>(tensor, i, leaf);
    case DType::kInt16:
      return same_integer<std::int16_t>(tensor, i, leaf);
    case DType::kInt32:
      return same_integer<std::int32_t>(tensor, i, leaf);
    case DType::kInt64:
      return same_integer<std::int64_t>(tensor, i, leaf);
    case DType::kFp32: {
      const auto value = static_cast<double>(at<float>(tensor, i));
      return std::abs(value) < 1.2e-38 || same_real(value, leaf, 6e-8);
    }
    case DType::kFp64:
      return same_real(at<double>(tensor, i), leaf, 0);
    case DType::kBytes: {
      std::uint32_t size = 0;
      std::memcpy(&size, tensor.data + offset, sizeof(size));
      const std::string_view ours = text_of(tensor).substr(offset + 4, size);
      offset += 4 + size;
      std::string_view value;
      return leaf.is_object() || (leaf.get(value) == simdjson::SUCCESS && value == ours);
    }
    default:
      return true;  // halves: their own tests
  }
}

bool same_tensor(const Tensor& a, const Tensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && text_of(a) == text_of(b);
}

class Judge {
 public:
  Judge(std::span<const std::byte> bytes, Pool& pool, JsonOracleCounts& counts)
      : bytes_(bytes), pool_(pool), counts_(counts) {}

  std::string judge() {
    const std::string_view text = text_of(bytes_);
    simdjson::padded_string padded(text);
    element root;
    const simdjson::error_code error = parser_.parse(padded).get(root);
    if (std::string what = grammar(text, error); !what.empty()) return what;
    if (std::string what = request(bytes_.size(), error, root); !what.empty()) return what;
    const std::size_t brace = text.rfind('}');
    if (brace != std::string_view::npos && brace + 1 != text.size()) {
      const simdjson::padded_string head(text.substr(0, brace + 1));
      const simdjson::error_code head_error = parser_.parse(head).get(root);
      if (std::string what = request(brace + 1, head_error, root); !what.empty()) return what;
    }
    return predict();
  }

 private:
  std::string grammar(std::string_view text, simdjson::error_code error) {
    JsonCursor cursor(text);
    bool valid = true;
    bool deep = false;
    try {
      cursor.skip_value(0);
      valid = cursor.peek() == '\0' && cursor.at() == cursor.end();
    } catch (const JsonError& what) {
      valid = false;
      deep = what.what.find("nested") != std::string::npos;
    }
    counts_.texts += valid ? 1U : 0U;
    if (valid && error != simdjson::SUCCESS && !more_than_simdjson(error, text)) {
      return std::string("simdjson alone refuses: ") + simdjson::error_message(error);
    }
    const bool marked = text.starts_with("\xEF\xBB\xBF");  // a byte order mark: newer versions of simdjson pass it
    if (!valid && !deep && !marked && error == simdjson::SUCCESS) return "simdjson alone accepts";
    return "";
  }

  std::string request(std::size_t json_bytes, simdjson::error_code error, element root) {
    const InferLimits limits;
    const Status first = reader_.decode(bytes_, json_bytes, limits, request_);
    for (int again = 0; again < 2; ++again) {  // read, seen again, and known
      const Status status = reader_.decode(bytes_, json_bytes, limits, request_);
      if (status.to_string() != first.to_string()) return "another answer when it comes again: " + status.to_string();
    }
    if (!first.ok()) return "";
    ++counts_.requests;
    bool whole = true;
    for (std::size_t i = 0; i < request_.inputs.size(); ++i) {
      const WireInput& input = request_.inputs[i];
      if (!input.has_contents) continue;
      const std::optional<DType> dtype = parse_dtype(input.datatype);
      const std::optional<std::size_t> elements = element_count(input.shape.dims());
      if (!dtype || !elements) {
        whole = false;
        continue;
      }
      const Result<Tensor> tensor = convert_json_data(input, *dtype, *elements, pool_);
      if (!tensor.ok()) {
        if (tensor.status().code() != Code::kInvalidArgument) return tensor.status().to_string();
        whole = false;
        continue;
      }
      ++counts_.tensors;
      if (error == simdjson::SUCCESS) {
        if (std::string what = compare(*tensor, root, i); !what.empty()) return what;
      }
      if (std::string what = round_trip(*tensor); !what.empty()) return what;
    }
    const std::string_view text = text_of(bytes_).substr(0, json_bytes);
    if (whole && error != simdjson::SUCCESS && !more_than_simdjson(error, text)) {
      return std::string("a request was accepted, simdjson says: ") + simdjson::error_message(error);
    }
    return "";
  }

  std::string compare(const Tensor& tensor, element root, std::size_t index) {
    element data;
    if (root["inputs"].at(index)["data"].get(data) != simdjson::SUCCESS) return "";
    std::vector<element> values;
    leaves(data, values);
    if (values.size() != element_count(tensor.shape.dims())) return "another number of elements";
    ++counts_.compared;
    std::size_t offset = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!same(tensor, i, offset, values[i])) return "another value at element " + std::to_string(i);
    }
    return "";
  }

  std::string round_trip(const Tensor& tensor) {
    const ResponseOutput output{"t", &tensor};
    InferResponse response;
    response.outputs = {&output, 1};
    std::size_t json_bytes = 0;
    OutputForm form = OutputForm::kText;
    OutMessage out;
    if (!encode_json_response(response, {&form, 1}, out, json_bytes).ok()) {
      form = OutputForm::kBase64;  // a b64 value that is no text
      if (!encode_json_response(response, {&form, 1}, out, json_bytes).ok()) return "a tensor cannot be written";
    }
    std::string body = out.own;
    body.replace(body.find("\"outputs\""), 9, "\"inputs\"");
    JsonReader reader;
    InferRequest request;
    const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(body.data()), body.size());
    if (Status status = reader.decode(bytes, body.size(), {}, request); !status.ok()) return status.to_string();
    const Result<Tensor> back =
        convert_json_data(request.inputs[0], tensor.dtype, element_count(tensor.shape.dims()).value(), pool_);
    if (!back.ok()) return "its own text is refused: " + back.status().to_string();
    return same_tensor(tensor, *back) ? "" : "another tensor after a round trip: " + body;
  }

  std::string predict() {
    const PredictSpec specs[] = {{"x", DType::kFp32, {}, false},
                                 {"s", DType::kBytes, {}, true},
                                 {"i", DType::kInt64, {}, true},
                                 {"b", DType::kBool, {}, true}};
    PredictRequest request;
    const Status status = predict_reader_.decode(bytes_, specs, {}, pool_, request);
    if (!status.ok()) return status.code() == Code::kInvalidArgument ? "" : status.to_string();
    ++counts_.predicted;
    std::vector<ResponseOutput> outputs;
    for (const PredictInput& input : request.inputs) outputs.push_back({specs[input.spec].name, &input.tensor});
    OutMessage out;
    const Status written = encode_predict_response(outputs, request.form, out);
    if (!written.ok()) {
      return written.message().find("is not UTF-8") != std::string::npos ? "" : written.to_string();
    }
    std::string body = out.own;
    const bool rows = request.form == PredictForm::kRows;
    body.replace(2, rows ? 11 : 7, rows ? "instances" : "inputs");
    PredictReader reader;
    PredictRequest again;
    const Status read =
        reader.decode({reinterpret_cast<const std::byte*>(body.data()), body.size()}, specs, {}, pool_, again);
    if (!read.ok()) return "its own predict text is refused: " + read.to_string() + "\n" + body;
    if (again.inputs.size() != request.inputs.size()) return "other inputs after a round trip: " + body;
    for (std::size_t i = 0; i < again.inputs.size(); ++i) {
      if (!same_tensor(again.inputs[i].tensor, request.inputs[i].tensor)) return "another tensor after: " + body;
    }
    return "";
  }

  std::span<const std::byte> bytes_;
  Pool& pool_;
  JsonOracleCounts& counts_;
  simdjson::dom::parser parser_;
  JsonReader reader_;
  InferRequest request_;
  PredictReader predict_reader_;
};

}  // namespace

std::string json_codec_differs(std::span<const std::byte> bytes, Pool& pool, JsonOracleCounts& counts) {
  return Judge(bytes, pool, counts).judge();
}

}  // namespace headrace::wire
