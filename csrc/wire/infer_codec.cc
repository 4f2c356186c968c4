#include "wire/infer_codec.h"

#include <string>

#include "base/check.h"
#include "wire/field_reader.h"
#include "wire/utf8.h"

namespace headrace::wire {

namespace {

// Leaves the decoder with the answer to a request that is well-formed protobuf and yet refused.
struct Refusal {
  Status status;
};

[[noreturn]] void refuse(std::string message) { throw Refusal{invalid_argument(std::move(message))}; }

[[noreturn]] void refuse_limit(const std::string& what, std::string_view flag, std::size_t value) {
  refuse("ModelInferRequest has " + what + ", over the limit of " + std::to_string(value) + " (" + std::string(flag) +
         "); send less in one request or raise the limit");
}

std::span<const std::byte> as_bytes(std::string_view view) {
  return {reinterpret_cast<const std::byte*>(view.data()), view.size()};
}

class Decoder {
 public:
  Decoder(const InferLimits& limits, InferRequest& request) : limits_(limits), request_(request) {}

  void decode(std::span<const std::byte> bytes) {
    FieldReader reader(bytes);
    while (reader.next()) {
      switch (reader.key()) {
        case bytes_key(1):
          request_.model_name = text(reader, "model_name");
          break;
        case bytes_key(2):
          request_.model_version = text(reader, "model_version");
          break;
        case bytes_key(3):
          request_.id = text(reader, "id");
          break;
        case bytes_key(4):
          parameter(reader.bytes(), 1, request_.parameters);
          break;
        case bytes_key(5):
          input(reader.bytes());
          break;
        case bytes_key(6):
          output(reader.bytes());
          break;
        case bytes_key(7):
          if (request_.raw_contents.size() == limits_.max_tensors) {
            refuse_limit("more raw_input_contents than it may have tensors", "--max-tensors", limits_.max_tensors);
          }
          request_.raw_contents.push_back(as_bytes(reader.bytes()));
          break;
        default:
          reader.skip();
      }
    }
    link();
  }

 private:
  std::string_view text(FieldReader& reader, const char* what) {
    const std::string_view value = reader.bytes();
    if (value.size() > limits_.max_name_bytes) {
      refuse_limit(std::string(what) + " of " + std::to_string(value.size()) + " bytes", "--max-name-bytes",
                   limits_.max_name_bytes);
    }
    if (!is_utf8(value)) refuse(std::string("ModelInferRequest: ") + what + " is not valid UTF-8");
    return value;
  }

  void count_tensor() const {
    if (request_.inputs.size() + request_.outputs.size() == limits_.max_tensors) {
      refuse_limit("more inputs and outputs", "--max-tensors", limits_.max_tensors);
    }
  }

  // A map entry {1: key, 2: InferParameter}. A value that is sent in pieces is merged, so a later piece that says
  // nothing leaves what an earlier one said.
  void parameter(std::string_view bytes, int level, std::vector<Parameter>& parameters) {
    if (request_.parameters.size() + request_.tensor_parameters.size() == limits_.max_parameters) {
      refuse_limit("more parameters", "--max-parameters", limits_.max_parameters);
    }
    Parameter& parameter = parameters.emplace_back();
    FieldReader reader(bytes, level);
    while (reader.next()) {
      switch (reader.key()) {
        case bytes_key(1):
          parameter.key = text(reader, "a parameter's name");
          break;
        case bytes_key(2):
          value(reader.bytes(), level + 1, parameter);
          break;
        default:
          reader.skip();
      }
    }
  }

  static void value(std::string_view bytes, int level, Parameter& parameter) {
    FieldReader reader(bytes, level);
    while (reader.next()) {
      switch (reader.key()) {
        case varint_key(1):
          parameter.value = reader.varint() != 0;
          break;
        case varint_key(2):
          parameter.value = static_cast<std::int64_t>(reader.varint());
          break;
        case bytes_key(3): {
          const std::string_view text = reader.bytes();
          if (!is_utf8(text)) refuse("ModelInferRequest: a parameter's string_param is not valid UTF-8");
          parameter.value = text;
          break;
        }
        case fixed64_key(4):
          parameter.value = reader.fixed<double>();
          break;
        case varint_key(5):
          parameter.value = reader.varint();
          break;
        default:
          reader.skip();
      }
    }
  }

