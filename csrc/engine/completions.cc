#include "engine/completions.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "base/check.h"

namespace headrace {
CompletionRing::CompletionRing() : eventfd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) { HEADRACE_CHECK(eventfd_ >= 0); }

CompletionRing::~CompletionRing() {
  HEADRACE_CHECK(take() == nullptr);
  while (signals_seen_ < signals_due_) {
    wait(-1);
    HEADRACE_CHECK(take() == nullptr);
  }
  ::close(eventfd_);
}

void CompletionRing::deliver(Completion* first, Completion* last) noexcept {
  last->next = nullptr;
  first->chain_last = last;
  Completion* head = head_.load(std::memory_order_relaxed);
  do {
    first->chain_before = head;
  } while (!head_.compare_exchange_weak(head, first, std::memory_order_release, std::memory_order_relaxed));
  // From here on the loop may have all of the chain, and wait in the destructor for this write alone.
  if (head == nullptr) signal();
}

void CompletionRing::wake() noexcept {
  ++signals_due_;
  signal();
}

void CompletionRing::signal() noexcept {
  const std::uint64_t one = 1;
  // EAGAIN: the counter is full, so the descriptor is readable already.
  while (::write(eventfd_, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

Completion* CompletionRing::take() {
  std::uint64_t count = 0;
  while (::read(eventfd_, &count, sizeof(count)) < 0 && errno == EINTR) {
  }
  signals_seen_ += count;  // 0 where there was nothing to read
  Completion* chain = head_.exchange(nullptr, std::memory_order_acquire);
  if (chain != nullptr) ++signals_due_;
  // Of each chain two links are touched here. The others are in the cache of the lane that wrote them, and to walk them
  // just for their order would cost a transfer each.
  Completion* oldest = nullptr;
  while (chain != nullptr) {
    chain->chain_last->next = oldest;
    oldest = chain;
    chain = chain->chain_before;
  }
  return oldest;
}

void CompletionRing::wait(int milliseconds) const {
  pollfd entry{eventfd_, POLLIN, 0};
  ::poll(&entry, 1, milliseconds);
}

}  // namespace headrace
