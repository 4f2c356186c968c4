#include "infer_codec_oracle.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/stubs/logging.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <vector>

#include "grpc_service.pb.h"
#include "wire/infer_codec.h"

namespace headrace::wire {

namespace {

using inference::InferTensorContents;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using TheirParameters = google::protobuf::Map<std::string, inference::InferParameter>;

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool parse_contents(std::span<const std::byte> bytes, InferTensorContents& contents) {
  google::protobuf::io::CodedInputStream stream(reinterpret_cast<const std::uint8_t*>(bytes.data()),
                                                static_cast<int>(bytes.size()));
  stream.SetRecursionLimit(98);  // they lie in an input in a request
  return contents.ParseFromCodedStream(&stream) && stream.ConsumedEntireMessage();
}

ParameterValue their_value(const inference::InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case inference::InferParameter::kBoolParam:
      return parameter.bool_param();
    case inference::InferParameter::kInt64Param:
      return std::int64_t{parameter.int64_param()};
    case inference::InferParameter::kStringParam:
      return std::string_view(parameter.string_param());
    case inference::InferParameter::kDoubleParam:
      return parameter.double_param();
    case inference::InferParameter::kUint64Param:
      return std::uint64_t{parameter.uint64_param()};
    case inference::InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return {};
}

bool same_value(const ParameterValue& ours, const ParameterValue& theirs) {
  if (ours.index() != theirs.index()) return false;
  const double* const number = std::get_if<double>(&ours);
  if (number != nullptr && std::isnan(*number)) return std::isnan(std::get<double>(theirs));
  return ours == theirs;
}

bool same_parameters(std::span<const Parameter> ours, const TheirParameters& theirs) {
  for (const auto& [key, value] : theirs) {
    const ParameterValue* const found = find_parameter(ours, key);
    if (found == nullptr || !same_value(*found, their_value(value))) return false;
  }
  for (const Parameter& parameter : ours) {
    if (theirs.find(std::string(parameter.key)) == theirs.end()) return false;
  }
  return true;
}

// Whether the codec may refuse this, though protobuf has nothing against it.
bool unmeant(const ModelInferRequest& theirs, const std::string& message) {
  const int raws = theirs.raw_input_contents_size();
  if (raws != 0 && raws != theirs.inputs_size()) return true;
  for (const auto& input : theirs.inputs()) {
    for (const std::int64_t dim : input.shape()) {
      if (dim < 0) return true;
    }
    if (!input.has_contents()) continue;
    if (raws != 0 || message.find("has contents twice") != std::string::npos) return true;
  }
  return false;
}

std::string compare_requests(const InferRequest& ours, const ModelInferRequest& theirs) {
  if (ours.model_name != theirs.model_name()) return "model_name";
  if (ours.model_version != theirs.model_version()) return "model_version";
  if (ours.id != theirs.id()) return "id";
  if (!same_parameters(ours.parameters, theirs.parameters())) return "parameters";
  if (ours.inputs.size() != static_cast<std::size_t>(theirs.inputs_size())) return "number of inputs";
  if (ours.outputs.size() != static_cast<std::size_t>(theirs.outputs_size())) return "number of outputs";
  for (int i = 0; i < theirs.inputs_size(); ++i) {
    const WireInput& mine = ours.inputs[static_cast<std::size_t>(i)];
    const auto& yours = theirs.inputs(i);
    const std::string where = "input " + std::to_string(i) + ": ";
    if (mine.name != yours.name()) return where + "name";
    if (mine.datatype != yours.datatype()) return where + "datatype";
    if (!std::equal(mine.shape.dims().begin(), mine.shape.dims().end(), yours.shape().begin(), yours.shape().end())) {
      return where + "shape";
    }
    if (!same_parameters(mine.parameters, yours.parameters())) return where + "parameters";
    if (mine.has_contents != yours.has_contents()) return where + "has contents";
    if (mine.raw.has_value() != (theirs.raw_input_contents_size() != 0)) return where + "has raw contents";
    if (mine.raw && as_text(*mine.raw) != theirs.raw_input_contents(i)) return where + "raw contents";
  }
  for (int i = 0; i < theirs.outputs_size(); ++i) {
    const WireOutput& mine = ours.outputs[static_cast<std::size_t>(i)];
    if (mine.name != theirs.outputs(i).name()) return "output " + std::to_string(i) + ": name";
    if (!same_parameters(mine.parameters, theirs.outputs(i).parameters())) {
      return "output " + std::to_string(i) + ": parameters";
    }
  }
  return {};
}

// The nearest value of a 16-bit format, by arithmetic.
std::uint16_t nearest(float value, int mantissa_bits, int bias) {
  const unsigned sign = std::signbit(value) ? 0x8000U : 0U;
  const unsigned infinity = (0x7FFFU >> mantissa_bits) << mantissa_bits;
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | infinity | 1U);
  const double magnitude = std::fabs(static_cast<double>(value));
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  const int floor = 1 - bias;
  const double quantum = std::ldexp(1.0, std::max(exponent - 1, floor) - mantissa_bits);
  const double rounded = std::isinf(value) ? magnitude : std::nearbyint(magnitude / quantum) * quantum;
  if (rounded >= std::ldexp(2.0, bias)) return static_cast<std::uint16_t>(sign | infinity);
  if (rounded < std::ldexp(1.0, floor)) {
    return static_cast<std::uint16_t>(sign | static_cast<unsigned>(std::ldexp(rounded, mantissa_bits - floor)));
  }
  std::frexp(rounded, &exponent);
  const double fraction = std::ldexp(rounded, 1 - exponent) - 1;
  return static_cast<std::uint16_t>(sign | (static_cast<unsigned>(exponent - 1 + bias) << mantissa_bits) |
                                    static_cast<unsigned>(std::ldexp(fraction, mantissa_bits)));
}

template <class Element, class Values>
std::optional<std::string> raw_bytes(const Values& values) {
  std::string bytes;
  for (const auto value : values) {
    if constexpr (std::is_integral_v<Element> && !std::is_same_v<std::remove_cvref_t<decltype(value)>, bool>) {
      if (value < std::numeric_limits<Element>::min() || value > std::numeric_limits<Element>::max()) return {};
    }
    const auto element = static_cast<Element>(value);
    bytes.append(reinterpret_cast<const char*>(&element), sizeof(element));
  }
  return bytes;
}

// What conversion must give, and of how many elements; no bytes where it must refuse.
struct Expected {
  std::size_t elements = 0;
  std::optional<std::string> bytes;
};

template <class Element, class Values>
Expected of(const Values& values) {
  return {static_cast<std::size_t>(values.size()), raw_bytes<Element>(values)};
}

Expected expected(const InferTensorContents& contents, DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return of<std::uint8_t>(contents.bool_contents());
    case DType::kInt8:
      return of<std::int8_t>(contents.int_contents());
    case DType::kInt16:
      return of<std::int16_t>(contents.int_contents());
    case DType::kInt32:
      return of<std::int32_t>(contents.int_contents());
    case DType::kInt64:
      return of<std::int64_t>(contents.int64_contents());
    case DType::kUint8:
      return of<std::uint8_t>(contents.uint_contents());
    case DType::kUint16:
      return of<std::uint16_t>(contents.uint_contents());
    case DType::kUint32:
      return of<std::uint32_t>(contents.uint_contents());
    case DType::kUint64:
      return of<std::uint64_t>(contents.uint64_contents());
    case DType::kFp32:
      return of<float>(contents.fp32_contents());
    case DType::kFp64:
      return of<double>(contents.fp64_contents());
    case DType::kFp16:
    case DType::kBf16: {
      std::vector<std::uint16_t> halves;
      for (const float value : contents.fp32_contents()) {
        halves.push_back(dtype == DType::kFp16 ? nearest(value, 10, 15) : nearest(value, 7, 127));
      }
      return of<std::uint16_t>(halves);
    }
    case DType::kBytes: {
      std::string bytes;
      for (const std::string& value : contents.bytes_contents()) {
        const auto size = static_cast<std::uint32_t>(value.size());
        bytes.append(reinterpret_cast<const char*>(&size), sizeof(size)).append(value);
      }
      return {static_cast<std::size_t>(contents.bytes_contents_size()), bytes};
    }
    case DType::kInvalid:
      break;
  }
  return {};
}

