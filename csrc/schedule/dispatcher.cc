#include "schedule/dispatcher.h"

#include <algorithm>

#include "base/check.h"
#include "batching/heap.h"
#include "schedule/entry.h"
#include "schedule/promises.h"
#include "schedule/ready.h"

namespace headrace {

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

struct Dispatcher::Impl {
  std::vector<LaneState> lanes;
  std::vector<std::unique_ptr<Entry>> entries;
  Resources resources;
  Ready ready{resources, lanes.size()};
  // Models with a batch that waits for its queue delay, by the time when it is due. A model may be ready too.
  PlacedHeap<Entry, Nanos, &Entry::timed_place> timed;
  std::vector<Entry*> send_back;  // entries whose timeouts do
  DeadlineHeap deadlines;
  std::uint64_t next_sequence = 0;
  Nanos now = 0;  // the latest heard of
  int busy = 0;
  Promises promises{lanes, entries, resources};

  explicit Impl(int count) : lanes(static_cast<std::size_t>(count)) {}

  LaneState& lane(int index) {
    HEADRACE_CHECK(index >= 0 && static_cast<std::size_t>(index) < lanes.size());
    return lanes[static_cast<std::size_t>(index)];
  }

  // Something about the entry has changed: where does it stand? With a `now` that has since passed it may be filed as
  // waiting for a time that has come, which take() sees.
  void file(Entry* entry) {
    if (entry->queue.empty() && !Ready::stands(entry) && entry->timed_place == kNoPlace) {
      ready.stays_idle(*entry);
      return;
    }
    Turn turn;
    Nanos ripens = kNever;
    if (entry->lanes < entry->max_lanes && !entry->queue.empty() && !entry->parked) {
      turn = entry->queue.next_turn(now);
      ripens = entry->queue.ripens();
    }
    ready.set(entry, turn);
    if (ripens != kNever && ripens > now) {
      timed.set(entry, ripens);
    } else {
      timed.remove(entry);
    }
  }

  void unload(Ticket* ticket, const Entry& entry) {
    ticket->state = TicketState::kDone;
    ticket->status = Status(Code::kUnavailable, "model '" + entry.queue.model_name() + "' is being unloaded");
    deadlines.remove(ticket);
  }

  // It waits for a lane once more.
  void requeue(Ticket* ticket, Entry* entry) {
    entry->queue.requeue(ticket, now, next_sequence++);
    promises.account(*entry);
    file(entry);
  }

