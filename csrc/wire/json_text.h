// JSON's grammar, read in place: a cursor over the text that is told what it should find. Nothing is built, nothing is
// scanned twice, and no byte beyond the text is touched.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace headrace::wire {

inline constexpr std::size_t kMaxJsonDepth = 100;  // arrays and objects in one another

// Thrown: what is wrong, and where.
struct JsonError {
  std::string what;
  const char* at;
};

namespace json_detail {

inline constexpr std::uint64_t kOnes = 0x0101010101010101U;
inline constexpr std::uint64_t kHighs = 0x8080808080808080U;

inline std::uint64_t load8(const char* at) {
  std::uint64_t word;
  std::memcpy(&word, at, sizeof(word));
  return word;
}
// The high bit of each byte that is zero; only the lowest one that is set is certain.
inline std::uint64_t zeros(std::uint64_t word) { return (word - kOnes) & ~word & kHighs; }
inline std::uint64_t equal(std::uint64_t word, unsigned char byte) { return zeros(word ^ (kOnes * byte)); }

}  // namespace json_detail

inline bool is_json_space(char byte) { return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t'; }
inline bool is_digit(char byte) { return static_cast<unsigned char>(byte - '0') < 10; }

inline const char* skip_json_space(const char* at, const char* end) {
  while (at != end && static_cast<unsigned char>(*at) <= ' ' && is_json_space(*at)) ++at;
  return at;
}

// From just behind the opening quote to the closing one, or null when the text ends first or has a control character.
// `escaped`: there is a backslash. UTF-8 is not looked at.
inline const char* find_json_quote(const char* at, const char* end, bool& escaped) {
  using namespace json_detail;
  escaped = false;
  while (true) {
    while (end - at >= 8) {
      const std::uint64_t word = load8(at);
      const std::uint64_t control = (word - kOnes * 0x20) & ~word & kHighs;
      const std::uint64_t stop = control | equal(word, '"') | equal(word, '\\');
      if (stop != 0) {
        at += std::countr_zero(stop) / 8;
        break;
      }
      at += 8;
    }
    if (at == end) return nullptr;
    if (*at == '"') return at;
    if (static_cast<unsigned char>(*at) < 0x20) return nullptr;
    if (*at++ == '\\') {
      escaped = true;
      if (at == end) return nullptr;
      ++at;  // whatever is escaped; unescape_json() looks at it
    }
  }
}

// Writes the value of a string's text (between its quotes) to `out`, which has text.size() bytes or is the text itself;
// returns its size. Throws JsonError for an escape that there is not, half a surrogate pair, or text that is not UTF-8.
std::size_t unescape_json(std::string_view text, char* out);
// The same without writing.
void check_json_string(std::string_view text, bool escaped);

// Positions: `at()` is always within the text. Every method that finds something else than it should throws JsonError.
class JsonCursor {
 public:
  explicit JsonCursor(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

  const char* at() const { return at_; }
  const char* end() const { return end_; }
  void move_to(const char* at) { at_ = at; }

  // The next byte that is not space, unread; NUL at the end (and NUL is no JSON).
  char peek() {
    at_ = skip_json_space(at_, end_);
    return at_ == end_ ? '\0' : *at_;
  }
  bool take(char byte) {
    if (peek() != byte) return false;
    ++at_;
    return true;
  }
  void expect(char byte, const char* what) {
    if (!take(byte)) fail(what);
  }
  bool take_word(std::string_view word);  // a literal: "null", "true", ...

  // A string's text, still escaped: unescape_json() and check_json_string() judge it.
  std::string_view string(bool& escaped, const char* what);
  void checked_string(const char* what);  // judged and passed
  // A number's text, checked against the grammar.
  std::string_view number(const char* what);
  // Any value at all, checked whole (with NaN and Infinity, as data may have). `depth`: containers around it.
  void skip_value(std::size_t depth);
  // An array or object of which only brackets and strings' ends are looked at: much faster, and to be checked by who
  // reads it. Returns its text.
  std::string_view skip_brackets(std::size_t depth);

  [[noreturn]] void fail(const char* what) const { throw JsonError{what, at_}; }

 private:
  const char* at_;
  const char* end_;
};

}  // namespace headrace::wire
