// TensorFlow Serving's REST predict body: no names of types and no shapes in it, so it is read with the model's
// signature in hand and becomes tensors at once. Row form: {"instances": [...]}, each one a value or an object of
// values by input, stacked along the batch dimension. Column form: {"inputs": ...}, one value or an object of values by
// input, each a whole tensor. Shapes are those of the nesting.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "memory/tensor.h"
#include "wire/infer_codec.h"
#include "wire/json_codec.h"
#include "wire/output.h"

namespace headrace::wire {

// An input of the model's signature.
struct PredictSpec {
  std::string_view name;
  DType dtype = DType::kInvalid;
  std::span<const std::int64_t> dims;  // batch dimension included; what a shape is checked against is the engine's
  bool optional = false;
};

enum class PredictForm : std::uint8_t { kRows, kColumns };

struct PredictInput {
  std::size_t spec;  // its place in the signature
  Tensor tensor;
};

struct PredictRequest {
  PredictForm form = PredictForm::kRows;
  std::string_view signature_name;   // empty if there is none
  std::vector<PredictInput> inputs;  // each at most once, in the signature's order
};

class PredictReader {
 public:
  // Views of `request` are into `body` and this reader, good until the next decode(). Values: as convert_json_data
  // reads them; {"b64": "..."} is a value. INVALID_ARGUMENT for malformed JSON, "instances" and "inputs" both or
  // neither, an input that the model has not, one that is missing, a value without a name where the model has several
  // inputs, rows that differ in shape or inputs (with the place), no instances at all. RESOURCE_EXHAUSTED when the pool
  // is full.
  Status decode(std::span<const std::byte> body, std::span<const PredictSpec> specs, const InferLimits& limits,
                Pool& pool, PredictRequest& request);

 private:
  JsonStrings strings_;
};

// About how many bytes of text the response will have.
std::size_t predict_response_bytes(std::span<const ResponseOutput> outputs);

// {"predictions": [...]}: a row per instance, a value where there is one output, else an object by output; or
// {"outputs": ...}, whole tensors in the same way. Values are nested as their tensors' shapes are. BYTES whose output's
// name ends in "_bytes" are {"b64": ...}, as TensorFlow Serving does. A pure function of the tensors: any thread.
// INVALID_ARGUMENT for other BYTES that are not UTF-8, and for rows of outputs that do not share a batch dimension.
Status encode_predict_response(std::span<const ResponseOutput> outputs, PredictForm form, OutMessage& out);

}  // namespace headrace::wire
