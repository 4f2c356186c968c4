// The pure half of the scheduler: queues of all models x lanes. State and time in, decision out; no threads, locks,
// clock or I/O, so that tests/sim can drive it through millions of interleavings. Scheduler holds its one lock around
// it.
//
// Fairness: of the models that may run now (a batch is due, fewer than max_lanes lanes run it, and what it needs is
// free), a free lane takes from the one whose next ticket has the earliest turn, among those that have a target in
// their queue; where none has, from the one that is furthest behind its fair share of lane time (fair_share.h). Those
// without targets keep a part of the lanes (ready.h), so nothing starves.
//
// A ticket that is cancelled, or whose deadline passes, is answered at once, queued or running. A running one keeps its
// place in its batch (its rows are in it) under a second reference, which the lane gives up after release().
//
// Targets (a ticket's deadline, or its model's latency objective) are promises: where costs are known, a ticket is
// taken in only if a forecast says that it and all before it will make theirs, and a batch is taken only as large as
// leaves it so. While the backlog is so short that nobody can be late, neither asks for a forecast.
//
// Cost: O(log) of the models with work, whatever the number loaded; nothing at all for a ticket that joins a model
// whose turn does not change by it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "batching/deadlines.h"
#include "batching/queue.h"
#include "batching/request.h"
#include "schedule/batch_log.h"
#include "schedule/device_choice.h"
#include "schedule/resources.h"

namespace headrace {

// Tickets to be completed, linked by Completion::next, in order.
struct TicketChain {
  Ticket* first = nullptr;
  Ticket* last = nullptr;
  std::size_t count = 0;
  void append(Ticket* ticket);
  void append(TicketChain other);
};

// What a model may have of what all share.
struct Share {
  double weight = 1;                // of lane time, where models without targets compete
  std::uint32_t cores = 0;          // that a batch keeps busy while it runs
  std::vector<ResourceNeed> needs;  // and what else it needs
};

class Dispatcher {
 public:
  struct Entry;  // a model's place in the dispatcher

  // A batch in the hands of a lane. The lane uses one object again and again.
  struct Assignment {
    Entry* entry = nullptr;        // null: nothing to do
    std::vector<Ticket*> tickets;  // in order
    std::int64_t rows = 0;
    CostKey cost_key;                // under which a whole run of it is to be recorded
    std::int64_t cost_rows = 0;      // and as how many rows
    Interrupt* interrupt = nullptr;  // asked to stop when every ticket of the batch is gone; fresh for each batch
    Nanos ask_again = kNever;        // when nothing: the time at which there may be something
    // After release: tickets that were answered before they were settled, each with the batch's reference.
    std::vector<Ticket*> gone;

    Assignment() = default;
    Assignment(const Assignment&) = delete;
    Assignment& operator=(const Assignment&) = delete;
    ~Assignment() { drop_gone(); }
    // Gives these references up; a last one deletes its ticket. Best without the scheduler's lock, since it frees
    // memory; the next take() and the end of the assignment do it too.
    void drop_gone();
  };

  // `devices`: of each lane, the kind that runs a batch in the same time; empty: all alike. Where idle lanes of several
  // kinds are offered work, the order of their numbers is the one that forecasts go by: the fastest first.
  explicit Dispatcher(int lanes, const std::vector<std::uint32_t>& devices = {});
  ~Dispatcher();

