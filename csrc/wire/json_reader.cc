// A request's JSON -> InferRequest. Only the text around `data` is read here; `data` itself is passed from bracket to
// bracket and left to convert_json_data, once its type is known.
#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "wire/json_codec.h"
#include "wire/json_text.h"
#include "wire/utf8.h"

namespace headrace::wire {

namespace {

// Leaves the reader with the answer to a request that is well-formed JSON and yet refused.
struct Refusal {
  Status status;
};

[[noreturn]] void refuse(const std::string& message) { throw Refusal{invalid_argument("request " + message)}; }

[[noreturn]] void refuse_limit(const std::string& what, const char* flag, std::size_t value) {
  refuse("has " + what + ", over the limit of " + std::to_string(value) + " (" + flag +
         "); send less in one request or raise the limit");
}

// A name from the request as a message may show it.
std::string shown(std::string_view name) { return "'" + std::string(name.substr(0, 64)) + "'"; }

// Where in the request: "the request", "inputs[3]". Words only when there is something to say.
struct Place {
  const char* what;
  std::size_t index = kNoIndex;

  static constexpr std::size_t kNoIndex = ~std::size_t{0};
  std::string text() const {
    std::string words(what);
    if (index != kNoIndex) words.append("[").append(std::to_string(index)).append("]");
    return words;
  }
};

// One bit per member that has been seen; a second time is refused.
class Members {
 public:
  explicit Members(Place place) : place_(place) {}
  void see(unsigned member, std::string_view name) {
    const unsigned bit = 1U << member;
    if ((seen_ & bit) != 0) refuse("has " + shown(name) + " twice in " + place_.text() + "; send it once");
    seen_ |= bit;
  }
  bool has(unsigned member) const { return (seen_ & (1U << member)) != 0; }

 private:
  Place place_;
  unsigned seen_ = 0;
};

class Decoder {
 public:
  Decoder(std::string_view text, const InferLimits& limits, InferRequest& request, JsonStrings& strings)
      : cursor_(text), limits_(limits), request_(request), strings_(strings) {}

  // All but what depends on the bytes behind the text.
  void decode() {
    bool inputs = false;
    constexpr Place kHere{"the request"};
    Members members(kHere);
    object(1, [&](std::string_view name) {
      if (name == "id") {
        members.see(0, name);
        if (!null()) request_.id = text("id of ", kHere);
      } else if (name == "parameters") {
        members.see(1, name);
        if (!null()) parameters(request_.parameters, kHere);
      } else if (name == "inputs") {
        members.see(2, name);
        inputs = true;
        tensors("inputs", [&](Place place) { input(place); });
      } else if (name == "outputs") {
        members.see(3, name);
        if (!null()) tensors("outputs", [&](Place place) { output(place); });
      } else {
        cursor_.skip_value(1);
      }
    });
    if (cursor_.peek() != '\0' || cursor_.at() != cursor_.end()) cursor_.fail("expected nothing behind the request");
    if (!inputs) refuse("has no 'inputs'; send an array of the model's inputs");
  }

 private:
  // Calls member(name) for each; it must read the value.
  template <class Member>
  void object(std::size_t depth, Member member) {
    cursor_.expect('{', "expected an object");
    if (depth > kMaxJsonDepth) cursor_.fail("nested too deeply");
    if (cursor_.take('}')) return;
    do {
      bool escaped = false;
      const std::string_view raw = cursor_.string(escaped, "expected a member's name in quotes");
      std::string_view name = raw;
      if (escaped) {
        key_.resize(raw.size());
        name = std::string_view(key_).substr(0, unescape_json(raw, key_.data()));
      } else {
        check_json_string(raw, false);
      }
      cursor_.expect(':', "expected ':' after a member's name");
      member(name);
    } while (cursor_.take(','));
    cursor_.expect('}', "expected ',' or '}'");
  }

  template <class Element>
  void array(const char* what, Element element) {
    cursor_.expect('[', what);
    if (cursor_.take(']')) return;
    do {
      element();
    } while (cursor_.take(','));
    cursor_.expect(']', "expected ',' or ']'");
  }

