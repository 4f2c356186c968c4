// Values that most models take, for runs that nobody asked for: the probe's and the warm-up's. Floats are normal,
// integers and booleans 0 or 1 (others may be an index out of range), strings short words. Seeded, the same everywhere.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "memory/tensor.h"

namespace headrace {

class MadeUp {
 public:
  // What dynamic dimensions but the batch's are tried with, one after the other: small first; convolutions want 32 and
  // 224.
  static constexpr std::array<std::int64_t, 5> kInnerSizes{8, 32, 1, 64, 224};

  explicit MadeUp(std::uint64_t seed) : state_(seed) {}

  // One element, as the protocol writes it. `other` is the element at the same place of what this one replaces:
  // integers, which have two values only, take the one that it is not.
  void append(std::string& bytes, DType dtype, float scale = 1.0F, std::optional<bool> other = std::nullopt);

 private:
  std::uint64_t next();
  bool bit() { return (next() >> 63) != 0; }
  float normal();

  std::uint64_t state_;
};

}  // namespace headrace
