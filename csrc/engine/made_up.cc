#include "engine/made_up.h"

#include <cmath>
#include <cstring>

namespace headrace {
namespace {

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Half precision by truncation, for values between 2^-14 and 65504; smaller ones become 0. Nobody needs rounding here.
std::uint16_t half(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  const std::uint32_t sign = bits >> 16 & 0x8000U;
  const auto exponent = static_cast<std::int32_t>(bits >> 23 & 0xffU) - 127 + 15;
  if (exponent <= 0) return static_cast<std::uint16_t>(sign);
  return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(exponent) << 10 | (bits >> 13 & 0x3ffU));
}

}  // namespace

// splitmix64: small, and the same everywhere (std's distributions are not).
std::uint64_t MadeUp::next() {
  state_ += 0x9e3779b97f4a7c15U;
  std::uint64_t mixed = state_;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9U;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebU;
  return mixed ^ (mixed >> 31);
}

float MadeUp::normal() {  // Box-Muller
  const double u = (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53;
  const double v = static_cast<double>(next() >> 11) * 0x1p-53;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v));
}

void MadeUp::append(std::string& bytes, DType dtype, float scale, std::optional<bool> other) {
  switch (dtype) {
    case DType::kFp32:
      return put(bytes, normal() * scale);
    case DType::kFp64:
      return put(bytes, static_cast<double>(normal() * scale));
    case DType::kFp16:
      return put(bytes, half(normal() * scale));
    case DType::kBf16: {
      const float value = normal() * scale;
      std::uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof(bits));
      return put(bytes, static_cast<std::uint16_t>(bits >> 16));
    }
    case DType::kBytes: {
      const std::uint32_t length = 1 + static_cast<std::uint32_t>(next() % 8);
      put(bytes, length);
      for (std::uint32_t i = 0; i < length; ++i) bytes += static_cast<char>('a' + next() % 26);
      return;
    }
    default:  // integers and booleans, little-endian
      bytes += static_cast<char>(other ? !*other : bit());
      bytes.append(element_size(dtype) - 1, '\0');
  }
}

}  // namespace headrace
