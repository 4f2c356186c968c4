// One element of `data`, for each dtype: text -> the tensor's bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>
#include <type_traits>

#include "wire/decimal.h"
#include "wire/json_text.h"

namespace headrace::wire {

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
inline const char* read_not_finite(const char* at, const char* end, double& value) {
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

inline std::uint16_t half_of(double value, std::uint16_t infinity, std::uint16_t quiet) {
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
      stop = read_not_finite(at, end, other);
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
inline bool decode_base64(char* text, std::size_t& size) {
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

}  // namespace headrace::wire
