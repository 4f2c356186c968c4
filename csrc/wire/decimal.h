// Decimal text -> binary floating point, correctly rounded. A number is taken apart as it is scanned: up to 19 digits
// and a power of ten; most are then one multiplication away from their value, and nearly all of the rest are settled by
// 128 bits of a power of five.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace headrace::wire {

struct Decimal {
  std::uint64_t digits = 0;   // the first 19 significant ones
  std::int64_t exponent = 0;  // value = digits * 10^exponent, and a little more when `cut`
  bool negative = false;
  bool cut = false;      // digits that are not zero were left out
  bool integer = false;  // no point and no exponent in the text
};

namespace decimal_detail {

inline constexpr std::uint64_t kPowersOfTen[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};
// Exact as a double, and not in the middle of what is common: numbers printed in full have 16 or 17 digits.
inline constexpr std::uint64_t kFewDigits = 1000000000000000U;
inline constexpr double kExactDoubles[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                           1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

// Eight digits, the first in the lowest byte, each 0 to 9: pairs, then fours, then all, side by side in one word.
inline std::uint64_t eight_digits(std::uint64_t word) {
  word = (word * 10 + (word >> 8)) & 0x00FF00FF00FF00FFU;
  word = (word * 100 + (word >> 16)) & 0x0000FFFF0000FFFFU;
  return (word * 10000 + (word >> 32)) & 0x00000000FFFFFFFFU;
}

// Appends the run of digits at `at` to `value` (modulo 2^64) and returns its end.
inline const char* digit_run(const char* at, const char* end, std::uint64_t& value) {
  constexpr std::uint64_t kLow = 0x7F7F7F7F7F7F7F7FU;
  while (end - at >= 8) {
    std::uint64_t word;
    std::memcpy(&word, at, sizeof(word));
    word ^= 0x3030303030303030U;  // digits become 0 to 9, all else becomes more
    const std::uint64_t others = (((word & kLow) + 0x7676767676767676U) | word) & ~kLow;
    // No branch upon how many of the eight are digits: numbers of one array end anywhere.
    const auto count =
        static_cast<unsigned>(std::countr_zero(others | std::uint64_t{1} << 63)) / 8 + (others == 0 ? 1U : 0U);
    const unsigned half = 32 - 4 * count;
    value = value * kPowersOfTen[count] + eight_digits(word << half << half);
    at += count;
    if (count != 8) return at;
  }
  for (; at != end && static_cast<unsigned char>(*at - '0') < 10; ++at) {
    value = value * 10 + static_cast<unsigned char>(*at - '0');
  }
  return at;
}

// More than 19 digits stand from `first` to `last` (a point among them): keeps the first that count.
void cut_digits(const char* first, const char* last, Decimal& decimal);

}  // namespace decimal_detail

// Scans a number by JSON's grammar. Returns its end, or null if `at` does not start one.
inline const char* scan_decimal(const char* at, const char* end, Decimal& decimal) {
  const auto digit = [&](const char* place) { return place != end && static_cast<unsigned char>(*place - '0') < 10; };
  decimal.negative = at != end && *at == '-';
  at += decimal.negative ? 1 : 0;
  const char* const first = at;
  std::uint64_t value = 0;
  for (; digit(at); ++at) value = value * 10 + static_cast<unsigned char>(*at - '0');
  std::ptrdiff_t count = at - first;
  if (count == 0 || (*first == '0' && count != 1)) [[unlikely]] {
    return nullptr;  // no digits, or a leading zero
  }
  std::int64_t exponent = 0;
  decimal.integer = true;
  if (at != end && *at == '.') {
    const char* const fraction = ++at;
    at = decimal_detail::digit_run(at, end, value);
    if (at == fraction) return nullptr;
    exponent = fraction - at;
    count += at - fraction;
    decimal.integer = false;
  }
  const char* const last = at;
  std::int64_t power = 0;
  if (at != end && (*at == 'e' || *at == 'E')) {
    ++at;
    const bool down = at != end && *at == '-';
    if (at != end && (*at == '+' || *at == '-')) ++at;
    if (!digit(at)) return nullptr;
    for (; digit(at); ++at) {
      if (power < 100000000) power = power * 10 + (*at - '0');
    }
    if (down) power = -power;
    decimal.integer = false;
  }
  decimal.cut = false;
  decimal.digits = value;
  decimal.exponent = exponent;
  if (count > 19) [[unlikely]] {
    decimal_detail::cut_digits(first, last, decimal);
  }
  decimal.exponent += power;
  return at;
}

// The value nearest to the decimal, ties to even. `text` is the number's own, for the rare case in which the 19 digits
// do not settle it. False: larger than the type can hold.
bool settle_double(const Decimal& decimal, std::string_view text, double& value);
bool settle_float(const Decimal& decimal, std::string_view text, float& value);
bool settle_fp16(const Decimal& decimal, std::string_view text, std::uint16_t& bits);
bool settle_bf16(const Decimal& decimal, std::string_view text, std::uint16_t& bits);

// A product or quotient of two numbers that are exact is rounded once.
inline bool to_double(const Decimal& decimal, std::string_view text, double& value) {
  if (decimal.digits < decimal_detail::kFewDigits && decimal.exponent >= -22 && decimal.exponent <= 22 &&
      !decimal.cut) {
    const auto digits = static_cast<double>(decimal.digits);
    const double magnitude = decimal.exponent < 0 ? digits / decimal_detail::kExactDoubles[-decimal.exponent]
                                                  : digits * decimal_detail::kExactDoubles[decimal.exponent];
    const std::uint64_t sign = std::uint64_t{decimal.negative} << 63;  // no branch: signs cannot be foreseen
    value = std::bit_cast<double>(std::bit_cast<std::uint64_t>(magnitude) | sign);
    return true;
  }
  return settle_double(decimal, text, value);
}

inline bool to_float(const Decimal& decimal, std::string_view text, float& value) {
  if (decimal.digits < decimal_detail::kFewDigits && decimal.exponent >= -22 && decimal.exponent <= 22 &&
      !decimal.cut) {
    // The double nearest to the decimal lies on the decimal's side of every middle between two floats, unless it is
    // such a middle. (Not so near 0, where floats have fewer bits: 10^-22 is far from there, and 10^38 from the end.)
    double wide = 0;
    if (!to_double(decimal, text, wide)) return false;
    constexpr std::uint64_t kBelowFloat = 0x1FFFFFFF;
    if ((std::bit_cast<std::uint64_t>(wide) & kBelowFloat) != 0x10000000) {
      value = static_cast<float>(wide);
      return true;
    }
  }
  return settle_float(decimal, text, value);
}

}  // namespace headrace::wire
