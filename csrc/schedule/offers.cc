// Promises: what a request may expect of these lanes, before it is handed to them.
#include <algorithm>

#include "batching/shape_groups.h"
#include "schedule/promises.h"

namespace headrace {

Offer Promises::offer(const Dispatcher::Entry& entry, const Ticket& ticket, Nanos now) const {
  Offer offer;
  const Queue& queue = entry.queue;
  offer.idle = queue.empty() && entry.lanes == 0;
  offer.known = false;
  // Where no costs are known: the fewest requests for each lane.
  const auto lanes = static_cast<Nanos>(std::min(static_cast<std::size_t>(entry.max_lanes), lanes_.size()));
  offer.end = now + static_cast<Nanos>(queue.size() + entry.running) * kMillisecond / lanes;
  if (entry.costs == nullptr) return offer;

  const BatchingPolicy& policy = queue.policy();
  const bool gathers = policy.dynamic_batching && policy.max_batch_size > 0;
  const CostKey key{lanes_.front().device, gathers ? shape_hash(ticket.inputs, policy.padding) : 0};
  const std::int64_t rows = policy.max_batch_size > 0 ? std::max<std::int64_t>(ticket.rows, 1) : 1;
  const std::int64_t most =
      gathers ? std::max(rows, entry.costs->best_rows(key, policy.max_batch_size, haste_.span())) : rows;
  // Before it go as many full batches of its own model as stand in the queue; what is left shares its batch.
  const std::int64_t with_it = gathers ? queue.rows() + rows : rows;
  const std::int64_t before = gathers ? (with_it - 1) / most : static_cast<std::int64_t>(queue.size());
  const CostEstimate cost = entry.costs->predict(key, gathers ? with_it - before * most : rows);
  if (!cost.known) return offer;
  offer.known = true;
  offer.seen = cost.seen;

  Backlog backlog;
  backlog.run = cost.typical;
  backlog.lanes = static_cast<int>(lanes_.size());
  const bool capped = entry.lanes >= entry.max_lanes;
  Nanos first = kNever;
  for (const LaneState& lane : lanes_) {
    const Nanos left = lane.entry == nullptr ? 0 : std::max<Nanos>(lane.end - now, 0);
    if (capped && lane.entry != &entry) continue;
    backlog.running += left;
    first = std::min(first, left);
  }
  if (capped) backlog.lanes = entry.max_lanes;
  backlog.first_free = first == kNever ? 0 : first;
  backlog.queued = before * entry.costs->predict(key, most).typical;
  if (!capped) backlog.queued += queued_work_ - entry.queued_work;
  offer.end = now + backlog.answered();
  return offer;
}

}  // namespace headrace
