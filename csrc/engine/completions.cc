#include "engine/completions.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "base/check.h"

namespace headrace {
namespace {

// Reverses first..last in place; afterwards `last` leads and first->next is `tail`.
void reverse(Completion* first, Completion* last, Completion* tail) {
  Completion* previous = tail;
  Completion* link = first;
  while (true) {
    Completion* next = link->next;
    link->next = previous;
    if (link == last) return;
    previous = link;
    link = next;
  }
}

}  // namespace

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
  // The newest lies on top, so the chain goes on it backwards. Only its tail changes if another producer was faster.
  reverse(first, last, nullptr);
  Completion* head = head_.load(std::memory_order_relaxed);
  do {
    first->next = head;
  } while (!head_.compare_exchange_weak(head, last, std::memory_order_release, std::memory_order_relaxed));
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
  Completion* newest = head_.exchange(nullptr, std::memory_order_acquire);
  if (newest != nullptr) ++signals_due_;
  Completion* oldest = nullptr;
  while (newest != nullptr) {
    Completion* next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  return oldest;
}

void CompletionRing::wait(int milliseconds) const {
  pollfd entry{eventfd_, POLLIN, 0};
  ::poll(&entry, 1, milliseconds);
}

}  // namespace headrace