  void input(std::string_view bytes) {
    count_tensor();
    WireInput& input = request_.inputs.emplace_back();
    input.first_parameter = request_.tensor_parameters.size();
    std::vector<std::int64_t>& dims = request_.dims;
    dims.clear();
    FieldReader reader(bytes, 1);
    while (reader.next()) {
      switch (reader.key()) {
        case bytes_key(1):
          input.name = text(reader, "an input's name");
          break;
        case bytes_key(2):
          input.datatype = text(reader, "an input's datatype");
          break;
        case varint_key(3):
          dimension(reader.varint());
          break;
        case bytes_key(3): {
          const std::string_view packed = reader.bytes();
          const char* at = packed.data();
          const char* const end = at + packed.size();
          while (at != end) dimension(protozero::decode_varint(&at, end));
          break;
        }
        case bytes_key(4):
          parameter(reader.bytes(), 2, request_.tensor_parameters);
          break;
        case bytes_key(5):
          if (input.has_contents) {
            refuse("ModelInferRequest: input '" + std::string(input.name) + "' has contents twice; send them once");
          }
          input.has_contents = true;
          input.contents = as_bytes(reader.bytes());
          request_.contents_bytes += input.contents.size();
          break;
        default:
          reader.skip();
      }
    }
    input.shape.assign(dims);
    for (const std::int64_t dim : dims) {
      if (dim < 0) {
        refuse("ModelInferRequest: input '" + std::string(input.name) + "' has the negative dimension " +
               std::to_string(dim) + " in its shape " + input.shape.to_string() + "; send the tensor's real shape");
      }
    }
    input.parameter_count = request_.tensor_parameters.size() - input.first_parameter;
  }

  void dimension(std::uint64_t value) {
    if (request_.dims.size() == limits_.max_dims) {
      refuse_limit("an input '" + std::string(request_.inputs.back().name) + "' of more dimensions", "--max-dims",
                   limits_.max_dims);
    }
    request_.dims.push_back(static_cast<std::int64_t>(value));
  }

  void output(std::string_view bytes) {
    count_tensor();
    WireOutput& output = request_.outputs.emplace_back();
    output.first_parameter = request_.tensor_parameters.size();
    FieldReader reader(bytes, 1);
    while (reader.next()) {
      switch (reader.key()) {
        case bytes_key(1):
          output.name = text(reader, "an output's name");
          break;
        case bytes_key(2):
          parameter(reader.bytes(), 2, request_.tensor_parameters);
          break;
        default:
          reader.skip();
      }
    }
    output.parameter_count = request_.tensor_parameters.size() - output.first_parameter;
  }

  // What can be said only when all is read: a field may come before those that it belongs to, and the vector of
  // parameters may have moved.
  void link() {
    const std::span<const Parameter> parameters(request_.tensor_parameters);
    if (!parameters.empty()) {
      for (WireInput& input : request_.inputs) {
        input.parameters = parameters.subspan(input.first_parameter, input.parameter_count);
      }
      for (WireOutput& output : request_.outputs) {
        output.parameters = parameters.subspan(output.first_parameter, output.parameter_count);
      }
    }
    const std::size_t raws = request_.raw_contents.size();
    if (raws == 0) return;
    // Clients leave out the entries of inputs in shared memory.
    const bool all = raws == request_.inputs.size();
    std::size_t next = 0;
    for (WireInput& input : request_.inputs) {
      if (!all && in_shared_memory(input)) continue;
      if (next == raws) refuse_raws();
      if (input.has_contents) {
        refuse("ModelInferRequest: input '" + std::string(input.name) +
               "' has contents as well as raw_input_contents; send one of the two");
      }
      input.raw = request_.raw_contents[next++];
    }
    if (next != raws) refuse_raws();
  }

  static bool in_shared_memory(const WireInput& input) {
    return !input.parameters.empty() && find_parameter(input.parameters, "shared_memory_region") != nullptr;
  }

