#include "schedule/execution.h"

#include "base/check.h"
#include "batching/assembly.h"

namespace headrace {

bool Execution::run(Dispatcher::Assignment& assignment, const Runnable& runnable, Ledger& ledger) {
  if (runnable.session->decoupled()) {
    run_turn(assignment, runnable, ledger);
    return false;
  }
  whole_ = true;
  run_part(assignment.tickets, assignment, runnable, ledger);
  return whole_;
}

void Execution::run_part(std::span<Ticket* const> tickets, Dispatcher::Assignment& assignment, const Runnable& runnable,
                         Ledger& ledger) {
  RunRecord record;
  record.started = record.infer_start = record.infer_end = clock_.now();
  for (const Ticket* ticket : tickets) record.rows += ticket->rows;

  const std::int64_t length = padded_length(tickets, runnable.padding);
  Status status = gather_for(*runnable.session, tickets, runnable.padding, length);
  if (status.ok()) {
    wanted_outputs(tickets, wanted_);
    batch_.inputs = inputs_;
    batch_.wanted = wanted_;
    batch_.pool = &pool_;
    batch_.interrupt = assignment.interrupt;
    batch_.lane = lane_;
    batch_.outputs.clear();
    record.infer_start = clock_.now();
    status = runnable.session->run(batch_);
    record.infer_end = clock_.now();
    if (status.ok()) {
      status = check_outputs(tickets, record.rows, runnable.batched, batch_.outputs, runnable.output_names);
      if (status.ok() && length != 0) {
        status = check_lengths(batch_.outputs, runnable.padding, length, runnable.output_names);
      }
    }
  }
  inputs_.clear();

  if (!status.ok()) {
    whole_ = false;
    batch_.outputs.clear();
    // Asked for by the last ticket to leave, or by the scheduler's own end: nobody is served by trying again.
    const bool stopped = assignment.interrupt != nullptr && assignment.interrupt->requested();
    if (stopped) {
      status = {Code::kUnavailable, "the server stopped before the model had finished"};
    } else if (tickets.size() > 1) {
      record.finished = clock_.now();
      if (runnable.observer != nullptr) runnable.observer->ran(record);
      const std::size_t half = (tickets.size() + 1) / 2;
      rerun_part(tickets.first(half), assignment, runnable, ledger);
      rerun_part(tickets.subspan(half), assignment, runnable, ledger);
      return;
    }
  }
  answer_part(tickets, assignment, runnable, ledger, record, length, status);
}

Status Execution::gather_for(const Session& session, std::span<Ticket* const> tickets, const Padding& padding,
                             std::int64_t length) {
  const auto gather_into = [&](Pool& pool) {
    return length == 0 ? gather(tickets, pool, inputs_) : gather_padded(tickets, padding, length, pool, inputs_);
  };
  Pool* staging = session.staging();
  if (staging == nullptr) return gather_into(pool_);
  Status status = gather_into(*staging);
  // That staging has no room is no reason to refuse.
  return status.code() == Code::kResourceExhausted ? gather_into(pool_) : status;
}

void Execution::rerun_part(std::span<Ticket* const> part, Dispatcher::Assignment& assignment, const Runnable& runnable,
                           Ledger& ledger) {
  std::vector<Ticket*> rest;
  ledger.still_running(part, rest);
  if (rest.size() != part.size()) {
    std::vector<Ticket*> gone;
    std::size_t kept = 0;
    for (Ticket* ticket : part) {
      if (kept < rest.size() && rest[kept] == ticket) {
        ++kept;
      } else {
        gone.push_back(ticket);
      }
    }
    HEADRACE_CHECK(kept == rest.size());
    HEADRACE_CHECK(ledger.settle(assignment.entry, gone).first == nullptr);
  }
  if (!rest.empty()) run_part(rest, assignment, runnable, ledger);
}

void Execution::answer_part(std::span<Ticket* const> tickets, Dispatcher::Assignment& assignment,
                            const Runnable& runnable, Ledger& ledger, RunRecord& record, std::int64_t length,
                            const Status& status) {
  // A ticket is written to only after it was claimed: until then its sink may be reading an early answer.
  const TicketChain chain = ledger.settle(assignment.entry, tickets);
  claimed_.clear();
  for (Completion* link = chain.first; link != nullptr; link = link == chain.last ? nullptr : link->next) {
    claimed_.push_back(static_cast<Ticket*>(link));
  }
  if (status.ok()) {
    scatter(tickets, claimed_, record.rows, runnable.batched, batch_.outputs);
    fulfil_claimed(runnable, length);
  }
  batch_.outputs.clear();
  record.ok = status.ok();
  record.finished = clock_.now();
  for (Ticket* ticket : claimed_) {
    if (!ticket->status.ok()) continue;
    ++record.tickets;
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

void Execution::fulfil_claimed(const Runnable& runnable, std::int64_t length) {
  for (Ticket* ticket : claimed_) {
    if (length != 0) ticket->status = cut_outputs(*ticket, runnable.padding, length, pool_);
    if (ticket->asks_more && ticket->status.ok())
      ticket->status = fulfil_requests(ticket->output_requests, ticket->outputs, runnable.batched,
                                       runnable.output_names, runnable.output_labels, pool_);
    if (!ticket->status.ok()) ticket->outputs.clear();
  }
}

}  // namespace headrace
