// The models that a free lane may run now, and whose turn it is; those among them that wait for resources. Pure; the
// dispatcher asks.
//
// A model whose batch lacks what it needs waits aside, in the order of turns, and keeps those that come after it from
// what they both need. Each waits until something of what it needs comes free and it is the first who waits for that,
// so no batch costs more than O(log) of the models, however many wait.
#pragma once

#include <cstddef>
#include <set>
#include <vector>

#include "batching/heap.h"
#include "batching/queue.h"
#include "schedule/entry.h"
#include "schedule/resources.h"

namespace headrace {

class Ready {
 public:
  using Entry = Dispatcher::Entry;

  explicit Ready(Resources& resources) : resources_(resources) {}

  // The entry would be taken from in this turn; without one (kNoSequence) it stands in line no longer.
  void set(Entry* entry, Turn turn);
  // Whose batch is next: it has what it needs. Null when there is none.
  Entry* top() const { return heap_.empty() ? nullptr : heap_.top(); }
  bool empty() const { return heap_.empty(); }
  // In line, for a turn or for what it needs.
  static bool stands(const Entry* entry) { return entry->ready_place != kNoPlace || entry->lacks; }
  static bool waits(const Entry* entry) { return entry->lacks; }

  // A batch of the entry begins, and ends; set() follows.
  void took(const Entry& entry) { resources_.take(entry.needs); }
  void gave(const Entry& entry) { resources_.give(entry.needs); }
  // How much there is of something has changed.
  void look_again();

 private:
  struct Waiter {
    Turn turn;
    Entry* entry;
    bool operator<(const Waiter& other) const { return turn < other.turn; }
  };

  bool may_run(const Entry& entry, bool& lacks_named) const;
  void settle();
  void wait(Entry* entry, bool lacks_named);
  void stop_waiting(Entry* entry);
  // The first that waits for this looks again.
  void wake(std::size_t place);
  std::set<Waiter>& waiting(std::size_t place);
  const Waiter* first_waiting(std::size_t place) const;

  Resources& resources_;
  PlacedHeap<Entry, Turn, &Entry::ready_place> heap_;  // the top may run
  std::vector<std::set<Waiter>> waiting_;              // by the place of a resource
};

}  // namespace headrace
