#include "batching/request.h"

#include <algorithm>

namespace headrace {

void Ticket::start(Nanos received, Nanos call_deadline) {
  time.received = received;
  deadline = call_deadline;
  if (!late_waits) deadline = std::min(deadline, timeout >= kNever - received ? kNever : received + timeout);
}

void Ticket::clear() {
  next = nullptr;
  kind = CompletionKind::kFinal;
  sink = nullptr;
  cookie_slot = 0;
  cookie_call = 0;
  cookie_model = nullptr;
  cookie_hold = nullptr;
  cookie_message = nullptr;
  cookie_bytes = 0;
  cookie_held = -1;
  unfinished.reset();
  credit = kPartCredit;
  parts_taken = 0;
  answered = empty_final = false;
  inputs.clear();
  wanted.clear();
  rows = 1;
  deadline = timeout = kNever;
  priority = 0;
  in_sequence = false;
  late_waits = promised = false;
  id.clear();
  timing = false;
  trace = 0;
  asks_more = false;
  output_requests.clear();
  charge.release();
  shared_charge.release();
  input_places.clear();
  status = Status();
  for (Tensor& output : outputs) output.clear();
  time = Timeline();
  batch_rows = 0;
  state = TicketState::kNew;
  device = 0;
  lane = 0;
  model = nullptr;
  delay_place = kNotInHeap;
  queue_next = nullptr;
  order_when = kNever;
  target = kNever;
  order_level = 0;
  group = nullptr;
  sequence = 0;
  queued_bytes = 0;
  work = 0;
  work_place = 0;
  heap_index = kNotInHeap;
  references.store(1, std::memory_order_relaxed);
}

}  // namespace headrace
