#include "batching/deadlines.h"

namespace headrace {

static_assert(kNotInHeap == kNoPlace);

void DeadlineHeap::push(Ticket* ticket) {
  HEADRACE_CHECK(ticket->deadline != kNever && ticket->heap_index == kNotInHeap);
  heap_.set(ticket, ticket->deadline);
}

void DeadlineHeap::remove(Ticket* ticket) { heap_.remove(ticket); }

Ticket* DeadlineHeap::pop() {
  if (heap_.empty()) return nullptr;
  Ticket* earliest = heap_.top();
  heap_.remove(earliest);
  return earliest;
}

}  // namespace headrace