  bool null() { return cursor_.take_word("null"); }

  std::string_view value_text(const char* what) {
    bool escaped = false;
    const std::string_view raw = cursor_.string(escaped, what);
    if (escaped) return strings_.keep(raw);
    check_json_string(raw, false);
    return raw;
  }

  std::string_view limited(std::string_view value, const char* what, Place place) const {
    if (value.size() > limits_.max_name_bytes) {
      refuse_limit(what + place.text() + " of " + std::to_string(value.size()) + " bytes", "--max-name-bytes",
                   limits_.max_name_bytes);
    }
    return value;
  }

  std::string_view text(const char* what, Place place) {
    if (cursor_.peek() != '"') refuse("has no string as " + (what + place.text()));
    bool escaped = false;
    const std::string_view raw = cursor_.string(escaped, "expected a string");
    if (!escaped) {
      limited(raw, what, place);
      check_json_string(raw, false);
      return raw;
    }
    // Before it is copied: no escape makes six bytes of text less than one of the name.
    if (raw.size() / 6 > limits_.max_name_bytes) limited(raw, what, place);
    return limited(strings_.keep(raw), what, place);
  }

  void parameters(std::vector<Parameter>& out, Place place) {
    const std::size_t first = out.size();
    if (cursor_.peek() != '{') refuse("has 'parameters' of " + place.text() + " that are no object");
    object(2, [&](std::string_view name) {
      if (request_.parameters.size() + request_.tensor_parameters.size() == limits_.max_parameters) {
        refuse_limit("more parameters", "--max-parameters", limits_.max_parameters);
      }
      limited(name, "a parameter's name in ", place);
      for (std::size_t i = first; i < out.size(); ++i) {
        if (out[i].key == name) refuse("has parameter " + shown(name) + " of " + place.text() + " twice; send it once");
      }
      // A name with escapes lies in scratch memory.
      const bool scratch = name.data() == key_.data();
      std::string_view kept = name;
      if (scratch) kept = strings_.keep_plain(name);
      const ParameterValue value = parameter_value(kept, place);
      out.push_back({kept, value});
    });
  }

  ParameterValue parameter_value(std::string_view name, Place place) {
    const auto wrong = [&](const std::string& what) {
      refuse("has parameter " + shown(name) + " of " + place.text() + " that is " + what +
             "; send true, false, a number or a string");
    };
    switch (cursor_.peek()) {
      case '"':
        return value_text("");
      case 't':
      case 'f':
        if (cursor_.take_word("true")) return true;
        if (cursor_.take_word("false")) return false;
        cursor_.fail("expected a value");
      case '{':
        wrong("an object");
        break;
      case '[':
        wrong("an array");
        break;
      case 'n':
        if (null()) wrong("null");
        break;
      default:
        break;
    }
    const std::string_view number = cursor_.number("expected a value");
    const char* const end = number.data() + number.size();
    if (number.find_first_of(".eE") != std::string_view::npos) {
      double value = 0;
      if (std::from_chars(number.data(), end, value).ec != std::errc()) wrong("no number that a double can hold");
      return value;
    }
    std::int64_t value = 0;
    if (std::from_chars(number.data(), end, value).ec == std::errc()) return value;
    std::uint64_t large = 0;
    if (number.front() == '-' || std::from_chars(number.data(), end, large).ec != std::errc()) {
      wrong("an integer of more than 64 bits");
    }
    return large;
  }

  template <class Tensor>
  void tensors(const char* what, Tensor tensor) {
    if (cursor_.peek() != '[') refuse("has '" + std::string(what) + "' that are no array");
    std::size_t index = 0;
    array("", [&] {
      const Place place{what, index++};
      if (cursor_.peek() != '{') refuse("has " + place.text() + " that is no object");
      if (request_.inputs.size() + request_.outputs.size() == limits_.max_tensors) {
        refuse_limit("more inputs and outputs", "--max-tensors", limits_.max_tensors);
      }
      tensor(place);
    });
  }

