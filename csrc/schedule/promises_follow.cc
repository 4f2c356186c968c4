// The part of Promises that follows what was seen of arrivals: how soon answers are wanted, how many lanes each model
// has, and how much it may promise of them.
#include <algorithm>
#include <string>
#include <vector>

#include "schedule/promises.h"

namespace headrace {
namespace {

// So often at most do batches follow how soon answers are wanted.
constexpr Nanos kFollowEvery = 50 * kMillisecond;
constexpr double kContended = 0.5;   // of the lanes' time, from which on they are worth sharing
constexpr double kWorthRoom = 0.02;  // lanes that others ask for, so that room is left for them

}  // namespace

// What could not be had of idle lanes either hurries nobody.
void Promises::note_haste(const Dispatcher::Entry& entry, const Ticket& ticket, Nanos now) {
  const Nanos span = ticket.target - now;
  const bool sooner = span < haste_.exact(now);
  if (sooner && entry.costs->predict(entry.queue.cost_key(ticket), ticket.rows).typical >= span) return;
  haste_.note(span, now);
}

// All that waits costs something else now.
void Promises::recount(Nanos now) {
  std::vector<WaitingGroup> groups;
  demand_.advance(now);
  for (const auto& entry : entries_) {
    if (entry->costs == nullptr || entry->parked || entry->queue.empty()) continue;
    entry->queue.reprice();
    account(*entry);
    groups.clear();
    entry->queue.append_groups(groups);
    for (const WaitingGroup& group : groups) {
      for (const Slot& slot : group.slots) {
        uncount(*entry, *slot.ticket);
        count(*entry, *slot.ticket, now);
        if (slot.ticket->promised) dearest_ = std::max(dearest_, Queue::batch_cost(*slot.ticket));
      }
    }
  }
}

bool Promises::set_lanes(Dispatcher::Entry& entry, int lanes) {
  if (entry.max_lanes == lanes) return false;
  const auto all = static_cast<int>(lanes_.size());
  if (entry.waits && entry.max_lanes < all) --narrow_;
  entry.max_lanes = lanes;
  if (entry.waits && lanes < all) ++narrow_;
  return true;
}

// What each model may promise of the lanes. A batch that takes what others would need beside it counts as all the lanes
// that it keeps idle.
void Promises::claim(Nanos step, Nanos now) {
  const auto lanes = static_cast<double>(lanes_.size());
  const auto held = [&](const Dispatcher::Entry& entry) {
    return lanes / static_cast<double>(resources_.at_once(entry.needs, static_cast<std::int64_t>(lanes_.size())));
  };
  claims_.clear();
  for (const auto& entry : entries_) {
    if (entry->costs == nullptr) continue;
    entry->share.step(step);
    const BatchingPolicy& policy = entry->queue.policy();
    const double need = entry->share.need(*entry->costs, policy.dynamic_batching ? policy.max_batch_size : 1, now);
    const double each = held(*entry);
    claims_.add(need * each, std::min(entry->allowed_lanes * each, lanes), entry->account.weight);
  }
  claims_.divide(lanes);
  std::size_t index = 0;
  for (const auto& entry : entries_) {
    entry->most_promised = Dispatcher::Entry::kAllLanes;
    entry->most_waiting = Dispatcher::Entry::kNoLimit;
    if (entry->costs == nullptr) continue;
    if (claims_.asks_too_much(index) && claims_.others(index) > kWorthRoom) {
      const double left = claims_.left_to(index);
      entry->most_promised = left / held(*entry);
      // Or forecasts, without which nobody in haste is taken in, would be too long.
      entry->most_waiting = static_cast<std::size_t>(left / lanes * static_cast<double>(kMostPlayed) / 2) + 1;
    }
    ++index;
  }
}

// Batches of another size, and fewer lanes or more, may break a promise: only if a forecast finds that they do not.
const std::vector<Dispatcher::Entry*>& Promises::follow(Nanos now) {
  followed_.clear();
  const Nanos step = now - follow_last_;
  if (step < kFollowEvery) return followed_;
  follow_last_ = now;
  const double share = static_cast<double>(busy_) / static_cast<double>(step) / static_cast<double>(lanes_.size());
  busy_share_ += (std::min(share, 1.0) - busy_share_) / 4;
  busy_ = 0;
  const Nanos span = haste_.moved(now) ? haste_.exact(now) : haste_.span();
  claim(step, now);
  double hasty = 0;
  for (const auto& entry : entries_) hasty += entry->share.hasty(span, now);
  std::vector<int> lanes;
  for (const auto& entry : entries_) {
    if (entry->costs == nullptr || entry->allowed_lanes == 1) continue;
    const bool shares = busy_share_ > kContended && entry->queue.policy().dynamic_batching;
    // Not all who are in haste are late where a lane may be held; but who asks for too much is in the wrong.
    const double spoilt = entry->most_promised == Dispatcher::Entry::kAllLanes ? hasty / 2 : hasty;
    const int wanted = shares ? entry->share.lanes(*entry->costs, entry->queue.policy().max_batch_size, span, spoilt,
                                                   now, entry->max_lanes, entry->allowed_lanes)
                              : entry->allowed_lanes;
    if (wanted == entry->max_lanes) continue;
    followed_.push_back(entry.get());
    lanes.push_back(wanted);
  }
  const Nanos before = haste_.span();
  if (followed_.empty() && span == before) return followed_;
  if (counted_ > kMostPlayed) {
    followed_.clear();
    return followed_;
  }
  const auto exchange = [&](Nanos other) {
    if (other != haste_.span()) haste_.set_span(other);
    for (std::size_t i = 0; i < followed_.size(); ++i) {
      const int old = followed_[i]->max_lanes;
      set_lanes(*followed_[i], lanes[i]);
      lanes[i] = old;
    }
    recount(now);
  };
  exchange(span);
  plan_holds_ = false;
  last_refusal_ = {};
  if (targets() == 0) return followed_;
  const auto late = [&](std::uint64_t joins_before) {
    begin_forecast(now);
    return forecast_.run(joins_before, nullptr).late;
  };
  const bool all = late(kNoSequence) == 0;
  if (!all) {
    // What came since the last promise may have to wait for it. Would as many be late then as without the change?
    const std::size_t late_then = late(promised_before_);
    if (late_then > 0) {
      exchange(before);
      if (late_then > late(promised_before_)) {
        followed_.clear();
        return followed_;
      }
      exchange(span);
    }
  }
  rest_on_forecasts();
  if (!all) return followed_;
  promised_before_ = next_sequence_;
  plan_holds_ = true;
  return followed_;
}

// What waits of this model takes more than its share of the lanes until the target. Nor may it wait for longer than its
// patience lasts: it would go before those in haste from then on. Where nothing waits or runs nobody is in its way.
bool Promises::over_share(const Dispatcher::Entry& entry, const Ticket& ticket, Nanos now) const {
  const Nanos time = std::min(ticket.target - now, entry.queue.policy().patience);
  const bool over = entry.queue.targets() > entry.most_waiting ||
                    static_cast<double>(entry.promised) > entry.most_promised * static_cast<double>(time);
  const auto busy = [](const LaneState& lane) { return lane.entry != nullptr; };
  return over && (queued_ > 1 || std::any_of(lanes_.begin(), lanes_.end(), busy));
}

Status Promises::over_share_refusal(const Dispatcher::Entry& entry, Nanos target, Nanos now) {
  const auto ms = std::to_string((target - now) / kMillisecond);
  return {Code::kDeadlineExceeded,
          "model '" + entry.queue.model_name() +
              "' has no more of its share of the lanes to promise, and the answer is wanted in " + ms +
              " ms: " + std::to_string(entry.queue.size()) +
              " requests are ahead, while more is asked of the server than it can do; retry later, or raise the "
              "model's share (weight in config.pbtxt)"};
}

}  // namespace headrace
