#include "batching/queue.h"

#include <algorithm>

#include "base/check.h"
#include "batching/heap.h"
#include "batching/shape_groups.h"

namespace headrace {

namespace {

constexpr std::int64_t kMostRows = std::numeric_limits<std::int32_t>::max();
constexpr std::size_t kAhead = 8;  // tickets whose lines take() fetches early: they lie in another core's cache

std::size_t bytes_of(const Ticket& ticket) {
  std::size_t bytes = 0;
  for (const Tensor& input : ticket.inputs) bytes += input.size;
  return bytes;
}

// What a sum of them holds, however many a caller says that there are.
std::int32_t counted_rows(const Ticket& ticket) {
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(ticket.rows, 1, kMostRows));
}

Nanos later(Nanos time, Nanos by) { return time > kNever - by ? kNever : time + by; }

OrderKey key_of(const Ticket& ticket) { return {ticket.order_level, ticket.order_when, ticket.sequence}; }

std::uint32_t level_of(const Ticket& ticket) { return static_cast<std::uint32_t>(ticket.order_level / 2); }

struct LevelBound {
  std::uint32_t level = 0;
  std::size_t most = 0;
  std::size_t queued = 0;
};

}  // namespace

// A group with tickets is in exactly one of the two heaps of groups.
struct Queue::Impl {
  PlacedHeap<ShapeGroup, OrderKey, &ShapeGroup::due_place> due;  // may run now, whatever the time; by its first ticket
  PlacedHeap<ShapeGroup, std::uint64_t, &ShapeGroup::waiting_place> waiting;  // for its oldest to be old enough
  PlacedHeap<Ticket, Nanos, &Ticket::delay_place> timeouts;  // tickets that will go to the back, by the time of it
  ShapeGroups groups;
  ShapeGroup alone;  // of all tickets, where each runs alone
  bool batched = false;
  std::int64_t max_rows = 1;
  std::int64_t full_rows = 1;           // of so many rows nothing waits
  std::vector<std::int64_t> preferred;  // ascending
  Nanos delay = 0;
  Nanos late_time = kNever;
  const Haste* haste = nullptr;    // of all models; null: nobody's is known
  std::vector<LevelBound> bounds;  // of the levels that have one, ascending
  bool turns = false;              // without them something could starve
  bool delays = false;             // a level has timeout_action DELAY
  std::uint32_t since_turn = 0;    // batches
  std::vector<std::uint32_t> devices{0};

  Nanos span() const { return haste == nullptr ? kNever : haste->span(); }
  std::uint64_t edition(const Costs& costs) const {  // changes when what a batch costs does
    return costs.edition() + (haste == nullptr ? 0 : haste->edition());
  }
  std::int64_t load_of(const Ticket& ticket) const { return std::clamp<std::int64_t>(ticket.rows, 1, max_rows); }
  bool prefers(std::int64_t rows) const { return std::binary_search(preferred.begin(), preferred.end(), rows); }
  bool old_enough(const ShapeGroup& group, Nanos now) const { return now - group.oldest_queued >= delay; }
  LevelBound* bound_of(std::uint32_t level) {
    for (LevelBound& each : bounds) {
      if (each.level == level) return &each;
    }
    return nullptr;
  }

  ExtentRule rule(const ShapeGroup& group, const Costs* costs, std::uint32_t device) const {
    ExtentRule made;
    made.batched = batched;
    made.max_rows = max_rows;
    if (!preferred.empty()) made.preferred = &preferred;
    made.costs = costs;
    made.key = {device, group.hash};
    made.span = span();
    made.late_time = late_time;
    return made;
  }
  bool by_preference(const ShapeGroup& group, Nanos now) const {
    return !preferred.empty() && (delay == 0 || !old_enough(group, now));
  }

