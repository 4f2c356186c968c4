// What a lane does with an assignment: gather, run, scatter; a batch that fails is run again by halves, so that only
// the guilty request gets the error (an answer never depends on its mates). No thread and no lock of its own: whatever
// needs the dispatcher goes through the Ledger, so that tests/sim drives the same code.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/error.h"
#include "batching/cost_model.h"
#include "batching/padding.h"
#include "batching/request.h"
#include "memory/pool.h"
#include "schedule/dispatcher.h"

namespace headrace {

// One run of the runtime that ended, well or not, and the requests that it answered. Durations are nanoseconds.
struct RunRecord {
  std::int64_t rows = 0;  // rows that the runtime was given
  bool ok = false;
  std::size_t tickets = 0;  // requests answered by it
  Nanos queue_ns = 0;       // summed over these requests
  Nanos total_ns = 0;       // summed over these requests, from received to finished
  Nanos started = 0;
  Nanos infer_start = 0;
  Nanos infer_end = 0;
  Nanos finished = 0;
};

enum class ResponseKind : std::uint8_t { kSuccess, kFail, kEmpty, kCancel };

// One answer of a request that has any number of them, or its end without one (kEmpty). Durations in nanoseconds.
struct ResponseRecord {
  std::size_t number = 0;  // of the request's answers, from 0
  ResponseKind kind = ResponseKind::kSuccess;
  Nanos compute_infer = 0;   // in the runtime
  Nanos compute_output = 0;  // from there to its being handed over
};

class RunObserver {
 public:
  virtual void ran(const RunRecord& record) noexcept = 0;
  virtual void answered(const ResponseRecord& /*record*/) noexcept {}

 protected:
  ~RunObserver() = default;
};

// What the scheduler needs to know of a model in order to run it. Stays put and valid while the dispatcher knows the
// model.
struct Runnable {
  Session* session = nullptr;
  bool batched = false;                   // dimension 0 of everything is the batch
  std::vector<std::string> output_names;  // in the signature's order
  RunObserver* observer = nullptr;
  Padding padding{};                                      // how requests of unlike lengths share a run
  std::vector<std::vector<std::string>> output_labels{};  // of classes, by output; may be shorter than output_names
  CostModel* costs = nullptr;  // what its runs cost, under the scheduler's mutex; null: it is not learnt
};

class Ledger {
 public:
  virtual void still_running(std::span<Ticket* const> tickets, std::vector<Ticket*>& out) = 0;
  virtual TicketChain settle(Dispatcher::Entry* entry, std::span<Ticket* const> tickets) = 0;
  // The chain's tickets have their status and outputs: to their sinks with them.
  virtual void answer(TicketChain chain) = 0;
  // Of a request that is answered in parts: as Dispatcher's. As they are, nobody waits for parts.
  virtual std::optional<std::uint32_t> claim_part(Ticket* /*ticket*/) { return std::nullopt; }
  virtual TicketChain end_turn(Dispatcher::Entry* entry, Ticket* ticket) { return settle(entry, {&ticket, 1}); }

 protected:
  ~Ledger() = default;
};

class Execution {
 public:
  Execution(int lane, Pool& pool, const Clock& clock) : lane_(lane), pool_(pool), clock_(clock) {}

  // Runs all of the assignment's tickets. When it returns each has been settled, and answered if it was still running.
  // True: in one run, which was well; its time tells what such a batch costs.
  bool run(Dispatcher::Assignment& assignment, const Runnable& runnable, Ledger& ledger);

 private:
  // The next parts of the one request that the assignment is, or its end: execution_turns.cc.
  void run_turn(Dispatcher::Assignment& assignment, const Runnable& runnable, Ledger& ledger);
  void run_part(std::span<Ticket* const> tickets, Dispatcher::Assignment& assignment, const Runnable& runnable,
                Ledger& ledger);
  // Those of the part that were not answered meanwhile.
  void rerun_part(std::span<Ticket* const> part, Dispatcher::Assignment& assignment, const Runnable& runnable,
                  Ledger& ledger);
  void answer_part(std::span<Ticket* const> tickets, Dispatcher::Assignment& assignment, const Runnable& runnable,
                   Ledger& ledger, RunRecord& record, std::int64_t length, const Status& status);

  // The batch's inputs, padded to `length` unless it is 0: in the session's staging memory, or in ours.
  Status gather_for(const Session& session, std::span<Ticket* const> tickets, const Padding& padding,
                    std::int64_t length);
  // What the claimed tickets asked of their outputs. Those that cannot have it get their error, and count as not
  // answered by the run.
  // `length`: to which the batch was padded; 0: it was not.
  void fulfil_claimed(const Runnable& runnable, std::int64_t length);

  const int lane_;
  Pool& pool_;
  const Clock& clock_;
  std::vector<Tensor> inputs_;
  BatchRun batch_;
  Status next_part(Ticket& ticket, const Runnable& runnable, bool& last);
  void finish_turns(Ticket* ticket, Dispatcher::Assignment& assignment, const Runnable& runnable, Ledger& ledger,
                    const Status& status);

  std::vector<std::uint8_t> wanted_;
  std::vector<Ticket*> claimed_;
  bool whole_ = false;
};

}  // namespace headrace
