#include "wire/json_elements.h"

#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "wire/json_codec.h"
#include "wire/utf8.h"

namespace headrace::wire {

namespace {

float fp16_value(std::uint16_t bits) {
  const int exponent = bits >> 10 & 0x1F;
  const int significand = bits & 0x3FF;
  float value = 0;
  if (exponent == 0x1F) {
    value = significand != 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(significand), -24);
  } else {
    value = std::ldexp(static_cast<float>(significand | 0x400), exponent - 25);
  }
  return (bits & 0x8000U) != 0 ? -value : value;
}

float bf16_value(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

// The shortest text that reads back to the same bits; with a point or an exponent, or "-0" would be read as 0.
template <class Float>
void append_real(Float value, std::string& out) {
  if (!std::isfinite(value)) {
    out += std::isnan(value) ? "\"NaN\"" : value < 0 ? "\"-Infinity\"" : "\"Infinity\"";
    return;
  }
  char text[32];
  const char* const end = std::to_chars(text, text + sizeof(text), value).ptr;
  const std::string_view shortest(text, static_cast<std::size_t>(end - text));
  out += shortest;
  if (shortest.find_first_of(".e") == std::string_view::npos) out += ".0";
}

template <class Integer>
void append_integer(Integer value, std::string& out) {
  char text[24];
  out.append(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

void append_base64(std::string_view bytes, std::string& out) {
  static constexpr char kLetters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  out += "{\"b64\":\"";
  std::size_t i = 0;
  const auto byte = [&](std::size_t at) { return static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[at])); };
  for (; i + 3 <= bytes.size(); i += 3) {
    const std::uint32_t three = byte(i) << 16 | byte(i + 1) << 8 | byte(i + 2);
    const char four[] = {kLetters[three >> 18], kLetters[three >> 12 & 63], kLetters[three >> 6 & 63],
                         kLetters[three & 63]};
    out.append(four, 4);
  }
  if (bytes.size() - i == 1) {
    const std::uint32_t one = byte(i) << 16;
    const char four[] = {kLetters[one >> 18], kLetters[one >> 12 & 63], '=', '='};
    out.append(four, 4);
  } else if (bytes.size() - i == 2) {
    const std::uint32_t two = byte(i) << 16 | byte(i + 1) << 8;
    const char four[] = {kLetters[two >> 18], kLetters[two >> 12 & 63], kLetters[two >> 6 & 63], '='};
    out.append(four, 4);
  }
  out += "\"}";
}

// Bytes of the UTF-8 character at the front of `text`, 0 if it does not start one.
std::size_t character(std::string_view text) {
  for (std::size_t size = 1; size <= 4 && size <= text.size(); ++size) {
    if (is_utf8(text.substr(0, size))) return size;
  }
  return 0;
}

}  // namespace

void append_json_string(std::string_view text, std::string& out) {
  static constexpr char kHex[] = "0123456789abcdef";
  const bool valid = is_utf8(text);
  out += '"';
  std::size_t plain = 0;  // first byte that is not yet in `out`
  const auto flush = [&](std::size_t upto) { out.append(text.substr(plain, upto - plain)); };
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte >= 0x80 && !valid) {
      const std::size_t size = character(text.substr(i));
      if (size == 0) {
        flush(i);
        out += "\xEF\xBF\xBD";
        plain = ++i;
      } else {
        i += size;
      }
      continue;
    }
    if (byte >= 0x20 && byte != '"' && byte != '\\') {
      ++i;
      continue;
    }
    flush(i);
    plain = ++i;
    switch (byte) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        out += "\\u00";
        out += kHex[byte >> 4];
        out += kHex[byte & 15];
    }
  }
  flush(text.size());
  out += '"';
}

std::string elements_text(DType dtype, std::span<const std::byte> bytes) {
  std::size_t count = 0;
  if (dtype == DType::kBytes) {
    for (std::size_t at = 0; at < bytes.size(); ++count) at = skip_strings(bytes, at, 1);
  } else {
    count = bytes.size() / element_size(dtype);
  }
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.shape = Shape{static_cast<std::int64_t>(count)};
  tensor.data = bytes.data();
  tensor.size = bytes.size();
  for (const bool base64 : {false, true}) {
    std::string text;
    if (JsonElements(tensor, base64).append(count, text)) return text;
  }
  HEADRACE_CHECK(false);
  return {};
}

