// The way back to one event loop: an intrusive multi-producer list of completions and one coalesced eventfd write.
//
// The list is a stack that producers push whole chains on with one compare-and-swap (Treiber, 1986); the loop takes all
// of it with one exchange and puts it in order again. Links are embedded, so the ring is never full and a push never
// allocates. Whoever finds it empty writes the eventfd; whoever does not knows that the loop has been told.
#pragma once

#include <atomic>

#include "batching/request.h"

namespace headrace {

class CompletionRing final : public CompletionSink {
 public:
  CompletionRing();
  ~CompletionRing();  // the descriptor is closed here, last
  CompletionRing(const CompletionRing&) = delete;
  CompletionRing& operator=(const CompletionRing&) = delete;

  void deliver(Completion* first, Completion* last) noexcept override;

  int fileno() const { return eventfd_; }
  // All that has been delivered, oldest first. Clears the descriptor's readiness.
  Completion* take();
  // Makes the descriptor readable again: the loop stopped before it was through.
  void wake() noexcept;
  // Blocks until the descriptor is readable or `milliseconds` have passed.
  void wait(int milliseconds) const;

 private:
  std::atomic<Completion*> head_{nullptr};
  int eventfd_ = -1;
};

}  // namespace headrace
