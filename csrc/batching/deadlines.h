// A binary heap of tickets by deadline (Williams, 1964), with each ticket's place kept in the ticket so that removal is
// O(log n). Pure. Holds tickets that are queued and tickets that run: a caller is answered on time either way.
#pragma once

#include <vector>

#include "batching/request.h"

namespace headrace {

class DeadlineHeap {
 public:
  void push(Ticket* ticket);    // its deadline must not be kNever
  void remove(Ticket* ticket);  // no effect if it is not in the heap
  Nanos next() const { return heap_.empty() ? kNever : heap_.front()->deadline; }
  Ticket* pop();  // the earliest; null when empty
  std::size_t size() const { return heap_.size(); }

 private:
  void place(std::size_t index, Ticket* ticket);
  void sift_up(std::size_t index);
  void sift_down(std::size_t index);
  std::vector<Ticket*> heap_;
};

}  // namespace headrace