  [[noreturn]] void refuse_raws() const {
    refuse("ModelInferRequest has " + std::to_string(request_.raw_contents.size()) + " raw_input_contents for " +
           std::to_string(request_.inputs.size()) +
           " inputs; send one for each input that is not in shared memory, in the inputs' order, or none");
  }

  const InferLimits& limits_;
  InferRequest& request_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Response

std::size_t varint_size(std::uint64_t value) { return static_cast<std::size_t>(protozero::length_of_varint(value)); }

// Bytes of a length-delimited field with a key of one byte.
std::size_t field_size(std::size_t size) { return 1 + varint_size(size) + size; }
std::size_t text_size(std::string_view text) { return text.empty() ? 0 : field_size(text.size()); }

std::size_t dims_size(std::span<const std::int64_t> dims) {
  std::size_t size = 0;
  for (const std::int64_t dim : dims) size += varint_size(static_cast<std::uint64_t>(dim));
  return size;
}

// The value of a parameter, as InferParameter's fields: bool_param is 1, int64_param 2, string_param 3.
using Value = std::variant<std::int64_t, bool, std::string_view>;

Value value_of(const ResponseParameter& parameter) {
  return std::visit([](auto value) { return Value(value); }, parameter.value);
}

std::size_t value_size(const Value& value) {
  if (const auto* text = std::get_if<std::string_view>(&value)) return field_size(text->size());
  if (std::holds_alternative<bool>(value)) return 2;
  return 1 + varint_size(static_cast<std::uint64_t>(std::get<std::int64_t>(value)));
}

// One entry of a map of parameters.
std::size_t parameter_size(std::string_view key, const Value& value) {
  return field_size(field_size(key.size()) + field_size(value_size(value)));
}

// What is said of an output in shared memory: `each` is called with key and value.
template <class Each>
void for_each_parameter(const ResponseSharedMemory& shared, Each each) {
  if (shared.region.empty()) return;
  each("shared_memory_region", Value(shared.region));
  each("shared_memory_byte_size", Value(static_cast<std::int64_t>(shared.bytes)));
  if (shared.offset != 0) each("shared_memory_offset", Value(static_cast<std::int64_t>(shared.offset)));
}

std::size_t output_size(const ResponseOutput& output, std::size_t dims) {
  std::size_t size =
      text_size(output.name) + text_size(dtype_name(output.tensor->dtype)) + (dims == 0 ? 0 : field_size(dims));
  for_each_parameter(output.shared,
                     [&size](std::string_view key, const Value& value) { size += parameter_size(key, value); });
  return size;
}

// Writes into memory whose size was computed before.
class Writer {
 public:
  explicit Writer(char* at) : at_(at) {}
  void key(std::uint32_t key) { *at_++ = static_cast<char>(key); }
  void varint(std::uint64_t value) { at_ += protozero::write_varint(at_, value); }
  void bytes(std::uint32_t number, std::string_view value) {
    key(bytes_key(number));
    varint(value.size());
    if (!value.empty()) std::memcpy(at_, value.data(), value.size());
    at_ += value.size();
  }
  void text(std::uint32_t number, std::string_view value) {  // proto3 leaves out an empty string
    if (!value.empty()) bytes(number, value);
  }
  // An entry of the map that is field 4.
  void parameter(std::string_view name, const Value& value) {
    const std::size_t size = value_size(value);
    key(bytes_key(4));
    varint(field_size(name.size()) + field_size(size));
    bytes(1, name);
    key(bytes_key(2));
    varint(size);
    if (const auto* text = std::get_if<std::string_view>(&value)) {
      bytes(3, *text);
    } else if (const auto* flag = std::get_if<bool>(&value)) {
      key(varint_key(1));
      varint(*flag ? 1 : 0);
    } else {
      key(varint_key(2));
      varint(static_cast<std::uint64_t>(std::get<std::int64_t>(value)));
    }
  }
  const char* at() const { return at_; }

