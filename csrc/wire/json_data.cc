// The text of an input's `data` -> raw tensor bytes, in one pass.
#include <array>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "wire/decimal.h"
#include "wire/json_codec.h"
#include "wire/json_text.h"

namespace headrace::wire {

namespace {

// Leaves the conversion with its answer.
struct Refusal {
  Status status;
};

// Elements read one value at `at` (not a space), write it to `out`, and return where it ends. Null: not such a value.
template <class T>
struct IntegerElement {
  static const char* read(const char* at, const char* end, std::byte*& out) {
    const bool negative = at != end && *at == '-';
    if (negative) ++at;
    const char* const first = at;
    std::uint64_t value = 0;
    bool over = false;
    for (; at != end && is_digit(*at); ++at) {
      const auto digit = static_cast<unsigned char>(*at - '0');
      if (at - first >= 19) {
        over = over || value > (std::numeric_limits<std::uint64_t>::max() - digit) / 10;
      }
      value = value * 10 + digit;
    }
    if (at == first || (*first == '0' && at - first > 1)) return nullptr;
    if (at != end && (*at == '.' || *at == 'e' || *at == 'E')) return nullptr;
    constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<T>::max());
    if (over || value > (negative ? (std::is_signed_v<T> ? kLargest + 1 : 0) : kLargest)) return nullptr;
    const T element = static_cast<T>(negative ? std::uint64_t{0} - value : value);
    std::memcpy(out, &element, sizeof(element));
    out += sizeof(element);
    return at;
  }
};

// NaN and infinities, with or without quotes. Null: another text.
const char* not_finite(const char* at, const char* end, double& value) {
  const bool quoted = at != end && *at == '"';
  if (quoted) ++at;
  const std::string_view rest(at, static_cast<std::size_t>(end - at));
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (rest.starts_with("NaN")) {
    value = std::numeric_limits<double>::quiet_NaN();
    at += 3;
  } else if (rest.starts_with("Infinity")) {
    value = kInfinity;
    at += 8;
  } else if (rest.starts_with("-Infinity")) {
    value = -kInfinity;
    at += 9;
  } else {
    return nullptr;
  }
  if (quoted && (at == end || *at++ != '"')) return nullptr;
  return at;
}

std::uint16_t half_of(double value, std::uint16_t infinity, std::uint16_t quiet) {
  if (value != value) return static_cast<std::uint16_t>(infinity | quiet);
  return value < 0 ? static_cast<std::uint16_t>(infinity | 0x8000U) : infinity;
}

struct DoubleElement {
  using Value = double;
  static bool finite(const Decimal& decimal, std::string_view text, double& value) {
    return to_double(decimal, text, value);
  }
  static double other(double value) { return value; }
};
struct FloatElement {
  using Value = float;
  static bool finite(const Decimal& decimal, std::string_view text, float& value) {
    return to_float(decimal, text, value);
  }
  static float other(double value) { return static_cast<float>(value); }
};
struct Fp16Element {
  using Value = std::uint16_t;
  static bool finite(const Decimal& decimal, std::string_view text, std::uint16_t& value) {
    return settle_fp16(decimal, text, value);
  }
  static std::uint16_t other(double value) { return half_of(value, 0x7C00U, 0x0200U); }
};
struct Bf16Element {
  using Value = std::uint16_t;
  static bool finite(const Decimal& decimal, std::string_view text, std::uint16_t& value) {
    return settle_bf16(decimal, text, value);
  }
  static std::uint16_t other(double value) { return half_of(value, 0x7F80U, 0x0040U); }
};

template <class Type>
struct RealElement {
  static const char* read(const char* at, const char* end, std::byte*& out) {
    typename Type::Value value{};
    Decimal decimal;
    const char* stop = scan_decimal(at, end, decimal);
    if (stop != nullptr) [[likely]] {
      if (!Type::finite(decimal, {at, static_cast<std::size_t>(stop - at)}, value)) return nullptr;
    } else {
      double other = 0;
      stop = not_finite(at, end, other);
      if (stop == nullptr) return nullptr;
      value = Type::other(other);
    }
    std::memcpy(out, &value, sizeof(value));
    out += sizeof(value);
    return stop;
  }
};

struct BoolElement {
  static const char* read(const char* at, const char* end, std::byte*& out) {
    const std::string_view rest(at, static_cast<std::size_t>(end - at));
    std::uint8_t value = 0;
    if (rest.starts_with("true")) {
      value = 1;
      at += 4;
    } else if (rest.starts_with("false")) {
      at += 5;
    } else if (at != end && (*at == '0' || *at == '1')) {
      value = *at++ == '1' ? 1 : 0;
    } else {
      return nullptr;
    }
    *out++ = static_cast<std::byte>(value);
    return at;
  }
};

// Base64 in place: the standard alphabet, its padding optional. False: not base64.
bool decode_base64(char* text, std::size_t& size) {
  if (size % 4 == 0 && size != 0 && text[size - 1] == '=') size -= text[size - 2] == '=' ? 2U : 1U;
  std::uint32_t bits = 0;
  unsigned held = 0;
  char* out = text;
  for (std::size_t i = 0; i < size; ++i) {
    const char byte = text[i];
    unsigned value = 0;
    if (byte >= 'A' && byte <= 'Z') {
      value = static_cast<unsigned>(byte - 'A');
    } else if (byte >= 'a' && byte <= 'z') {
      value = static_cast<unsigned>(byte - 'a') + 26;
    } else if (is_digit(byte)) {
      value = static_cast<unsigned>(byte - '0') + 52;
    } else if (byte == '+') {
      value = 62;
    } else if (byte == '/') {
      value = 63;
    } else {
      return false;
    }
    bits = bits << 6 | value;
    held += 6;
    if (held >= 8) {
      held -= 8;
      *out++ = static_cast<char>(bits >> held & 0xFFU);
    }
  }
  if (held >= 6) return false;  // one letter of the last four stands alone
  size = static_cast<std::size_t>(out - text);
  return true;
}

struct StringElement {
  static const char* read(const char* at, const char* end, std::byte*& out) {
    JsonCursor cursor({at, static_cast<std::size_t>(end - at)});
    char* const text = reinterpret_cast<char*>(out) + sizeof(std::uint32_t);
    bool escaped = false;
    std::size_t size = 0;
    if (cursor.peek() == '"') {
      size = unescape_json(cursor.string(escaped, ""), text);
    } else if (cursor.take('{')) {
      const std::string_view name = cursor.string(escaped, "expected \"b64\"");
      if (name != "b64") throw JsonError{"an object in data has to be {\"b64\": \"...\"}", at};
      cursor.expect(':', "expected ':' after \"b64\"");
      size = unescape_json(cursor.string(escaped, "expected a string of base64"), text);
      if (!decode_base64(text, size)) throw JsonError{"the string under \"b64\" is not base64", at};
      cursor.expect('}', "expected '}' after the base64 string");
    } else {
      return nullptr;
    }
    if (size > std::numeric_limits<std::uint32_t>::max()) {
      throw JsonError{"a BYTES element holds at most 4294967295 bytes", at};
    }
    const auto prefix = static_cast<std::uint32_t>(size);
    std::memcpy(out, &prefix, sizeof(prefix));
    out += sizeof(prefix) + size;
    return cursor.at();
  }
};

class Converter {
 public:
  Converter(const WireInput& input, DType dtype, std::size_t elements)
      : input_(input),
        dtype_(dtype),
        elements_(elements),
        text_(reinterpret_cast<const char*>(input.contents.data()), input.contents.size()),
        cursor_(text_) {}