  // Ends a queued or running ticket before its time; the caller has set its status.
  void end_early(Ticket* ticket) {
    if (ticket->state == TicketState::kQueued) {
      auto* entry = static_cast<Entry*>(ticket->model);
      entry->queue.remove(ticket);
      promises.left(*ticket, false);
      promises.account(*entry);
      ticket->state = TicketState::kDone;
      file(entry);
      return;
    }
    if (ticket->state == TicketState::kPaused) {
      std::erase(static_cast<Entry*>(ticket->model)->paused, ticket);
      ticket->state = TicketState::kDone;
      return;
    }
    HEADRACE_CHECK(ticket->state == TicketState::kRunning);
    ticket->state = TicketState::kDone;
    ticket->references.fetch_add(1, std::memory_order_relaxed);
    LaneState& runner = lanes[ticket->lane];
    if (--runner.wanted == 0) runner.interrupt->request();
  }
};

Dispatcher::Dispatcher(int lanes, const std::vector<std::uint32_t>& devices)
    : impl_(std::make_unique<Impl>(std::max(lanes, 0))) {
  HEADRACE_CHECK(lanes > 0 && (devices.empty() || devices.size() == impl_->lanes.size()));
  for (std::size_t i = 0; i < devices.size(); ++i) impl_->lanes[i].device = devices[i];
}

Dispatcher::~Dispatcher() {
  for (const auto& entry : impl_->entries) HEADRACE_CHECK(idle(entry.get()));
}

Dispatcher::Entry* Dispatcher::add(std::string name, BatchingPolicy policy, int max_lanes, void* model, Costs* costs,
                                   const Share& share) {
  HEADRACE_CHECK(max_lanes > 0);
  impl_->entries.push_back(std::make_unique<Entry>(std::move(name), std::move(policy), max_lanes, model, costs));
  Entry* entry = impl_->entries.back().get();
  if (costs != nullptr) {
    std::vector<std::uint32_t> kinds;
    for (const LaneState& lane : impl_->lanes) {
      if (std::find(kinds.begin(), kinds.end(), lane.device) == kinds.end()) kinds.push_back(lane.device);
    }
    entry->queue.set_costs(costs, std::move(kinds), &impl_->promises.haste());
  }
  entry->account.weight = std::clamp(share.weight, kLeastWeight, kMostWeight);
  if (share.cores > 0) entry->needs.push_back({ResourceRoom::kCores, share.cores});
  for (const ResourceNeed& need : share.needs) entry->needs.push_back(impl_->resources.add(need));
  if (!entry->needs.empty()) impl_->promises.see_needs();
  if (entry->queue.policy().delays_late()) impl_->send_back.push_back(entry);
  return entry;
}

void Dispatcher::set_resource(const std::string& name, int device, std::uint32_t count) {
  impl_->resources.set(name, device, count);
  impl_->ready.look_again();
}

Status Dispatcher::can_have(const Share& share) const {
  for (const ResourceNeed& need : share.needs) {
    const ResourceNeed* limit = impl_->resources.limit(need.name, need.device);
    if (limit == nullptr || need.count <= limit->count) continue;
    const std::string count = std::to_string(limit->count);
    const std::string where = need.device == kEverywhere ? "" : " on device " + std::to_string(need.device);
    return {Code::kFailedPrecondition, "a batch needs " + std::to_string(need.count) + " of the resource '" +
                                           need.name +
                                           "' (count in config.pbtxt's instance_group.rate_limiter), and there are " +
                                           count + where + " (--rate-limit-resource " + need.name + ":" + count +
                                           (limit->device == kEverywhere ? "" : ":" + std::to_string(limit->device)) +
                                           "): it could never run; lower the one or raise the other"};
  }
  return {};
}

void Dispatcher::set_cores(std::uint32_t count) {
  impl_->resources.set_cores(count);
  impl_->ready.look_again();
}

TicketChain Dispatcher::close(Entry* entry) {
  entry->closed = true;
  return empty_queue(entry);
}

TicketChain Dispatcher::empty_queue(Entry* entry) {
  TicketChain chain;
  for (Ticket* ticket = entry->queue.clear(); ticket != nullptr;) {
    Ticket* next = ticket->queue_next;
    ticket->queue_next = nullptr;
    impl_->unload(ticket, *entry);
    impl_->promises.left(*ticket, false);
    chain.append(ticket);
    ticket = next;
  }
  for (Ticket* ticket : entry->paused) {
    impl_->unload(ticket, *entry);
    chain.append(ticket);
  }
  entry->paused.clear();
  impl_->promises.account(*entry);
  impl_->file(entry);
  return chain;
}

bool Dispatcher::idle(const Entry* entry) const {
  return entry->queue.empty() && entry->paused.empty() && entry->lanes == 0;
}

bool Dispatcher::park(Entry* entry) {
  if (!idle(entry)) return false;
  entry->parked = true;
  return true;
}

void Dispatcher::unpark(Entry* entry) {
  entry->parked = false;
  impl_->promises.unparked(*entry, impl_->now);
  impl_->file(entry);
}

bool Dispatcher::parked(const Entry* entry) { return entry->parked; }

void Dispatcher::erase(Entry* entry) {
  HEADRACE_CHECK(idle(entry));
  auto& entries = impl_->entries;
  const auto found =
      std::find_if(entries.begin(), entries.end(), [entry](const auto& each) { return each.get() == entry; });
  HEADRACE_CHECK(found != entries.end());
  for (const ResourceRoom::Taken& need : entry->needs) impl_->resources.drop(need);
  std::erase(impl_->send_back, entry);
  entries.erase(found);
  impl_->promises.see_needs();
}

void* Dispatcher::model(const Entry* entry) { return entry->model; }

Offer Dispatcher::offer(const Entry* entry, const Ticket& ticket, Nanos now) const {
  return impl_->promises.offer(*entry, ticket, std::max(impl_->now, now));
}

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
  if (entry->costs != nullptr && !entry->parked) {
    status = impl_->promises.admit(*entry, ticket, impl_->ready.due(impl_->now), impl_->now);
    if (!status.ok()) {
      impl_->file(entry);
      return status;
    }
  }
  ++impl_->next_sequence;
  ticket->model = entry;
  if (ticket->deadline != kNever) impl_->deadlines.push(ticket);
  // Where nothing waits for its delay, a ticket that is not the most urgent does not change whose turn it is.
  const bool stands = Ready::stands(entry);
  const bool first_target = ticket->target != kNever && entry->queue.targets() == 1;
  if (entry->delays || entry->unruly || !stands || first_target || ticket->order_when < entry->turn.when) {
    impl_->file(entry);
  }
  return status;
}

