#include "batching/queue.h"

#include <algorithm>

#include "base/check.h"
#include "batching/heap.h"
#include "batching/shape_groups.h"

namespace headrace {

namespace {

std::size_t bytes_of(const Ticket& ticket) {
  std::size_t bytes = 0;
  for (const Tensor& input : ticket.inputs) bytes += input.size;
  return bytes;
}

}  // namespace

// A group with tickets is in exactly one of the two heaps, keyed by its oldest ticket.
struct Queue::Impl {
  PlacedHeap<ShapeGroup, std::uint64_t, &ShapeGroup::due_place> due;          // may run now, whatever the time
  PlacedHeap<ShapeGroup, std::uint64_t, &ShapeGroup::waiting_place> waiting;  // until the oldest is old enough
  ShapeGroups groups;
  ShapeGroup alone;  // of all tickets, where each runs alone
  bool batched = false;
  std::int64_t max_rows = 1;
  std::int64_t full_rows = 1;           // of so many rows nothing waits
  std::vector<std::int64_t> preferred;  // ascending
  Nanos delay = 0;

  std::int64_t load_of(const Ticket& ticket) const { return std::clamp<std::int64_t>(ticket.rows, 1, max_rows); }
  bool prefers(std::int64_t rows) const { return std::binary_search(preferred.begin(), preferred.end(), rows); }
  bool old_enough(const ShapeGroup& group, Nanos now) const { return now - group.head->time.queued >= delay; }

