// One request on its way: the ticket, its time line, its deadline, and the sink that it answers to.
//
// A ticket is QUEUED, RUNNING or DONE and moves only forward. It gets exactly one FINAL completion, whose link is
// embedded in the ticket, so delivering it never allocates and never fails.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "batching/output_request.h"
#include "memory/budget.h"
#include "memory/shared_region.h"
#include "memory/tensor.h"

namespace headrace {

struct Ticket;

enum class CompletionKind : std::uint8_t { kFinal, kPart, kJob };

// What a request that is answered more than once has in progress, between its turns on a lane. The execution's own.
class UnfinishedRun {
 public:
  virtual ~UnfinishedRun() = default;
};

// A link of the way back. What it is part of depends on its kind.
struct Completion {
  Completion* next = nullptr;
  // Of a chain's first, while a ring holds the chain.
  Completion* chain_last = nullptr;
  Completion* chain_before = nullptr;
  CompletionKind kind = CompletionKind::kFinal;
};

// One answer of a request that has more; its FINAL completion comes behind all of them, unless the request is ended
// before its time: then a part may come behind it, and is dropped. It holds a reference of its ticket.
struct Part final : Completion {
  Part() { kind = CompletionKind::kPart; }
  Ticket* ticket = nullptr;
  std::vector<Tensor> outputs;  // as the ticket's
};

// Takes a chain first..last (linked by next, last->next ignored). Called on any thread, with no lock held, possibly
// before submit returns. The sink owns what it is given.
class CompletionSink {
 public:
  virtual void deliver(Completion* first, Completion* last) noexcept = 0;
  // A part is about to be delivered. Called under the scheduler's lock, so it only counts.
  virtual void expect_part() noexcept {}

 protected:
  ~CompletionSink() = default;
};

// kPaused: answered in part, and out of credit: the peer has not taken what it was sent.
enum class TicketState : std::uint8_t { kNew, kQueued, kRunning, kPaused, kDone };

// Steady-clock nanoseconds; 0 where the request did not get that far.
struct Timeline {
  Nanos received = 0;  // its last byte was read
  Nanos queued = 0;
  Nanos started = 0;      // taken into a batch
  Nanos infer_start = 0;  // inputs gathered, runtime entered
  Nanos infer_end = 0;
  Nanos finished = 0;  // outputs sliced
};

// Parts of one ticket that may be on their way. Who takes them gives the credit back; no lane waits for it.
inline constexpr std::uint32_t kPartCredit = 16;

inline constexpr std::uint32_t kNotInHeap = 0xffffffffU;

// Where an input lies that its client has put into shared memory. The lane that runs the request reads it, straight to
// where the model finds it. The ticket's tensor has its size, and no data.
struct InputPlace {
  std::size_t input = 0;              // its place in the signature
  const std::string* name = nullptr;  // the signature's
  std::shared_ptr<const SharedRegion> region;
  std::uint64_t offset = 0;  // in the region
};

struct ShapeGroup;  // of batching/queue: tickets that may share a batch

// Its members stand in the order in which a request's way touches them, a cache line a stage: tickets change cores
// between the loop that submits and the lane that runs, and each line costs a transfer.
struct alignas(64) Ticket : Completion {
  // Owned by batching and schedule, under the scheduler's lock.
  TicketState state = TicketState::kNew;
  bool timing = false;                     // the submitter's: answer with the headrace_* timing parameters
  bool asks_more = false;                  // the submitter's: there are output_requests
  bool in_sequence = false;                // the submitter's: its answers keep their order
  bool late_waits = false;                 // the submitter's: past its timeout it goes behind others, and is not ended
  bool promised = false;                   // its target counts among those that are to be kept
  std::uint8_t device = 0;                 // the submitter's: whose lanes `model` belongs to
  std::uint32_t lane = 0;                  // that runs it
  std::uint32_t delay_place = kNotInHeap;  // in the queue's heap of those that a timeout will send to the back
  Ticket* queue_next = nullptr;            // of a batch, or of a queue that was cleared
  Nanos order_when = kNever;               // with level and sequence its place in the line
  std::int64_t rows = 1;  // the submitter's: dimension 0 of its inputs; 1 where the model is not batched

  std::vector<Tensor> inputs;             // the submitter's: in the signature's order
  ShapeGroup* group = nullptr;            // while it is queued
  void* model = nullptr;                  // the scheduler's entry
  Nanos deadline = kNever;                // the submitter's
  std::size_t queued_bytes = 0;           // what it counts against the queue's byte bound
  std::uint32_t heap_index = kNotInHeap;  // in the deadline heap
  std::uint32_t priority = 0;             // the submitter's; 1 is the most urgent, 0 the model's default

  std::uint64_t sequence = 0;     // order of arrival in the queue
  Nanos target = kNever;          // when it should be answered: the earlier of deadline and objective; the queue's
  std::uint64_t order_level = 0;  // of its place in the line; the queue's
  Nanos work = 0;                 // by which it makes batches longer, at most; of those who promise
  std::uint32_t work_place = 0;   // and where that is counted
  // Set on the way; for the sink to read once it has the completion.
  std::vector<Tensor> outputs;       // in the signature's order; kInvalid where not wanted
  std::vector<std::uint8_t> wanted;  // the submitter's: one flag per output of the signature
  std::int64_t batch_rows = 0;       // rows of the batch that it ran in

  Timeline time;
  CompletionSink* sink = nullptr;  // the submitter's
  // One for the submitter (given up by whoever handles the FINAL completion), one for a batch that still runs with its
  // rows after it was answered.
  std::atomic<std::uint32_t> references{1};
  Status status;

  // Set by the submitter.
  std::uint64_t cookie_slot = 0;   // the sink's own: which connection (slot and generation)
  std::uint64_t cookie_call = 0;   // the sink's own: which call on it
  void* cookie_model = nullptr;    // the sink's own: the model that it was admitted to
  void* cookie_hold = nullptr;     // the sink's own: what keeps that model's object alive
  void* cookie_message = nullptr;  // the sink's own: which message of a stream; null: the call is of one message
  std::size_t cookie_bytes = 0;    // the sink's own: size of the request
  std::int64_t cookie_held = -1;   // the sink's own: what is to be given back when the ticket is; -1: nothing
  std::uint64_t trace = 0;         // the sampler that took it; 0: none
  std::string id;                  // the caller's request id
  Nanos timeout =
      kNever;  // that the caller allows from `received` on; start() makes it part of the deadline, if it ends it
  std::unique_ptr<UnfinishedRun> unfinished;   // the execution's; it may view the inputs
  std::uint32_t credit = kPartCredit;          // the scheduler's
  std::uint32_t parts_taken = 0;               // the sink's own: parts whose credit is not given back
  bool answered = false;                       // the sink's own: its FINAL completion has been handled
  bool empty_final = false;                    // the submitter's: an end without outputs is told too
  InflightBudget::Charge charge;               // of the message that the inputs are views of; given up with the ticket
  InflightBudget::Charge shared_charge;        // of inputs that were copied from clients' shared memory at once
  std::vector<InputPlace> input_places;        // the submitter's: of inputs that still lie there
  std::vector<OutputRequest> output_requests;  // what is to be done with outputs, beyond handing them out

  // When it came, and until when its call can wait: the earlier of that and the timeout is its deadline.
  void start(Nanos received, Nanos call_deadline);
  // Ready for another use with the vectors' memory kept.
  void clear();
};

}  // namespace headrace
