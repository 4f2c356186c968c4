#include "wire/json_text.h"

#include "wire/utf8.h"

namespace headrace::wire {

namespace {

constexpr char kTooDeep[] = "nested too deeply: over the limit of 100 arrays and objects in one another";
static_assert(kMaxJsonDepth == 100);

int hex_digit(char byte) {
  if (is_digit(byte)) return byte - '0';
  const char lower = static_cast<char>(byte | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Four hexadecimal digits at `at`, or -1.
int hex4(const char* at, const char* end) {
  if (end - at < 4) return -1;
  int value = 0;
  for (int i = 0; i < 4; ++i) {
    const int digit = hex_digit(at[i]);
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

std::size_t put_utf8(std::uint32_t code, char* out) {
  if (code < 0x80) {
    out[0] = static_cast<char>(code);
    return 1;
  }
  if (code < 0x800) {
    out[0] = static_cast<char>(0xC0 | (code >> 6));
    out[1] = static_cast<char>(0x80 | (code & 0x3F));
    return 2;
  }
  if (code < 0x10000) {
    out[0] = static_cast<char>(0xE0 | (code >> 12));
    out[1] = static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out[2] = static_cast<char>(0x80 | (code & 0x3F));
    return 3;
  }
  out[0] = static_cast<char>(0xF0 | (code >> 18));
  out[1] = static_cast<char>(0x80 | ((code >> 12) & 0x3F));
  out[2] = static_cast<char>(0x80 | ((code >> 6) & 0x3F));
  out[3] = static_cast<char>(0x80 | (code & 0x3F));
  return 4;
}

// The escape whose backslash stands at `at`, which moves behind it; its UTF-8 goes to `out` (never longer than the
// escape itself).
std::size_t put_escape(const char*& at, const char* end, char* out) {
  const char* const start = at;
  if (end - at < 2) throw JsonError{"an escape is cut off", start};
  const char kind = at[1];
  at += 2;
  switch (kind) {
    case '"':
    case '\\':
    case '/':
      *out = kind;
      return 1;
    case 'b':
      *out = '\b';
      return 1;
    case 'f':
      *out = '\f';
      return 1;
    case 'n':
      *out = '\n';
      return 1;
    case 'r':
      *out = '\r';
      return 1;
    case 't':
      *out = '\t';
      return 1;
    case 'u':
      break;
    default:
      throw JsonError{"a backslash is not followed by one of \" \\ / b f n r t u", start};
  }
  const int unit = hex4(at, end);
  if (unit < 0) throw JsonError{"\\u is not followed by four hexadecimal digits", start};
  at += 4;
  auto code = static_cast<std::uint32_t>(unit);
  if (code >= 0xD800 && code < 0xE000) {
    const int low = end - at >= 6 && at[0] == '\\' && at[1] == 'u' ? hex4(at + 2, end) : -1;
    if (code >= 0xDC00 || low < 0xDC00 || low >= 0xE000) throw JsonError{"half of a surrogate pair", start};
    at += 6;
    code = 0x10000 + ((code - 0xD800) << 10) + (static_cast<std::uint32_t>(low) - 0xDC00);
  }
  return put_utf8(code, out);
}

// The end of a number by the grammar, or null.
const char* number_end(const char* at, const char* end) {
  const auto digits = [&] {
    const char* const first = at;
    while (at != end && is_digit(*at)) ++at;
    return at != first;
  };
  if (at != end && *at == '-') ++at;
  if (at == end) return nullptr;
  if (*at == '0') {
    ++at;
    if (at != end && is_digit(*at)) return nullptr;
  } else if (!digits()) {
    return nullptr;
  }
  if (at != end && *at == '.') {
    ++at;
    if (!digits()) return nullptr;
  }
  if (at != end && (*at == 'e' || *at == 'E')) {
    ++at;
    if (at != end && (*at == '+' || *at == '-')) ++at;
    if (!digits()) return nullptr;
  }
  return at;
}

}  // namespace

std::size_t unescape_json(std::string_view text, char* out) {
  if (!is_utf8(text)) throw JsonError{"a string is not valid UTF-8", text.data()};
  const char* at = text.data();
  const char* const end = at + text.size();
  char* const start = out;
  while (at != end) {
    const void* const found = std::memchr(at, '\\', static_cast<std::size_t>(end - at));
    const char* const stop = found == nullptr ? end : static_cast<const char*>(found);
    const auto plain = static_cast<std::size_t>(stop - at);
    std::memmove(out, at, plain);
    out += plain;
    at = stop;
    if (at != end) out += put_escape(at, end, out);
  }
  return static_cast<std::size_t>(out - start);
}

void check_json_string(std::string_view text, bool escaped) {
  if (!is_utf8(text)) throw JsonError{"a string is not valid UTF-8", text.data()};
  if (!escaped) return;
  const char* at = text.data();
  const char* const end = at + text.size();
  char scratch[4];
  while (at != end) {
    if (*at == '\\') {
      put_escape(at, end, scratch);
    } else {
      ++at;
    }
  }
}

bool JsonCursor::take_word(std::string_view word) {
  peek();
  if (static_cast<std::size_t>(end_ - at_) < word.size() || std::memcmp(at_, word.data(), word.size()) != 0) {
    return false;
  }
  at_ += word.size();
  return true;
}

std::string_view JsonCursor::string(bool& escaped, const char* what) {
  if (peek() != '"') fail(what);
  const char* const quote = find_json_quote(at_ + 1, end_, escaped);
  if (quote == nullptr) fail("a string has no end, or a control character that is not escaped");
  const std::string_view text(at_ + 1, static_cast<std::size_t>(quote - at_ - 1));
  at_ = quote + 1;
  return text;
}

void JsonCursor::checked_string(const char* what) {
  bool escaped = false;
  const std::string_view text = string(escaped, what);
  check_json_string(text, escaped);
}

std::string_view JsonCursor::number(const char* what) {
  peek();
  const char* const stop = number_end(at_, end_);
  if (stop == nullptr) fail(what);
  const std::string_view text(at_, static_cast<std::size_t>(stop - at_));
  at_ = stop;
  return text;
}

void JsonCursor::skip_value(std::size_t depth) {
  std::uint64_t objects[2] = {};  // a bit per open container: it is an object
  std::size_t open = 0;
  const auto in_object = [&] { return ((objects[(open - 1) / 64] >> ((open - 1) % 64)) & 1U) != 0; };
  const auto name = [&] {
    checked_string("expected a member's name in quotes");
    expect(':', "expected ':' after a member's name");
  };
  while (true) {
    const char byte = peek();
    if (byte == '{' || byte == '[') {
      if (depth + open >= kMaxJsonDepth) fail(kTooDeep);
      ++at_;
      const std::uint64_t bit = std::uint64_t{1} << (open % 64);
      objects[open / 64] = byte == '{' ? objects[open / 64] | bit : objects[open / 64] & ~bit;
      ++open;
      if (!take(byte == '{' ? '}' : ']')) {
        if (byte == '{') name();
        continue;
      }
      --open;
    } else if (byte == '"') {
      checked_string("");
    } else if (!take_word("true") && !take_word("false") && !take_word("null") && !take_word("NaN") &&
               !take_word("Infinity") && !take_word("-Infinity")) {
      number("expected a value");
    }
    while (true) {  // behind a value
      if (open == 0) return;
      if (take(',')) {
        if (in_object()) name();
        break;
      }
      expect(in_object() ? '}' : ']', in_object() ? "expected ',' or '}'" : "expected ',' or ']'");
      --open;
    }
  }
}

std::string_view JsonCursor::skip_brackets(std::size_t depth) {
  using namespace json_detail;
  peek();
  const char* const start = at_;
  const std::size_t outside = depth;
  const char* at = at_;
  while (true) {
    while (end_ - at >= 8) {
      const std::uint64_t word = load8(at);
      // [ ] { } are these bits and four rarer characters; what is none of them is passed below.
      const std::uint64_t bracket = zeros(((word | (kOnes * 0x20)) & (kOnes * 0xF9)) ^ (kOnes * 0x79));
      const std::uint64_t stop = bracket | equal(word, '"');
      if (stop != 0) {
        at += std::countr_zero(stop) / 8;
        break;
      }
      at += 8;
    }
    if (at == end_) {
      at_ = at;
      fail("an array has no end");
    }
    const char byte = *at++;
    if (byte == '[' || byte == '{') {
      if (depth++ == kMaxJsonDepth) {
        at_ = at - 1;
        fail(kTooDeep);
      }
    } else if (byte == ']' || byte == '}') {
      if (--depth == outside) break;
    } else if (byte == '"') {
      bool escaped = false;
      const char* const quote = find_json_quote(at, end_, escaped);
      if (quote == nullptr) {
        at_ = at - 1;
        fail("a string has no end, or a control character that is not escaped");
      }
      at = quote + 1;
    }
  }
  at_ = at;
  return {start, static_cast<std::size_t>(at - start)};
}

}  // namespace headrace::wire
