// The parameters of a request that mean something to the server itself, read and checked. Names and kinds are Triton's;
// what a model alone would understand is passed over.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/clock.h"
#include "base/error.h"
#include "wire/infer_codec.h"

namespace headrace {

// Names that begin so are Triton's, and of these a request may have one.
inline constexpr std::string_view kReservedPrefix = "triton_";
inline constexpr std::string_view kEmptyFinal = "triton_enable_empty_final_response";

struct RequestParameters {
  bool timing = false;         // headrace_timing: answer with the headrace_* timing parameters
  std::uint32_t priority = 0;  // priority: 1 is the most urgent, 0 the model's default; above 2^32 - 1: that
  Nanos timeout = 0;           // timeout, in microseconds on the wire; 0: none
  bool in_sequence = false;    // sequence_id: a number over 0 or a text that is not empty
  bool empty_final = false;    // triton_enable_empty_final_response
};

// INVALID_ARGUMENT names the parameter whose kind or value is wrong, or a name that begins with triton_ and is unknown.
Status read_parameters(const wire::InferRequest& request, RequestParameters& parameters);

// What is said to whoever sends another name with that prefix, as a `what` ("request parameter").
Status unknown_reserved(std::string_view what, std::string_view name);

}  // namespace headrace