// Any NaN is as good as another.
bool same_halves(std::string_view ours, std::string_view theirs, std::uint16_t infinity) {
  if (ours.size() != theirs.size()) return false;
  for (std::size_t i = 0; i < ours.size(); i += 2) {
    std::uint16_t mine = 0;
    std::uint16_t yours = 0;
    std::memcpy(&mine, ours.data() + i, 2);
    std::memcpy(&yours, theirs.data() + i, 2);
    const bool nan = (mine & 0x7FFFU) > infinity && (yours & 0x7FFFU) > infinity && ((mine ^ yours) & 0x8000U) == 0;
    if (mine != yours && !nan) return false;
  }
  return true;
}

std::string compare_contents(const WireInput& input, const InferTensorContents* theirs, Pool& pool,
                             OracleCounts& counts) {
  const std::size_t all = theirs == nullptr
                              ? 0
                              : static_cast<std::size_t>(theirs->bool_contents_size() + theirs->int_contents_size() +
                                                         theirs->int64_contents_size() + theirs->uint_contents_size() +
                                                         theirs->uint64_contents_size() + theirs->fp32_contents_size() +
                                                         theirs->fp64_contents_size() + theirs->bytes_contents_size());
  for (unsigned i = 1; i <= static_cast<unsigned>(DType::kBf16); ++i) {
    const auto dtype = static_cast<DType>(i);
    const std::string where = "contents as " + std::string(dtype_name(dtype)) + ": ";
    if (theirs == nullptr) {  // malformed
      if (convert_contents(input, dtype, 1, pool).ok()) return where + "converted, though protobuf cannot read them";
      continue;
    }
    Expected right = expected(*theirs, dtype);
    if (right.elements != all) right.bytes.reset();  // something is in another type's field
    const Result<Tensor> tensor = convert_contents(input, dtype, right.elements, pool);
    ++(tensor.ok() ? counts.conversions : counts.conversions_refused);
    if (tensor.ok() != right.bytes.has_value()) return where + (tensor.ok() ? "converted" : tensor.status().message());
    if (convert_contents(input, dtype, right.elements + 1, pool).ok()) return where + "converted with a wrong count";
    if (!tensor.ok()) continue;
    const std::string_view bytes = as_text(tensor->bytes());
    const bool halves = dtype == DType::kFp16 || dtype == DType::kBf16;
    if (halves ? !same_halves(bytes, *right.bytes, dtype == DType::kFp16 ? 0x7C00 : 0x7F80) : bytes != *right.bytes) {
      return where + "values";
    }
  }
  return {};
}

