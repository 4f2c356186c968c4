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

CompletionRing::~CompletionRing() { ::close(eventfd_); }

void CompletionRing::deliver(Completion* first, Completion* last) noexcept {
  // The newest lies on top, so the chain goes on it backwards. Only its tail changes if another producer was faster.
  reverse(first, last, nullptr);
  Completion* head = head_.load(std::memory_order_relaxed);
  do {
    first->next = head;
  } while (!head_.compare_exchange_weak(head, last, std::memory_order_release, std::memory_order_relaxed));
  if (head == nullptr) wake();
}

void CompletionRing::wake() noexcept {
  const std::uint64_t one = 1;
  // EAGAIN: the counter is full, so the descriptor is readable already.
  while (::write(eventfd_, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

Completion* CompletionRing::take() {
  std::uint64_t count = 0;
  while (::read(eventfd_, &count, sizeof(count)) < 0 && errno == EINTR) {
  }
  Completion* newest = head_.exchange(nullptr, std::memory_order_acquire);
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
