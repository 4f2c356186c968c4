#include "front/header_forward.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <span>
#include <system_error>

#include "front/request_parameters.h"

namespace headrace {
namespace {

constexpr std::string_view kFlags = "--grpc-header-forward-pattern, --http-header-forward-pattern";

enum class Type : std::uint8_t { kText, kFlag, kCount };

Type type_of(std::string_view name) {
  if (name == "priority" || name == "timeout") return Type::kCount;
  if (name == "headrace_timing" || name == "sequence_start" || name == "sequence_end" || name == "binary_data_output" ||
      name == kEmptyFinal) {
    return Type::kFlag;
  }
  return Type::kText;
}

// Text from the wire as an error may show it: short, and ASCII whatever it was.
std::string shown(std::string_view text) {
  constexpr std::size_t kMost = 64;
  std::string out(text.substr(0, kMost));
  std::ranges::replace_if(
      out, [](char c) { return c < ' ' || c > '~'; }, '?');
  return "'" + out + "'";
}

Status wrong(const std::string& name, const std::string& value, std::string_view must) {
  return invalid_argument("header '" + name + "' is taken as a parameter of the request (" + std::string(kFlags) +
                          "), and must be " + std::string(must) + " then, not " + shown(value) +
                          ": correct it, leave it out, or send the parameter in the request, which counts before it");
}

Status read_value(const std::string& name, const std::string& value, wire::ParameterValue& out) {
  switch (type_of(name)) {
    case Type::kText:
      out = std::string_view(value);
      break;
    case Type::kFlag:
      if (value != "true" && value != "false") return wrong(name, value, "true or false");
      out = value == "true";
      break;
    case Type::kCount: {
      std::uint64_t count = 0;
      const char* const end = value.data() + value.size();
      const auto [stopped, error] = std::from_chars(value.data(), end, count);
      if (error != std::errc() || stopped != end) {
        return wrong(name, value, "a whole number from 0 to 18446744073709551615");
      }
      out = count;
      break;
    }
  }
  return {};
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

}  // namespace

void HeaderForward::begin(std::uint64_t step) {
  chosen_.clear();
  if (step != step_) asked_ = 0;
  step_ = step;
}

Status HeaderForward::add(std::string_view given, std::string_view value) {
  if (given.size() > kMaxNameBytes) return {};
  std::array<char, kMaxNameBytes> folded;
  std::ranges::transform(given, folded.begin(), lower);
  const std::string_view name(folded.data(), given.size());
  if (wire::is_binary_name(name)) return {};
  auto known = known_.find(name);
  if (known == known_.end()) {
    if (asked_ == kMaxAsked) {
      return resource_exhausted("more than " + std::to_string(kMaxAsked) +
                                " header names came at once that this server had not seen before, and it looks at each "
                                "(" +
                                std::string(kFlags) + "): send fewer different headers, or try again");
    }
    ++asked_;
    if (known_.size() == kMaxKnown) known_.clear();  // they are few, unless somebody makes them up
    known = known_.emplace(name, wants_(name)).first;
  }
  if (known->second) chosen_.emplace_back(name, value);
  return {};
}

Status HeaderForward::choose(const wire::Metadata& headers, std::uint64_t step) {
  begin(step);
  for (const auto& [name, value] : headers) {
    if (Status status = add(name, value); !status.ok()) return status;
  }
  return {};
}

Status add_parameters(const wire::Metadata& headers, const wire::InferLimits& limits, wire::InferRequest& request) {
  const std::size_t own = request.parameters.size();
  for (const auto& [name, value] : headers) {
    if (wire::find_parameter(std::span<const wire::Parameter>(request.parameters).first(own), name) != nullptr)
      continue;
    if (name.starts_with(kReservedPrefix) && name != kEmptyFinal) return unknown_reserved("header", name);
    if (request.parameters.size() + request.tensor_parameters.size() == limits.max_parameters) {
      return invalid_argument("header '" + name + "' would be one parameter more than the limit of " +
                              std::to_string(limits.max_parameters) +
                              " (--max-parameters; headers become parameters by " + std::string(kFlags) +
                              "); send fewer, or raise the limit");
    }
    wire::Parameter parameter{name, {}};
    if (Status status = read_value(name, value, parameter.value); !status.ok()) return status;
    request.parameters.push_back(parameter);
  }
  return {};
}

}  // namespace headrace
