#include "batching/request.h"

namespace headrace {

void Ticket::clear() {
  next = nullptr;
  kind = CompletionKind::kFinal;
  sink = nullptr;
  cookie_slot = 0;
  cookie_call = 0;
  inputs.clear();
  wanted.clear();
  rows = 1;
  deadline = kNever;
  priority = 0;
  id.clear();
  timing = false;
  status = Status();
  outputs.clear();
  time = Timeline();
  batch_rows = 0;
  state = TicketState::kNew;
  model = nullptr;
  queue_prev = nullptr;
  queue_next = nullptr;
  group = nullptr;
  sequence = 0;
  queued_bytes = 0;
  heap_index = kNotInHeap;
  references.store(1, std::memory_order_relaxed);
}

}  // namespace headrace
