#include "schedule/promises.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "base/check.h"

namespace headrace {
namespace {

// Costs that nothing has confirmed for so long refuse nobody that has the model to himself.
constexpr Nanos kCostsFresh = kSecond;
// Of the time until a target, one part in so many is left for a batch that pays.
constexpr Nanos kGathers = 5;

bool needs_named(const Dispatcher::Entry& entry) {
  return !entry.needs.empty() && entry.needs.back().place != ResourceRoom::kCores;
}

}  // namespace

void Promises::account(Dispatcher::Entry& entry) {
  const Queue& queue = entry.queue;
  if (entry.costs == nullptr || entry.parked) return;
  account_cores(entry);
  const bool urgent = queue.targets() > 0;
  if (!urgent && !entry.waits) return;
  const Nanos open = urgent ? queue.open_cost() : 0;
  const std::size_t size = urgent ? queue.size() : 0;
  open_cost_ += open - entry.open_cost;
  queued_ += size - entry.counted;
  entry.open_cost = open;
  entry.counted = size;
  if (entry.waits == urgent) return;
  set_urgent(entry);
  const auto count = [&entry](std::size_t& models) { entry.waits ? ++models : --models; };
  count(waiting_);
  if (entry.max_lanes < static_cast<int>(lanes_.size())) count(narrow_);
  if (entry.unruly || entry.outrun) count(unruly_);
  if (needs_named(entry)) count(needy_);
  if (!entry.outrun) return;
  count(outrun_);
  if (entry.waits && outrun_ == 1) rest_on_forecasts();
}

bool Promises::unlike_lanes() const {
  const auto other = [this](const LaneState& lane) { return lane.device != lanes_.front().device; };
  return std::any_of(lanes_.begin(), lanes_.end(), other);
}

// What was promised in constant time is as good as what a forecast has seen, but it is to be looked after in the same
// way from now on.
void Promises::rest_on_forecasts() {
  tight_ = targets();
  tight_before_ = young_from_ = next_sequence_;
  old_ = young_ = {};
  plan_holds_ = false;
}

// Who waits for a named resource leaves cores to others, whose runs may go on when it gets what it waited for: time
// alone does not say what goes before it. Unless whoever gives the resource back always gives as many cores with it.
void Promises::see_needs() {
  last_refusal_ = {};
  const auto cores = [](const Dispatcher::Entry& entry) {
    return entry.needs.front().place == ResourceRoom::kCores ? entry.needs.front().count : 0;
  };
  std::uint32_t least = std::numeric_limits<std::uint32_t>::max();
  for (const auto& entry : entries_) {
    if (needs_named(*entry)) least = std::min(least, cores(*entry));
  }
  const std::size_t before = outrun_;
  outrun_ = unruly_ = 0;
  for (const auto& entry : entries_) {
    entry->outrun = needs_named(*entry) && cores(*entry) > least;
    if (!entry->waits) continue;
    if (entry->outrun) ++outrun_;
    if (entry->outrun || entry->unruly) ++unruly_;
  }
  if (before == 0 && outrun_ > 0) rest_on_forecasts();
}

// With its first target all that waits for the model goes before those without, and with its last one no longer.
void Promises::set_urgent(Dispatcher::Entry& entry) {
  entry.waits = !entry.waits;
  if (entry.patient == nullptr || entry.patient->all() == 0) return;
  if (entry.waits) {
    demand_.add_all(*entry.patient);
  } else {
    demand_.remove_all(*entry.patient);
  }
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
  uncount(*static_cast<Dispatcher::Entry*>(ticket.model), ticket);
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

void Promises::ended(Dispatcher::Entry& entry, Nanos took, Nanos late) {
  busy_ += took;
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

void Promises::count(Dispatcher::Entry& entry, Ticket& ticket, Nanos now) {
  ticket.work = entry.queue.work_of(ticket);
  if (ticket.work != 0) ++counted_;
  queued_work_ += ticket.work;
  entry.queued_work += ticket.work;
  if (ticket.target != kNever || entry.waits) ticket.work_place = demand_.add(ticket.order_when, ticket.work);
  if (ticket.target != kNever) {
    entry.promised += ticket.work;
    return;
  }
  if (entry.patient == nullptr) entry.patient = std::make_unique<Demand>();
  entry.patient->advance(now);
  ticket.work_place = entry.patient->add(ticket.order_when, ticket.work);
}

void Promises::uncount(Dispatcher::Entry& entry, Ticket& ticket) {
  const Nanos work = std::exchange(ticket.work, 0);
  if (work == 0) return;
  --counted_;
  queued_work_ -= work;
  entry.queued_work -= work;
  if (ticket.target != kNever || entry.waits) demand_.remove(ticket.work_place, work);
  if (ticket.target == kNever) {
    entry.patient->remove(ticket.work_place, work);
  } else {
    entry.promised -= work;
  }
}

void Promises::unparked(Dispatcher::Entry& entry, Nanos now) {
  account(entry);
  if (entry.costs == nullptr || entry.queue.empty()) return;
  demand_.advance(now);
  std::vector<WaitingGroup> groups;
  entry.queue.append_groups(groups);
  for (const WaitingGroup& group : groups) {
    for (const Slot& slot : group.slots) count(entry, *slot.ticket, now);
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

bool Promises::later_keep_time(const Dispatcher::Entry& entry, Nanos from, Nanos room, Nanos now) const {
  return demand_.later_keeps(
      from, [&](Nanos work, Nanos begin) { return end_of(entry, work, 0, now) + dearest_ + room < begin; });
}

Status Promises::admit(Dispatcher::Entry& entry, Ticket* ticket, Dispatcher::Entry* due, Nanos now) {
  if (ticket->target != kNever) note_haste(entry, *ticket, now);
  const Nanos span = ticket->target == kNever ? kNever : ticket->target - now;
  entry.share.note(ticket->rows, entry.queue.cost_key(*ticket), span, now);
  const Nanos open = open_cost_;
  const bool came = !entry.waits && ticket->target != kNever;
  demand_.advance(now);
  account(entry);
  count(entry, *ticket, now);
  // With the first target of a model come those that waited there without.
  const Nanos brought = came && entry.patient != nullptr ? entry.patient->all() : 0;
  const Nanos added = ticket->work + brought + open_cost_ - open;
  next_sequence_ = ticket->sequence + 1;
  if (!entry.waits) return Status();
  if (targets() == 0) {
    latest_ = dearest_ = 0;
    old_ = young_ = {};
    young_from_ = tight_before_ = ticket->sequence;
  }
  // Those without a target of a model that has one go in their order, and a forecast that something rests on has seen
  // them wait from the model's last target on: a further one does not come last. Nor does who may take a faster lane
  // than one that a forecast has seen get it later.
  const bool keeps = tight_ > 0 && (unlike_lanes() || (entry.patient != nullptr && entry.patient->all() > 0));
  const bool last = targets() == 0 || (unruly_ == 0 && brought == 0 && !keeps && ticket->order_when >= latest_);
  plan_holds_ = false;
  if (ticket->target == kNever) {
    if (!last) spend(added);
    return Status();
  }
  dearest_ = std::max(dearest_, Queue::batch_cost(*ticket));
  const Nanos room = due != nullptr && due != &entry && due->costs != nullptr ? due->queue.open_cost() : 0;
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
    return slack() - room >= added || (unruly_ == 0 && end + room < ticket->order_when &&
                                       later_keep_time(entry, brought > 0 ? 0 : ticket->order_when, room, now));
  };
  const bool over = over_share(entry, *ticket, now);
  if (!over && end + room < ticket->target && harmless()) {
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
  if (!over && !as_before && queued_ <= kMostPlayed) {
    if (played(entry, ticket, due, now, taken_out, result)) {
      tight_ = targets() + 1;
      tight_before_ = young_from_ = next_sequence_;
      old_ = young_ = {};
      return promised();
    }
    if (result.asked_late) last_refusal_ = {&entry, shape, ticket->order_when, ticket->rows, result.asked_end};
  }
  const Nanos target = ticket->target;
  uncount(entry, *ticket);
  if (!taken_out) entry.queue.remove(ticket);
  account(entry);
  next_sequence_ = ticket->sequence;
  ticket->state = TicketState::kNew;
  ticket->time.queued = 0;
  ticket->target = kNever;
  ++entry.refused;
  if (over) return over_share_refusal(entry, target, now);
  return refusal(entry, *ticket, target, result, now);
}

// What stands in the queues and runs on the lanes, as it is now: of the models with targets, and besides them a single
// batch of one other, and of one that is promoted.
void Promises::begin_forecast(Nanos now, const Dispatcher::Entry* besides) {
  forecast_.begin(now, &resources_);
  for (const auto& entry : entries_) {
    const bool other = entry.get() == besides || entry->promoted;
    const bool plays = (entry->queue.targets() > 0 || other) && !entry->parked;
    if (!plays && entry->lanes == 0) {
      entry->number = -1;
      continue;
    }
    entry->number = forecast_.add_model(plays ? &entry->queue : nullptr, entry->lanes, entry->max_lanes, entry->needs);
    if (other && entry->queue.targets() == 0) forecast_.once(entry->number);
  }
  for (const LaneState& each : lanes_) {
    const bool idle = each.entry == nullptr;
    forecast_.add_lane(each.device, idle ? -1 : each.entry->number, idle ? now : each.end, idle ? 0 : each.variance);
  }
}

// A crowd that is promised the last moment runs one by one, and the lanes do less: each batch closes for its first
// ticket's target. So much sooner a ticket behind others has to be through that a batch that pays has time.
Nanos Promises::gathering(const Dispatcher::Entry& entry, const Ticket& ticket, Nanos now) {
  const BatchingPolicy& policy = entry.queue.policy();
  if (!policy.dynamic_batching || entry.queue.size() < 2) return 0;
  const CostKey key = entry.queue.cost_key(ticket);
  const Nanos span = ticket.target - now;
  const std::int64_t waiting = static_cast<std::int64_t>(entry.queue.size()) * std::max<std::int64_t>(ticket.rows, 1);
  const std::int64_t most = std::max(std::min<std::int64_t>(policy.max_batch_size, waiting), ticket.rows);
  const std::int64_t rows = entry.costs->best_rows(key, most, span);
  if (rows <= ticket.rows) return 0;
  const Nanos more = entry.costs->predict(key, rows).typical - entry.costs->predict(key, ticket.rows).typical;
  return std::clamp<Nanos>(more, 0, span / kGathers);
}

// The second way. False: `result` says why; the ticket may have been taken out of its queue.
bool Promises::played(Dispatcher::Entry& entry, Ticket* ticket, const Dispatcher::Entry* due, Nanos now,
                      bool& taken_out, Forecast::Result& result) {
  begin_forecast(now);
  result = forecast_.run(kNoSequence, ticket);
  if (!result.asked_late) {
    const Nanos gathered = result.asked_end + gathering(entry, *ticket, now);
    if (gathered > ticket->target) {
      result.asked_late = true;
      result.asked_end = gathered;  // what the refusal says, and what spares those like it a forecast
      return false;
    }
  }
  const bool all = result.late == 0;
  if (!all && !leaves_in_time(entry, ticket, nullptr, now, taken_out, result)) return false;
  // And if the one that is due goes first?
  if (due != nullptr && due != &entry && !leaves_in_time(entry, ticket, due, now, taken_out, result)) return false;
  if (all) {
    promised_before_ = next_sequence_;
    plan_holds_ = true;
  }
  return true;
}

// The ticket is in time, and nobody is late by it who would not be else.
bool Promises::leaves_in_time(Dispatcher::Entry& entry, Ticket* ticket, const Dispatcher::Entry* due, Nanos now,
                              bool& taken_out, Forecast::Result& result) {
  const auto forecast = [this, due, now](const Ticket* asked) {
    begin_forecast(now, due);
    return forecast_.run(promised_before_, asked);
  };
  result = forecast(ticket);
  if (result.late == 0) return true;
  if (result.asked_late && entry.queue.size() == 1 && entry.lanes == 0) {
    // Nothing of this model has run lately: perhaps what is known of it is no longer true, and nothing else would tell.
    const CostEstimate cost = entry.costs->predict(entry.queue.cost_key(*ticket), ticket->rows);
    if (cost.seen < now && now - cost.seen > kCostsFresh && now + cost.high >= ticket->target) return true;
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

// Of those with targets, once the lane has taken the batch that these options make: then batches that these tickets may
// join.
std::size_t Promises::late_after(int lane, Dispatcher::Entry& entry, const TakeOptions& options,
                                 std::uint64_t joins_before, Nanos now) {
  std::span<const Slot> slots;
  const Extent extent = entry.queue.next_extent(now, options, slots);
  if (extent.tickets == 0) return 0;  // the turn of what has waited longest: it is not put off
  begin_forecast(now, &entry);
  forecast_.take_first(lane, entry.number, slots.data(), extent.tickets);
  return forecast_.run(joins_before, nullptr, kMostPlayed).late;
}

bool Promises::may_go_first(int lane, Dispatcher::Entry& entry, Nanos now) {
  if (targets() == 0) return true;
  if (tight_ == 0) {
    const Nanos cost = entry.costs != nullptr ? entry.queue.open_cost() : 0;
    if (slack() < cost) return false;
    spend(cost);
    return true;
  }
  std::size_t late = 0;
  if (entry.lacks) {
    begin_forecast(now, &entry);
    late = forecast_.run(promised_before_, nullptr, kMostPlayed).late;
  } else {
    TakeOptions options;
    options.device = lanes_[static_cast<std::size_t>(lane)].device;
    late = late_after(lane, entry, options, promised_before_, now);
  }
  if (late == 0) plan_holds_ = false;
  return late == 0;
}

TakeOptions Promises::before_take(int index, Dispatcher::Entry& entry, Nanos now, Nanos& hold_until) {
  TakeOptions options;
  options.device = lanes_[static_cast<std::size_t>(index)].device;
  if (targets() == 0) return options;
  if (entry.queue.targets() == 0 && !entry.promoted) {
    // Nobody with a target can go now. What it takes may still be what one of them waits for.
    const Nanos cost = entry.costs != nullptr ? entry.queue.open_cost() : 0;
    const bool in_the_way =
        tight_ > 0 ? late_after(index, entry, options, promised_before_, now) > 0 : needy_ > 0 && slack() < cost;
    if (in_the_way) {
      begin_forecast(now);
      hold_until = forecast_.hold(index);
    } else if (tight_ == 0 && needy_ > 0) {
      spend(cost);
    }
    options.trials = tight_ == 0;
    return options;
  }
  if (tight_ == 0 && slack() >= 0) {
    promised_before_ = next_sequence_;
    options.trials = slack() >= dearest_;
    return options;
  }
  options.trials = false;
  if (plan_holds_) return options;
  const auto try_with = [&](std::uint64_t takes_before, std::uint64_t joins_before) {
    TakeOptions tried = options;
    tried.joins_before = takes_before;
    return late_after(index, entry, tried, joins_before, now);
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
  begin_forecast(now, &entry);
  const Nanos until = forecast_.hold(index);
  if (until != kNever && forecast_.run(promised_before_, nullptr, kMostPlayed).late < late) hold_until = until;
  return options;
}

void Promises::after_take(Dispatcher::Entry& entry, const Batch& batch) {
  account(entry);
  if (batch.trial && targets() > 0) spend(dearest_);
}

}  // namespace headrace
