#include "wire/decimal.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>

namespace headrace::wire {
namespace {

Decimal scan(const std::string& text) {
  Decimal decimal;
  const char* const end = scan_decimal(text.data(), text.data() + text.size(), decimal);
  EXPECT_EQ(end, text.data() + text.size()) << text;
  return decimal;
}

// The C library's reading, which is correctly rounded too.
template <class Float>
Float library(const std::string& text) {
  if constexpr (sizeof(Float) == 4) {
    return std::strtof(text.c_str(), nullptr);
  } else {
    return std::strtod(text.c_str(), nullptr);
  }
}

void check(const std::string& text) {
  const Decimal decimal = scan(text);
  double wide = 0;
  const auto expected = library<double>(text);
  ASSERT_EQ(to_double(decimal, text, wide), std::isfinite(expected)) << text;
  if (std::isfinite(expected)) {
    ASSERT_EQ(std::bit_cast<std::uint64_t>(wide), std::bit_cast<std::uint64_t>(expected)) << text;
  }
  float narrow = 0;
  const auto expected_narrow = library<float>(text);
  ASSERT_EQ(to_float(decimal, text, narrow), std::isfinite(expected_narrow)) << text;
  if (std::isfinite(expected_narrow)) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(narrow), std::bit_cast<std::uint32_t>(expected_narrow)) << text;
  }
}

TEST(Decimal, ScansTheGrammarOfJson) {
  const auto end_of = [](const std::string& text) -> std::ptrdiff_t {
    Decimal decimal;
    const char* const end = scan_decimal(text.data(), text.data() + text.size(), decimal);
    return end == nullptr ? -1 : end - text.data();
  };
  for (const char* text :
       {"0", "-0", "1", "-1", "10", "0.5", "1e5", "1E+5", "1e-5", "-12.25e10", "123456789012345678901"}) {
    EXPECT_EQ(end_of(text), static_cast<std::ptrdiff_t>(std::string(text).size())) << text;
  }
  for (const char* text : {"", "-", "+1", "01", "-01", ".5", "1.", "1.e5", "1e", "1e+", "abc", "NaN", "-Infinity"}) {
    EXPECT_EQ(end_of(text), -1) << text;
  }
  EXPECT_EQ(end_of("1,"), 1);
  EXPECT_EQ(end_of("1.5]"), 3);
  EXPECT_EQ(end_of("12345678.12345678x"), 17);
  EXPECT_TRUE(scan("-17").integer);
  EXPECT_TRUE(scan("-17").negative);
  EXPECT_FALSE(scan("17.0").integer);
  EXPECT_FALSE(scan("17e0").integer);
}

TEST(Decimal, KeepsTheFirst19Digits) {
  EXPECT_EQ(scan("0.00000000000000000000001234").digits, 1234U);
  EXPECT_FALSE(scan("0.00000000000000000000001234").cut);
  EXPECT_EQ(scan("0.00000000000000000000001234").exponent, -26);
  EXPECT_EQ(scan("12345678901234567891").digits, 1234567890123456789U);
  EXPECT_EQ(scan("12345678901234567891").exponent, 1);
  EXPECT_TRUE(scan("12345678901234567891").cut);
  EXPECT_FALSE(scan("12345678901234567890.000").cut);
  EXPECT_EQ(scan("1234567890123456789.12e3").exponent, 3);
}

TEST(Decimal, RoundsTheHardCases) {
  for (const char* text : {
           "0",
           "-0",
           "0.0",
           "-0.0e10",
           "1",
           "-1",
           "0.1",
           "0.3",
           "1e22",
           "1e23",
           "9007199254740993",
           "9007199254740992",
           "9007199254740991",
           "9007199254740993.0000000000000000000000001",
           "9007199254740992.9999999999999999999",
           "4503599627370496.5",
           "4503599627370497.5",
           "2.2250738585072011e-308",
           "2.2250738585072012e-308",
           "2.2250738585072014e-308",
           "4.9406564584124654e-324",
           "2.4703282292062327e-324",
           "2.4703282292062328e-324",
           "2.470328229206232720882843964341106861825299013071623822127928412503e-324",
           "1.7976931348623157e308",
           "1.7976931348623158e308",
           "1.7976931348623159e308",
           "1.797693134862315807e308",
           "1e308",
           "1e309",
           "1e400",
           "1e-400",
           "1e100000000000",
           "1e-100000000000",
           "0e100000000000",
           "3.4028235e38",
           "3.4028235677973366e38",
           "3.4028235677973365e38",
           "1.1754943508222875e-38",
           "1.401298464324817e-45",
           "7.006492321624085e-46",
           "7.006492321624086e-46",
           "16777217",
           "16777216.999999999999999999999",
           "0.5",
           "6.631236846766476e-316",
           "3.2378839133029012895883523e-308",
           "1.4694541877527182e-39",
           "8.5e-45",
           "100000000000000016777215",
           "100000000000000016777216",
           "1090544144181609348671888949248",
           "0."
           "000000000000000000000000000000000000011754943508222875079687365372222456778186655567720875215087517062784",
       }) {
    check(text);
  }
}