std::size_t json_data_bytes(const Tensor& tensor) {
  const std::size_t size = element_size(tensor.dtype);
  if (size == 0) return tensor.size + tensor.size / 2;
  switch (tensor.dtype) {  // the longest text of an element, and its comma
    case DType::kBool:
    case DType::kUint8:
    case DType::kInt8:
      return tensor.size * 6;
    case DType::kUint16:
    case DType::kInt16:
      return tensor.size / size * 7;
    case DType::kUint64:
    case DType::kInt64:
      return tensor.size / size * 21;
    case DType::kFp64:
      return tensor.size / size * 25;
    default:
      return tensor.size / size * 16;
  }
}

JsonElements::JsonElements(const Tensor& tensor, bool base64)
    : tensor_(tensor), base64_(base64), elements_(element_count(tensor.shape.dims()).value_or(0)) {
  HEADRACE_CHECK(tensor.dtype == DType::kBytes || elements_ * element_size(tensor.dtype) == tensor.size);
}

template <class Element, class Write>
void JsonElements::each(std::size_t count, std::string& out, Write write) {
  const std::byte* at = tensor_.data + next_ * sizeof(Element);
  for (std::size_t i = 0; i < count; ++i, at += sizeof(Element)) {
    if (i != 0) out += ',';
    Element element;
    std::memcpy(&element, at, sizeof(element));
    write(element, out);
  }
}

bool JsonElements::strings(std::size_t count, std::string& out) {
  for (std::size_t i = 0; i < count; ++i, ++next_) {
    if (i != 0) out += ',';
    std::uint32_t size = 0;
    HEADRACE_CHECK(tensor_.size - offset_ >= sizeof(size));
    std::memcpy(&size, tensor_.data + offset_, sizeof(size));
    offset_ += sizeof(size);
    HEADRACE_CHECK(tensor_.size - offset_ >= size);
    const std::string_view value(reinterpret_cast<const char*>(tensor_.data) + offset_, size);
    offset_ += size;
    if (base64_) {
      append_base64(value, out);
    } else if (is_utf8(value)) {
      append_json_string(value, out);
    } else {
      return false;
    }
  }
  return true;
}

bool JsonElements::append(std::size_t count, std::string& out) {
  HEADRACE_CHECK(count <= left());
  const auto integer = [](auto value, std::string& text) { append_integer(value, text); };
  const auto real = [](auto value, std::string& text) { append_real(value, text); };
  switch (tensor_.dtype) {
    case DType::kBool:
      each<std::uint8_t>(count, out,
                         [](std::uint8_t value, std::string& text) { text += value != 0 ? "true" : "false"; });
      break;
    case DType::kUint8:
      each<std::uint8_t>(count, out, integer);
      break;
    case DType::kUint16:
      each<std::uint16_t>(count, out, integer);
      break;
    case DType::kUint32:
      each<std::uint32_t>(count, out, integer);
      break;
    case DType::kUint64:
      each<std::uint64_t>(count, out, integer);
      break;
    case DType::kInt8:
      each<std::int8_t>(count, out, integer);
      break;
    case DType::kInt16:
      each<std::int16_t>(count, out, integer);
      break;
    case DType::kInt32:
      each<std::int32_t>(count, out, integer);
      break;
    case DType::kInt64:
      each<std::int64_t>(count, out, integer);
      break;
    case DType::kFp16:
      each<std::uint16_t>(count, out,
                          [](std::uint16_t bits, std::string& text) { append_real(fp16_value(bits), text); });
      break;
    case DType::kBf16:
      each<std::uint16_t>(count, out,
                          [](std::uint16_t bits, std::string& text) { append_real(bf16_value(bits), text); });
      break;
    case DType::kFp32:
      each<float>(count, out, real);
      break;
    case DType::kFp64:
      each<double>(count, out, real);
      break;
    case DType::kBytes:
      return strings(count, out);
    case DType::kInvalid:
      break;
  }
  next_ += count;
  return true;
}

}  // namespace headrace::wire