// A response of the request's names, integer parameters and tensors; for some requests also a tensor that becomes a
// view.
std::string compare_response(const InferRequest& request, Pool& pool) {
  std::vector<ResponseParameter> parameters;
  std::map<std::string, std::int64_t> last;
  for (const Parameter& parameter : request.parameters) {
    const auto* const number = std::get_if<std::int64_t>(&parameter.value);
    if (number == nullptr) continue;
    parameters.push_back({parameter.key, *number});
    last[std::string(parameter.key)] = *number;
  }
  std::vector<Tensor> tensors(request.inputs.size() + 1);
  std::vector<ResponseOutput> outputs;
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    const WireInput& input = request.inputs[i];
    const std::span<const std::byte> bytes = input.raw.value_or(input.contents);
    tensors[i].dtype = parse_dtype(input.datatype).value_or(DType::kUint8);
    tensors[i].shape = input.shape;
    tensors[i].data = bytes.data();
    tensors[i].size = bytes.size();
    outputs.push_back({input.name, &tensors[i]});
  }
  const bool with_view = !request.outputs.empty();  // not always: it costs more than all the rest
  if (with_view) {
    Result<Block> block = pool.allocate(kViewBytes + 1);
    if (!block) return "pool: " + block.status().to_string();
    std::memset(block->data(), 'v', kViewBytes + 1);
    Tensor& large = tensors.back();
    large.dtype = DType::kInt8;
    large.shape = Shape{static_cast<std::int64_t>(kViewBytes + 1)};
    large.block = std::move(*block);
    large.data = large.block.data();
    large.size = kViewBytes + 1;
    outputs.insert(outputs.begin() + static_cast<std::ptrdiff_t>(outputs.size() / 2), {"large", &large});
  }

  OutMessage message;
  encode_infer_response({request.model_name, request.model_version, request.id, parameters, outputs}, message);
  std::string bytes;
  std::size_t at = 0;
  for (const OutMessage::View& view : message.views) {
    bytes.append(message.own, at, view.offset - at).append(as_text(view.bytes));
    at = view.offset;
  }
  bytes.append(message.own, at);

  ModelInferResponse read;
  if (message.views.size() != (with_view ? 1U : 0U)) return "response: number of views";
  if (!read.ParseFromString(bytes)) return "response: malformed";
  if (read.model_name() != request.model_name || read.model_version() != request.model_version ||
      read.id() != request.id) {
    return "response: model_name, model_version or id";
  }
  if (read.parameters().size() != last.size()) return "response: number of parameters";
  for (const auto& [key, value] : last) {
    const auto found = read.parameters().find(key);
    if (found == read.parameters().end() || their_value(found->second) != ParameterValue(value)) {
      return "response: parameters";
    }
  }
  if (static_cast<std::size_t>(read.outputs_size()) != outputs.size()) return "response: number of outputs";
  if (read.raw_output_contents_size() != read.outputs_size()) return "response: number of raw contents";
  for (int i = 0; i < read.outputs_size(); ++i) {
    const ResponseOutput& output = outputs[static_cast<std::size_t>(i)];
    const std::span<const std::int64_t> dims = output.tensor->shape.dims();
    if (read.outputs(i).name() != output.name) return "response: name";
    if (read.outputs(i).datatype() != dtype_name(output.tensor->dtype)) return "response: datatype";
    if (!std::equal(dims.begin(), dims.end(), read.outputs(i).shape().begin(), read.outputs(i).shape().end())) {
      return "response: shape";
    }
    if (read.raw_output_contents(i) != as_text(output.tensor->bytes())) return "response: raw contents";
  }
  // As compact as protobuf's own, unless a key is there twice.
  if (last.size() == parameters.size() && read.ByteSizeLong() != bytes.size()) return "response: size";
  return {};
}

}  // namespace