TEST(Decimal, AgreesWithTheLibraryOnRandomNumbers) {
  std::mt19937_64 random(20261121);
  char text[512];
  for (int i = 0; i < 60000; ++i) {
    double value = std::bit_cast<double>(random());
    if (!std::isfinite(value)) continue;
    std::snprintf(text, sizeof(text), "%.*e", static_cast<int>(random() % 25), value);
    check(text);
    const auto narrow = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (!std::isfinite(narrow)) continue;
    std::snprintf(text, sizeof(text), "%.*g", 1 + static_cast<int>(random() % 20), static_cast<double>(narrow));
    check(text);
    std::snprintf(text, sizeof(text), "%.*f", static_cast<int>(random() % 25),
                  std::ldexp(static_cast<double>(random() >> 11), -static_cast<int>(random() % 64)));
    check(text);
    // The middle between two floats, and a hair beside it: what the table of powers cannot settle.
    const double middle = (static_cast<double>(narrow) + static_cast<double>(std::nextafter(narrow, 1e30F))) / 2;
    if (!std::isfinite(middle) || std::abs(middle) < 1e-30 || std::abs(middle) > 1e30) continue;
    std::snprintf(text, sizeof(text), "%.150f", middle);
    check(text);
    text[std::string(text).size() - 1] = '1';
    check(text);
  }
}

// Every FP16 value, the middle between it and its neighbour, and what lies beside the middle.
TEST(Decimal, RoundsToFp16AndBf16) {
  const auto value_of = [](std::uint32_t bits, int precision, int min_exponent) {
    const std::uint32_t hidden = std::uint32_t{1} << (precision - 1);
    const std::uint32_t field = bits / hidden;
    const std::uint32_t significand = bits % hidden + (field == 0 ? 0 : hidden);
    return std::ldexp(static_cast<double>(significand),
                      static_cast<int>(field == 0 ? 1 : field) - 1 + min_exponent - (precision - 1));
  };
  const auto text_of = [](double value) {
    char text[400];
    std::snprintf(text, sizeof(text), "%.160f", value);
    return std::string(text);
  };
  for (const bool brain : {false, true}) {
    const int precision = brain ? 8 : 11;
    const int least = brain ? -126 : -14;
    const std::uint32_t infinity = brain ? 0x7F80 : 0x7C00;
    const auto round = [&](const std::string& text, std::uint16_t& bits) {
      return brain ? settle_bf16(scan(text), text, bits) : settle_fp16(scan(text), text, bits);
    };
    for (std::uint32_t bits = 0; bits < infinity; bits += brain ? 7 : 1) {
      const double value = value_of(bits, precision, least);
      const double next = value_of(bits + 1, precision, least);
      const double middle = (value + next) / 2;
      const std::uint32_t even = (bits & 1U) != 0 ? bits + 1 : bits;
      std::uint16_t got = 0;
      ASSERT_TRUE(round(text_of(value), got)) << value;
      ASSERT_EQ(got, bits) << value;
      if (bits + 1 == infinity) {
        EXPECT_FALSE(round(text_of(middle), got)) << middle;
      } else {
        ASSERT_TRUE(round("-" + text_of(middle), got)) << middle;
        ASSERT_EQ(got, even | 0x8000U) << middle;
        ASSERT_TRUE(round(text_of(std::nextafter(middle, 1e300)), got)) << middle;
        ASSERT_EQ(got, bits + 1) << middle;
      }
      ASSERT_TRUE(round(text_of(std::nextafter(middle, 0.0)), got)) << middle;
      ASSERT_EQ(got, bits) << middle;
    }
  }
}

}  // namespace
}  // namespace headrace::wire