  void input(Place place) {
    WireInput& input = request_.inputs.emplace_back();
    input.first_parameter = request_.tensor_parameters.size();
    Members members(place);
    object(3, [&](std::string_view name) {
      if (name == "name") {
        members.see(0, name);
        input.name = text("the name of ", place);
      } else if (name == "shape") {
        members.see(1, name);
        shape(input, place);
      } else if (name == "datatype") {
        members.see(2, name);
        input.datatype = text("the datatype of ", place);
      } else if (name == "parameters") {
        members.see(3, name);
        if (!null()) parameters(request_.tensor_parameters, place);
      } else if (name == "data") {
        members.see(4, name);
        if (null()) return;
        if (cursor_.peek() != '[') refuse("has 'data' of " + place.text() + " that is no array");
        const std::string_view data = cursor_.skip_brackets(3);
        input.contents = {reinterpret_cast<const std::byte*>(data.data()), data.size()};
        input.has_contents = true;
        request_.contents_bytes += data.size();
      } else {
        cursor_.skip_value(3);
      }
    });
    constexpr const char* kNeeded[] = {"name", "shape", "datatype"};
    for (unsigned i = 0; i < 3; ++i) {
      if (!members.has(i)) {
        const std::string which = input.name.empty() ? place.text() : "input " + shown(input.name);
        refuse("has " + which + " without '" + kNeeded[i] + "'; an input needs name, shape and datatype");
      }
    }
    input.parameter_count = request_.tensor_parameters.size() - input.first_parameter;
  }

  void output(Place place) {
    WireOutput& output = request_.outputs.emplace_back();
    output.first_parameter = request_.tensor_parameters.size();
    Members members(place);
    object(3, [&](std::string_view name) {
      if (name == "name") {
        members.see(0, name);
        output.name = text("the name of ", place);
      } else if (name == "parameters") {
        members.see(1, name);
        if (!null()) parameters(request_.tensor_parameters, place);
      } else {
        cursor_.skip_value(3);
      }
    });
    if (!members.has(0)) refuse("has " + place.text() + " without 'name'; an output needs one");
    output.parameter_count = request_.tensor_parameters.size() - output.first_parameter;
  }

  void shape(WireInput& input, Place place) {
    const auto which = [&] { return input.name.empty() ? place.text() : "input " + shown(input.name); };
    if (cursor_.peek() != '[') refuse("has the shape of " + which() + " that is no array");
    std::vector<std::int64_t>& dims = request_.dims;
    dims.clear();
    array("", [&] {
      if (dims.size() == limits_.max_dims) {
        refuse_limit("an input " + which() + " of more dimensions", "--max-dims", limits_.max_dims);
      }
      const char first = cursor_.peek();
      if (first != '-' && !is_digit(first)) refuse("has a dimension of " + which() + " that is no number");
      const std::string_view number = cursor_.number("expected a dimension");
      std::int64_t dim = 0;
      const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), dim);
      if (error != std::errc() || end != number.data() + number.size()) {
        refuse("has the dimension " + std::string(number.substr(0, 32)) + " in the shape of " + which() +
               "; a dimension is an integer from 0 to 9223372036854775807");
      }
      if (dim < 0) {
        refuse("has the negative dimension " + std::string(number) + " in the shape of " + which() +
               "; send the tensor's real shape");
      }
      dims.push_back(dim);
    });
    input.shape.assign(dims);
  }

  JsonCursor cursor_;
  const InferLimits& limits_;
  InferRequest& request_;
  JsonStrings& strings_;
  std::string key_;  // the name in hand, where it had escapes
};

