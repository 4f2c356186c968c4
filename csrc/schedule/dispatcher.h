// The pure half of the scheduler: queues of all models x lanes. State and time in, decision out; no threads, locks,
// clock or I/O, so that tests/sim can drive it through millions of interleavings. Scheduler holds its one lock around
// it.
//
// Fairness: a free lane takes from the model whose oldest ticket has waited longest among those that may run now (a
// batch is due, and fewer than max_lanes lanes run the model). First come, first served over all models, so nothing
// starves.
//
// A ticket that is cancelled, or whose deadline passes, is answered at once, queued or running. A running one keeps its
// place in its batch (its rows are in it) under a second reference, which finish() gives up.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "batching/deadlines.h"
#include "batching/queue.h"
#include "batching/request.h"

namespace headrace {

// Tickets to be completed, linked by Completion::next, in order.
struct TicketChain {
  Ticket* first = nullptr;
  Ticket* last = nullptr;
  std::size_t count = 0;
  void append(Ticket* ticket);
  void append(TicketChain other);
};

class Dispatcher {
 public:
  struct Entry;  // a model's place in the dispatcher

  // A batch in the hands of a lane.
  struct Assignment {
    Entry* entry = nullptr;        // null: nothing to do
    std::vector<Ticket*> tickets;  // in order
    std::int64_t rows = 0;
    Interrupt* interrupt = nullptr;  // asked to stop when every ticket of the batch is gone
    Nanos ask_again = kNever;        // when nothing: the time at which there may be something
  };

  explicit Dispatcher(int lanes);
  ~Dispatcher();

  Entry* add(std::string name, BatchingPolicy policy, int max_lanes, void* model);
  // No new tickets; returns the queued ones (now DONE) for the caller to complete. The entry lives until erase.
  TicketChain close(Entry* entry);
  bool idle(const Entry* entry) const;  // nothing queued, nothing running
  void erase(Entry* entry);             // must be idle
  static void* model(const Entry* entry);

  // Refused: the ticket is untouched (queue full; closed: UNAVAILABLE; already past its deadline: DEADLINE_EXCEEDED).
  Status submit(Entry* entry, Ticket* ticket, Nanos now);
  // The next batch for a free lane.
  void take(int lane, Nanos now, Assignment& out);
  // Of the batch's tickets [from, to), those still running: what a rerun by halves goes on with. Expired ones are gone
  // already.
  void still_running(std::span<Ticket* const> tickets, std::vector<Ticket*>& out) const;
  // The tickets of `tickets` are done: each still running one becomes DONE and joins the chain; one that was answered
  // before loses the batch's reference.
  TicketChain settle(Entry* entry, std::span<Ticket* const> tickets);
  // The lane is free again; all tickets of the assignment have been settled.
  void release(int lane, Assignment& assignment);

  // True: the ticket is DONE now with this status and the caller completes it. False: it was done already.
  bool cancel(Ticket* ticket, Status status);
  // Tickets whose deadline is at or before now, DONE with DEADLINE_EXCEEDED.
  TicketChain expire(Nanos now);
  Nanos next_deadline() const;

  // A lane should be woken: somebody may run something right now (as opposed to at ask_again).
  bool work_for_idle_lane(Nanos now) const;
  std::size_t queued(const Entry* entry) const;
  std::size_t queued_bytes(const Entry* entry) const;
  std::size_t running(const Entry* entry) const;
  int busy_lanes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace headrace
