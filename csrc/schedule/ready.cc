#include "schedule/ready.h"

#include <algorithm>

#include "base/check.h"

namespace headrace {

void Ready::set(Entry* entry, Turn turn) {
  if (entry->lacks && entry->turn != turn) stop_waiting(entry);
  entry->turn = turn;
  if (entry->lacks) {
    // It stands where it stood.
  } else if (turn.sequence != kNoSequence) {
    heap_.set(entry, turn);
  } else {
    heap_.remove(entry);
  }
  for (const ResourceRoom::Taken& need : entry->needs) wake(need.place);
  settle();
}

bool Ready::may_run(const Entry& entry, bool& lacks_named) const {
  lacks_named = false;
  bool lacks_cores = false;
  for (const ResourceRoom::Taken& need : entry.needs) {
    const Waiter* first = first_waiting(need.place);
    if ((first == nullptr || !(first->turn < entry.turn)) && resources_.fits(need)) continue;
    (need.place == ResourceRoom::kCores ? lacks_cores : lacks_named) = true;
  }
  return !lacks_cores && !lacks_named;
}

// What stands first may run.
void Ready::settle() {
  while (!heap_.empty()) {
    Entry* entry = heap_.top();
    bool lacks_named = false;
    if (entry->needs.empty() || may_run(*entry, lacks_named)) return;
    wait(entry, lacks_named);
  }
}

void Ready::wait(Entry* entry, bool lacks_named) {
  heap_.remove(entry);
  entry->lacks = true;
  entry->lacks_named = lacks_named;
  for (const ResourceRoom::Taken& need : entry->needs) {
    if (need.place == ResourceRoom::kCores && lacks_named) continue;
    waiting(need.place).insert({entry->turn, entry});
  }
}

void Ready::stop_waiting(Entry* entry) {
  for (const ResourceRoom::Taken& need : entry->needs) {
    if (need.place < waiting_.size()) waiting_[need.place].erase({entry->turn, entry});
  }
  entry->lacks = false;
}

void Ready::wake(std::size_t place) {
  const Waiter* first = first_waiting(place);
  if (first == nullptr) return;
  Entry* entry = first->entry;
  bool lacks_named = false;
  if (!may_run(*entry, lacks_named) && lacks_named == entry->lacks_named) return;
  stop_waiting(entry);
  heap_.set(entry, entry->turn);
}

void Ready::look_again() {
  for (std::size_t place = 0; place < waiting_.size(); ++place) wake(place);
  settle();
}

std::set<Ready::Waiter>& Ready::waiting(std::size_t place) {
  if (place >= waiting_.size()) waiting_.resize(place + 1);
  return waiting_[place];
}

const Ready::Waiter* Ready::first_waiting(std::size_t place) const {
  return place < waiting_.size() && !waiting_[place].empty() ? &*waiting_[place].begin() : nullptr;
}

}  // namespace headrace
