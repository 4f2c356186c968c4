// ModelInferRequest and ModelInferResponse (Open Inference Protocol, package `inference`) without protobuf objects: the
// request is read in place, as views into the received bytes; the response is written as bytes of its own plus views of
// tensors. Field numbers: protos/grpc_service.proto (a test compares).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/error.h"
#include "memory/tensor.h"
#include "wire/grpc.h"

namespace headrace::wire {

struct InferLimits {
  std::size_t max_tensors = 256;      // inputs + outputs of one request
  std::size_t max_name_bytes = 1024;  // each name: model, version, request id, tensor, datatype, parameter key
  std::size_t max_dims = 32;          // of one input
  std::size_t max_parameters = 256;   // of the request and its tensors together
  bool operator==(const InferLimits&) const = default;
};

using ParameterValue = std::variant<std::monostate, bool, std::int64_t, std::string_view, double, std::uint64_t>;
struct Parameter {
  std::string_view key;
  ParameterValue value;  // monostate: sent without a value
};
// The value under `key`; null if there is none. A key that was sent twice has its last value, as in a protobuf map.
inline const ParameterValue* find_parameter(std::span<const Parameter> parameters, std::string_view key) {
  for (std::size_t i = parameters.size(); i > 0; --i) {
    if (parameters[i - 1].key == key) return &parameters[i - 1].value;
  }
  return nullptr;
}

struct WireInput {
  std::string_view name;
  std::string_view datatype;
  Shape shape;  // no dimension is negative
  std::span<const Parameter> parameters;
  std::span<const std::byte> contents;  // the InferTensorContents submessage, unread
  bool has_contents = false;
  std::optional<std::span<const std::byte>> raw;  // its entry of raw_input_contents
  std::size_t first_parameter = 0;                // the decoder's own: where `parameters` lie
  std::size_t parameter_count = 0;
};

struct WireOutput {
  std::string_view name;
  std::span<const Parameter> parameters;
  std::size_t first_parameter = 0;  // the decoder's own
  std::size_t parameter_count = 0;
};

// Meant to be used again for each message: once its vectors have grown, decoding allocates nothing (a shape of more
// than Shape::kInline dimensions apart). Views are into the message's bytes, and for tensors' parameters into this
// object.
struct InferRequest {
  InferRequest() = default;
  InferRequest(InferRequest&&) = default;
  InferRequest& operator=(InferRequest&&) = default;

  std::string_view model_name;
  std::string_view model_version;
  std::string_view id;
  std::vector<Parameter> parameters;
  std::vector<WireInput> inputs;
  std::vector<WireOutput> outputs;
  // Wire bytes of typed contents, all inputs: the codec's measure of how long conversion takes.
  std::size_t contents_bytes = 0;

  const ParameterValue* parameter(std::string_view key) const { return find_parameter(parameters, key); }
  void clear();  // ready for another use; keeps the vectors' memory
  // What `other` says, as far as it is text: its inputs' and outputs' `parameters` are left for the decoder to set.
  void assign_text(const InferRequest& other);

  // The decoder's own.
  std::vector<Parameter> tensor_parameters;  // what inputs' and outputs' `parameters` are views of
  std::vector<std::span<const std::byte>> raw_contents;
  std::vector<std::int64_t> dims;
};

// Reads `bytes` into `request` (cleared first) with the meaning that protobuf's own parser gives them: fields in any
// order, packed or not, unknown ones skipped, the last of a repeated scalar counts. INVALID_ARGUMENT for a malformed
// message, a name that is not UTF-8, a broken limit (named), a negative dimension, a number of raw_input_contents that
// is neither 0 nor the number of inputs (with or without those in shared memory), raw and typed contents together, or
// (protobuf would join them) typed contents sent twice for one input. After a failure `request` holds what was read so
// far.
Status decode_infer_request(std::span<const std::byte> bytes, const InferLimits& limits, InferRequest& request);

// Typed contents of one input as raw bytes in a pooled block: element type `dtype`, exactly `elements` of them.
// INVALID_ARGUMENT for malformed contents, the wrong field for the dtype, a wrong count, a value out of the integer
// dtype's range. FP16 and BF16 come in fp32_contents and are rounded to nearest even (so a float that is too large
// becomes infinite). RESOURCE_EXHAUSTED when the pool is full.
Result<Tensor> convert_contents(const WireInput& input, DType dtype, std::size_t elements, Pool& pool);

// Where an output was written instead: in a region of the client's shared memory.
struct ResponseSharedMemory {
  std::string_view region;  // "": it was not
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};
struct ResponseOutput {
  std::string_view name;
  const Tensor* tensor = nullptr;
  ResponseSharedMemory shared{};  // if it was, the tensor has no bytes
};
struct ResponseParameter {
  std::string_view key;
  std::variant<std::int64_t, bool> value;
};
struct InferResponse {
  std::string_view model_name;
  std::string_view model_version;
  std::string_view id;
  std::span<const ResponseParameter> parameters;
  std::span<const ResponseOutput> outputs;
};

// Writes the response into `out` (cleared first), just as protobuf would. Tensors of more than kViewBytes whose tensor
// has a block become views, the others are copied in.
inline constexpr std::size_t kViewBytes = std::size_t{64} << 10;
void encode_infer_response(const InferResponse& response, OutMessage& out);
// The same as a ModelStreamInferResponse. With an `error`, `response` says whose it is.
void encode_stream_infer_response(std::string_view error, const InferResponse& response, OutMessage& out);

}  // namespace headrace::wire