  bool is_due(const ShapeGroup& group, const Costs* costs) const {
    if (delay == 0 || group.ripe || group.preferred_reached || group.load >= full_rows) return true;
    return costs != nullptr && preferred.empty() && group.load >= costs->best_rows({0, group.hash}, full_rows, span());
  }
  void file(ShapeGroup* group, const Costs* costs) {
    if (is_due(*group, costs)) {
      waiting.remove(group);
      due.set(group, group->line.front().key);
    } else {
      due.remove(group);
      waiting.set(group, group->oldest);
    }
  }
  // The group has another ticket now. Does its front reach a preferred size?
  void look_for_preferred(ShapeGroup* group) const {
    group->preferred_reached = false;
    if (delay == 0 || preferred.empty() || group->load >= full_rows) return;
    std::int64_t load = 0;
    for (const Slot& slot : group->line.slots()) {
      load += slot.load;
      group->preferred_reached = prefers(load);
      if (group->preferred_reached) return;
    }
  }
  // Tickets have left the group: where does it belong now?
  void refile(ShapeGroup* group, const Costs* costs) {
    if (group->line.empty()) {
      group->preferred_reached = group->ripe = false;
      due.remove(group);
      waiting.remove(group);
      if (batched) groups.retire(group);
      return;
    }
    look_for_preferred(group);
    file(group, costs);
  }
  // The group's oldest is gone.
  void find_oldest(ShapeGroup* group) const {
    if (group->line.empty()) return;
    const Slot* oldest = &group->line.front();
    for (const Slot& slot : group->line.slots()) {
      if (slot.key.sequence < oldest->key.sequence) oldest = &slot;
    }
    group->oldest = oldest->key.sequence;
    group->oldest_queued = oldest->ticket->time.queued;
    group->ripe = false;
  }
  // What the passing of time alone has changed.
  void pass_time(Nanos now, const Costs* costs) {
    while (!timeouts.empty() && timeouts.top_key() <= now) {
      Ticket* ticket = timeouts.top();
      timeouts.remove(ticket);
      ShapeGroup* group = ticket->group;
      Slot slot = group->line.at(key_of(*ticket));
      group->line.erase(slot.key);
      slot.key.level = ++ticket->order_level;
      group->line.insert(slot);
      look_for_preferred(group);
      file(group, costs);
    }
    while (!waiting.empty() && old_enough(*waiting.top(), now)) {
      ShapeGroup* group = waiting.top();
      group->ripe = true;
      file(group, costs);
    }
  }
  // What a batch of the group can cost at most, and how many rows it has at least where more wait: strictly in order,
  // it ends at the first ticket that does not fit.
  void price(ShapeGroup* group, const Costs& costs) const {
    std::int64_t most = max_rows;
    if (batched && preferred.empty()) {
      for (const std::uint32_t device : devices) most = costs.best_rows({device, group->hash}, most, span());
    }
    const std::int64_t rows = batched ? std::max(most, group->dearest) : group->dearest;
    Nanos cost = 0;
    for (const std::uint32_t device : devices) {
      cost = std::max(cost, costs.predict({device, group->hash}, rows).counted().high);
    }
    const std::int64_t least = batched && preferred.empty() ? std::max<std::int64_t>(most - group->dearest + 1, 1) : 1;
    group->batch_cost = std::min(cost, kMostWork);
    group->row_cost = (group->batch_cost + least - 1) / least;
    group->edition = edition(costs);
  }
  bool is_turn() const { return turns && since_turn + 1 >= kTurnEvery; }
  // The group whose batch is next, and where in its line the batch begins; null when none is due.
  ShapeGroup* next(std::size_t& first) const {
    first = 0;
    if (due.empty()) return nullptr;
    if (!is_turn()) return due.top();
    ShapeGroup* group = due.top();
    for (std::size_t i = 0; i < due.size(); ++i) {
      if (due.item(i)->oldest < group->oldest) group = due.item(i);
    }
    while (group->line[first].key.sequence != group->oldest) ++first;
    return group;
  }
};

Queue::Queue(std::string model_name, BatchingPolicy policy)
    : model_name_(std::move(model_name)), policy_(std::move(policy)), impl_(std::make_unique<Impl>()) {
  const BatchingPolicy defaults;
  if (policy_.max_queue_size == 0) policy_.max_queue_size = defaults.max_queue_size;
  if (policy_.max_queue_bytes == 0) policy_.max_queue_bytes = defaults.max_queue_bytes;
  impl_->delays = policy_.delays_late();
  impl_->turns = policy_.priority_levels > 1 || impl_->delays;
  for (const auto& [level, queue] : policy_.level_queue) {
    if (queue.max_queue_size > 0) impl_->bounds.push_back({level, queue.max_queue_size, 0});
  }
  impl_->batched = policy_.dynamic_batching && policy_.max_batch_size > 0;
  impl_->groups.set_padding(policy_.padding);
  if (policy_.latency_objective != kNever) impl_->late_time = policy_.latency_objective / 2;
  if (!impl_->batched) return;
  impl_->delay = std::max<Nanos>(policy_.max_queue_delay, 0);
  impl_->max_rows = impl_->full_rows = std::min(policy_.max_batch_size, kMostRows);
  for (const std::int64_t rows : policy_.preferred_batch_sizes) {
    if (rows > 0 && rows <= impl_->max_rows) impl_->preferred.push_back(rows);
  }
  std::sort(impl_->preferred.begin(), impl_->preferred.end());
  if (!impl_->preferred.empty()) impl_->full_rows = impl_->preferred.back();
}