  // A model that at most max_lanes lanes run at a time. `model` is the caller's own.
  // `costs`: what its runs cost, as far as that is known; null: nothing is.
  Entry* add(std::string name, BatchingPolicy policy, int max_lanes, void* model, Costs* costs = nullptr,
             const Share& share = {});
  // Batches that run at one time keep no more cores busy than this; one that needs more runs while no other does.
  void set_cores(std::uint32_t count);
  // So many there are of a resource: Resources::set.
  void set_resource(const std::string& name, int device, std::uint32_t count);
  // Refused: a batch would need more of a resource than there is.
  Status can_have(const Share& share) const;
  // No new tickets; returns the queued ones (DONE with UNAVAILABLE) for the caller to complete. The entry lives until
  // erase.
  TicketChain close(Entry* entry);
  bool idle(const Entry* entry) const;  // nothing queued, nothing running
  // Parks an idle entry: tickets are taken in and wait as usual, and none is runnable until unpark. False, and nothing
  // changed: it is not idle.
  bool park(Entry* entry);
  void unpark(Entry* entry);
  static bool parked(const Entry* entry);
  // The queued tickets, DONE, for the caller to give a status and complete. The entry goes on.
  TicketChain empty_queue(Entry* entry);
  void erase(Entry* entry);  // must be idle
  static void* model(const Entry* entry);

  // What a ticket that is in no queue may expect of it.
  Offer offer(const Entry* entry, const Ticket& ticket, Nanos now) const;
  // Refused: the ticket is untouched (queue full; closed: UNAVAILABLE; already past its deadline, or predicted to miss
  // its target, or to make one miss it that was taken in before: DEADLINE_EXCEEDED).
  Status submit(Entry* entry, Ticket* ticket, Nanos now);
  // The next batch for a free lane. It does not look at deadlines: call expire(now) first, so that what is late never
  // reaches the runtime.
  void take(int lane, Nanos now, Assignment& out);
  // Of the batch's tickets [from, to), those still running: what a rerun by halves goes on with. Expired ones are gone
  // already.
  void still_running(std::span<Ticket* const> tickets, std::vector<Ticket*>& out) const;
  // The tickets of `tickets` are done: each still running one becomes DONE and joins the chain, in order. One that was
  // answered before is only noted: its memory stays valid until release. When nobody waits for those that are left, the
  // interrupt is asked for.
  TicketChain settle(Entry* entry, std::span<Ticket* const> tickets);
  // Requests that are answered in parts run one a batch, in turns. A part of the ticket may be delivered: takes credit
  // and a reference. The credit that is left; nothing: nobody waits for it any more.
  std::optional<std::uint32_t> claim_part(Ticket* ticket);
  // The end of a turn that was not the last: in place of settle. The ticket waits again, for a lane or for credit; one
  // of a closed entry is DONE (UNAVAILABLE) and in the chain.
  TicketChain end_turn(Entry* entry, Ticket* ticket);
  // Parts have been taken. True: the ticket waits for a lane now.
  bool give_credit(Ticket* ticket, std::uint32_t parts);
  // The lane is free again; all tickets of the assignment have been settled. Empties the assignment but for `gone`.
  void release(int lane, Assignment& assignment, Nanos now = 0);

  // True: the ticket is DONE now with this status and the caller completes it. False: it was done already, or was never
  // taken in.
  bool cancel(Ticket* ticket, Status status);
  // Tickets whose deadline is at or before now, DONE with DEADLINE_EXCEEDED.
  TicketChain expire(Nanos now);
  Nanos next_deadline() const;

  // A lane should be woken: somebody may run something right now (as opposed to at ask_again).
  bool work_for_idle_lane(Nanos now) const;
  // Waiting, or in a turn that may not be the last.
  std::size_t unserved(const Entry* entry) const;
  std::size_t queued(const Entry* entry) const;  // or paused
  std::size_t queued_bytes(const Entry* entry) const;
  std::size_t running(const Entry* entry) const;  // tickets in the hands of lanes, answered ones included
  int running_lanes(const Entry* entry) const;
  static int lanes_now(const Entry* entry);  // that may run it, as things are
  Nanos span() const;                        // within which those who came lately want their answers; kNever: no haste
  int busy_lanes() const;
  std::uint64_t cores() const;
  std::uint64_t cores_used() const;
  // What the entry's batches need, with what there is of it and is used now; without cores.
  std::vector<Resources::View> resources(const Entry* entry) const;
  static const BatchLog& log(const Entry* entry);
  static std::uint64_t refused_early(
      const Entry* entry);  // tickets that were predicted to be late, or to make others so

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace headrace
