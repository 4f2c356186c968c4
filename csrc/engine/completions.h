// The way back to one event loop: an intrusive multi-producer list of completions and one coalesced eventfd write.
//
// The list is a stack of chains (Treiber, 1986): a producer pushes its chain with one compare-and-swap, the loop takes
// all of them with one exchange and joins them in order. Links are embedded, so the ring is never full and a push never
// allocates. Whoever finds it empty writes the eventfd; whoever does not knows that the loop has been told.
//
// A producer that has pushed may still have that write before it, while the loop has what it pushed and wants to go. So
// the loop's side counts the writes that must come, one for each time that it took something, and the end of the ring
// waits for the last one: it costs the producers nothing.
#pragma once

#include <atomic>
#include <cstdint>

#include "batching/request.h"

namespace headrace {

class CompletionRing final : public CompletionSink {
 public:
  CompletionRing();
  ~CompletionRing();  // all that was delivered has been taken; the descriptor is closed here, last
  CompletionRing(const CompletionRing&) = delete;
  CompletionRing& operator=(const CompletionRing&) = delete;

  void deliver(Completion* first, Completion* last) noexcept override;

  void expect_part() noexcept override { parts_due_.fetch_add(1, std::memory_order_relaxed); }

  int fileno() const { return eventfd_; }
  // deliver() may be called by any thread, what follows by the loop's only.

  // A part that was taken has been handled.
  void part_handled() noexcept { parts_due_.fetch_sub(1, std::memory_order_relaxed); }
  // Parts that will be delivered, or have been and are not handled. Seen whole by whoever has all FINAL completions.
  std::size_t parts_due() const noexcept { return parts_due_.load(std::memory_order_relaxed); }

  // All that has been delivered, oldest first. Clears the descriptor's readiness.
  Completion* take();
  // Makes the descriptor readable again: the loop stopped before it was through.
  void wake() noexcept;
  // Blocks until the descriptor is readable or `milliseconds` have passed (-1: no limit).
  void wait(int milliseconds) const;

 private:
  void signal() noexcept;

  std::atomic<Completion*> head_{nullptr};
  std::atomic<std::size_t> parts_due_{0};
  int eventfd_ = -1;
  std::uint64_t signals_due_ = 0;   // the loop's side: writes that were or will be made
  std::uint64_t signals_seen_ = 0;  // of them, those read
};

}  // namespace headrace
