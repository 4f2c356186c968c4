#include "front/tensor_parameters.h"

#include <algorithm>
#include <limits>
#include <span>
#include <string>
#include <variant>

namespace headrace {
namespace {

constexpr std::string_view kRegion = "shared_memory_region";
constexpr std::string_view kOffset = "shared_memory_offset";
constexpr std::string_view kBytes = "shared_memory_byte_size";
constexpr std::string_view kClasses = "classification";

std::optional<std::uint64_t> number(const wire::ParameterValue& value) {
  if (const auto* plain = std::get_if<std::uint64_t>(&value); plain != nullptr) return *plain;
  const auto* with_sign = std::get_if<std::int64_t>(&value);
  if (with_sign == nullptr || *with_sign < 0) return std::nullopt;
  return static_cast<std::uint64_t>(*with_sign);
}

Status wrong(std::string_view kind, std::string_view name, std::string_view key, std::string_view wanted) {
  return invalid_argument("parameter '" + std::string(key) + "' of " + std::string(kind) + " '" + std::string(name) +
                          "' must be " + std::string(wanted));
}

Result<std::optional<SharedPlace>> place_in(std::span<const wire::Parameter> parameters, std::string_view kind,
                                            std::string_view name) {
  if (parameters.empty()) return std::optional<SharedPlace>();
  const wire::ParameterValue* region = wire::find_parameter(parameters, kRegion);
  const wire::ParameterValue* offset = wire::find_parameter(parameters, kOffset);
  const wire::ParameterValue* bytes = wire::find_parameter(parameters, kBytes);
  if (region == nullptr) {
    if (offset == nullptr && bytes == nullptr) return std::optional<SharedPlace>();
    return wrong(kind, name, offset != nullptr ? kOffset : kBytes, "sent together with 'shared_memory_region'");
  }
  SharedPlace place;
  const auto* text = std::get_if<std::string_view>(region);
  if (text == nullptr || text->empty()) return wrong(kind, name, kRegion, "the name of a registered region");
  place.region = *text;
  if (bytes == nullptr || !number(*bytes)) return wrong(kind, name, kBytes, "given, a number of bytes from 0");
  place.bytes = *number(*bytes);
  if (offset != nullptr) {
    if (!number(*offset)) return wrong(kind, name, kOffset, "a number of bytes from 0");
    place.offset = *number(*offset);
  }
  return std::optional<SharedPlace>(place);
}

}  // namespace

Result<std::optional<SharedPlace>> shared_place(const wire::WireInput& input) {
  return place_in(input.parameters, "input", input.name);
}

Result<std::optional<SharedPlace>> shared_place(const wire::WireOutput& output) {
  return place_in(output.parameters, "output", output.name);
}

Result<std::uint32_t> wanted_classes(const wire::WireOutput& output) {
  const wire::ParameterValue* value = wire::find_parameter(output.parameters, kClasses);
  if (value == nullptr) return std::uint32_t{0};
  const std::optional<std::uint64_t> classes = number(*value);
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint32_t>::max();
  if (!classes || *classes == 0) return wrong("output", output.name, kClasses, "a number of classes from 1");
  return static_cast<std::uint32_t>(std::min(*classes, kMost));
}

SharedInputs shared_inputs(const wire::InferRequest& request) {
  SharedInputs sum;
  for (const wire::WireInput& input : request.inputs) {
    if (input.parameters.empty() || wire::find_parameter(input.parameters, kRegion) == nullptr) continue;
    const wire::ParameterValue* bytes = wire::find_parameter(input.parameters, kBytes);
    const std::uint64_t more = bytes == nullptr ? 0 : number(*bytes).value_or(0);
    sum.bytes += std::min(more, std::numeric_limits<std::uint64_t>::max() - sum.bytes);
    if (input.datatype == "BYTES")
      sum.strings += std::min(more, std::numeric_limits<std::uint64_t>::max() - sum.strings);
  }
  return sum;
}

}  // namespace headrace
