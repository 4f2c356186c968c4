#include "batching/extent.h"

#include <algorithm>
#include <array>

#include "batching/request.h"

namespace headrace {

namespace {

constexpr std::array<std::string_view, kClosedReasons> kNames = {
    "runs_alone",     "nothing_more_waiting", "full",  "best_size", "target",
    "preferred_size", "queue_delay",          "trial", "promise"};

// The most rows with which a batch that starts now meets the target.
std::int64_t rows_until(Nanos target, const ExtentRule& rule, Nanos now) {
  if (target == kNever || rule.costs == nullptr) return rule.max_rows;
  return target <= now ? 0 : rule.costs->most_rows_within(rule.key, target - now - 1, rule.max_rows);
}

}  // namespace

std::string_view closed_name(Closed why) { return kNames[static_cast<std::size_t>(why)]; }

Extent batch_extent(std::span<const Slot> slots, const ExtentRule& rule, Nanos now) {
  Extent extent{1, slots.front().load, slots.front().rows};
  if (!rule.batched) extent.why = Closed::kAlone;
  if (!rule.batched || slots.size() == 1) return extent;
  std::int64_t cap = rule.max_rows;
  Closed at_cap = Closed::kFull;
  if (rule.trial_rows > 0) {
    if (rule.trial_rows < cap) at_cap = Closed::kTrial;
    cap = std::min(cap, rule.trial_rows);
  } else if (rule.costs != nullptr && rule.preferred == nullptr) {
    cap = rule.costs->best_rows(rule.key, cap, rule.span);
    if (cap < rule.max_rows) at_cap = Closed::kPays;
  }
  Nanos earliest = slots.front().target;
  std::int64_t limit = rows_until(earliest, rule, now);
  if (limit < extent.load) {
    // Late whatever is done. But a batch as large as it pays would hold a lane until those behind it are late too.
    earliest = kNever;
    limit = rule.late_time == kNever || rule.costs == nullptr
                ? cap
                : std::max(extent.load, rule.costs->most_rows_within(rule.key, rule.late_time, rule.max_rows));
  }
  limit = std::min(cap, limit);
  const auto prefers = [&rule](std::int64_t rows) {
    return rule.preferred != nullptr && std::binary_search(rule.preferred->begin(), rule.preferred->end(), rows);
  };
  Extent preferred = prefers(extent.load) ? extent : Extent();
  while (extent.tickets < slots.size()) {
    const Slot& slot = slots[extent.tickets];
    if (slot.load > limit - extent.load) {
      extent.why = slot.load > cap - extent.load ? at_cap : Closed::kTarget;
      break;
    }
    if (slot.key.sequence >= rule.joins_before) {
      extent.why = Closed::kPromise;
      break;
    }
    if (slot.target < earliest) {
      // It would be late in this batch: then it waits for the next, unless it is late whatever is done.
      const std::int64_t own_limit = rows_until(slot.target, rule, now);
      if (own_limit < extent.load + slot.load && own_limit >= slot.load) {
        extent.why = Closed::kTarget;
        break;
      }
      if (own_limit >= slot.load) {
        earliest = slot.target;
        limit = std::min(limit, own_limit);
      }
    }
    extent.load += slot.load;
    extent.rows += slot.rows;
    ++extent.tickets;
    if (prefers(extent.load)) preferred = extent;
  }
  if (preferred.tickets > 0) {
    preferred.why = Closed::kPreferred;
    return preferred;
  }
  return extent;
}

}  // namespace headrace
