// Execution: requests that are answered in parts. A lane works at one for a turn: until it has sent what it has credit
// for, or has done its share, and then goes on to what else waits.
#include <utility>

#include "base/check.h"
#include "batching/assembly.h"
#include "schedule/execution.h"

namespace headrace {
namespace {

struct Turns final : UnfinishedRun {
  std::vector<Tensor> inputs;
  std::vector<std::uint8_t> wanted;
  std::unique_ptr<PartRun> run;  // last: it may view the inputs
  Nanos started = 0;             // of the first turn
  Nanos infer_start = 0;
  Nanos busy = 0;  // in the runtime, of all turns
  // Of the answer in work:
  std::size_t number = 0;
  Nanos asked = 0;  // the runtime for it
  Nanos given = 0;  // it came back

  // What it is once it is through.
  ResponseRecord record(ResponseKind kind, Nanos now) const { return {number, kind, given - asked, now - given}; }
};

void tell(const Runnable& runnable, const ResponseRecord& record) {
  if (runnable.observer != nullptr) runnable.observer->answered(record);
}

}  // namespace

void Execution::run_turn(Dispatcher::Assignment& assignment, const Runnable& runnable, Ledger& ledger) {
  HEADRACE_CHECK(assignment.tickets.size() == 1);
  Ticket* ticket = assignment.tickets.front();
  batch_.pool = &pool_;
  batch_.interrupt = assignment.interrupt;
  batch_.lane = lane_;
  const Nanos begun = clock_.now();
  Status status;
  if (ticket->unfinished == nullptr) {
    auto fresh = std::make_unique<Turns>();
    fresh->started = fresh->infer_start = fresh->asked = begun;
    status = gather(assignment.tickets, pool_, fresh->inputs);
    wanted_outputs(assignment.tickets, fresh->wanted);
    if (status.ok()) {
      batch_.inputs = fresh->inputs;
      batch_.wanted = fresh->wanted;
      fresh->infer_start = clock_.now();
      Result<std::unique_ptr<PartRun>> run = runnable.session->begin(batch_);
      status = run.status();
      if (run) fresh->run = std::move(*run);
    }
    ticket->unfinished = std::move(fresh);
  }
  auto& turns = static_cast<Turns&>(*ticket->unfinished);
  batch_.inputs = turns.inputs;
  batch_.wanted = turns.wanted;
  bool last = false;
  turns.asked = turns.given = begun;
  for (std::uint32_t sent = 0; status.ok() && !last;) {
    status = next_part(*ticket, runnable, last);
    turns.given = clock_.now();
    if (last || !status.ok()) break;
    auto part = std::make_unique<Part>();
    part->ticket = ticket;
    part->outputs = std::exchange(batch_.outputs, {});
    const std::optional<std::uint32_t> credit = ledger.claim_part(ticket);
    if (!credit) break;
    CompletionSink* sink = ticket->sink;
    Part* going = part.release();
    sink->deliver(going, going);
    const Nanos sent_at = clock_.now();
    tell(runnable, turns.record(ResponseKind::kSuccess, sent_at));
    ++turns.number;
    turns.asked = turns.given = sent_at;
    if (++sent < kPartCredit && credit.value() > 0) continue;
    turns.busy += clock_.now() - begun;
    if (const TicketChain ended = ledger.end_turn(assignment.entry, ticket); ended.first != nullptr) {
      ledger.answer(ended);
    }
    return;
  }
  turns.busy += clock_.now() - begun;
  finish_turns(ticket, assignment, runnable, ledger, status);
}

Status Execution::next_part(Ticket& ticket, const Runnable& runnable, bool& last) {
  batch_.outputs.clear();
  Status status = static_cast<Turns&>(*ticket.unfinished).run->next(batch_, last);
  if (!status.ok() || batch_.outputs.empty()) {
    HEADRACE_CHECK(last || !status.ok());
    return status;
  }
  HEADRACE_CHECK(batch_.outputs.size() == runnable.output_names.size());
  return status;
}

void Execution::finish_turns(Ticket* ticket, Dispatcher::Assignment& assignment, const Runnable& runnable,
                             Ledger& ledger, const Status& status) {
  const ResponseRecord dropped =
      static_cast<const Turns&>(*ticket->unfinished).record(ResponseKind::kCancel, clock_.now());
  const TicketChain chain = ledger.settle(assignment.entry, {&ticket, 1});
  std::vector<Tensor> outputs = std::exchange(batch_.outputs, {});
  if (chain.first == nullptr) {  // answered meanwhile: not ours any more
    tell(runnable, dropped);
    return;
  }
  const std::unique_ptr<UnfinishedRun> gone = std::move(ticket->unfinished);
  const auto& turns = static_cast<const Turns&>(*gone);
  const bool stopped = assignment.interrupt != nullptr && assignment.interrupt->requested();
  ticket->status =
      !status.ok() && stopped ? Status(Code::kUnavailable, "the server stopped before the model had finished") : status;
  const ResponseKind kind = !status.ok()      ? ResponseKind::kFail
                            : outputs.empty() ? ResponseKind::kEmpty
                                              : ResponseKind::kSuccess;
  if (status.ok()) ticket->outputs = std::move(outputs);
  RunRecord record;
  record.rows = ticket->batch_rows = ticket->rows;
  record.ok = status.ok();
  record.tickets = 1;
  record.started = ticket->time.started = turns.started;
  record.infer_start = ticket->time.infer_start = turns.infer_start;
  record.finished = ticket->time.finished = clock_.now();
  // Between its turns it waited: the runtime's time is what its turns had.
  record.infer_end = ticket->time.infer_end = turns.infer_start + turns.busy;
  record.queue_ns = record.started - ticket->time.queued;
  record.total_ns = record.finished - ticket->time.received;
  tell(runnable, turns.record(kind, record.finished));
  if (runnable.observer != nullptr) runnable.observer->ran(record);
  ledger.answer(chain);
}

}  // namespace headrace
