// The ModelInfer codec against protobuf's own parser: what each makes of the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "memory/pool.h"

namespace headrace::wire {

// How often the comparison reached what; so that a test can tell that it compared anything.
struct OracleCounts {
  std::uint64_t accepted = 0;     // decoded by both
  std::uint64_t refused = 0;      // refused by both
  std::uint64_t unmeant = 0;      // protobuf, refused for its meaning: negative dimension, raw contents' number, ...
  std::uint64_t conversions = 0;  // tensors made of typed contents
  std::uint64_t conversions_refused = 0;
};

// Decodes `ours` with the codec and `theirs` with protobuf (the same bytes, but in a test of the oracle itself),
// converts every input's typed contents to every datatype, encodes a response of the request and has protobuf read it.
// Empty when all agree, otherwise what differs.
std::string differs_from_protobuf(std::span<const std::byte> ours, std::span<const std::byte> theirs, Pool& pool,
                                  OracleCounts& counts);

}  // namespace headrace::wire