Queue::~Queue() { HEADRACE_CHECK(size_ == 0); }

std::size_t Queue::groups() const { return impl_->groups.size(); }

Status Queue::full(std::size_t ticket_bytes) const {
  const std::string remedy = "; retry later, or add instances (count in config.pbtxt's instance_group)";
  if (size_ >= policy_.max_queue_size) {
    return resource_exhausted("the queue of model '" + model_name_ + "' is full: it holds " +
                              std::to_string(policy_.max_queue_size) +
                              " requests (max_queue_size in config.pbtxt's default_queue_policy)" + remedy);
  }
  return resource_exhausted("the queue of model '" + model_name_ + "' is full: it holds " + std::to_string(bytes_) +
                            " bytes of inputs, and this request's " + std::to_string(ticket_bytes) +
                            " would pass its limit of " + std::to_string(policy_.max_queue_bytes) + remedy);
}

Status Queue::level_full(std::uint32_t level, std::size_t bound) const {
  return resource_exhausted("the queue of model '" + model_name_ + "' is full for priority level " +
                            std::to_string(level) + ": it holds " + std::to_string(bound) +
                            " such requests (max_queue_size in config.pbtxt's priority_queue_policy); retry later, or "
                            "add instances (count in config.pbtxt's instance_group)");
}

void Queue::set_costs(Costs* costs, std::vector<std::uint32_t> devices, const Haste* haste) {
  HEADRACE_CHECK(size_ == 0 && !devices.empty());
  costs_ = costs;
  impl_->devices = std::move(devices);
  impl_->haste = haste;
}

Nanos Queue::batch_cost(const Ticket& ticket) { return ticket.group->batch_cost; }

Nanos Queue::work_of(const Ticket& ticket) const {
  Nanos work = 0;
  if (__builtin_mul_overflow(impl_->load_of(ticket), ticket.group->row_cost, &work)) return kMostWork;
  return std::min(work, kMostWork);
}

// The group has gained or lost tickets.
void Queue::weigh(ShapeGroup* group) {
  Nanos open = 0;
  if (!group->line.empty()) {
    if (group->edition != impl_->edition(*costs_)) {
      if (group->line.size() == 1) group->dearest = group->line.front().rows;
      impl_->price(group, *costs_);
    }
    open = group->batch_cost;
  }
  open_cost_ += open - group->counted;
  group->counted = open;
}

void Queue::reprice() {
  if (costs_ == nullptr) return;
  for (std::size_t i = 0; i < impl_->due.size(); ++i) weigh(impl_->due.item(i));
  for (std::size_t i = 0; i < impl_->waiting.size(); ++i) weigh(impl_->waiting.item(i));
}

Status Queue::push(Ticket* ticket, Nanos now, std::uint64_t sequence) {
  const std::size_t bytes = bytes_of(*ticket);
  if (size_ >= policy_.max_queue_size) return full(bytes);
  if (size_ > 0 && (bytes_ > policy_.max_queue_bytes || bytes > policy_.max_queue_bytes - bytes_)) return full(bytes);
  const std::uint32_t level = policy_.priority_levels == 0 ? 0 : policy_.level_of(ticket->priority);
  if (!impl_->bounds.empty()) {
    if (LevelBound* bound = impl_->bound_of(level); bound != nullptr) {
      if (bound->queued >= bound->most) return level_full(level, bound->most);
      ++bound->queued;
    }
  }

  insert(ticket, level, now, sequence);
  return {};
}

void Queue::requeue(Ticket* ticket, Nanos now, std::uint64_t sequence) {
  const Nanos queued = ticket->time.queued;
  const std::uint32_t level = policy_.priority_levels == 0 ? 0 : policy_.level_of(ticket->priority);
  if (!impl_->bounds.empty()) {
    if (LevelBound* bound = impl_->bound_of(level); bound != nullptr) ++bound->queued;
  }
  insert(ticket, level, now, sequence);
  ticket->time.queued = queued;
}

