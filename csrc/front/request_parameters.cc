#include "front/request_parameters.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace headrace {
namespace {

bool is_ours(std::string_view key) {
  return key == "headrace_timing" || key == "sequence_id" || key == "sequence_start" || key == "sequence_end" ||
         key == "priority" || key == "timeout" || key.starts_with(kReservedPrefix);
}

Status wrong(const wire::Parameter& parameter, std::string_view must) {
  return invalid_argument("request parameter '" + std::string(parameter.key) + "' must be " + std::string(must));
}

Status read_flag(const wire::Parameter& parameter, bool& flag) {
  const bool* value = std::get_if<bool>(&parameter.value);
  if (value == nullptr) return wrong(parameter, "a bool_param");
  flag = *value;
  return {};
}

// A whole number from 0 on, whichever of the two kinds of number it came as.
Status read_count(const wire::Parameter& parameter, std::uint64_t& count) {
  if (const auto* value = std::get_if<std::int64_t>(&parameter.value)) {
    if (*value < 0) return wrong(parameter, "0 or more, not " + std::to_string(*value));
    count = static_cast<std::uint64_t>(*value);
    return {};
  }
  const auto* value = std::get_if<std::uint64_t>(&parameter.value);
  if (value == nullptr) return wrong(parameter, "an int64_param or a uint64_param");
  count = *value;
  return {};
}

// Any number but 0, or a text: 0 and "" say that there is no sequence.
Status read_sequence(const wire::Parameter& parameter, bool& in_sequence) {
  if (const auto* text = std::get_if<std::string_view>(&parameter.value)) {
    in_sequence = !text->empty();
  } else if (const auto* number = std::get_if<std::int64_t>(&parameter.value)) {
    in_sequence = *number != 0;
  } else if (const auto* whole = std::get_if<std::uint64_t>(&parameter.value)) {
    in_sequence = *whole != 0;
  } else {
    return wrong(parameter, "an int64_param, a uint64_param or a string_param");
  }
  return {};
}

Status read_one(const wire::Parameter& parameter, RequestParameters& parameters) {
  const std::string_view key = parameter.key;
  bool ignored = false;
  if (key == "headrace_timing") return read_flag(parameter, parameters.timing);
  if (key == "sequence_id") return read_sequence(parameter, parameters.in_sequence);
  if (key == "sequence_start" || key == "sequence_end") return read_flag(parameter, ignored);
  if (key == "priority") {
    std::uint64_t priority = 0;
    Status status = read_count(parameter, priority);
    constexpr std::uint64_t kLast = std::numeric_limits<std::uint32_t>::max();
    parameters.priority = static_cast<std::uint32_t>(std::min(priority, kLast));
    return status;
  }
  if (key == "timeout") {
    std::uint64_t microseconds = 0;
    Status status = read_count(parameter, microseconds);
    constexpr auto kLongest = static_cast<std::uint64_t>(kNever / kMicrosecond);
    parameters.timeout = microseconds > kLongest ? kNever : static_cast<Nanos>(microseconds) * kMicrosecond;
    return status;
  }
  if (key == kEmptyFinal) return read_flag(parameter, parameters.empty_final);
  return unknown_reserved("request parameter", key);
}

}  // namespace

Status unknown_reserved(std::string_view what, std::string_view name) {
  return invalid_argument(std::string(what) + " '" + std::string(name) +
                          "' is not known: names that begin with 'triton_' are reserved, and the one that a request "
                          "may have is 'triton_enable_empty_final_response'");
}

Status read_parameters(const wire::InferRequest& request, RequestParameters& parameters) {
  parameters = RequestParameters();
  for (const wire::Parameter& parameter : request.parameters) {
    if (!is_ours(parameter.key)) continue;
    if (request.parameter(parameter.key) != &parameter.value) continue;  // sent again: its last value counts
    if (Status status = read_one(parameter, parameters); !status.ok()) return status;
  }
  return {};
}

}  // namespace headrace
