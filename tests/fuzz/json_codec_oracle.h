// What simdjson makes of the same text, and what the codec makes of its own text: the judge of any bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "memory/pool.h"

namespace headrace::wire {

struct JsonOracleCounts {
  std::uint64_t texts = 0;      // that are JSON
  std::uint64_t requests = 0;   // that were accepted
  std::uint64_t tensors = 0;    // made of data
  std::uint64_t compared = 0;   // of them, with simdjson's values
  std::uint64_t predicted = 0;  // predict requests that were accepted
};

// Empty, or how the codec differs from simdjson or from itself.
//  - Text is JSON for both or for neither (NaN, infinities, numbers too large for simdjson and depth apart).
//  - A request of which every input converts is JSON; its values are simdjson's.
//  - What was read, written as a response and read again is the same.
std::string json_codec_differs(std::span<const std::byte> bytes, Pool& pool, JsonOracleCounts& counts);

}  // namespace headrace::wire
