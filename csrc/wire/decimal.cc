#include "wire/decimal.h"

#include <array>
#include <charconv>
#include <system_error>

namespace headrace::wire {

namespace {

// A binary format with an implied leading bit.
struct Format {
  int precision;  // bits of the significand, the implied one included
  int min_exponent;
  int max_exponent;
};
constexpr Format kDouble{53, -1022, 1023};
constexpr Format kFloat{24, -126, 127};
constexpr Format kFp16{11, -14, 15};
constexpr Format kBf16{8, -126, 127};

struct Product {
  std::uint64_t high;
  std::uint64_t low;
};

Product multiply(std::uint64_t a, std::uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return {static_cast<std::uint64_t>(product >> 64), static_cast<std::uint64_t>(product)};
}

// The leading 128 bits of 5^q: 5^q = (high:low + e) * 2^(exponent - 127), 0 <= e < 1, and e = 0 when exact.
constexpr int kLeastPower = -400;
constexpr int kLargestPower = 310;
constexpr int kExactPowers = 55;  // 5^55 < 2^128

struct PowerOfFive {
  std::uint64_t high;
  std::uint64_t low;
  std::int32_t exponent;
};

// A natural number of many words, the least first.
template <std::size_t kWords>
class Natural {
 public:
  explicit Natural(std::size_t bit) { words_[bit / 32] = std::uint32_t{1} << (bit % 32); }
  void multiply_by_five() {
    std::uint64_t carry = 0;
    for (std::uint32_t& word : words_) {
      carry += std::uint64_t{word} * 5;
      word = static_cast<std::uint32_t>(carry);
      carry >>= 32;
    }
  }
  void divide_by_five() {  // rounded down, and so are many in a row as one division would be
    std::uint64_t rest = 0;
    for (std::size_t i = kWords; i-- > 0;) {
      rest = rest << 32 | words_[i];
      words_[i] = static_cast<std::uint32_t>(rest / 5);
      rest %= 5;
    }
  }
  // The leading 128 bits, for a number that stands for itself times 2^-scale.
  PowerOfFive leading(int scale) const {
    std::size_t top = kWords - 1;
    while (words_[top] == 0) --top;
    const auto bits = static_cast<int>(top * 32) + 32 - std::countl_zero(words_[top]);
    PowerOfFive power{0, 0, bits - 1 - scale};
    for (int i = 0; i < 128; ++i) {
      const int place = bits - 1 - i;
      const std::uint64_t bit = place < 0 ? 0 : (words_[static_cast<std::size_t>(place) / 32] >> (place % 32)) & 1U;
      std::uint64_t& half = i < 64 ? power.high : power.low;
      half = half << 1 | bit;
    }
    return power;
  }

 private:
  std::array<std::uint32_t, kWords> words_{};
};

class PowersOfFive {
 public:
  PowersOfFive() {
    Natural<24> up(0);  // 5^310 has 720 bits
    for (int q = 0; q <= kLargestPower; ++q, up.multiply_by_five()) at(q) = up.leading(0);
    constexpr int kScale = 1087;  // 5^400 has 929 bits: 159 are left
    Natural<34> down(kScale);
    for (int q = 0; q > kLeastPower;) {
      down.divide_by_five();
      at(--q) = down.leading(kScale);
    }
  }
  const PowerOfFive& operator[](std::int64_t q) const { return powers_[static_cast<std::size_t>(q - kLeastPower)]; }

