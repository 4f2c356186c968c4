// Tickets by deadline, queued and running ones alike: a caller is answered on time either way. Pure.
#pragma once

#include "batching/heap.h"
#include "batching/request.h"

namespace headrace {

class DeadlineHeap {
 public:
  void push(Ticket* ticket);    // its deadline must not be kNever, and must not change while it is in
  void remove(Ticket* ticket);  // no effect if it is not in the heap
  Nanos next() const { return heap_.empty() ? kNever : heap_.top_key(); }
  Ticket* pop();  // the earliest; null when empty
  std::size_t size() const { return heap_.size(); }

 private:
  PlacedHeap<Ticket, Nanos, &Ticket::heap_index> heap_;
};

}  // namespace headrace