  std::string_view text() const { return text_; }

  // Refuses a shape that so little text cannot fill, so that nothing large is allocated for it.
  void check_size() {
    if (elements_ <= text_.size() / 2) return;  // an element and its comma or bracket
    const std::size_t sent = count_leaves(cursor_);
    if (sent != elements_) refuse_count(sent);
  }

  // Returns the end of what it wrote.
  std::byte* convert(std::byte* out) {
    out_ = out;
    switch (dtype_) {
      case DType::kBool:
        return walk<BoolElement>();
      case DType::kUint8:
        return walk<IntegerElement<std::uint8_t>>();
      case DType::kUint16:
        return walk<IntegerElement<std::uint16_t>>();
      case DType::kUint32:
        return walk<IntegerElement<std::uint32_t>>();
      case DType::kUint64:
        return walk<IntegerElement<std::uint64_t>>();
      case DType::kInt8:
        return walk<IntegerElement<std::int8_t>>();
      case DType::kInt16:
        return walk<IntegerElement<std::int16_t>>();
      case DType::kInt32:
        return walk<IntegerElement<std::int32_t>>();
      case DType::kInt64:
        return walk<IntegerElement<std::int64_t>>();
      case DType::kFp16:
        return walk<RealElement<Fp16Element>>();
      case DType::kBf16:
        return walk<RealElement<Bf16Element>>();
      case DType::kFp32:
        return walk<RealElement<FloatElement>>();
      case DType::kFp64:
        return walk<RealElement<DoubleElement>>();
      case DType::kBytes:
        return walk<StringElement>();
      case DType::kInvalid:
        break;
    }
    return out;
  }

