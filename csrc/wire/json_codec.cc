// What goes out as JSON: responses and errors. And the one kind of request that has no JSON at all.
#include "wire/json_codec.h"

#include <charconv>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "wire/json_elements.h"
#include "wire/utf8.h"

namespace headrace::wire {

namespace {

const bool* flag(const ParameterValue* value) { return value == nullptr ? nullptr : std::get_if<bool>(value); }

Status no_bool(std::string_view key, const std::string& place) {
  return invalid_argument("request parameter '" + std::string(key) + "' of " + place + " must be true or false");
}

void append_integer(std::int64_t value, std::string& out) {
  char text[24];
  const auto result = std::to_chars(text, text + sizeof(text), value);
  out.append(text, result.ptr);
}

void append_shape(const Shape& shape, std::string& out) {
  out += '[';
  bool first = true;
  for (const std::int64_t dim : shape.dims()) {
    if (!first) out += ',';
    first = false;
    append_integer(dim, out);
  }
  out += ']';
}

}  // namespace

void append_shared(const ResponseSharedMemory& shared, std::string& text) {
  text += ",\"parameters\":{\"shared_memory_region\":";
  append_json_string(shared.region, text);
  text += ",\"shared_memory_byte_size\":";
  append_integer(static_cast<std::int64_t>(shared.bytes), text);
  if (shared.offset != 0) {
    text += ",\"shared_memory_offset\":";
    append_integer(static_cast<std::int64_t>(shared.offset), text);
  }
  text += "}}";
}

namespace {

constexpr std::string_view kEventStart = "data: ";
constexpr std::string_view kEventEnd = "\n\n";

void append_parameter(const ResponseParameter& parameter, std::string& text) {
  append_json_string(parameter.key, text);
  text += ':';
  if (const bool* flag = std::get_if<bool>(&parameter.value)) {
    text += *flag ? "true" : "false";
  } else {
    append_integer(std::get<std::int64_t>(parameter.value), text);
  }
}

// An object that stays open.
void append_response_head(const InferResponse& response, std::string& text) {
  text += "{\"model_name\":";
  append_json_string(response.model_name, text);
  text += ",\"model_version\":";
  append_json_string(response.model_version, text);
  if (!response.id.empty()) {
    text += ",\"id\":";
    append_json_string(response.id, text);
  }
}

}  // namespace

Result<OutputForm> output_form(const InferRequest& request, std::string_view name) {
  bool binary = false;
  if (const ParameterValue* value = request.parameter("binary_data_output"); value != nullptr) {
    if (flag(value) == nullptr) return no_bool("binary_data_output", "the request");
    binary = *flag(value);
  }
  bool base64 = false;
  for (const WireOutput& output : request.outputs) {
    if (output.name != name) continue;
    const std::string place = "output '" + std::string(name) + "'";
    if (const ParameterValue* value = find_parameter(output.parameters, "binary_data"); value != nullptr) {
      if (flag(value) == nullptr) return no_bool("binary_data", place);
      binary = *flag(value);
    }
    if (const ParameterValue* value = find_parameter(output.parameters, "b64"); value != nullptr) {
      if (flag(value) == nullptr) return no_bool("b64", place);
      base64 = *flag(value);
    }
    break;
  }
  if (binary) return OutputForm::kBinary;
  return base64 ? OutputForm::kBase64 : OutputForm::kText;
}

std::size_t json_response_bytes(const InferResponse& response, std::span<const OutputForm> forms) {
  HEADRACE_CHECK(forms.size() == response.outputs.size());
  std::size_t bytes = 256;
  for (std::size_t i = 0; i < forms.size(); ++i) {
    const ResponseOutput& output = response.outputs[i];
    bytes += 128 + output.name.size() + output.shared.region.size();
    if (forms[i] != OutputForm::kBinary && output.shared.region.empty()) bytes += json_data_bytes(*output.tensor);
  }
  return bytes;
}

Status encode_json_response(const InferResponse& response, std::span<const OutputForm> forms, OutMessage& out,
                            std::size_t& json_bytes) {
  out.clear();
  json_bytes = 0;
  std::string& text = out.own;
  text.reserve(json_response_bytes(response, forms));
  append_response_head(response, text);
  if (!response.parameters.empty()) {
    text += ",\"parameters\":";
    char before = '{';
    for (const ResponseParameter& parameter : response.parameters) {
      text += before;
      before = ',';
      append_parameter(parameter, text);
    }
    text += '}';
  }
  text += ",\"outputs\":[";
  bool binary = false;
  for (std::size_t i = 0; i < forms.size(); ++i) {
    const ResponseOutput& output = response.outputs[i];
    text += i == 0 ? "{\"name\":" : ",{\"name\":";
    append_json_string(output.name, text);
    text += ",\"datatype\":\"";
    text += dtype_name(output.tensor->dtype);
    text += "\",\"shape\":";
    append_shape(output.tensor->shape, text);
    if (!output.shared.region.empty()) {
      append_shared(output.shared, text);
      continue;
    }
    if (forms[i] == OutputForm::kBinary) {
      binary = true;
      text += ",\"parameters\":{\"binary_data_size\":";
      append_integer(static_cast<std::int64_t>(output.tensor->size), text);
      text += "}}";
      continue;
    }
    text += ",\"data\":[";
    JsonElements elements(*output.tensor, forms[i] == OutputForm::kBase64);
    if (!elements.append(elements.left(), text)) {
      out.clear();
      return invalid_argument("output '" + std::string(output.name) + "': element " + std::to_string(elements.next()) +
                              " is not UTF-8, so JSON cannot hold it; ask for it as binary (parameter binary_data: "
                              "true, the binary tensor data extension) or as base64 (parameter b64: true)");
    }
    text += "]}";
  }
  text += "]}";
  if (!binary) return {};

  json_bytes = text.size();
  for (std::size_t i = 0; i < forms.size(); ++i) {
    if (forms[i] != OutputForm::kBinary || !response.outputs[i].shared.region.empty()) continue;
    const Tensor& tensor = *response.outputs[i].tensor;
    if (tensor.size > kViewBytes && tensor.block) {
      out.views.push_back({text.size(), tensor.bytes(), tensor.block});
    } else if (tensor.size != 0) {
      text.append(reinterpret_cast<const char*>(tensor.data), tensor.size);
    }
  }
  return {};
}

Status encode_generate_response(const InferResponse& response, bool event, OutMessage& out) {
  out.clear();
  std::string& text = out.own;
  if (event) text += kEventStart;
  append_response_head(response, text);
  for (const ResponseParameter& parameter : response.parameters) {
    text += ',';
    append_parameter(parameter, text);
  }
  for (const ResponseOutput& output : response.outputs) {
    text += ',';
    append_json_string(output.name, text);
    text += ':';
    JsonElements elements(*output.tensor, false);
    const bool single = elements.left() == 1;
    if (!single) text += '[';
    if (!elements.append(elements.left(), text)) {
      out.clear();
      return invalid_argument("output '" + std::string(output.name) + "': element " + std::to_string(elements.next()) +
                              " is not UTF-8, so JSON cannot hold it; ask for it as binary or as base64, by infer");
    }
    if (!single) text += ']';
  }
  text += '}';
  if (event) text += kEventEnd;
  return {};
}

std::string error_event(std::string_view message) {
  return std::string(kEventStart) + json_error(message) + std::string(kEventEnd);
}

std::string json_error(std::string_view message) {
  std::string text = "{\"error\":";
  append_json_string(message, text);
  text += '}';
  return text;
}

Status decode_raw_request(std::span<const std::byte> body, const RawInputSpec& spec, InferRequest& request) {
  request.clear();
  const auto refuse = [&](const std::string& what) {
    return invalid_argument("raw binary request (Inference-Header-Content-Length: 0) for input '" +
                            std::string(spec.name) + "': " + what);
  };
  std::vector<std::int64_t>& dims = request.dims;
  dims.assign(spec.dims.begin(), spec.dims.end());
  if (spec.batched && !dims.empty()) dims.front() = 1;
  std::size_t variable = dims.size();
  std::size_t known = 1;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] < 0) {
      if (variable != dims.size()) {
        return refuse("its shape cannot be told from the body's size, more than one dimension is variable; send JSON");
      }
      variable = i;
      continue;
    }
    const std::optional<std::size_t> product = checked_multiply(known, static_cast<std::size_t>(dims[i]));
    if (!product) return refuse("its fixed dimensions are more elements than can be addressed");
    known = *product;
  }
  WireInput& input = request.inputs.emplace_back();
  input.name = spec.name;
  input.datatype = dtype_name(spec.dtype);
  if (spec.dtype == DType::kBytes) {
    if (variable != dims.size()) dims[variable] = 1;
    if (known != 1) return refuse("a BYTES input takes one string, so its shape has to be [1]; send JSON");
    input.contents = body;
    input.has_contents = true;
    request.contents_bytes = body.size();
  } else {
    const std::optional<std::size_t> unit = checked_multiply(known, element_size(spec.dtype));
    if (!unit) return refuse("its fixed dimensions are more bytes than can be addressed");
    if (variable != dims.size()) {
      if (*unit == 0 || body.size() % *unit != 0) {
        return refuse("the body's " + std::to_string(body.size()) + " bytes are no multiple of " +
                      std::to_string(*unit) + ", the bytes of one step of its variable dimension");
      }
      dims[variable] = static_cast<std::int64_t>(body.size() / *unit);
    } else if (body.size() != *unit) {
      return refuse("the body has " + std::to_string(body.size()) + " bytes, its shape needs " + std::to_string(*unit));
    }
    input.raw = body;
  }
  input.shape.assign(dims);
  request.parameters.push_back({"binary_data_output", true});
  return {};
}

Result<Tensor> convert_raw_string(const WireInput& input, Pool& pool) {
  constexpr std::size_t kPrefix = sizeof(std::uint32_t);
  const std::size_t size = input.contents.size();
  if (size > std::numeric_limits<std::uint32_t>::max()) {
    return invalid_argument("input '" + std::string(input.name) + "': a BYTES element holds at most 4294967295 bytes");
  }
  Result<Block> block = pool.allocate(kPrefix + size);
  if (!block) return block.status();
  const auto prefix = static_cast<std::uint32_t>(size);
  std::memcpy(block->data(), &prefix, kPrefix);
  if (size != 0) std::memcpy(block->data() + kPrefix, input.contents.data(), size);
  Tensor tensor;
  tensor.dtype = DType::kBytes;
  tensor.shape = input.shape;
  tensor.data = block->data();
  tensor.size = kPrefix + size;
  tensor.block = std::move(*block);
  return tensor;
}

}  // namespace headrace::wire
