// Which call is due next: lists for limits that are the same for all calls, a heap for deadlines. Pure in time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/clock.h"

namespace headrace::wire {

// A member of one TimedList. `Owner` is who it stands for.
template <class Owner>
struct TimedNode {
  Owner* owner = nullptr;
  Nanos since = 0;
  TimedNode* previous = nullptr;
  TimedNode* next = nullptr;
  bool linked = false;
};

// In the order of `since`, because time does not go back: the first is the one that is due first.
template <class Owner>
class TimedList {
 public:
  using Node = TimedNode<Owner>;
  void add(Node& node, Nanos now) {
    node.since = now;
    node.linked = true;
    node.previous = last_;
    node.next = nullptr;
    (last_ != nullptr ? last_->next : first_) = &node;
    last_ = &node;
  }
  void remove(Node& node) {
    if (!node.linked) return;
    (node.previous != nullptr ? node.previous->next : first_) = node.next;
    (node.next != nullptr ? node.next->previous : last_) = node.previous;
    node.linked = false;
  }
  // Starts the node's time anew.
  void touch(Node& node, Nanos now) {
    if (node.linked && last_ == &node) {
      node.since = now;
      return;
    }
    remove(node);
    add(node, now);
  }
  Nanos due(Nanos limit) const { return first_ == nullptr ? kNever : first_->since + limit; }
  Owner* first() const { return first_ == nullptr ? nullptr : first_->owner; }

 private:
  Node* first_ = nullptr;
  Node* last_ = nullptr;
};

// Deadlines of calls. An entry whose call has ended stays until it comes up, or until there are too many such.
template <class Owner>
class DeadlineHeap {
 public:
  struct Entry {
    Nanos time;
    Owner* owner;
    std::int32_t id;  // the owner's, then: owners are used again
    bool operator>(const Entry& other) const { return time > other.time; }
  };
  Nanos due() const { return entries_.empty() ? kNever : entries_.front().time; }
  std::size_t size() const { return entries_.size(); }
  void add(Entry entry) {
    entries_.push_back(entry);
    std::push_heap(entries_.begin(), entries_.end(), std::greater<>());
  }
  Entry take() {
    std::pop_heap(entries_.begin(), entries_.end(), std::greater<>());
    const Entry entry = entries_.back();
    entries_.pop_back();
    return entry;
  }
  template <class Keep>
  void sweep(Keep keep) {
    std::erase_if(entries_, [&](const Entry& entry) { return !keep(entry); });
    std::make_heap(entries_.begin(), entries_.end(), std::greater<>());
  }

 private:
  std::vector<Entry> entries_;
};

}  // namespace headrace::wire