std::string differs_from_protobuf(std::span<const std::byte> ours, std::span<const std::byte> theirs, Pool& pool,
                                  OracleCounts& counts) {
  // Not a line on stderr for each string that is not UTF-8.
  [[maybe_unused]] static google::protobuf::LogHandler* const silenced = google::protobuf::SetLogHandler(nullptr);
  constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
  static thread_local InferRequest request;  // used again, as a connection does
  const Status status = decode_infer_request(ours, {kNone, kNone, kNone, kNone}, request);
  ModelInferRequest message;
  const bool parsed = message.ParseFromArray(theirs.data(), static_cast<int>(theirs.size()));
  if (!status.ok()) {
    if (status.code() != Code::kInvalidArgument) return "status: " + status.to_string();
    ++(parsed ? counts.unmeant : counts.refused);
    return parsed && !unmeant(message, status.message()) ? "refused: " + status.message() : std::string();
  }
  bool broken_contents = false;
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    const WireInput& input = request.inputs[i];
    if (!input.has_contents) continue;
    InferTensorContents contents;
    const bool whole = parse_contents(input.contents, contents);
    broken_contents = broken_contents || !whole;
    std::string difference = compare_contents(input, whole ? &contents : nullptr, pool, counts);
    if (!difference.empty()) return "input " + std::to_string(i) + ": " + difference;
  }
  if (!parsed) {
    ++counts.refused;
    return broken_contents ? std::string() : "decoded, though protobuf cannot read it";
  }
  ++counts.accepted;
  std::string difference = compare_requests(request, message);
  return difference.empty() ? compare_response(request, pool) : difference;
}

}  // namespace headrace::wire
