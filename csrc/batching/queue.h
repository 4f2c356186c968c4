// The pure batcher of one model: which waiting tickets run together, and when. No threads, locks, clock or I/O: time
// comes in as a parameter, and the caller serialises the calls.
//
// Rules, in this order:
//  1. Work-conserving: with no queue delay, take() hands out what is there. Nothing waits for a timer.
//  2. Order: by priority level where the model has levels; within one, earliest target first (its deadline, or received
//     + latency_objective); within that by arrival. A ticket without a target, or with a late one, has patience for
//     kPatience and then goes before all that came later; so without targets the order is that of arrival, and
//     nothing starves. Lower levels and what a timeout has sent to the back (DELAY) do not starve either: with them
//     one batch in kTurnEvery begins with the ticket that has waited longest.
//  3. Tickets share a batch only if their inputs agree in presence, dtype and every dimension but the first, compared
//     exactly (a ShapeGroup); of a model that may be padded, in the class of their length (batching/padding.h). Of the
//     groups that are due, the one with the first ticket is served; inside a group strictly in order: a ticket that
//     does not fit closes the batch, it is never overtaken.
//  4. A batch has at most max_batch_size rows (a ticket of more rows runs alone; one of no rows counts as one). Of the
//     preferred sizes, the largest that whole tickets at the front reach exactly; if none is reached, all that fits.
//     What is known of costs closes it earlier: where a bigger batch does not pay, and where a target in it would be
//     missed (batching/extent.h).
//  5. With a queue delay, a group is due once its front reaches a preferred size exactly, or its rows reach the largest
//     preferred size (where none is given: max_batch_size, or what pays), or its oldest ticket has waited that long;
//     what has waited that long takes along all that fits, preferred size or not. Until then take() passes it over,
//     and next_timeout() names the time to ask again. This is what Triton's preferred_batch_size and
//     max_queue_delay_microseconds mean.
//  6. Without dynamic batching, or with max_batch_size 0, each ticket runs alone, at once, in order.
//  7. Bounded: tickets, bytes, and tickets of a level that has a bound. Full is RESOURCE_EXHAUSTED, naming the model's
//     bound and the remedy. A ticket of more bytes than the bound may stand in an empty queue.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "batching/extent.h"
#include "batching/haste.h"
#include "batching/policy.h"
#include "batching/request.h"

namespace headrace {

// A batch taken: tickets in order, linked by Ticket::queue_next.
struct Batch {
  Ticket* first = nullptr;
  std::size_t tickets = 0;
  std::int64_t rows = 0;
  CostKey key;                 // under which its run is counted
  std::int64_t cost_rows = 0;  // and as how many rows
  Closed why = Closed::kAll;
  bool trial = false;     // of a size that is little known
  Nanos oldest = kNever;  // when the ticket of it that waited longest was queued
};

inline constexpr Nanos kMostWork = kNever / 1024;

inline constexpr std::uint64_t kNoSequence = std::numeric_limits<std::uint64_t>::max();

// When a model's next batch has its turn among other models'; the least is first.
struct Turn {
  Nanos when = kNever;
  std::uint64_t sequence = kNoSequence;           // of its first ticket; kNoSequence: there is no batch
  auto operator<=>(const Turn&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 sees one here
};

// One shape group, for a forecast.
struct WaitingGroup {
  std::span<const Slot> slots;
  std::int64_t load = 0;
  std::size_t targets = 0;  // tickets that have one
  bool due = false;
  bool delays = false;  // it may wait for mates
  Nanos ripens = 0;     // and no longer than until then
  ExtentRule rule;
};

// How take() is to go about it.
struct TakeOptions {
  std::uint32_t device = 0;                  // of the lane that takes
  std::uint64_t joins_before = kNoSequence;  // ExtentRule's
  bool trials = true;                        // a size that is little known may be tried
};

class Queue {
 public:
  Queue(std::string model_name, BatchingPolicy policy);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Which costs the runs of this model have on lanes of these kinds, and how soon answers are wanted; null: nothing is
  // known. They must outlive the queue. While it is empty.
  void set_costs(Costs* costs, std::vector<std::uint32_t> devices = {0}, const Haste* haste = nullptr);
  const Costs* costs() const { return costs_; }