void Dispatcher::take(int lane, Nanos now, Assignment& out) {
  out.drop_gone();
  out.entry = nullptr;
  out.tickets.clear();
  out.rows = 0;
  out.interrupt = nullptr;
  out.ask_again = kNever;
  LaneState& runner = impl_->lane(lane);
  HEADRACE_CHECK(runner.entry == nullptr);
  impl_->now = std::max(impl_->now, now);
  while (!impl_->timed.empty() && impl_->timed.top_key() <= impl_->now) impl_->file(impl_->timed.top());
  // A timeout may have changed whose turn it is in a model, and so among the models.
  for (Entry* each : impl_->send_back) impl_->file(each);
  for (Entry* each : impl_->promises.follow(impl_->now)) impl_->file(each);
  Entry* entry = impl_->ready.top();
  if (entry != nullptr && !entry->rank.patient) {
    if (Entry* due = impl_->ready.due(impl_->now); due != nullptr && !due->promoted) {
      // One of those that can wait has waited too long. It goes now, or is the next to get what it lacks.
      if (impl_->promises.may_go_first(lane, *due, impl_->now)) {
        if (due->lacks) {
          impl_->ready.promote(due);
          entry = impl_->ready.top();
        } else {
          entry = due;
        }
      }
    }
  }
  if (entry == nullptr) {
    if (!impl_->timed.empty()) out.ask_again = impl_->timed.top_key();
    return;
  }
  Nanos hold_until = kNever;
  const TakeOptions options = impl_->promises.before_take(lane, *entry, impl_->now, hold_until);
  if (hold_until != kNever) {
    out.ask_again = impl_->timed.empty() ? hold_until : std::min(hold_until, impl_->timed.top_key());
    return;
  }
  const Batch batch = entry->queue.take(impl_->now, options);
  HEADRACE_CHECK(batch.first != nullptr);
  runner.end = runner.latest = impl_->now;
  runner.variance = 0;
  Nanos predicted = 0;
  if (entry->costs != nullptr) {
    const CostEstimate cost = entry->costs->predict(batch.key, batch.cost_rows).counted();
    const auto deviation = static_cast<double>(cost.high - cost.typical);
    predicted = cost.typical;
    runner.end += cost.typical;
    runner.latest += cost.high;
    runner.variance = deviation * deviation;
  }
  for (Ticket* ticket = batch.first; ticket != nullptr;) {
    Ticket* next = ticket->queue_next;
    ticket->queue_next = nullptr;
    ticket->lane = static_cast<std::uint32_t>(lane);
    out.tickets.push_back(ticket);
    if (ticket->promised || ticket->work != 0) impl_->promises.left(*ticket, true);
    ticket = next;
  }
  runner.entry = entry;
  runner.unsettled = runner.wanted = batch.tickets;
  runner.started = impl_->now;
  runner.record = {
      0, batch.why, lane, batch.tickets, batch.rows, impl_->now, impl_->now - batch.oldest, runner.end - impl_->now, 0};
  runner.interrupt.emplace();
  entry->running += batch.tickets;
  ++entry->lanes;
  ++impl_->busy;
  if (entry->costs != nullptr) impl_->promises.after_take(*entry, batch);
  runner.charged = impl_->ready.took(*entry, predicted, impl_->now);
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
  LaneState& runner = impl_->lanes[tickets.front()->lane];
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

std::optional<std::uint32_t> Dispatcher::claim_part(Ticket* ticket) {
  if (ticket->state != TicketState::kRunning) return std::nullopt;
  HEADRACE_CHECK(ticket->credit > 0);
  --ticket->credit;
  ticket->references.fetch_add(1, std::memory_order_relaxed);
  ticket->sink->expect_part();
  return ticket->credit;
}

TicketChain Dispatcher::end_turn(Entry* entry, Ticket* ticket) {
  if (ticket->state != TicketState::kRunning || entry->closed) {
    const TicketChain chain = settle(entry, {&ticket, 1});
    if (chain.first != nullptr) impl_->unload(ticket, *entry);
    return chain;
  }
  LaneState& runner = impl_->lanes[ticket->lane];
  HEADRACE_CHECK(runner.entry == entry && runner.unsettled > 0);
  --runner.unsettled;
  --runner.wanted;
  --entry->running;
  entry->takes_turns = true;
  if (ticket->credit > 0) {
    impl_->requeue(ticket, entry);
  } else {
    ticket->state = TicketState::kPaused;
    entry->paused.push_back(ticket);
  }
  return {};
}

bool Dispatcher::give_credit(Ticket* ticket, std::uint32_t parts) {
  ticket->credit += parts;
  if (ticket->state != TicketState::kPaused) return false;
  auto* entry = static_cast<Entry*>(ticket->model);
  std::erase(entry->paused, ticket);
  impl_->requeue(ticket, entry);
  return true;
}

void Dispatcher::release(int lane, Assignment& assignment, Nanos now) {
  impl_->now = std::max(impl_->now, now);
  LaneState& runner = impl_->lane(lane);
  Entry* entry = runner.entry;
  HEADRACE_CHECK(entry != nullptr && entry == assignment.entry && runner.unsettled == 0);
  assignment.drop_gone();
  assignment.gone.swap(runner.gone);
  assignment.entry = nullptr;
  assignment.tickets.clear();
  assignment.interrupt = nullptr;
  runner.record.took = impl_->now - runner.started;
  entry->log.add(runner.record);
  runner.entry = nullptr;
  --entry->lanes;
  --impl_->busy;
  impl_->promises.ended(*entry, impl_->now - runner.started, impl_->now - runner.latest);
  impl_->ready.gave(*entry, runner.charged, impl_->now - runner.started);
  impl_->file(entry);
}

bool Dispatcher::cancel(Ticket* ticket, Status status) {
  if (ticket->state == TicketState::kNew || ticket->state == TicketState::kDone) return false;
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
    const bool queued = ticket->state != TicketState::kRunning;
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

std::size_t Dispatcher::unserved(const Entry* entry) const {
  return queued(entry) + (entry->takes_turns ? entry->running : 0);
}
std::size_t Dispatcher::queued(const Entry* entry) const { return entry->queue.size() + entry->paused.size(); }
std::size_t Dispatcher::queued_bytes(const Entry* entry) const { return entry->queue.bytes(); }
std::size_t Dispatcher::running(const Entry* entry) const { return entry->running; }
int Dispatcher::lanes_now(const Entry* entry) { return entry->max_lanes; }

Nanos Dispatcher::span() const { return impl_->promises.haste().span(); }

int Dispatcher::running_lanes(const Entry* entry) const { return entry->lanes; }
const BatchLog& Dispatcher::log(const Entry* entry) { return entry->log; }
std::uint64_t Dispatcher::refused_early(const Entry* entry) { return entry->refused; }
int Dispatcher::busy_lanes() const { return impl_->busy; }
std::uint64_t Dispatcher::cores() const { return impl_->resources.cores(); }
std::uint64_t Dispatcher::cores_used() const { return impl_->resources.cores_used(); }

std::vector<Resources::View> Dispatcher::resources(const Entry* entry) const {
  std::vector<Resources::View> views;
  for (const ResourceRoom::Taken& need : entry->needs) {
    if (need.place != ResourceRoom::kCores) views.push_back(impl_->resources.view(need));
  }
  return views;
}

}  // namespace headrace
