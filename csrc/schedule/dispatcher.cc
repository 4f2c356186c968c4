#include "schedule/dispatcher.h"

#include <algorithm>
#include <optional>

#include "base/check.h"
#include "batching/heap.h"
#include "schedule/forecast.h"

namespace headrace {

// Costs that nothing has confirmed for so long refuse nobody that has the model to himself.
constexpr Nanos kCostsFresh = kSecond;

void TicketChain::append(Ticket* ticket) {
  ticket->next = nullptr;
  if (last != nullptr) {
    last->next = ticket;
  } else {
    first = ticket;
  }
  last = ticket;
  ++count;
}

void TicketChain::append(TicketChain other) {
  if (other.first == nullptr) return;
  if (last != nullptr) {
    last->next = other.first;
  } else {
    first = other.first;
  }
  last = other.last;
  count += other.count;
}

void Dispatcher::Assignment::drop_gone() {
  for (Ticket* ticket : gone) {
    if (ticket->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete ticket;
  }
  gone.clear();
}

struct Dispatcher::Entry {
  Entry(std::string name, BatchingPolicy policy, int most_lanes, void* owner, Costs* known)
      : queue(std::move(name), std::move(policy)),
        max_lanes(most_lanes),
        delays(queue.policy().max_queue_delay > 0),
        levels(queue.policy().priority_levels > 1),
        model(owner),
        costs(known) {
    queue.set_costs(known);
  }

  Queue queue;
  int max_lanes;
  bool delays;  // a batch may wait for its queue delay
  bool levels;  // a newcomer may go before all others
  void* model;
  Costs* costs;
  int number = 0;           // in the forecast that is being made
  std::size_t targets = 0;  // of its queue, as they were last counted
  int lanes = 0;            // that run it now
  std::size_t running = 0;  // tickets that these lanes have not settled
  bool closed = false;
  std::uint32_t ready_place = kNoPlace;
  std::uint32_t timed_place = kNoPlace;
};

namespace {

struct Lane {
  std::uint32_t device = 0;
  Dispatcher::Entry* entry = nullptr;
  Nanos end = 0;        // predicted, of its batch
  double variance = 0;  // of that, with 99 of 100 runs as one deviation
  std::size_t unsettled = 0;
  std::size_t wanted = 0;  // of the unsettled, those that somebody still waits for
  Nanos started = 0;       // when it took its batch
  std::optional<Interrupt> interrupt;
  std::vector<Ticket*> gone;
};

}  // namespace

struct Dispatcher::Impl {
  std::vector<Lane> lanes;
  std::vector<std::unique_ptr<Entry>> entries;
  // Models that a free lane may run now, by the first ticket of their next batch.
  PlacedHeap<Entry, Turn, &Entry::ready_place> ready;
  // Models with a batch that waits for its queue delay, by the time when it is due. A model may be in both.
  PlacedHeap<Entry, Nanos, &Entry::timed_place> timed;
  std::vector<Entry*> send_back;  // entries whose timeouts do
  DeadlineHeap deadlines;
  std::uint64_t next_sequence = 0;
  Nanos now = 0;  // the latest heard of
  int busy = 0;
  Forecast forecast;
  std::size_t targets = 0;              // queued tickets that have one, of models whose costs are known
  std::uint64_t promised_sequence = 0;  // what came before may join batches, and all with a target is in time

  explicit Impl(int count) : lanes(static_cast<std::size_t>(count)) {}

  void count_targets(Entry* entry) {
    if (entry->costs == nullptr) return;  // nothing can be promised
    targets = targets - entry->targets + entry->queue.targets();
    entry->targets = entry->queue.targets();
  }
  void begin_forecast();
  TakeOptions keep_promises(int lane, Entry* entry, Nanos& hold_until);

  Lane& lane(int index) {
    HEADRACE_CHECK(index >= 0 && static_cast<std::size_t>(index) < lanes.size());
    return lanes[static_cast<std::size_t>(index)];
  }

  // Something about the entry has changed: where does it stand? With a `now` that has since passed it may be filed as
  // waiting for a time that has come, which take() sees.
  void file(Entry* entry) {
    Turn turn;
    Nanos ripens = kNever;
    if (entry->lanes < entry->max_lanes && !entry->queue.empty()) {
      turn = entry->queue.next_turn(now);
      ripens = entry->queue.ripens();
    }
    if (turn.sequence != kNoSequence) {
      ready.set(entry, turn);
    } else {
      ready.remove(entry);
    }
    if (ripens != kNever && ripens > now) {
      timed.set(entry, ripens);
    } else {
      timed.remove(entry);
    }
  }

  // Ends a queued or running ticket before its time; the caller has set its status.
  void end_early(Ticket* ticket) {
    if (ticket->state == TicketState::kQueued) {
      auto* entry = static_cast<Entry*>(ticket->model);
      entry->queue.remove(ticket);
      count_targets(entry);
      ticket->state = TicketState::kDone;
      file(entry);
      return;
    }
    HEADRACE_CHECK(ticket->state == TicketState::kRunning);
    ticket->state = TicketState::kDone;
    ticket->references.fetch_add(1, std::memory_order_relaxed);
    Lane& runner = lanes[ticket->lane];
    if (--runner.wanted == 0) runner.interrupt->request();
  }
};

// What stands in the queues and runs on the lanes, as it is now.
void Dispatcher::Impl::begin_forecast() {
  forecast.begin(now);
  for (const auto& entry : entries) {
    entry->number = entry->queue.empty() && entry->lanes == 0
                        ? -1
                        : forecast.add_model(entry->queue, entry->lanes, entry->max_lanes);
  }
  for (const Lane& each : lanes) {
    const bool idle = each.entry == nullptr;
    forecast.add_lane(each.device, idle ? -1 : each.entry->number, idle ? now : each.end, idle ? 0 : each.variance);
  }
}

// How large a batch the lane may take without making anybody late that would not be late otherwise. hold_until is set
// where it should take none: where another lane will be free before the one that only it can keep its promise to.
TakeOptions Dispatcher::Impl::keep_promises(int index, Entry* entry, Nanos& hold_until) {
  TakeOptions options;
  options.device = lane(index).device;
  if (targets == 0) return options;
  begin_forecast();
  if (forecast.surely_in_time()) {
    promised_sequence = next_sequence;
    return options;
  }
  options.trials = false;
  // The batch that these options make, and after it batches that these tickets may join.
  const auto try_with = [&](std::uint64_t takes_before, std::uint64_t joins_before) {
    TakeOptions tried = options;
    tried.joins_before = takes_before;
    std::span<const Slot> slots;
    const Extent extent = entry->queue.next_extent(now, tried, slots);
    if (extent.tickets == 0) return std::size_t{0};  // the turn of what has waited longest: it is not put off
    begin_forecast();
    forecast.take_first(index, entry->number, slots.data(), extent.tickets);
    return forecast.run(joins_before).late;
  };
  if (try_with(kNoSequence, kNoSequence) == 0) {
    promised_sequence = next_sequence;
    return options;
  }
  // What came since the last promise without a target of its own may have to wait for a batch of its own.
  std::size_t late = try_with(kNoSequence, promised_sequence);
  if (late == 0) return options;
  if (const std::size_t fewer = try_with(promised_sequence, promised_sequence); fewer < late) {
    options.joins_before = promised_sequence;
    late = fewer;
  }
  if (late == 0 || busy == 0) return options;
  begin_forecast();
  const Nanos until = forecast.hold(index);
  if (until != kNever && forecast.run(promised_sequence).late < late) hold_until = until;
  return options;
}

Dispatcher::Dispatcher(int lanes, const std::vector<std::uint32_t>& devices)
    : impl_(std::make_unique<Impl>(std::max(lanes, 0))) {
  HEADRACE_CHECK(lanes > 0 && (devices.empty() || devices.size() == impl_->lanes.size()));
  for (std::size_t i = 0; i < devices.size(); ++i) impl_->lanes[i].device = devices[i];
}

Dispatcher::~Dispatcher() {
  for (const auto& entry : impl_->entries) HEADRACE_CHECK(idle(entry.get()));
}

Dispatcher::Entry* Dispatcher::add(std::string name, BatchingPolicy policy, int max_lanes, void* model, Costs* costs) {
  HEADRACE_CHECK(max_lanes > 0);
  impl_->entries.push_back(std::make_unique<Entry>(std::move(name), std::move(policy), max_lanes, model, costs));
  Entry* entry = impl_->entries.back().get();
  if (entry->queue.policy().delays_late()) impl_->send_back.push_back(entry);
  return entry;
}

TicketChain Dispatcher::close(Entry* entry) {
  entry->closed = true;
  TicketChain chain;
  for (Ticket* ticket = entry->queue.clear(); ticket != nullptr;) {
    Ticket* next = ticket->queue_next;
    ticket->queue_next = nullptr;
    ticket->state = TicketState::kDone;
    ticket->status = Status(Code::kUnavailable, "model '" + entry->queue.model_name() + "' is being unloaded");
    impl_->deadlines.remove(ticket);
    chain.append(ticket);
    ticket = next;
  }
  impl_->count_targets(entry);
  impl_->file(entry);
  return chain;
}

bool Dispatcher::idle(const Entry* entry) const { return entry->queue.empty() && entry->lanes == 0; }

void Dispatcher::erase(Entry* entry) {
  HEADRACE_CHECK(idle(entry));
  auto& entries = impl_->entries;
  const auto found =
      std::find_if(entries.begin(), entries.end(), [entry](const auto& each) { return each.get() == entry; });
  HEADRACE_CHECK(found != entries.end());
  std::erase(impl_->send_back, entry);
  entries.erase(found);
}

void* Dispatcher::model(const Entry* entry) { return entry->model; }

Status Dispatcher::submit(Entry* entry, Ticket* ticket, Nanos now) {
  HEADRACE_CHECK(ticket->state == TicketState::kNew);
  impl_->now = std::max(impl_->now, now);
  const std::string& name = entry->queue.model_name();
  if (entry->closed) return {Code::kUnavailable, "model '" + name + "' is being unloaded"};
  if (ticket->deadline <= now) {
    return {Code::kDeadlineExceeded,
            "the deadline had passed before the request reached the queue of model '" + name + "'"};
  }
  Status status = entry->queue.push(ticket, impl_->now, impl_->next_sequence);
  if (!status.ok()) return status;
  if (ticket->target != kNever) {
    impl_->count_targets(entry);
    if (entry->costs != nullptr) {
      status = refusal(entry, ticket);
      if (!status.ok()) return status;
    }
  }
  ++impl_->next_sequence;
  ticket->model = entry;
  if (ticket->deadline != kNever) impl_->deadlines.push(ticket);
  // Where nothing waits for its delay, a ticket that is not the most urgent does not change whose turn it is.
  const bool holds = impl_->ready.holds(entry);
  if (entry->delays || entry->levels || !holds || ticket->order_when < impl_->ready.key(entry).when) impl_->file(entry);
  return status;
}

// Whether the ticket, which has just been pushed, can be promised its target; if not it is taken out again.
Status Dispatcher::refusal(Entry* entry, Ticket* ticket) {
  Impl& impl = *impl_;
  impl.begin_forecast();
  bool in_time = impl.forecast.surely_in_time();
  if (!in_time) in_time = impl.forecast.run(kNoSequence, ticket).late == 0;
  if (in_time) {
    impl.promised_sequence = impl.next_sequence + 1;
    return Status();
  }
  const auto forecast = [&impl](const Ticket* asked) {
    impl.begin_forecast();
    return impl.forecast.run(impl.promised_sequence, asked);
  };
  const Forecast::Result with = forecast(ticket);
  if (with.late == 0) return Status();
  const Nanos target = ticket->target;
  const Nanos end = with.asked_end;
  const std::size_t ahead = entry->queue.size() - 1;
  if (with.asked_late && ahead == 0 && entry->lanes == 0) {
    // Nothing of this model has run lately: perhaps what is known of it is no longer true, and nothing else would tell.
    const CostEstimate cost = entry->costs->predict(entry->queue.cost_key(*ticket), ticket->rows);
    if (cost.seen < impl.now && impl.now - cost.seen > kCostsFresh) return Status();
  }
  entry->queue.remove(ticket);
  if (!with.asked_late) {
    // It makes others late. Or would they be without it?
    if (forecast(nullptr).late >= with.late) {
      HEADRACE_CHECK(entry->queue.push(ticket, impl.now, impl.next_sequence).ok());
      return Status();
    }
  }
  impl.count_targets(entry);
  impl.file(entry);
  ticket->state = TicketState::kNew;
  ticket->time.queued = 0;
  ticket->target = kNever;
  const std::string& name = entry->queue.model_name();
  const auto ms = [&impl](Nanos time) { return std::to_string(std::max<Nanos>(time - impl.now, 0) / kMillisecond); };
  const bool objective = target != ticket->deadline;
  return {Code::kDeadlineExceeded,
          with.asked_late
              ? "model '" + name + "' would answer in " + ms(end) + " ms, and the " +
                    (objective ? "objective (latency_objective_ms) " : "deadline ") + "is in " + ms(target) +
                    " ms: " + std::to_string(ahead) + " requests are ahead; allow more time, or retry later"
              : "model '" + name + "' would miss deadlines that it has promised to keep, with " +
                    std::to_string(ahead) + " requests in its queue; retry later"};
}

void Dispatcher::take(int lane, Nanos now, Assignment& out) {
  out.drop_gone();
  out.entry = nullptr;
  out.tickets.clear();
  out.rows = 0;
  out.interrupt = nullptr;
  out.ask_again = kNever;
  Lane& runner = impl_->lane(lane);
  HEADRACE_CHECK(runner.entry == nullptr);
  impl_->now = std::max(impl_->now, now);
  while (!impl_->timed.empty() && impl_->timed.top_key() <= impl_->now) impl_->file(impl_->timed.top());
  // A timeout may have changed whose turn it is in a model, and so among the models.
  for (Entry* each : impl_->send_back) impl_->file(each);
  if (impl_->ready.empty()) {
    if (!impl_->timed.empty()) out.ask_again = impl_->timed.top_key();
    return;
  }
  Entry* entry = impl_->ready.top();
  Nanos hold_until = kNever;
  const TakeOptions options = impl_->keep_promises(lane, entry, hold_until);
  if (hold_until != kNever) {
    out.ask_again = impl_->timed.empty() ? hold_until : std::min(hold_until, impl_->timed.top_key());
    return;
  }
  const Batch batch = entry->queue.take(impl_->now, options);
  HEADRACE_CHECK(batch.first != nullptr);
  impl_->count_targets(entry);
  runner.end = impl_->now;
  runner.variance = 0;
  if (entry->costs != nullptr) {
    const CostEstimate cost = entry->costs->predict(batch.key, batch.cost_rows);
    const auto deviation = static_cast<double>(cost.high - cost.typical);
    if (cost.sure) runner.end += cost.typical;
    if (cost.sure) runner.variance = deviation * deviation;
  }
  for (Ticket* ticket = batch.first; ticket != nullptr;) {
    Ticket* next = ticket->queue_next;
    ticket->queue_next = nullptr;
    ticket->lane = static_cast<std::uint32_t>(lane);
    out.tickets.push_back(ticket);
    ticket = next;
  }
  runner.entry = entry;
  runner.unsettled = runner.wanted = batch.tickets;
  runner.started = impl_->now;
  runner.interrupt.emplace();
  entry->running += batch.tickets;
  ++entry->lanes;
  ++impl_->busy;
  impl_->file(entry);
  out.entry = entry;
  out.rows = batch.rows;
  out.cost_key = batch.key;
  out.cost_rows = batch.cost_rows;
  out.interrupt = &*runner.interrupt;
}

void Dispatcher::still_running(std::span<Ticket* const> tickets, std::vector<Ticket*>& out) const {
  out.clear();
  for (Ticket* ticket : tickets) {
    if (ticket->state == TicketState::kRunning) out.push_back(ticket);
  }
}

TicketChain Dispatcher::settle(Entry* entry, std::span<Ticket* const> tickets) {
  TicketChain chain;
  if (tickets.empty()) return chain;
  Lane& runner = impl_->lanes[tickets.front()->lane];
  HEADRACE_CHECK(runner.entry == entry && runner.unsettled >= tickets.size());
  for (Ticket* ticket : tickets) {
    if (ticket->state == TicketState::kRunning) {
      ticket->state = TicketState::kDone;
      if (ticket->heap_index != kNotInHeap) impl_->deadlines.remove(ticket);
      chain.append(ticket);
    } else {
      runner.gone.push_back(ticket);
    }
  }
  runner.unsettled -= tickets.size();
  runner.wanted -= chain.count;
  entry->running -= tickets.size();
  if (runner.wanted == 0 && runner.unsettled > 0) runner.interrupt->request();
  return chain;
}

void Dispatcher::release(int lane, Assignment& assignment) {
  Lane& runner = impl_->lane(lane);
  Entry* entry = runner.entry;
  HEADRACE_CHECK(entry != nullptr && entry == assignment.entry && runner.unsettled == 0);
  assignment.drop_gone();
  assignment.gone.swap(runner.gone);
  assignment.entry = nullptr;
  assignment.tickets.clear();
  assignment.interrupt = nullptr;
  runner.entry = nullptr;
  --entry->lanes;
  --impl_->busy;
  impl_->file(entry);
}

bool Dispatcher::cancel(Ticket* ticket, Status status) {
  if (ticket->state != TicketState::kQueued && ticket->state != TicketState::kRunning) return false;
  ticket->status = std::move(status);
  impl_->deadlines.remove(ticket);
  impl_->end_early(ticket);
  return true;
}

TicketChain Dispatcher::expire(Nanos now) {
  impl_->now = std::max(impl_->now, now);
  TicketChain chain;
  while (impl_->deadlines.next() <= now) {
    Ticket* ticket = impl_->deadlines.pop();
    const std::string& name = static_cast<Entry*>(ticket->model)->queue.model_name();
    const bool queued = ticket->state == TicketState::kQueued;
    const Nanos waited = (queued ? now : impl_->lanes[ticket->lane].started) - ticket->time.queued;
    std::string text = "the deadline passed ";
    text +=
        queued ? "in the queue of model '" + name + "', after " : "while model '" + name + "' ran the request, after ";
    text += std::to_string(waited / kMillisecond);
    text += queued ? " ms there" : " ms in its queue";
    ticket->status = Status(Code::kDeadlineExceeded, std::move(text));
    impl_->end_early(ticket);
    chain.append(ticket);
  }
  return chain;
}

Nanos Dispatcher::next_deadline() const { return impl_->deadlines.next(); }

bool Dispatcher::work_for_idle_lane(Nanos now) const {
  return !impl_->ready.empty() || (!impl_->timed.empty() && impl_->timed.top_key() <= now);
}

std::size_t Dispatcher::queued(const Entry* entry) const { return entry->queue.size(); }
std::size_t Dispatcher::queued_bytes(const Entry* entry) const { return entry->queue.bytes(); }
std::size_t Dispatcher::running(const Entry* entry) const { return entry->running; }
int Dispatcher::running_lanes(const Entry* entry) const { return entry->lanes; }
int Dispatcher::busy_lanes() const { return impl_->busy; }

}  // namespace headrace
