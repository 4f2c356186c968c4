// How far a batch reaches: of tickets in the order in which they go, how many run together. The queue asks when it
// hands out a batch, and a forecast when it plays through what the queue will hand out. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "batching/cost_model.h"
#include "batching/waiting_line.h"

namespace headrace {

struct ExtentRule {
  bool batched = false;
  std::int64_t max_rows = 1;
  const std::vector<std::int64_t>* preferred = nullptr;  // ascending; null: take no account of them
  const Costs* costs = nullptr;                          // null: nothing is known of time
  CostKey key;
  Nanos span = kNever;          // within which answers are wanted; kNever: nobody is in haste
  Nanos late_time = kNever;     // so long may a batch take whose first ticket is late whatever is done
  std::int64_t trial_rows = 0;  // of so many rows the batch is to be, if whole tickets reach as far; 0: no trial
  // What came later closes the batch: it may start one, and join none.
  std::uint64_t joins_before = static_cast<std::uint64_t>(-1);
};

// Why a batch has no more tickets than it has.
enum class Closed : std::uint8_t {
  kAlone,      // each request of this model runs alone
  kAll,        // nothing more waited
  kFull,       // the next would pass max_batch_size
  kPays,       // a bigger batch does not pay
  kTarget,     // in a bigger one a target would be missed
  kPreferred,  // a preferred size
  kDelay,      // the oldest had waited the queue delay; all that waited
  kTrial,      // a size that is little known is tried
  kPromise,    // what came later would have delayed what is promised
};
inline constexpr std::size_t kClosedReasons = 9;
// One or two words of each, as operators read them: "full", "best_size", ...
std::string_view closed_name(Closed why);

struct Extent {
  std::size_t tickets = 0;
  std::int64_t load = 0;
  std::int64_t rows = 0;
  Closed why = Closed::kAll;
};

// At least the first ticket. Those that follow it join, strictly in order, as long as
//  - the batch has at most max_rows rows,
//  - it has not reached the size from which a bigger one does not pay (unless preferred sizes say what is wanted),
//  - it is predicted to end before the earliest target in it; a target that is lost anyway holds nobody up.
Extent batch_extent(std::span<const Slot> slots, const ExtentRule& rule, Nanos now);

}  // namespace headrace
