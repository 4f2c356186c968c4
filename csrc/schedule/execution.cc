#include "schedule/execution.h"

#include "base/check.h"
#include "batching/assembly.h"

namespace headrace {

void Execution::run(Dispatcher::Assignment& assignment, const Runnable& runnable, Ledger& ledger) {
  run_part(assignment.tickets, assignment, runnable, ledger);
}

void Execution::run_part(std::span<Ticket* const> tickets, Dispatcher::Assignment& assignment, const Runnable& runnable,
                         Ledger& ledger) {
  RunRecord record;
  record.started = clock_.now();
  for (const Ticket* ticket : tickets) record.rows += ticket->rows;

  Status status = gather(tickets, pool_, inputs_);
  record.infer_start = record.infer_end = record.started;
  if (status.ok()) {
    record.infer_start = clock_.now();
    wanted_outputs(tickets, wanted_);
    batch_.inputs = inputs_;
    batch_.wanted = wanted_;
    batch_.pool = &pool_;
    batch_.interrupt = assignment.interrupt;
    batch_.lane = lane_;
    batch_.outputs.clear();
    status = runnable.session->run(batch_);
    record.infer_end = clock_.now();
    if (status.ok()) {
      status = check_outputs(tickets, record.rows, runnable.batched, batch_.outputs, runnable.output_names);
    }
  }
  inputs_.clear();

  // A stop was asked for by the last ticket to leave, or by the scheduler's own end: nobody is served by trying again.
  const bool stopped = assignment.interrupt != nullptr && assignment.interrupt->requested();
  if (!status.ok() && tickets.size() > 1 && !stopped) {
    batch_.outputs.clear();
    record.finished = clock_.now();
    if (runnable.observer != nullptr) runnable.observer->ran(record);
    // Whoever was answered meanwhile (cancelled, expired) is settled now; the others run again in two parts.
    std::vector<Ticket*> rest;
    ledger.still_running(tickets, rest);
    std::vector<Ticket*> gone;
    std::size_t kept = 0;
    for (Ticket* ticket : tickets) {
      if (kept < rest.size() && rest[kept] == ticket) {
        ++kept;
      } else {
        gone.push_back(ticket);
      }
    }
    HEADRACE_CHECK(kept == rest.size());
    if (!gone.empty()) HEADRACE_CHECK(ledger.settle(assignment.entry, gone).first == nullptr);
    const std::size_t half = (rest.size() + 1) / 2;
    const std::span<Ticket* const> parts(rest);
    if (half > 0) run_part(parts.first(half), assignment, runnable, ledger);
    if (half < rest.size()) run_part(parts.subspan(half), assignment, runnable, ledger);
    return;
  }
  if (!status.ok() && stopped) status = {Code::kUnavailable, "the server stopped before the model had finished"};
  answer_part(tickets, assignment, runnable, ledger, record, status);
}

void Execution::answer_part(std::span<Ticket* const> tickets, Dispatcher::Assignment& assignment,
                            const Runnable& runnable, Ledger& ledger, RunRecord& record, const Status& status) {
  // A ticket is written to only after it was claimed: until then its sink may be reading an early answer.
  TicketChain chain = ledger.settle(assignment.entry, tickets);
  claimed_.clear();
  for (Completion* link = chain.first; link != nullptr; link = link == chain.last ? nullptr : link->next) {
    claimed_.push_back(static_cast<Ticket*>(link));
  }
  if (status.ok()) scatter(tickets, claimed_, record.rows, runnable.batched, batch_.outputs);
  batch_.outputs.clear();
  record.ok = status.ok();
  record.finished = clock_.now();
  record.tickets = claimed_.size();
  for (Ticket* ticket : claimed_) {
    ticket->time.started = record.started;
    ticket->time.infer_start = record.infer_start;
    ticket->time.infer_end = record.infer_end;
    ticket->time.finished = record.finished;
    ticket->batch_rows = record.rows;
    record.queue_ns += record.started - ticket->time.queued;
    record.total_ns += record.finished - ticket->time.received;
    if (!status.ok()) ticket->status = status;
  }
  if (runnable.observer != nullptr) runnable.observer->ran(record);
  if (chain.first != nullptr) ledger.answer(chain);
}

}  // namespace headrace
