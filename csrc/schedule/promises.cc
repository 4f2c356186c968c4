#include "schedule/promises.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"

namespace headrace {
namespace {

// Costs that nothing has confirmed for so long refuse nobody that has the model to himself.
constexpr Nanos kCostsFresh = kSecond;
// So often at most do batches follow how soon answers are wanted.
constexpr Nanos kFollowEvery = 50 * kMillisecond;

}  // namespace

void Promises::account(Dispatcher::Entry& entry) {
  const Queue& queue = entry.queue;
  if (entry.costs == nullptr || entry.parked) return;
  open_cost_ += queue.open_cost() - entry.open_cost;
  queued_ += queue.size() - entry.counted;
  entry.open_cost = queue.open_cost();
  entry.counted = queue.size();
  account_cores(entry);
  if (entry.waits != queue.empty()) return;
  entry.waits = !queue.empty();
  const auto count = [&entry](std::size_t& models) { entry.waits ? ++models : --models; };
  count(waiting_);
  if (entry.max_lanes < static_cast<int>(lanes_.size())) count(narrow_);
  if (entry.unruly) count(unruly_);
  if (!entry.needs.empty() && entry.needs.back().place != ResourceRoom::kCores) count(needy_);
}

void Promises::account_cores(Dispatcher::Entry& entry) {
  if (entry.needs.empty() || entry.needs.front().place != ResourceRoom::kCores) return;
  const bool asks = entry.lanes > 0 || !entry.queue.empty();
  if (entry.asks_cores == asks) return;
  entry.asks_cores = asks;
  asks ? cores_.add(entry.needs.front().count) : cores_.remove(entry.needs.front().count);
}

void Promises::left(Ticket& ticket, bool in_batch) {
  if (!in_batch) {
    plan_holds_ = false;
    last_refusal_ = {};
  }
  demand_.remove(ticket.work_place, std::exchange(ticket.work, 0));
  if (!std::exchange(ticket.promised, false)) return;
  if (ticket.sequence < tight_before_) {
    --tight_;
    return;
  }
  --(ticket.sequence < young_from_ ? old_ : young_).tickets;
  if (old_.tickets > 0) return;
  old_ = young_;
  young_ = {};
  young_from_ = next_sequence_;
}

void Promises::ended(Dispatcher::Entry& entry, Nanos late) {
  last_refusal_ = {};
  if (entry.costs != nullptr) account_cores(entry);
  if (late <= 0 || targets() == 0) return;
  plan_holds_ = false;
  spend(late);
}

void Promises::spend(Nanos work) {
  if (old_.slack != kNever) old_.slack -= work;
  if (young_.slack != kNever) young_.slack -= work;
}

void Promises::count(const Dispatcher::Entry& entry, Ticket& ticket) {
  ticket.work = entry.queue.work_of(ticket);
  ticket.work_place = demand_.add(ticket.order_when, ticket.work);
}

void Promises::unparked(Dispatcher::Entry& entry) {
  account(entry);
  if (entry.costs == nullptr || entry.queue.empty()) return;
  std::vector<WaitingGroup> groups;
  entry.queue.append_groups(groups);
  for (const WaitingGroup& group : groups) {
    for (const Slot& slot : group.slots) count(entry, *slot.ticket);
  }
  plan_holds_ = false;
}

// So much queued work, and what runs, is through by then; its last batch is of the entry.
Nanos Promises::end_of(const Dispatcher::Entry& entry, Nanos work, Nanos batch, Nanos now) const {
  work += open_cost_ - batch;
  for (const LaneState& lane : lanes_) {
    if (lane.entry != nullptr) work += std::max<Nanos>(lane.latest - now, 0);
  }
  // Until its batch starts either all lanes are busy with this work, or as many as the narrowest model may have.
  auto lanes = static_cast<Nanos>(lanes_.size());
  if (narrow_ > 0) lanes = waiting_ == 1 ? entry.max_lanes : 1;
  if (cores_.most() > 0) lanes = std::min<Nanos>(lanes, resources_.least_on_cores(cores_.most()));
  if (needy_ > 0) lanes = std::min<Nanos>(lanes, resources_.least_on_named());
  return now + (entry.delays ? entry.queue.policy().max_queue_delay : 0) + (work + lanes - 1) / lanes + batch;
}

bool Promises::later_keep_time(const Dispatcher::Entry& entry, const Ticket& ticket, Nanos now) const {
  return demand_.later_keeps(ticket.order_when,
                             [&](Nanos work, Nanos begin) { return end_of(entry, work, 0, now) + dearest_ < begin; });
}

// What could not be had of idle lanes either hurries nobody.
void Promises::note_haste(const Dispatcher::Entry& entry, const Ticket& ticket, Nanos now) {
  const Nanos span = ticket.target - now;
  if (entry.costs->predict(entry.queue.cost_key(ticket), ticket.rows).typical < span) haste_.note(span, now);
}

// All that waits costs something else now.
void Promises::recount() {
  std::vector<WaitingGroup> groups;
  for (const auto& entry : entries_) {
    if (entry->costs == nullptr || entry->parked || entry->queue.empty()) continue;
    entry->queue.reprice();
    account(*entry);
    groups.clear();
    entry->queue.append_groups(groups);
    for (const WaitingGroup& group : groups) {
      for (const Slot& slot : group.slots) {
        demand_.remove(slot.ticket->work_place, slot.ticket->work);
        count(*entry, *slot.ticket);
        if (slot.ticket->promised) dearest_ = std::max(dearest_, Queue::batch_cost(*slot.ticket));
      }
    }
  }
}

// Batches of another size may break a promise: only if a forecast finds that they do not.
void Promises::follow_haste(Nanos now) {
  if (!haste_.moved(now) || now < follow_next_ || queued_ > kMostPlayed) return;
  follow_next_ = now + kFollowEvery;
  const Nanos before = haste_.span();
  haste_.set_span(haste_.exact(now));
  recount();
  if (targets() == 0) return;
  begin_forecast(now);
  if (forecast_.run(kNoSequence, nullptr).late > 0) {
    haste_.set_span(before);
    recount();
    return;
  }
  tight_ = targets();
  tight_before_ = young_from_ = next_sequence_;
  old_ = young_ = {};
  promised_before_ = next_sequence_;
  plan_holds_ = true;
}

Status Promises::admit(Dispatcher::Entry& entry, Ticket* ticket, Nanos now) {
  if (ticket->target != kNever) note_haste(entry, *ticket, now);
  const Nanos open = open_cost_;
  account(entry);
  demand_.advance(now);
  count(entry, *ticket);
  const Nanos added = ticket->work + open_cost_ - open;
  next_sequence_ = ticket->sequence + 1;
  if (targets() == 0) {
    latest_ = dearest_ = 0;
    old_ = young_ = {};
    young_from_ = tight_before_ = ticket->sequence;
  }
  const bool last = targets() == 0 || (unruly_ == 0 && ticket->order_when >= latest_);
  plan_holds_ = false;
  if (ticket->target == kNever) {
    if (!last) spend(added);
    return Status();
  }
  dearest_ = std::max(dearest_, Queue::batch_cost(*ticket));
  const auto promised = [&] {
    latest_ = std::max(latest_, ticket->order_when);
    ticket->promised = true;
    return Status();
  };
  const Nanos work = unruly_ > 0 ? demand_.all() : demand_.until(ticket->order_when);
  // Of the tight ones each may cut a batch short, and so make one more.
  const Nanos end = end_of(entry, work, Queue::batch_cost(*ticket), now) + static_cast<Nanos>(tight_) * dearest_;
  const auto harmless = [&] {
    if (last) return true;
    if (tight_ > 0) return false;
    return slack() >= added || (unruly_ == 0 && end < ticket->order_when && later_keep_time(entry, *ticket, now));
  };
  if (end < ticket->target && harmless()) {
    if (!last) spend(added);
    if (tight_ == 0) promised_before_ = next_sequence_;
    ++young_.tickets;
    young_.slack = std::min(young_.slack, ticket->target - 1 - end);
    return promised();
  }
  const std::uint64_t shape = entry.queue.cost_key(*ticket).shape;
  const bool alone = entry.queue.size() == 1 && entry.lanes == 0;
  const bool as_before = !alone && last_refusal_.entry == &entry && last_refusal_.shape == shape &&
                         last_refusal_.when <= ticket->order_when && last_refusal_.rows <= ticket->rows &&
                         last_refusal_.end >= ticket->target;
  Forecast::Result result{1, true, as_before ? last_refusal_.end : end};
  bool taken_out = false;
  if (!as_before && queued_ <= kMostPlayed) {
    if (played(entry, ticket, now, taken_out, result)) {
      tight_ = targets() + 1;
      tight_before_ = young_from_ = next_sequence_;
      old_ = young_ = {};
      return promised();
    }
    if (result.asked_late) last_refusal_ = {&entry, shape, ticket->order_when, ticket->rows, result.asked_end};
  }
  const Nanos target = ticket->target;
  demand_.remove(ticket->work_place, std::exchange(ticket->work, 0));
  if (!taken_out) entry.queue.remove(ticket);
  account(entry);
  next_sequence_ = ticket->sequence;
  ticket->state = TicketState::kNew;
  ticket->time.queued = 0;
  ticket->target = kNever;
  ++entry.refused;
  return refusal(entry, *ticket, target, result, now);
}

// What stands in the queues and runs on the lanes, as it is now.
void Promises::begin_forecast(Nanos now) {
  forecast_.begin(now, &resources_);
  for (const auto& entry : entries_) {
    entry->number = (entry->queue.empty() && entry->lanes == 0) || entry->parked
                        ? -1
                        : forecast_.add_model(entry->queue, entry->lanes, entry->max_lanes, entry->needs);
  }
  for (const LaneState& each : lanes_) {
    const bool idle = each.entry == nullptr;
    forecast_.add_lane(each.device, idle ? -1 : each.entry->number, idle ? now : each.end, idle ? 0 : each.variance);
  }
}

// The second way. False: `result` says why; the ticket may have been taken out of its queue.
bool Promises::played(Dispatcher::Entry& entry, Ticket* ticket, Nanos now, bool& taken_out, Forecast::Result& result) {
  begin_forecast(now);
  if (forecast_.run(kNoSequence, ticket).late == 0) {
    promised_before_ = next_sequence_;
    plan_holds_ = true;
    return true;
  }
  const auto forecast = [this, now](const Ticket* asked) {
    begin_forecast(now);
    return forecast_.run(promised_before_, asked);
  };
  result = forecast(ticket);
  if (result.late == 0) return true;
  if (result.asked_late && entry.queue.size() == 1 && entry.lanes == 0) {
    // Nothing of this model has run lately: perhaps what is known of it is no longer true, and nothing else would tell.
    const CostEstimate cost = entry.costs->predict(entry.queue.cost_key(*ticket), ticket->rows);
    if (cost.seen < now && now - cost.seen > kCostsFresh) return true;
  }
  if (result.asked_late) return false;
  // It makes others late. Or would they be without it?
  entry.queue.remove(ticket);
  if (forecast(nullptr).late < result.late) {
    taken_out = true;
    return false;
  }
  HEADRACE_CHECK(entry.queue.push(ticket, now, ticket->sequence).ok());
  return true;
}

Status Promises::refusal(const Dispatcher::Entry& entry, const Ticket& ticket, Nanos target,
                         const Forecast::Result& result, Nanos now) {
  const std::string& name = entry.queue.model_name();
  const auto ms = [now](Nanos time) { return std::to_string(std::max<Nanos>(time - now, 0) / kMillisecond); };
  const std::string ahead = std::to_string(entry.queue.size());
  if (!result.asked_late) {
    return {Code::kDeadlineExceeded, "model '" + name + "' would miss deadlines that it has promised to keep, with " +
                                         ahead + " requests in its queue; retry later"};
  }
  const char* limit = target != ticket.deadline ? "objective (latency_objective_ms) " : "deadline ";
  return {Code::kDeadlineExceeded, "model '" + name + "' would answer in " + ms(result.asked_end) + " ms, and the " +
                                       limit + "is in " + ms(target) + " ms: " + ahead +
                                       " requests are ahead; allow more time, or retry later"};
}

TakeOptions Promises::before_take(int index, Dispatcher::Entry& entry, Nanos now, Nanos& hold_until) {
  TakeOptions options;
  options.device = lanes_[static_cast<std::size_t>(index)].device;
  follow_haste(now);
  if (targets() == 0) return options;
  if (tight_ == 0 && slack() >= 0) {
    promised_before_ = next_sequence_;
    options.trials = slack() >= dearest_;
    return options;
  }
  options.trials = false;
  if (plan_holds_) return options;
  // The batch that these options make, and after it batches that these tickets may join.
  const auto try_with = [&](std::uint64_t takes_before, std::uint64_t joins_before) {
    TakeOptions tried = options;
    tried.joins_before = takes_before;
    std::span<const Slot> slots;
    const Extent extent = entry.queue.next_extent(now, tried, slots);
    if (extent.tickets == 0) return std::size_t{0};  // the turn of what has waited longest: it is not put off
    begin_forecast(now);
    forecast_.take_first(index, entry.number, slots.data(), extent.tickets);
    return forecast_.run(joins_before, nullptr, kMostPlayed).late;
  };
  if (try_with(kNoSequence, kNoSequence) == 0) {
    promised_before_ = next_sequence_;
    plan_holds_ = queued_ <= kMostPlayed;
    return options;
  }
  // What came since the last promise without a target of its own may have to wait for a batch of its own.
  std::size_t late = try_with(kNoSequence, promised_before_);
  if (late == 0) return options;
  if (const std::size_t fewer = try_with(promised_before_, promised_before_); fewer < late) {
    options.joins_before = promised_before_;
    late = fewer;
  }
  const auto busy = [](const LaneState& lane) { return lane.entry != nullptr; };
  if (late == 0 || std::none_of(lanes_.begin(), lanes_.end(), busy)) return options;
  begin_forecast(now);
  const Nanos until = forecast_.hold(index);
  if (until != kNever && forecast_.run(promised_before_, nullptr, kMostPlayed).late < late) hold_until = until;
  return options;
}

void Promises::after_take(Dispatcher::Entry& entry, const Batch& batch) {
  account(entry);
  if (batch.trial && targets() > 0) spend(dearest_);
}

}  // namespace headrace