 private:
  char* at_;
};

// `stream_error` not null: inside a ModelStreamInferResponse, with this error_message.
void encode(const InferResponse& response, const std::string_view* stream_error, OutMessage& out) {
  out.clear();
  std::size_t head = text_size(response.model_name) + text_size(response.model_version) + text_size(response.id);
  for (const ResponseParameter& parameter : response.parameters) {
    head += parameter_size(parameter.key, value_of(parameter));
  }
  std::size_t owned = 0;
  std::size_t viewed = 0;
  for (const ResponseOutput& output : response.outputs) {
    head += field_size(output_size(output, dims_size(output.tensor->shape.dims())));
    const Tensor& tensor = *output.tensor;
    const bool view = tensor.size > kViewBytes && tensor.block;
    owned += 1 + varint_size(tensor.size);
    (view ? viewed : owned) += tensor.size;
  }
  std::size_t envelope = 0;
  if (stream_error != nullptr) envelope = text_size(*stream_error) + 1 + varint_size(head + owned + viewed);
  out.own.reserve(envelope + head + owned);

  out.own.resize(envelope + head);
  Writer writer(out.own.data());
  if (stream_error != nullptr) {
    writer.text(1, *stream_error);
    writer.key(bytes_key(2));
    writer.varint(head + owned + viewed);
  }
  writer.text(1, response.model_name);
  writer.text(2, response.model_version);
  writer.text(3, response.id);
  for (const ResponseParameter& parameter : response.parameters) {
    writer.parameter(parameter.key, value_of(parameter));
  }
  for (const ResponseOutput& output : response.outputs) {
    const std::span<const std::int64_t> shape = output.tensor->shape.dims();
    const std::size_t dims = dims_size(shape);
    writer.key(bytes_key(5));
    writer.varint(output_size(output, dims));
    writer.text(1, output.name);
    writer.text(2, dtype_name(output.tensor->dtype));
    if (dims != 0) {
      writer.key(bytes_key(3));
      writer.varint(dims);
      for (const std::int64_t dim : shape) writer.varint(static_cast<std::uint64_t>(dim));
    }
    for_each_parameter(output.shared,
                       [&writer](std::string_view key, const Value& value) { writer.parameter(key, value); });
  }
  HEADRACE_CHECK(writer.at() == out.own.data() + envelope + head);

  for (const ResponseOutput& output : response.outputs) {
    const Tensor& tensor = *output.tensor;
    char prefix[11];
    Writer length(prefix);
    length.key(bytes_key(6));
    length.varint(tensor.size);
    out.own.append(prefix, static_cast<std::size_t>(length.at() - prefix));
    if (tensor.size > kViewBytes && tensor.block) {
      out.views.push_back({out.own.size(), tensor.bytes(), tensor.block});
    } else if (tensor.size != 0) {
      out.own.append(reinterpret_cast<const char*>(tensor.data), tensor.size);
    }
  }
}

}  // namespace

void InferRequest::clear() {
  model_name = {};
  model_version = {};
  id = {};
  parameters.clear();
  inputs.clear();
  outputs.clear();
  contents_bytes = 0;
  tensor_parameters.clear();
  raw_contents.clear();
  dims.clear();
}

void InferRequest::assign_text(const InferRequest& other) {
  id = other.id;
  parameters = other.parameters;
  inputs = other.inputs;
  outputs = other.outputs;
  contents_bytes = other.contents_bytes;
  tensor_parameters = other.tensor_parameters;
}

Status decode_infer_request(std::span<const std::byte> bytes, const InferLimits& limits, InferRequest& request) {
  request.clear();
  try {
    Decoder(limits, request).decode(bytes);
  } catch (Refusal& refusal) {
    return std::move(refusal.status);
  } catch (const protozero::exception& error) {
    return invalid_argument(std::string("ModelInferRequest is not a valid protobuf message: ") + error.what());
  }
  return {};
}

void encode_infer_response(const InferResponse& response, OutMessage& out) { encode(response, nullptr, out); }

void encode_stream_infer_response(std::string_view error, const InferResponse& response, OutMessage& out) {
  encode(response, &error, out);
}

}  // namespace headrace::wire