void Queue::insert(Ticket* ticket, std::uint32_t level, Nanos now, std::uint64_t sequence) {
  const std::size_t bytes = bytes_of(*ticket);
  last_push_ = std::max(last_push_, now);
  ShapeGroup* group = impl_->batched ? impl_->groups.find(*ticket) : &impl_->alone;
  const Nanos received = ticket->time.received != 0 ? ticket->time.received : last_push_;
  ticket->state = TicketState::kQueued;
  ticket->time.queued = last_push_;
  ticket->sequence = sequence;
  ticket->queued_bytes = bytes;
  ticket->group = group;
  ticket->queue_next = nullptr;
  ticket->order_level = std::uint64_t{level} * 2;
  ticket->target = ticket->deadline;
  if (policy_.latency_objective != kNever) {
    ticket->target = std::min(ticket->target, later(received, policy_.latency_objective));
  }
  ticket->order_when = std::min(ticket->target, later(last_push_, policy_.patience));
  if (ticket->target != kNever) {
    ++targets_;
    ++group->targets;
  }
  if (impl_->delays && policy_.queue_of(level).timeout_action == TimeoutAction::kDelay && ticket->timeout != kNever) {
    impl_->timeouts.set(ticket, later(received, ticket->timeout));
  }
  if (group->line.empty()) {
    group->oldest = sequence;
    group->oldest_queued = last_push_;
  }
  const std::int64_t load = impl_->load_of(*ticket);
  const auto rows = counted_rows(*ticket);
  group->line.insert({key_of(*ticket), ticket, ticket->target, static_cast<std::int32_t>(load), rows});
  group->load += load;
  ++size_;
  bytes_ += bytes;
  rows_ += rows;
  if (costs_ != nullptr) {
    if (rows > group->dearest) {
      group->dearest = rows;
      group->edition = 0;
    }
    weigh(group);
  }
  if (impl_->delay != 0 && !impl_->preferred.empty()) {
    if (group->line.back().ticket != ticket) {
      impl_->look_for_preferred(group);
    } else if (impl_->prefers(group->load)) {
      group->preferred_reached = true;
    }
  }
  // Where nothing waits for its delay, a group that is due stays so, and its turn changes only with its first ticket.
  if (impl_->delay != 0 || group->due_place == kNoPlace || group->line.front().ticket == ticket) {
    impl_->file(group, costs_);
  }
}

void Queue::remove(Ticket* ticket) {
  ShapeGroup* group = ticket->group;
  HEADRACE_CHECK(ticket->state == TicketState::kQueued && group != nullptr);
  group->line.erase(key_of(*ticket));
  group->load -= impl_->load_of(*ticket);
  if (ticket->sequence == group->oldest) impl_->find_oldest(group);
  ticket->group = nullptr;
  --size_;
  bytes_ -= ticket->queued_bytes;
  rows_ -= counted_rows(*ticket);
  if (ticket->target != kNever) {
    --targets_;
    --group->targets;
  }
  if (costs_ != nullptr) weigh(group);
  impl_->timeouts.remove(ticket);
  if (!impl_->bounds.empty()) {
    if (LevelBound* bound = impl_->bound_of(level_of(*ticket)); bound != nullptr) --bound->queued;
  }
  impl_->refile(group, costs_);
}

Batch Queue::take(Nanos now, const TakeOptions& options) {
  Batch batch;
  impl_->pass_time(now, costs_);
  std::size_t first = 0;
  ShapeGroup* group = impl_->next(first);
  if (group == nullptr) return batch;
  impl_->since_turn = impl_->is_turn() ? 0 : impl_->since_turn + 1;
  WaitingLine& line = group->line;
  if (first != 0) line.move_to_front(first);

  ExtentRule rule = impl_->rule(*group, costs_, options.device);
  if (!impl_->by_preference(*group, now)) rule.preferred = nullptr;
  rule.joins_before = options.joins_before;
  if (costs_ != nullptr && impl_->batched && options.trials && rule.preferred == nullptr) {
    // Nor is a size tried that would be in everybody's way.
    const Nanos time = rule.span == kNever ? kNever : rule.span / 2;
    rule.trial_rows = costs_->trial(rule.key, std::min(group->load, impl_->max_rows), time);
  }
  const Extent extent = batch_extent(line.slots(), rule, now);

  const auto taken = line.slots().first(extent.tickets);
  batch.tickets = extent.tickets;
  batch.key = rule.key;
  batch.cost_rows = extent.rows;
  batch.why = extent.why;
  batch.trial = rule.trial_rows > 0;
  if (impl_->delay != 0 && extent.why == Closed::kAll && group->load < impl_->full_rows) batch.why = Closed::kDelay;
  batch.first = taken.front().ticket;
  bool oldest_left = true;
  for (std::size_t i = 0; i < taken.size(); ++i) {
    if (i + kAhead < taken.size()) __builtin_prefetch(taken[i + kAhead].ticket, 1);
    Ticket* ticket = taken[i].ticket;
    ticket->state = TicketState::kRunning;
    ticket->queue_next = i + 1 < taken.size() ? taken[i + 1].ticket : nullptr;
    batch.rows += ticket->rows;
    bytes_ -= ticket->queued_bytes;
    rows_ -= taken[i].rows;
    batch.oldest = std::min(batch.oldest, ticket->time.queued);
    if (taken[i].target != kNever) {
      --targets_;
      --group->targets;
    }
    if (taken[i].key.sequence == group->oldest) oldest_left = false;
    if (impl_->delays) impl_->timeouts.remove(ticket);
    if (!impl_->bounds.empty()) {
      if (LevelBound* bound = impl_->bound_of(level_of(*ticket)); bound != nullptr) --bound->queued;
    }
  }
  group->load -= extent.load;
  size_ -= extent.tickets;
  line.drop_front(extent.tickets);
  if (costs_ != nullptr) weigh(group);
  if (!oldest_left) impl_->find_oldest(group);
  impl_->refile(group, costs_);
  return batch;
}

