// The pure batcher of one model: which waiting tickets run together, and when. No threads, locks, clock or I/O: time
// comes in as a parameter, and the caller serialises the calls.
//
// Rules, in this order:
//  1. Work-conserving: with no queue delay, take() hands out what is there. Nothing waits for a timer.
//  2. Tickets share a batch only if their inputs agree in presence, dtype and every dimension but the first, compared
//     exactly (a ShapeGroup). Of the groups that are due, the one with the oldest ticket is served; inside a group
//     strictly in order of arrival: a ticket that does not fit closes the batch, it is never overtaken.
//  3. A batch has at most max_batch_size rows (a ticket of more rows runs alone; one of no rows counts as one). Of the
//     preferred sizes, the largest that whole tickets at the head reach exactly; if none is reached, all that fits.
//  4. With a queue delay, a group is due once its head reaches a preferred size exactly, or its rows reach the largest
//     preferred size (max_batch_size where none is given), or its oldest ticket has waited that long; what has waited
//     that long takes along all that fits, preferred size or not. Until then take() passes it over, and next_timeout()
//     names the time to ask again. This is what Triton's preferred_batch_size and max_queue_delay_microseconds mean.
//  5. Without dynamic batching, or with max_batch_size 0, each ticket runs alone, at once, in order of arrival.
//  6. Bounded: tickets and bytes. Full is RESOURCE_EXHAUSTED, naming the model's bound and the remedy. A ticket of more
//     bytes than the bound may stand in an empty queue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "batching/request.h"

namespace headrace {

struct BatchingPolicy {
  bool dynamic_batching = false;                    // false: each ticket runs alone
  std::int64_t max_batch_size = 0;                  // rows; 0: the model is not batched
  std::vector<std::int64_t> preferred_batch_sizes;  // rows; those outside 1 .. max_batch_size are ignored
  Nanos max_queue_delay = 0;
  std::size_t max_queue_size = 4096;                     // tickets; 0: this default
  std::size_t max_queue_bytes = std::size_t{256} << 20;  // of inputs; 0: this default
  bool preserve_ordering = false;                        // answers of one stream go out in the order of its requests
  Nanos default_timeout = kNever;                        // of a request, from its last byte on
  bool allow_timeout_override = false;                   // a request's own timeout may shorten it
};

// A batch taken: tickets in order, linked by Ticket::queue_next.
struct Batch {
  Ticket* first = nullptr;
  std::size_t tickets = 0;
  std::int64_t rows = 0;
};

inline constexpr std::uint64_t kNoSequence = std::numeric_limits<std::uint64_t>::max();

class Queue {
 public:
  Queue(std::string model_name, BatchingPolicy policy);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Joins the queue: state becomes kQueued, time.queued is set. `sequence` grows from push to push (the dispatcher
  // counts over all models, so that their ages compare), and so does `now`; a `now` before the last one is read as
  // that. On refusal the ticket is untouched.
  Status push(Ticket* ticket, Nanos now, std::uint64_t sequence);
  // Takes a queued ticket out (cancelled or expired). Its state is the caller's to set.
  void remove(Ticket* ticket);
  // Takes the next batch: its tickets become kRunning. Empty (first == nullptr) when nothing may
  // run yet. Does not look at deadlines: the caller takes expired tickets out first.
  Batch take(Nanos now);
  // When take() should be asked again although nothing new has come; kNever when only an arrival can change the answer.
  // `now` or earlier means: take() has a batch right now.
  Nanos next_timeout(Nanos now) const;
  // Sequence of the oldest ticket in the batch that take(now) would hand out; kNoSequence when there is none.
  std::uint64_t oldest_due(Nanos now) const;
  // When the first group that still waits for its delay is due by age; kNever when none waits.
  Nanos ripens() const;
  // Empties the queue (unload): all tickets, in order of arrival, linked by queue_next. Their state is the caller's.
  Ticket* clear();

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return bytes_; }
  const std::string& model_name() const { return model_name_; }
  const BatchingPolicy& policy() const { return policy_; }
  // Shape groups in memory: those with tickets, and a bounded number of empty ones kept for the next ticket.
  std::size_t groups() const;

 private:
  struct Impl;
  Status full(std::size_t ticket_bytes) const;

  std::string model_name_;
  BatchingPolicy policy_;
  std::size_t size_ = 0;
  std::size_t bytes_ = 0;
  Nanos last_push_ = std::numeric_limits<Nanos>::min();
  std::unique_ptr<Impl> impl_;
};

}  // namespace headrace