 private:
  // Brackets around each element when data is nested as the shape is: a dimension of 0 hides those behind it.
  std::size_t nested_levels() const {
    const std::span<const std::int64_t> dims = input_.shape.dims();
    for (std::size_t i = 0; i < dims.size(); ++i) {
      if (dims[i] == 0) return i + 1;
    }
    return dims.size();
  }

  template <class Element>
  std::byte* walk() {
    const char* const first = cursor_.at();
    std::size_t brackets = 0;
    while (cursor_.take('[')) {
      if (++brackets > kMaxJsonDepth) cursor_.fail("nested too deeply");
    }
    const std::size_t nested = nested_levels();
    cursor_.move_to(first);
    if (brackets == 1) {
      flat_ = true;
      run<Element>(elements_, 0);
    } else if (brackets == nested) {
      rows<Element>(0);
    } else {
      throw Refusal{refusal("data is nested " + std::to_string(brackets) + " deep, its shape " +
                            input_.shape.to_string() + " wants " + std::to_string(nested) + ", or one flat array")};
    }
    if (cursor_.peek() != '\0' || cursor_.at() != cursor_.end()) cursor_.fail("expected nothing behind data");
    return out_;
  }

  template <class Element>
  void rows(std::size_t level) {
    const auto dims = input_.shape.dims();
    const auto count = static_cast<std::size_t>(dims[level]);
    if (level + 1 == nested_levels()) return run<Element>(count, level);
    const char* const first = cursor_.at();
    cursor_.expect('[', "expected '['");
    for (std::size_t i = 0; i < count; ++i) {
      if (i != 0 && !cursor_.take(',')) refuse_row(first, level);
      if (cursor_.peek() != '[') refuse_row(first, level);
      row_[level] = i;
      rows<Element>(level + 1);
    }
    if (!cursor_.take(']')) refuse_row(first, level);
  }

  // One array of `count` elements.
  template <class Element>
  void run(std::size_t count, std::size_t level) {
    const char* const end = cursor_.end();
    const char* const first = cursor_.at();
    const char* at = skip_json_space(first, end);
    if (at == end || *at != '[') cursor_.fail("expected '['");
    at = skip_json_space(at + 1, end);
    std::byte* out = out_;
    for (std::size_t i = 0; i < count; ++i) {
      if (i != 0) {
        if (at == end || *at != ',') return refuse_row(first, level);
        at = skip_json_space(at + 1, end);
      }
      const char* const stop = Element::read(at, end, out);
      if (stop == nullptr) return refuse_element(at, first, level, i);
      at = skip_json_space(stop, end);
    }
    if (at == end || *at != ']') return refuse_row(first, level);
    out_ = out;
    cursor_.move_to(at + 1);
  }

  // Values that are no arrays; checks the text on its way.
  static std::size_t count_leaves(JsonCursor cursor) {
    std::size_t leaves = 0;
    std::size_t open = 0;
    do {
      if (cursor.take('[')) {
        if (++open > kMaxJsonDepth) cursor.fail("nested too deeply");
        if (!cursor.take(']')) continue;
        --open;
      } else {
        cursor.skip_value(open);
        ++leaves;
      }
      while (open != 0 && !cursor.take(',')) {
        cursor.expect(']', "expected ',' or ']'");
        --open;
      }
    } while (open != 0);
    return leaves;
  }

  // Values in the array at `first`, arrays or not.
  std::size_t count_row(const char* first) const {
    JsonCursor cursor = cursor_;
    cursor.move_to(first);
    cursor.expect('[', "expected '['");
    if (cursor.take(']')) return 0;
    std::size_t values = 0;
    do {
      cursor.skip_value(1);
      ++values;
    } while (cursor.take(','));
    cursor.expect(']', "expected ',' or ']'");
    return values;
  }

  std::string place(std::size_t level) const {
    std::string text = "data";
    for (std::size_t i = 0; i < level; ++i) text += "[" + std::to_string(row_[i]) + "]";
    return text;
  }

  Status refusal(const std::string& what) const {
    return invalid_argument("input '" + std::string(input_.name) + "': " + what);
  }

  [[noreturn]] void refuse_count(std::size_t sent) const {
    throw Refusal{refusal("data has " + std::to_string(sent) + " elements, its shape " + input_.shape.to_string() +
                          " needs " + std::to_string(elements_))};
  }