Turn Queue::next_turn(Nanos now) {
  impl_->pass_time(now, costs_);
  std::size_t first = 0;
  const ShapeGroup* group = impl_->next(first);
  if (group == nullptr) return {};
  const OrderKey& key = group->line[first].key;
  return {key.when, key.sequence};
}

Extent Queue::next_extent(Nanos now, const TakeOptions& options, std::span<const Slot>& slots) {
  impl_->pass_time(now, costs_);
  slots = {};
  std::size_t first = 0;
  const ShapeGroup* group = impl_->next(first);
  if (group == nullptr || first != 0) return {};
  ExtentRule rule = impl_->rule(*group, costs_, options.device);
  if (!impl_->by_preference(*group, now)) rule.preferred = nullptr;
  rule.joins_before = options.joins_before;
  slots = group->line.slots();
  return batch_extent(slots, rule, now);
}

Nanos Queue::ripens() const {
  if (impl_->waiting.empty()) return kNever;
  const Nanos since = impl_->waiting.top()->oldest_queued;
  return since > kNever - impl_->delay ? kNever : since + impl_->delay;
}

Nanos Queue::next_timeout(Nanos now) const { return impl_->due.empty() ? ripens() : now; }

CostKey Queue::cost_key(const Ticket& ticket) const { return {0, ticket.group->hash}; }

void Queue::append_groups(std::vector<WaitingGroup>& out) const {
  const auto append = [&](const ShapeGroup& group, bool due) {
    const Nanos ripens = later(group.oldest_queued, impl_->delay);
    out.push_back(
        {group.line.slots(), group.load, group.targets, due, impl_->delay > 0, ripens, impl_->rule(group, costs_, 0)});
  };
  for (std::size_t i = 0; i < impl_->due.size(); ++i) append(*impl_->due.item(i), true);
  for (std::size_t i = 0; i < impl_->waiting.size(); ++i) append(*impl_->waiting.item(i), false);
}

Ticket* Queue::clear() {
  std::vector<Ticket*> all;
  all.reserve(size_);
  while (!impl_->due.empty() || !impl_->waiting.empty()) {
    ShapeGroup* group = impl_->due.empty() ? impl_->waiting.top() : impl_->due.top();
    for (const Slot& slot : group->line.slots()) all.push_back(slot.ticket);
    group->line.clear();
    group->load = 0;
    group->targets = 0;
    group->counted = 0;
    impl_->refile(group, costs_);
  }
  HEADRACE_CHECK(all.size() == size_);
  std::sort(all.begin(), all.end(), [](const Ticket* a, const Ticket* b) { return a->sequence < b->sequence; });
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i]->queue_next = i + 1 < all.size() ? all[i + 1] : nullptr;
    all[i]->group = nullptr;
    impl_->timeouts.remove(all[i]);
  }
  for (LevelBound& bound : impl_->bounds) bound.queued = 0;
  impl_->since_turn = 0;
  size_ = 0;
  bytes_ = 0;
  rows_ = 0;
  targets_ = 0;
  open_cost_ = 0;
  return all.empty() ? nullptr : all.front();
}

}  // namespace headrace