  // Joins the queue: state becomes kQueued; time.queued, level and target are set. `sequence` grows from push to push
  // (the dispatcher counts over all models, so that their ages compare), and so does `now`; a `now` before the last one
  // is read as that. On refusal the ticket is untouched.
  Status push(Ticket* ticket, Nanos now, std::uint64_t sequence);
  // One that was taken from it goes on waiting, behind what has come meanwhile; never refused.
  void requeue(Ticket* ticket, Nanos now, std::uint64_t sequence);
  // Takes a queued ticket out (cancelled or expired). Its state is the caller's to set.
  void remove(Ticket* ticket);
  // Takes the next batch: its tickets become kRunning. Empty (first == nullptr) when nothing may
  // run yet. Does not look at deadlines: the caller takes expired tickets out first.
  Batch take(Nanos now, const TakeOptions& options = {});
  // What take(now) would begin with; sequence kNoSequence when there is nothing.
  Turn next_turn(Nanos now);
  // The tickets that take(now, options) would hand out, in order, were there no trial.
  Extent next_extent(Nanos now, const TakeOptions& options, std::span<const Slot>& slots);
  // When take() should be asked again although nothing new has come; kNever when only an arrival can change the answer.
  // `now` or earlier means: take() has a batch right now.
  Nanos next_timeout(Nanos now) const;
  // When the first group that still waits for its delay is due by age; kNever when none waits.
  Nanos ripens() const;
  // Empties the queue (unload): all tickets, in order of arrival, linked by queue_next. Their state is the caller's.
  Ticket* clear();

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return bytes_; }
  std::int64_t rows() const { return rows_; }
  std::size_t targets() const { return targets_; }  // queued tickets that have one
  // The most time that queued tickets take on one lane, one batch after the other, by what is known of costs and while
  // no target closes a batch early: for each of them work_of(), and open_cost() once. Each is at most kMostWork.
  Nanos work_of(const Ticket& ticket) const;
  Nanos open_cost() const { return open_cost_; }
  void reprice();  // costs, or the haste, are not what they were
  // And the dearest batch that a queued ticket may be in.
  static Nanos batch_cost(const Ticket& ticket);
  // Under which the run of a queued ticket is counted, but for the lane's device.
  CostKey cost_key(const Ticket& ticket) const;
  // All groups with tickets, in no order.
  void append_groups(std::vector<WaitingGroup>& out) const;
  const std::string& model_name() const { return model_name_; }
  const BatchingPolicy& policy() const { return policy_; }
  // Shape groups in memory: those with tickets, and a bounded number of empty ones kept for the next ticket.
  std::size_t groups() const;
  // Where lower levels or a DELAY could starve: one batch in so many begins with the ticket that has waited longest.
  static constexpr std::uint32_t kTurnEvery = 16;

 private:
  struct Impl;
  void weigh(ShapeGroup* group);
  Status full(std::size_t ticket_bytes) const;
  Status level_full(std::uint32_t level, std::size_t bound) const;

  std::string model_name_;
  BatchingPolicy policy_;
  std::size_t size_ = 0;
  std::size_t bytes_ = 0;
  std::int64_t rows_ = 0;
  std::size_t targets_ = 0;
  Nanos open_cost_ = 0;
  Costs* costs_ = nullptr;
  void insert(Ticket* ticket, std::uint32_t level, Nanos now, std::uint64_t sequence);

  Nanos last_push_ = std::numeric_limits<Nanos>::min();
  std::unique_ptr<Impl> impl_;
};

}  // namespace headrace