// What can be said only when all is read.
void link(std::span<const std::byte> blobs, InferRequest& request) {
  const std::span<const Parameter> parameters(request.tensor_parameters);
  const std::size_t sent = blobs.size();
  std::size_t binary = 0;
  for (WireInput& input : request.inputs) {
    if (!parameters.empty()) input.parameters = parameters.subspan(input.first_parameter, input.parameter_count);
    const ParameterValue* value = find_parameter(input.parameters, "binary_data_size");
    if (value == nullptr) continue;
    const std::int64_t* size = std::get_if<std::int64_t>(value);
    if (size == nullptr || *size < 0) {
      refuse("has a binary_data_size of input " + shown(input.name) +
             " that is no integer from 0 to 9223372036854775807");
    }
    if (input.has_contents) {
      refuse("has input " + shown(input.name) + " with data as well as binary_data_size; send one of the two");
    }
    const auto wanted = static_cast<std::uint64_t>(*size);
    if (wanted > blobs.size()) {
      refuse("has a binary_data_size of " + std::to_string(wanted) + " for input " + shown(input.name) + ", but " +
             std::to_string(blobs.size()) + " of the " + std::to_string(sent) +
             " bytes behind the JSON are left for it (Inference-Header-Content-Length says where the JSON ends)");
    }
    input.raw = blobs.first(static_cast<std::size_t>(wanted));
    blobs = blobs.subspan(static_cast<std::size_t>(wanted));
    ++binary;
  }
  if (!parameters.empty()) {
    for (WireOutput& output : request.outputs) {
      output.parameters = parameters.subspan(output.first_parameter, output.parameter_count);
    }
  }
  if (!blobs.empty()) {
    refuse("has " + std::to_string(sent) + " bytes behind its JSON, of which " + std::to_string(blobs.size()) +
           " are left over: " + std::to_string(binary) + " inputs have a binary_data_size");
  }
}

}  // namespace

char* JsonStrings::reserve(std::size_t size) {
  if (size > kFirst - used_) return more_.emplace_back(new char[size]).get();
  if (!first_) first_.reset(new char[kFirst]);
  char* const place = first_.get() + used_;
  used_ += size;
  return place;
}

std::string_view JsonStrings::keep(std::string_view text) {
  char* const place = reserve(text.size());
  return {place, unescape_json(text, place)};
}

std::string_view JsonStrings::keep_plain(std::string_view value) {
  char* const place = reserve(value.size());
  std::memcpy(place, value.data(), value.size());
  return {place, value.size()};
}

void JsonStrings::clear() {
  used_ = 0;
  more_.clear();
}

Status JsonReader::decode(std::span<const std::byte> body, std::size_t json_bytes, const InferLimits& limits,
                          InferRequest& request) {
  request.clear();
  strings_.clear();
  if (json_bytes > body.size()) {
    return invalid_argument("Inference-Header-Content-Length is " + std::to_string(json_bytes) +
                            ", more than the body's " + std::to_string(body.size()) + " bytes");
  }
  const std::string_view text(reinterpret_cast<const char*>(body.data()), json_bytes);
  try {
    bool again = false;
    Known* same = nullptr;
    if (text.size() < body.size() && text.size() <= kMostKnownBytes) same = &known(text, limits, again);
    if (again && same->read) {
      request.assign_text(same->request);
    } else {
      Decoder(text, limits, request, strings_).decode();
      if (again) {
        same->request.clear();
        same->strings.clear();
        Decoder(same->text, limits, same->request, same->strings).decode();
        same->read = true;
      }
    }
    link(body.subspan(json_bytes), request);
  } catch (Refusal& refusal) {
    return std::move(refusal.status);
  } catch (const JsonError& error) {
    return invalid_argument("request is not valid JSON: " + error.what + ", at byte " +
                            std::to_string(error.at - text.data()));
  }
  return {};
}

JsonReader::Known& JsonReader::known(std::string_view text, const InferLimits& limits, bool& again) {
  // Of some of its bytes only: two texts at one place cost no more than being read.
  std::uint64_t hash = text.size();
  const std::size_t step = std::max(text.size() / 8, sizeof(hash));
  for (std::size_t at = 0; at + sizeof(hash) <= text.size(); at += step) {
    std::uint64_t word;
    std::memcpy(&word, text.data() + at, sizeof(word));
    hash = (hash ^ word) * 0x9E3779B97F4A7C15U;
  }
  std::unique_ptr<Known>& place = known_[(hash >> 32) % known_.size()];
  if (!place) place = std::make_unique<Known>();
  again = place->text == text && place->limits == limits;
  if (!again) {
    place->text = text;
    place->limits = limits;
    place->read = false;
  }
  return *place;
}

}  // namespace headrace::wire