 private:
  PowerOfFive& at(int q) { return powers_[static_cast<std::size_t>(q - kLeastPower)]; }
  std::array<PowerOfFive, kLargestPower - kLeastPower + 1> powers_{};
};

enum class Verdict : std::uint8_t { kSettled, kTooLarge, kUnsettled };

// digits * 10^exponent as the format's bits without the sign. kUnsettled: what the table leaves out could decide.
Verdict round_to(const Format& format, std::uint64_t digits, std::int64_t exponent, std::uint64_t& bits) {
  static const PowersOfFive powers;
  bits = 0;
  if (digits == 0 || exponent < kLeastPower) return Verdict::kSettled;  // below 10^19 * 10^-400: zero in every format
  if (exponent > kLargestPower) return Verdict::kTooLarge;
  const PowerOfFive& power = powers[exponent];
  const bool exact = exponent >= 0 && exponent <= kExactPowers;
  const int shift = std::countl_zero(digits);
  digits <<= shift;

  // 192 bits of the product: high, middle, low.
  const Product upper = multiply(digits, power.high);
  const Product lower = multiply(digits, power.low);
  std::uint64_t high = upper.high;
  std::uint64_t middle = upper.low + lower.high;
  high += middle < upper.low ? 1U : 0U;
  std::uint64_t low = lower.low;
  int binary = power.exponent + static_cast<int>(exponent) + 64 - shift;  // if the product's first bit is set
  const auto up_by = static_cast<int>(1 - (high >> 63));                  // no branch: it is set about as often as not
  high = high << up_by | (middle >> 63 & static_cast<std::uint64_t>(up_by));
  middle = middle << up_by | (low >> 63 & static_cast<std::uint64_t>(up_by));
  low <<= up_by;
  binary -= up_by;
  // The table's error adds less than `digits`, so less than 2^64, or 2^65 where it was shifted: two of middle.

  const int kept = binary >= format.min_exponent ? format.precision : format.precision - (format.min_exponent - binary);
  if (kept < 0) {  // less than half of the smallest number, or so near to it that the table's error decides
    return kept == -1 && !exact && high == ~std::uint64_t{0} ? Verdict::kUnsettled : Verdict::kSettled;
  }
  std::uint64_t significand = kept == 0 ? 0 : high >> (64 - kept);
  const std::uint64_t rest = high << kept >> kept;
  const std::uint64_t half = std::uint64_t{1} << (63 - kept);
  bool up = rest >= half;
  if (rest == half && middle == 0 && low == 0) {
    if (!exact) return Verdict::kUnsettled;
    up = (significand & 1U) != 0;
  } else if (!exact && rest == half - 1 && middle >= ~std::uint64_t{0} - 2) {
    return Verdict::kUnsettled;
  }
  significand += up ? 1U : 0U;  // may carry into the exponent, as it should
  bits = significand;
  if (kept == format.precision) {
    const auto biased = static_cast<std::int64_t>(binary) - format.min_exponent;
    if (biased >= 0) bits += static_cast<std::uint64_t>(biased) << (format.precision - 1);
  }
  const auto infinity = static_cast<std::uint64_t>(format.max_exponent - format.min_exponent + 2)
                        << (format.precision - 1);
  return binary > format.max_exponent || bits >= infinity ? Verdict::kTooLarge : Verdict::kSettled;
}

// With digits cut off the value lies between these digits and the next: if both round to the same, so does it.
Verdict round_to(const Format& format, const Decimal& decimal, std::uint64_t& bits) {
  const Verdict verdict = round_to(format, decimal.digits, decimal.exponent, bits);
  if (!decimal.cut || verdict == Verdict::kUnsettled) return verdict;
  std::uint64_t next = 0;
  const Verdict above = round_to(format, decimal.digits + 1, decimal.exponent, next);
  return above == verdict && (next == bits || verdict == Verdict::kTooLarge) ? verdict : Verdict::kUnsettled;
}

// The standard library's own, from the text: exact and slower.
template <class Float>
bool from_text(std::string_view text, bool large, Float& value) {
  value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) {
    value = text.front() == '-' ? -Float{0} : Float{0};
    return !large;
  }
  return true;
}

bool is_large(const Decimal& decimal) { return decimal.exponent + 19 > 0; }

// FP16 and BF16 that are not settled lie so near to the middle of two values that a double is that middle, if it is not
// beside it: then ties go to even.
bool from_double(const Format& format, const Decimal& decimal, std::string_view text, std::uint64_t& bits) {
  double value = 0;
  if (!from_text(text, is_large(decimal), value)) return false;
  const auto raw = std::bit_cast<std::uint64_t>(value) & ~(std::uint64_t{1} << 63);
  const int exponent = static_cast<int>(raw >> 52) - 1075;  // never subnormal: far below half of BF16's smallest
  const std::uint64_t significand = (raw & 0x000FFFFFFFFFFFFFU) | 0x0010000000000000U;
  // The significand times a power of two is a decimal with exponent 0 as soon as the power is put into the format.
  const Format moved{format.precision, format.min_exponent - exponent, format.max_exponent - exponent};
  return raw == 0 || round_to(moved, significand, 0, bits) == Verdict::kSettled;
}

bool settle_half(const Format& format, const Decimal& decimal, std::string_view text, std::uint16_t& bits) {
  std::uint64_t magnitude = 0;
  const Verdict verdict = round_to(format, decimal, magnitude);
  if (verdict == Verdict::kTooLarge) return false;
  if (verdict == Verdict::kUnsettled && !from_double(format, decimal, text, magnitude)) return false;
  bits = static_cast<std::uint16_t>(magnitude | (decimal.negative ? 0x8000U : 0U));
  return true;
}

}  // namespace

namespace decimal_detail {

void cut_digits(const char* first, const char* last, Decimal& decimal) {
  decimal.digits = 0;
  decimal.exponent = 0;
  int taken = 0;
  bool behind_point = false;
  for (const char* at = first; at != last; ++at) {
    if (*at == '.') {
      behind_point = true;
      continue;
    }
    const auto digit = static_cast<unsigned char>(*at - '0');
    if (taken < 19) {
      decimal.digits = decimal.digits * 10 + digit;
      if (decimal.digits != 0) ++taken;
      if (behind_point) --decimal.exponent;
    } else {
      decimal.cut = decimal.cut || digit != 0;
      if (!behind_point) ++decimal.exponent;
    }
  }
}

}  // namespace decimal_detail

bool settle_double(const Decimal& decimal, std::string_view text, double& value) {
  std::uint64_t bits = 0;
  const Verdict verdict = round_to(kDouble, decimal, bits);
  if (verdict == Verdict::kUnsettled) return from_text(text, is_large(decimal), value);
  if (verdict == Verdict::kTooLarge) return false;
  value = std::bit_cast<double>(bits | (decimal.negative ? std::uint64_t{1} << 63 : 0U));
  return true;
}

bool settle_float(const Decimal& decimal, std::string_view text, float& value) {
  std::uint64_t bits = 0;
  const Verdict verdict = round_to(kFloat, decimal, bits);
  if (verdict == Verdict::kUnsettled) return from_text(text, is_large(decimal), value);
  if (verdict == Verdict::kTooLarge) return false;
  value = std::bit_cast<float>(static_cast<std::uint32_t>(bits | (decimal.negative ? 0x80000000U : 0U)));
  return true;
}

bool settle_fp16(const Decimal& decimal, std::string_view text, std::uint16_t& bits) {
  return settle_half(kFp16, decimal, text, bits);
}

bool settle_bf16(const Decimal& decimal, std::string_view text, std::uint16_t& bits) {
  return settle_half(kBf16, decimal, text, bits);
}

}  // namespace headrace::wire