  // The array at `first` has not as many values as it should, or is no JSON.
  [[noreturn]] void refuse_row(const char* first, std::size_t level) const {
    const std::size_t sent = count_row(first);
    const std::size_t needed = flat_ ? elements_ : static_cast<std::size_t>(input_.shape[level]);
    if (sent == needed) {
      throw Refusal{refusal(place(level) + " mixes elements and arrays; nest it as its shape " +
                            input_.shape.to_string() + " is, or send one flat array")};
    }
    throw Refusal{refusal(place(level) + " has " + std::to_string(sent) + " elements, its shape " +
                          input_.shape.to_string() + " needs " + std::to_string(needed))};
  }

  [[noreturn]] void refuse_element(const char* at, const char* first, std::size_t level, std::size_t index) const {
    if (at == text_.data() + text_.size() || *at == ']' || *at == '[') refuse_row(first, level);
    JsonCursor cursor = cursor_;
    cursor.move_to(at);
    cursor.skip_value(level + 1);  // if it is no JSON, that is the answer
    std::string shown(at, std::min<std::size_t>(static_cast<std::size_t>(cursor.at() - at), 40));
    for (char& byte : shown) {
      if (byte < 0x20 || byte > 0x7E) byte = '?';
    }
    throw Refusal{refusal(place(level) + "[" + std::to_string(index) + "] is " + shown + ", which is no " +
                          std::string(expected()))};
  }

  std::string expected() const {
    const std::string name(dtype_name(dtype_));
    switch (dtype_) {
      case DType::kBool:
        return name + ": send true or false";
      case DType::kInt8:
        return integer<std::int8_t>(name);
      case DType::kInt16:
        return integer<std::int16_t>(name);
      case DType::kInt32:
        return integer<std::int32_t>(name);
      case DType::kInt64:
        return integer<std::int64_t>(name);
      case DType::kUint8:
        return integer<std::uint8_t>(name);
      case DType::kUint16:
        return integer<std::uint16_t>(name);
      case DType::kUint32:
        return integer<std::uint32_t>(name);
      case DType::kUint64:
        return integer<std::uint64_t>(name);
      case DType::kBytes:
        return name + R"(: send a string or {"b64": "..."})";
      default:
        return name + R"(: send a number within its range, or "NaN", "Infinity", "-Infinity")";
    }
  }

  template <class T>
  static std::string integer(const std::string& name) {
    return name + ": send an integer from " + std::to_string(std::numeric_limits<T>::min()) + " to " +
           std::to_string(std::numeric_limits<T>::max()) + " in plain digits";
  }

  const WireInput& input_;
  const DType dtype_;
  const std::size_t elements_;
  const std::string_view text_;
  JsonCursor cursor_;
  std::byte* out_ = nullptr;
  bool flat_ = false;
  std::array<std::size_t, kMaxJsonDepth> row_{};
};

}  // namespace

Result<Tensor> convert_json_data(const WireInput& input, DType dtype, std::size_t elements, Pool& pool) {
  const std::string which = "input '" + std::string(input.name) + "': ";
  if (dtype == DType::kInvalid) {
    return invalid_argument(which + "datatype '" + std::string(input.datatype) + "' is not one that data can carry");
  }
  if (element_count(input.shape.dims()) != elements) {
    return internal_error(which + std::to_string(elements) + " elements are not the product of its shape " +
                          input.shape.to_string());
  }
  Converter converter(input, dtype, elements);
  try {
    Tensor tensor;
    tensor.dtype = dtype;
    tensor.shape = input.shape;
    if (!input.has_contents) {
      if (elements != 0) {
        return invalid_argument(which + "it has no data, its shape " + input.shape.to_string() + " needs " +
                                std::to_string(elements) + " elements");
      }
    } else {
      converter.check_size();
    }
    // No string is longer than its text, which has two quotes besides; the prefixes come on top.
    const std::optional<std::size_t> size = dtype == DType::kBytes ? checked_multiply(elements, sizeof(std::uint32_t))
                                                                   : checked_multiply(elements, element_size(dtype));
    if (!size) return invalid_argument(which + std::to_string(elements) + " elements are more than can be addressed");
    Result<Block> block = pool.allocate(*size + (dtype == DType::kBytes ? input.contents.size() : 0));
    if (!block) return block.status();
    tensor.data = block->data();
    if (input.has_contents) tensor.size = static_cast<std::size_t>(converter.convert(block->data()) - block->data());
    tensor.block = std::move(*block);
    return tensor;
  } catch (Refusal& refusal) {
    return std::move(refusal.status);
  } catch (const JsonError& error) {
    return invalid_argument(which + "data is not valid JSON: " + error.what + ", at byte " +
                            std::to_string(error.at - converter.text().data()) + " of it");
  }
}

}  // namespace headrace::wire
