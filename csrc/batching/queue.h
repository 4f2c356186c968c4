// The pure batcher of one model: which waiting tickets run together, and when. No threads, locks, clock or I/O: time
// comes in as a parameter, and the caller serialises the calls.
//
// Rules, in this order:
//  1. Work-conserving: with no queue delay, take() hands out what is there. Nothing waits for a timer.
//  2. Tickets share a batch only if their inputs agree in presence, dtype and every dimension but the first, compared
//     exactly (a ShapeGroup). Groups are served by the age of their oldest ticket; inside a group strictly in order of
//     arrival: a ticket that does not fit closes the batch, it is never overtaken.
//  3. A batch has at most max_batch_size rows. Preferred sizes: the largest preferred size that whole tickets at the
//  head
//     reach exactly; if none is reached, all that fits.
//  4. With a queue delay, a batch that is neither full nor at its largest preferred size waits until its oldest ticket
//  has
//     waited that long; take() then names the time to ask again.
//  5. Bounded: tickets and bytes. Full is RESOURCE_EXHAUSTED, naming the model's bound and the remedy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "batching/request.h"

namespace headrace {

struct BatchingPolicy {
  bool dynamic_batching = false;                    // false: each ticket runs alone
  std::int64_t max_batch_size = 0;                  // rows; 0: the model is not batched
  std::vector<std::int64_t> preferred_batch_sizes;  // ascending
  Nanos max_queue_delay = 0;
  std::size_t max_queue_size = 4096;  // tickets
  std::size_t max_queue_bytes = std::size_t{256} << 20;
};

// A batch taken: tickets in order, linked by Ticket::queue_next.
struct Batch {
  Ticket* first = nullptr;
  std::size_t tickets = 0;
  std::int64_t rows = 0;
};

class Queue {
 public:
  Queue(std::string model_name, BatchingPolicy policy);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Joins the queue: state becomes kQueued. On refusal the ticket is untouched.
  Status push(Ticket* ticket, Nanos now);
  // Takes a queued ticket out (cancelled or expired). Its state is the caller's to set.
  void remove(Ticket* ticket);
  // Takes the next batch: its tickets become kRunning. Empty (first == nullptr) when nothing may run yet.
  Batch take(Nanos now);
  // When take() should be asked again although nothing new has come; kNever when only an arrival can change the answer.
  // `now` or earlier means: take() has a batch right now.
  Nanos next_timeout(Nanos now) const;
  // Empties the queue (unload): all tickets, in order of arrival, linked by queue_next.
  Ticket* clear();

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return bytes_; }
  // `sequence` of the oldest ticket: fairness between models. Only when not empty.
  Nanos oldest() const;
  const BatchingPolicy& policy() const { return policy_; }

 private:
  struct Impl;
  std::string model_name_;
  BatchingPolicy policy_;
  std::size_t size_ = 0;
  std::size_t bytes_ = 0;
  std::unique_ptr<Impl> impl_;
};

}  // namespace headrace