  bool is_due(const ShapeGroup& group) const {
    return delay == 0 || group.load >= full_rows || group.preferred_reached;
  }
  void file(ShapeGroup* group) {
    if (is_due(*group)) {
      waiting.remove(group);
      due.set(group, group->head->sequence);
    } else {
      due.remove(group);
      waiting.set(group, group->head->sequence);
    }
  }
  // Tickets have left the group: where does it belong now?
  void refile(ShapeGroup* group) {
    group->preferred_reached = false;
    if (group->head == nullptr) {
      due.remove(group);
      waiting.remove(group);
      if (batched) groups.retire(group);
      return;
    }
    if (delay != 0 && !preferred.empty() && group->load < full_rows) {
      std::int64_t load = 0;
      for (const Ticket* ticket = group->head; ticket != nullptr && !group->preferred_reached;
           ticket = ticket->queue_next) {
        load += load_of(*ticket);
        group->preferred_reached = prefers(load);
      }
    }
    file(group);
  }
  // The group whose batch is next; null when none is due.
  ShapeGroup* next(Nanos now) const {
    ShapeGroup* group = due.empty() ? nullptr : due.top();
    if (!waiting.empty() && (group == nullptr || waiting.top_key() < due.top_key()) &&
        old_enough(*waiting.top(), now)) {
      group = waiting.top();
    }
    return group;
  }
};

Queue::Queue(std::string model_name, BatchingPolicy policy)
    : model_name_(std::move(model_name)), policy_(std::move(policy)), impl_(std::make_unique<Impl>()) {
  const BatchingPolicy defaults;
  if (policy_.max_queue_size == 0) policy_.max_queue_size = defaults.max_queue_size;
  if (policy_.max_queue_bytes == 0) policy_.max_queue_bytes = defaults.max_queue_bytes;
  impl_->batched = policy_.dynamic_batching && policy_.max_batch_size > 0;
  if (!impl_->batched) return;
  impl_->delay = std::max<Nanos>(policy_.max_queue_delay, 0);
  impl_->max_rows = impl_->full_rows = policy_.max_batch_size;
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

Status Queue::push(Ticket* ticket, Nanos now, std::uint64_t sequence) {
  const std::size_t bytes = bytes_of(*ticket);
  if (size_ >= policy_.max_queue_size) return full(bytes);
  if (size_ > 0 && (bytes_ > policy_.max_queue_bytes || bytes > policy_.max_queue_bytes - bytes_)) return full(bytes);

  last_push_ = std::max(last_push_, now);
  ShapeGroup* group = impl_->batched ? impl_->groups.find(*ticket) : &impl_->alone;
  HEADRACE_CHECK(group->tail == nullptr || group->tail->sequence < sequence);
  ticket->state = TicketState::kQueued;
  ticket->time.queued = last_push_;
  ticket->sequence = sequence;
  ticket->queued_bytes = bytes;
  ticket->group = group;
  ticket->queue_prev = group->tail;
  ticket->queue_next = nullptr;
  ticket->queue_ahead = nullptr;
  if (Ticket*& before = group->lately[group->pushes++ % ShapeGroup::kAhead]; true) {
    if (before != nullptr) before->queue_ahead = ticket;
    before = ticket;
  }
  (group->tail != nullptr ? group->tail->queue_next : group->head) = ticket;
  group->tail = ticket;
  group->load += impl_->load_of(*ticket);
  ++size_;
  bytes_ += bytes;
  if (!impl_->preferred.empty() && impl_->prefers(group->load)) group->preferred_reached = true;
  impl_->file(group);
  return Status();
}

void Queue::remove(Ticket* ticket) {
  ShapeGroup* group = ticket->group;
  HEADRACE_CHECK(ticket->state == TicketState::kQueued && group != nullptr);
  (ticket->queue_prev != nullptr ? ticket->queue_prev->queue_next : group->head) = ticket->queue_next;
  (ticket->queue_next != nullptr ? ticket->queue_next->queue_prev : group->tail) = ticket->queue_prev;
  ticket->queue_prev = ticket->queue_next = nullptr;
  ticket->group = nullptr;
  group->lately = {};
  group->load -= impl_->load_of(*ticket);
  --size_;
  bytes_ -= ticket->queued_bytes;
  impl_->refile(group);
}

Batch Queue::take(Nanos now) {
  Batch batch;
  ShapeGroup* group = impl_->next(now);
  if (group == nullptr) return batch;

  // Find the last ticket of the batch.
  Ticket* last = group->head;
  std::int64_t load = impl_->load_of(*last);
  if (impl_->batched) {
    const bool by_preference = !impl_->preferred.empty() && (impl_->delay == 0 || !impl_->old_enough(*group, now));
    Ticket* preferred = by_preference && impl_->prefers(load) ? last : nullptr;
    for (Ticket* ticket = last->queue_next; ticket != nullptr; ticket = ticket->queue_next) {
      __builtin_prefetch(ticket->queue_ahead, 1);
      const std::int64_t more = impl_->load_of(*ticket);
      if (more > impl_->max_rows - load) break;
      load += more;
      last = ticket;
      if (by_preference && impl_->prefers(load)) preferred = ticket;
    }
    if (preferred != nullptr) last = preferred;
  }

  batch.first = group->head;
  group->head = last->queue_next;
  (group->head != nullptr ? group->head->queue_prev : group->tail) = nullptr;
  last->queue_next = nullptr;
  group->lately = {};
  for (Ticket* ticket = batch.first; ticket != nullptr; ticket = ticket->queue_next) {
    ticket->state = TicketState::kRunning;
    ++batch.tickets;
    batch.rows += ticket->rows;
    group->load -= impl_->load_of(*ticket);
    bytes_ -= ticket->queued_bytes;
  }
  size_ -= batch.tickets;
  impl_->refile(group);
  return batch;
}

std::uint64_t Queue::oldest_due(Nanos now) const {
  const ShapeGroup* group = impl_->next(now);
  return group == nullptr ? kNoSequence : group->head->sequence;
}

Nanos Queue::ripens() const {
  if (impl_->waiting.empty()) return kNever;
  const Nanos since = impl_->waiting.top()->head->time.queued;
  return since > kNever - impl_->delay ? kNever : since + impl_->delay;
}

Nanos Queue::next_timeout(Nanos now) const { return impl_->due.empty() ? ripens() : now; }

Ticket* Queue::clear() {
  std::vector<Ticket*> all;
  all.reserve(size_);
  while (!impl_->due.empty() || !impl_->waiting.empty()) {
    ShapeGroup* group = impl_->due.empty() ? impl_->waiting.top() : impl_->due.top();
    for (Ticket* ticket = group->head; ticket != nullptr; ticket = ticket->queue_next) all.push_back(ticket);
    group->head = group->tail = nullptr;
    group->lately = {};
    group->load = 0;
    impl_->refile(group);
  }
  HEADRACE_CHECK(all.size() == size_);
  std::sort(all.begin(), all.end(), [](const Ticket* a, const Ticket* b) { return a->sequence < b->sequence; });
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i]->queue_prev = i > 0 ? all[i - 1] : nullptr;
    all[i]->queue_next = i + 1 < all.size() ? all[i + 1] : nullptr;
    all[i]->group = nullptr;
  }
  size_ = 0;
  bytes_ = 0;
  return all.empty() ? nullptr : all.front();
}

}  // namespace headrace
