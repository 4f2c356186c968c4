// Lanes that pull: the threads and the one lock around the pure Dispatcher.
//
// Each lane is a thread bound to one device slot and serves every model. A free lane takes the batch that is due; when
// there is none it sleeps on a condition of its own, and a submission wakes the lane that went to sleep last (its
// caches are warmest). Of the sleeping lanes one looks again when the first batch that waits for its delay is due. One
// timer thread answers what expires, busy lanes or not.
//
// Sinks are called with no lock held: they may call submit and cancel, but nothing that waits (wait_empty,
// close_entry, wait_idle, stop).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/sync.h"
#include "batching/queue.h"
#include "memory/pool.h"
#include "schedule/dispatcher.h"
#include "schedule/execution.h"

namespace headrace {

// Is told of parked entries. Called on any thread with no lock held; must not wait.
class ParkingListener {
 public:
  // A ticket waits for this parked entry. Once from park() on, and once again after each refuse_waiting or
  // lost_interest that took effect.
  virtual void wanted(Dispatcher::Entry* entry) = 0;
  // An entry that park() found busy is idle now, or was for a moment.
  virtual void became_idle() = 0;

 protected:
  ~ParkingListener() = default;
};

struct SchedulerOptions {
  int lanes = 1;
  Clock* clock = nullptr;               // null: the steady clock
  std::vector<std::uint32_t> devices;   // of each lane, the kind that runs a batch in the same time; empty: all alike
  ParkingListener* listener = nullptr;  // outlives the scheduler; null: nothing is parked
};

class Scheduler final : private Ledger {
 public:
  Scheduler(const SchedulerOptions& options, Pool& pool);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // A model joins. `runnable` stays valid until close_entry has returned, and its costs as long as the entry.
  Dispatcher::Entry* add(const std::string& name, const BatchingPolicy& policy, int max_lanes, const Runnable* runnable,
                         const Share& share = {});
  // Refused: a batch would need more of a resource than there is.
  Status can_have(const Share& share) const;
  // So many there are of what batches may need; Dispatcher says more.
  void set_cores(std::uint32_t count);
  void set_resource(const std::string& name, int device, std::uint32_t count);
  // Waits until nothing is queued; with no new tickets coming, what runs is then all there is.
  void wait_empty(const Dispatcher::Entry* entry);
  // No new tickets; the queued ones are answered with `status`; returns when the running ones have ended.
  void close_entry(Dispatcher::Entry* entry, const Status& status);
  // Forgets a closed entry: nobody may submit to it any more.
  void erase(Dispatcher::Entry* entry);

  // Parking: an entry without a session. What is submitted to it waits, and can expire and be cancelled as ever.
  // False, and nothing changed: it has queued or running tickets. became_idle tells when that has changed.
  bool park(Dispatcher::Entry* entry);
  void unpark(Dispatcher::Entry* entry);
  // Answers what waits for a parked entry with `status`.
  void refuse_waiting(Dispatcher::Entry* entry, const Status& status);
  // True when nothing waits for a parked entry any more: the next ticket is told of as a first one.
  bool lost_interest(Dispatcher::Entry* entry);
  std::uint64_t parked_arrivals() const;  // tickets that found their entry parked

  // A chain of tickets (linked by Completion::next, the last one's is null), each with `model` set to its entry. Every
  // one of them gets its FINAL completion: a refusal comes back through its sink before this returns.
  void submit(Ticket* first);
  // The same, but for those that are refused: they come back with their status, for the caller to answer or to submit
  // elsewhere.
  TicketChain try_submit(Ticket* first);
  // What a ticket that is in no queue may expect here.
  Offer offer(const Dispatcher::Entry* entry, const Ticket& ticket) const;
  // Answers the ticket with `status` at once if it is not answered yet. The caller still holds its reference.
  void cancel(Ticket* ticket, const Status& status);

  // So many parts of an unanswered ticket have been taken by their reader: it may send as many more.
  void give_credit(Ticket* ticket, std::uint32_t parts);

  // Waits until no ticket is in flight and every answer is in its sink's hands; false when `time` came first. A run
  // that nobody waits for any more is not waited for.
  bool wait_idle(Nanos time);
  // Answers all that is queued with `status`, asks runs to stop, ends the threads. Idempotent, from any thread: each
  // call returns when the threads have ended. Later submissions are answered with `status`.
  void stop(const Status& status);

