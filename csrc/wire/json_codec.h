// The v2 REST inference body (KServe and Triton's extensions of it), between the bytes of an HTTP body and the same
// structures that wire/infer_codec.h fills: JSON, then the binary tensors that it announces. Pure functions and one
// reader: no thread, no clock, nothing of HTTP itself.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "memory/tensor.h"
#include "wire/infer_codec.h"
#include "wire/output.h"

namespace headrace::wire {

// Unescaped copies of strings, for as long as a request lives. Views stay valid until clear().
class JsonStrings {
 public:
  // The value of a string that stands between its quotes as `text`. Throws JsonError (wire/json_text.h).
  std::string_view keep(std::string_view text);
  std::string_view keep_plain(std::string_view value);  // one without escapes
  void clear();

 private:
  char* reserve(std::size_t size);

  static constexpr std::size_t kFirst = 4096;
  std::unique_ptr<char[]> first_;  // kept from request to request
  std::size_t used_ = 0;
  std::vector<std::unique_ptr<char[]>> more_;
};

// Reads requests. Use it again for each: it keeps its memory, and what it read of JSON in front of binary tensors: that
// is mostly the same from request to request, so what comes again is compared instead of read.
class JsonReader {
 public:
  // `body` is `json_bytes` of JSON (all of it when there was no Inference-Header-Content-Length) and then the tensors
  // that the JSON announces with `binary_data_size`, in its order. Fills `request` (cleared first); its views are into
  // `body` and into this reader, and are good until the next decode().
  //  - `model_name` and `model_version` stay empty: they are the URL's.
  //  - An input has `raw` (binary), or `contents` with has_contents: the unread text of its `data`, brackets included.
  //  - Every parameter is kept, those that the codec itself reads among them; int64 and uint64 are exact.
  // Members that the protocol does not name are skipped. null is no value: an optional member is absent then.
  // INVALID_ARGUMENT for malformed JSON (text inside `data` is checked by convert_json_data), a name or member given
  // twice, nesting of more than 100, a wrong type, a missing name, shape, datatype or inputs, a dimension or
  // binary_data_size that is negative or too large, `data` and binary_data_size together, binary data that is not in
  // the body, bytes left over, a broken limit (named).
  Status decode(std::span<const std::byte> body, std::size_t json_bytes, const InferLimits& limits,
                InferRequest& request);

 private:
  // JSON that has come before.
  struct Known {
    std::string text;
    InferLimits limits;
    bool read = false;  // since it came a second time; until then it is only text
    InferRequest request;
    JsonStrings strings;
  };
  static constexpr std::size_t kMostKnownBytes = 4096;

  // The place of this JSON among what is known, with its text in it.
  Known& known(std::string_view text, const InferLimits& limits, bool& again);

  JsonStrings strings_;
  std::array<std::unique_ptr<Known>, 16> known_;  // by the hash of their text
};

// An input's `data` as raw bytes in a pooled block: `elements` elements of `dtype`, which are the product of
// input.shape. The array is flat, or nested just as the shape is.
//  - integers in plain digits, exact, within the dtype's range; FP32 and FP64 correctly rounded, FP16 and BF16 rounded
//    to the nearest, ties to even; a number too large for its type is refused;
//  - NaN and infinities as "NaN", "Infinity", "-Infinity", with or without the quotes;
//  - BOOL as true and false, or 1 and 0;
//  - BYTES as strings (their UTF-8) or {"b64": "..."} (base64, padding optional).
// INVALID_ARGUMENT names the input and the element; RESOURCE_EXHAUSTED when the pool is full.
Result<Tensor> convert_json_data(const WireInput& input, DType dtype, std::size_t elements, Pool& pool);

// How an output leaves: as text in the JSON, or as bytes behind it. kBase64: BYTES as {"b64": ...}, all else as kText.
enum class OutputForm : std::uint8_t { kText, kBinary, kBase64 };

// The form that the request asks for output `name`: its parameter `binary_data`, else the request's
// `binary_data_output`, else text; its parameter `b64` (ours) makes text kBase64. INVALID_ARGUMENT if one of them is no
// bool.
Result<OutputForm> output_form(const InferRequest& request, std::string_view name);

// About how many bytes of text the response will have: the measure of whether an event loop may write it itself.
std::size_t json_response_bytes(const InferResponse& response, std::span<const OutputForm> forms);

// Writes the response into `out` (cleared first): the JSON, then the binary outputs in its order, those of more than
// kViewBytes as views. `forms` has one entry per output. `json_bytes` is what Inference-Header-Content-Length has to
// say, 0 if there is no binary output (then there is no such header). A pure function of the tensors: any thread.
//  - floats in the shortest form that reads back to the same bits, with ".0" where they are whole, so that a reader who
//    tells integers from floats sees a float; NaN and infinities as strings;
//  - names that are not UTF-8 with U+FFFD in place of what is not.
// INVALID_ARGUMENT for a BYTES output as text whose elements are not UTF-8.
Status encode_json_response(const InferResponse& response, std::span<const OutputForm> forms, OutMessage& out,
                            std::size_t& json_bytes);

// The same as a flat object, Triton's generate extension: each output a member, a single value where it has one
// element, any other an array in row order; parameters are members too. All outputs as text. `event`: in the form of a
// server-sent event.
Status encode_generate_response(const InferResponse& response, bool event, OutMessage& out);
// {"error": "..."} in the form of a server-sent event.
std::string error_event(std::string_view message);

// Appends `text` as a JSON string, quotes included; what is not UTF-8 becomes U+FFFD.
void append_json_string(std::string_view text, std::string& out);
// {"error": "..."}
std::string json_error(std::string_view message);

// A raw binary request (Inference-Header-Content-Length: 0): the whole body is the only input's bytes.
struct RawInputSpec {
  std::string_view name;
  DType dtype = DType::kInvalid;
  std::span<const std::int64_t> dims;  // the signature's, -1 where any size goes
  bool batched = false;                // the first dimension is the batch; it becomes 1
};
// Fills `request` with one input, and asks for all outputs as binary. Fixed-size types: `raw` is the body and the one
// variable dimension there may be is what the body's size makes it. BYTES: its dimensions must all be 1, and the body
// without a length prefix is the string: `contents`, for convert_raw_string. Views into `body` and `spec`.
Status decode_raw_request(std::span<const std::byte> body, const RawInputSpec& spec, InferRequest& request);
// The BYTES input of a raw request as a tensor of one element.
Result<Tensor> convert_raw_string(const WireInput& input, Pool& pool);

}  // namespace headrace::wire
