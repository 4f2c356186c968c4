// The models that a free lane may run now, and whose turn it is; those among them that wait for resources. Pure; the
// dispatcher asks.
//
// Models with a target among their queued tickets go first, earliest first. The others, who can wait, share what is
// left by weight (fair_share.h). So that these do not starve, one of them whose first ticket has lost its patience is
// `due` once they have got less than one part in kPart of the lanes.
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
#include "schedule/fair_share.h"
#include "schedule/resources.h"

namespace headrace {

class Ready {
 public:
  using Entry = Dispatcher::Entry;
  static constexpr Nanos kPart = 16;

  Ready(Resources& resources, std::size_t lanes) : resources_(resources), lanes_(static_cast<Nanos>(lanes)) {}

  // The entry would be taken from in this turn; without one (kNoSequence) it stands in line no longer.
  void set(Entry* entry, Turn turn);
  // Whose batch is next: it has what it needs. Null when there is none.
  Entry* top() const { return !urgent_.empty() ? urgent_.top() : patient_.empty() ? nullptr : patient_.top(); }
  bool empty() const { return urgent_.empty() && patient_.empty(); }
  // One that can wait and has waited too long, while others always went before it; null: none. It may lack something.
  Entry* due(Nanos now) const;
  // It lacks something, and goes before those that have targets until it has got it.
  void promote(Entry* entry);
  // It stood nowhere, and nothing waits for it: what it had is free for others.
  void stays_idle(Entry& entry);
  // In line, for a turn or for what it needs.
  static bool stands(const Entry* entry) {
    return entry->urgent_place != kNoPlace || entry->patient_place != kNoPlace || entry->lacks;
  }

  // A batch of the entry begins (`predicted`: 0 where nothing is known) and has ended; set() follows. Returns what its
  // fair share is charged for: nothing where a target was its reason to go.
  Nanos took(Entry& entry, Nanos predicted, Nanos now);
  void gave(Entry& entry, Nanos charged, Nanos took);
  // How much there is of something has changed.
  void look_again();

 private:
  struct Waiter {
    Rank rank;
    Entry* entry;
    bool operator<(const Waiter& other) const { return rank < other.rank; }
  };

  void stand(Entry* entry);
  bool may_run(const Entry& entry, bool& lacks_named) const;
  template <class Heap>
  void settle(Heap& heap);
  void wait(Entry* entry, bool lacks_named);
  void stop_waiting(Entry* entry);
  // The first that waits for this looks again.
  void wake(std::size_t place);
  std::set<Waiter>& waiting(std::size_t place);
  const Waiter* first_waiting(std::size_t place) const;

  Resources& resources_;
  const Nanos lanes_;
  FairShare fair_;
  // The top of each may run.
  PlacedHeap<Entry, Rank, &Entry::urgent_place> urgent_;
  PlacedHeap<Entry, Rank, &Entry::patient_place> patient_;
  std::vector<std::set<Waiter>> waiting_;  // by the place of a resource
  std::set<Waiter> patient_waiting_;       // of those, who can wait
  Entry* promoted_ = nullptr;
  Nanos due_from_ = 0;  // until then those that can wait have had their part
};

}  // namespace headrace