  struct Depth {
    std::size_t queued = 0;
    std::size_t queued_bytes = 0;
    std::size_t running = 0;
  };
  Depth depth(const Dispatcher::Entry* entry) const;
  // What was learnt of a model and done with it.
  struct Curve {
    CostKey key;
    std::vector<CostPoint> points;
    std::uint64_t runs = 0;
    double spread = 0;
    std::int64_t best_rows = 0;
  };
  struct Report {
    std::vector<Curve> curves;  // last used first
    BatchLog log;
    std::uint64_t refused_early = 0;
    int lanes = 0;                 // that run it now
    int lanes_now = 0;             // that may run it, as things are
    Nanos span = kNever;           // within which answers are wanted
    std::uint64_t cores = 0;       // of the process, for compute threads
    std::uint64_t cores_used = 0;  // by batches of all models
    std::vector<Resources::View> resources;
    Nanos now = 0;
  };
  Report report(const Dispatcher::Entry* entry) const;
  std::size_t in_flight() const;  // tickets submitted and not yet answered
  int lanes() const { return static_cast<int>(lanes_.size()); }
  int busy_lanes() const;
  const Clock& clock() const { return clock_; }

 private:
  struct Lane {
    std::thread thread;
    CondVar wake;
    // Under the scheduler's mutex.
    bool asleep = false;             // and in idle_
    Nanos ask_again = kNever;        // asleep: when it wakes by itself
    bool holds = false;              // asleep: there was work that it was to leave, and nothing has come since
    Interrupt* interrupt = nullptr;  // of its run in progress
    std::size_t delivering = 0;      // tickets of its batch that are settled, and perhaps not with their sinks yet
  };

  void run_lane(int index);
  void run_timer();
  // Gives the mutex up while it calls the sinks.
  void answer_expired(Nanos now) HEADRACE_REQUIRES(mutex_);
  // Hands an early answer's chain to the sinks; called without the mutex, which guards the counting before and after.
  void deliver_early(TicketChain chain) HEADRACE_EXCLUDES(mutex_);
  // A sleeping lane that should look for work, because there is some now or before any of them would look by itself.
  // Null when there is none; the caller notifies it, best without the mutex.
  Lane* wake_for_work(Nanos now) HEADRACE_REQUIRES(mutex_);
  // Lanes that hold may look again.
  void end_holds() HEADRACE_REQUIRES(mutex_);
  // True once after park() has found the entry busy and now it is not; without an entry: any of them.
  bool idle_after_all(const Dispatcher::Entry* entry) HEADRACE_REQUIRES(mutex_);
  bool any_idle_after_all() HEADRACE_REQUIRES(mutex_);
  // The tickets of the chain are on their way to their sinks.
  void leaving(TicketChain chain) HEADRACE_REQUIRES(mutex_);

  void still_running(std::span<Ticket* const> tickets, std::vector<Ticket*>& out) override;
  TicketChain settle(Dispatcher::Entry* entry, std::span<Ticket* const> tickets) override;
  void answer(TicketChain chain) override;
  std::optional<std::uint32_t> claim_part(Ticket* ticket) override;
  TicketChain end_turn(Dispatcher::Entry* entry, Ticket* ticket) override;

  Clock& clock_;
  Pool& pool_;
  mutable Mutex mutex_;
  Dispatcher dispatcher_ HEADRACE_GUARDED_BY(mutex_);
  CondVar timer_wake_;
  Nanos timer_time_ HEADRACE_GUARDED_BY(mutex_) = kNever;  // when the timer thread will look again
  CondVar quiet_;                                          // something ended: idle entries, no tickets
  std::size_t in_flight_ HEADRACE_GUARDED_BY(mutex_) = 0;
  std::size_t delivering_ HEADRACE_GUARDED_BY(mutex_) = 0;  // answered, and perhaps not with their sinks yet
  std::size_t watchers_ HEADRACE_GUARDED_BY(mutex_) = 0;    // threads that wait on quiet_
  bool stopping_ HEADRACE_GUARDED_BY(mutex_) = false;
  Status stop_status_ HEADRACE_GUARDED_BY(mutex_);
  std::vector<int> idle_ HEADRACE_GUARDED_BY(mutex_);  // sleeping lanes, last asleep at the back
  int holding_ HEADRACE_GUARDED_BY(mutex_) = 0;        // of the sleeping lanes, those that hold
  int waking_ HEADRACE_GUARDED_BY(mutex_) = 0;         // lanes woken that have not looked for work yet
  std::vector<Dispatcher::Entry*> entries_ HEADRACE_GUARDED_BY(mutex_);
  ParkingListener* const listener_;
  std::vector<Dispatcher::Entry*> asked_for_ HEADRACE_GUARDED_BY(mutex_);   // parked, and the listener knows
  std::vector<Dispatcher::Entry*> found_busy_ HEADRACE_GUARDED_BY(mutex_);  // by park()
  std::uint64_t parked_arrivals_ HEADRACE_GUARDED_BY(mutex_) = 0;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::thread timer_;
  Mutex join_mutex_;  // the threads are joined once; before mutex_ in the order
};

}  // namespace headrace
