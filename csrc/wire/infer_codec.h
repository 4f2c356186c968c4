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
  std::size_t max_name_bytes = 1024;  // each name
  std::size_t max_dims = 32;
  std::size_t max_parameters = 256;
};

using ParameterValue = std::variant<std::monostate, bool, std::int64_t, std::string_view, double, std::uint64_t>;
struct Parameter {
  std::string_view key;
  ParameterValue value;
};

struct WireInput {
  std::string_view name;
  std::string_view datatype;
  Shape shape;
  std::vector<Parameter> parameters;
  std::span<const std::byte> contents;  // the InferTensorContents submessage, unread
  bool has_contents = false;
  std::optional<std::span<const std::byte>> raw;  // its entry of raw_input_contents
};

struct WireOutput {
  std::string_view name;
  std::vector<Parameter> parameters;
};

struct InferRequest {
  std::string_view model_name;
  std::string_view model_version;
  std::string_view id;
  std::vector<Parameter> parameters;
  std::vector<WireInput> inputs;
  std::vector<WireOutput> outputs;
  std::size_t contents_bytes =
      0;  // wire bytes of typed contents, all inputs: the codec's measure of how long conversion takes

  const ParameterValue* parameter(std::string_view key) const;
  void clear();  // ready for another use; keeps the vectors' memory
};

// Reads `bytes` into `request` (cleared first); all views are into `bytes`. INVALID_ARGUMENT for a malformed message, a
// broken limit (named), a number of raw_input_contents that is neither 0 nor the number of inputs, or raw and typed
// contents together.
Status decode_infer_request(std::span<const std::byte> bytes, const InferLimits& limits, InferRequest& request);

// Typed contents of one input as raw bytes in a pooled block: element type `dtype`, exactly `elements` of them.
// INVALID_ARGUMENT for the wrong field for the dtype, a wrong count, a value out of the dtype's range. FP16 and BF16
// come in fp32_contents and are rounded to nearest even.
Result<Tensor> convert_contents(const WireInput& input, DType dtype, std::size_t elements, Pool& pool);

struct ResponseOutput {
  std::string_view name;
  const Tensor* tensor;
};
struct ResponseParameter {
  std::string_view key;
  std::int64_t value;
};
struct InferResponse {
  std::string_view model_name;
  std::string_view model_version;
  std::string_view id;
  std::span<const ResponseParameter> parameters;
  std::span<const ResponseOutput> outputs;
};

// Writes the response. Tensors of more than kViewBytes whose tensor has a block become views, the others are copied in.
inline constexpr std::size_t kViewBytes = std::size_t{64} << 10;
void encode_infer_response(const InferResponse& response, OutMessage& out);

}  // namespace headrace::wire
