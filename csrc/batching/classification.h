// The classification extension: of each row of an output the best k, as strings "value:index" or "value:index:label".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/error.h"
#include "memory/pool.h"
#include "memory/tensor.h"

namespace headrace {

// Strings that one answer may hold: each takes a fraction of a microsecond of a lane.
inline constexpr std::size_t kMaxClassStrings = 100'000;

// That outputs of this type have a best one.
bool classifiable(DType dtype);

// `output` as a BYTES tensor of shape [rows, k], or [k] where it is not batched (one row then); k is no more than a row
// has values. The largest first, of equals the one with the lower index, a NaN last. Values are written as C's "%f"
// does, integers as they are. A place without a label in `labels` has none.
// RESOURCE_EXHAUSTED: more strings than kMaxClassStrings, or no room in the pool.
Result<Tensor> classify(const Tensor& output, bool batched, std::uint32_t k, std::span<const std::string> labels,
                        Pool& pool);

}  // namespace headrace
