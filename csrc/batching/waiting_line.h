// Waiting tickets of one shape in the order in which they go: by priority level, then by the time until which each has
// its patience (earliest deadline first: Liu and Layland 1973), then by arrival. One sorted piece of memory: joining
// at the end and leaving from the front cost the same whatever its length; in the middle, a search and a move of the
// shorter side. Pure.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/clock.h"

namespace headrace {

struct Ticket;

struct OrderKey {
  std::uint64_t level = 0;  // twice the priority level, and one more once a timeout has sent it to the back of it
  Nanos when = kNever;      // the earlier of its target and the end of its patience
  std::uint64_t sequence = 0;
  auto operator<=>(const OrderKey&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 sees one here
};

// What deciding needs to know of a ticket: its own memory may lie in another core's cache.
struct Slot {
  OrderKey key;
  Ticket* ticket = nullptr;
  Nanos target = kNever;  // when it should be answered
  std::int32_t load = 1;  // rows as they fill a batch: 1 .. max_batch_size
  std::int32_t rows = 1;  // as they cost time: 1 or more
};

class WaitingLine {
 public:
  static constexpr std::size_t kMaxIdle = 256;  // slots of memory that an empty line keeps

  bool empty() const { return begin_ == slots_.size(); }
  std::size_t size() const { return slots_.size() - begin_; }
  const Slot& front() const { return slots_[begin_]; }
  const Slot& back() const { return slots_.back(); }
  const Slot& operator[](std::size_t index) const { return slots_[begin_ + index]; }
  std::span<const Slot> slots() const { return std::span(slots_).subspan(begin_); }

  [[gnu::always_inline]] void insert(const Slot& slot) {
    if (slots_.size() == slots_.capacity() && begin_ > 0 && begin_ >= slots_.size() / 2) compact();
    if (empty() || slots_.back().key < slot.key) {
      // Member by member: to load what was just stored in parts as a whole would cost more than all the rest.
      Slot& last = slots_.emplace_back();
      last.key.level = slot.key.level;
      last.key.when = slot.key.when;
      last.key.sequence = slot.key.sequence;
      last.ticket = slot.ticket;
      last.target = slot.target;
      last.load = slot.load;
      last.rows = slot.rows;
      return;
    }
    insert_before_the_end(slot);
  }
  // The ticket with this key; it must be there.
  const Slot& at(const OrderKey& key) const {
    const Slot& found = slots_[begin_ + place(key)];
    HEADRACE_CHECK(found.key == key);
    return found;
  }
  void erase(const OrderKey& key) {
    const std::size_t at = place(key);
    HEADRACE_CHECK(at < size() && slots_[begin_ + at].key == key);
    if (at < size() / 2) {
      std::move_backward(iterator(0), iterator(at), iterator(at) + 1);
      drop_front(1);
    } else {
      slots_.erase(iterator(at));
      if (empty()) clear();
    }
  }
  void drop_front(std::size_t count) {
    begin_ += count;
    if (empty()) clear();
  }
  // The ticket goes first, whatever its key; it must leave before anything else joins.
  void move_to_front(std::size_t at) { std::rotate(iterator(0), iterator(at), iterator(at) + 1); }
  void clear() {
    slots_.clear();
    begin_ = 0;
  }
  std::size_t capacity() const { return slots_.capacity(); }
  // Gives memory back that was grown for a crowd.
  void shrink() {
    if (slots_.capacity() > kMaxIdle) slots_ = std::vector<Slot>();
  }

 private:
  [[gnu::noinline]] void insert_before_the_end(const Slot& slot) {
    const std::size_t at = place(slot.key);
    if (begin_ > 0 && at < size() / 2) {
      std::move(iterator(0), iterator(at), iterator(0) - 1);
      --begin_;
      slots_[begin_ + at] = slot;
    } else {
      slots_.insert(iterator(at), slot);
    }
  }
  std::vector<Slot>::iterator iterator(std::size_t at) {
    return slots_.begin() + static_cast<std::ptrdiff_t>(begin_ + at);
  }
  std::size_t place(const OrderKey& key) const {
    const auto all = slots();
    const auto found =
        std::lower_bound(all.begin(), all.end(), key, [](const Slot& slot, const OrderKey& k) { return slot.key < k; });
    return static_cast<std::size_t>(found - all.begin());
  }
  void compact() {
    slots_.erase(slots_.begin(), slots_.begin() + static_cast<std::ptrdiff_t>(begin_));
    begin_ = 0;
  }

  std::vector<Slot> slots_;
  std::size_t begin_ = 0;
};

}  // namespace headrace
