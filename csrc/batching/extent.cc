#include "batching/extent.h"

#include <algorithm>

#include "batching/request.h"

namespace headrace {

namespace {

// The most rows with which a batch that starts now meets the target; all where the ticket's batch is late as it is.
std::int64_t rows_until(Nanos target, std::int64_t load, const ExtentRule& rule, Nanos now) {
  if (target == kNever || rule.costs == nullptr) return rule.max_rows;
  const std::int64_t rows = target <= now ? 0 : rule.costs->most_rows_within(rule.key, target - now - 1, rule.max_rows);
  return rows < load ? rule.max_rows : rows;
}

}  // namespace

Extent batch_extent(std::span<const Slot> slots, const ExtentRule& rule, Nanos now) {
  Extent extent{1, slots.front().load, slots.front().rows};
  if (!rule.batched || slots.size() == 1) return extent;
  std::int64_t cap = rule.max_rows;
  if (rule.trial_rows > 0) {
    cap = std::min(cap, rule.trial_rows);
  } else if (rule.costs != nullptr && rule.preferred == nullptr) {
    cap = rule.costs->best_rows(rule.key, cap);
  }
  Nanos earliest = slots.front().target;
  std::int64_t limit = std::min(cap, rows_until(earliest, extent.load, rule, now));
  const auto prefers = [&rule](std::int64_t rows) {
    return rule.preferred != nullptr && std::binary_search(rule.preferred->begin(), rule.preferred->end(), rows);
  };
  Extent preferred = prefers(extent.load) ? extent : Extent();
  const std::size_t most = std::min(slots.size(), rule.most_tickets);
  while (extent.tickets < most) {
    const Slot& slot = slots[extent.tickets];
    if (slot.load > limit - extent.load) break;
    extent.load += slot.load;
    extent.rows += slot.rows;
    ++extent.tickets;
    if (slot.target < earliest) {
      earliest = slot.target;
      limit = std::min(limit, rows_until(earliest, extent.load, rule, now));
    }
    if (prefers(extent.load)) preferred = extent;
  }
  return preferred.tickets > 0 ? preferred : extent;
}

}  // namespace headrace
