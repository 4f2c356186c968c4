#include "schedule/ready.h"

#include <algorithm>

#include "base/check.h"

namespace headrace {

void Ready::set(Entry* entry, Turn turn) {
  const bool stands = turn.sequence != kNoSequence;
  if (entry->promoted && entry->turn < turn) {  // whom it was promoted for has left
    entry->promoted = false;
    promoted_ = nullptr;
  }
  entry->turn = turn;
  Rank rank;
  if (stands) {
    if (entry->promoted || entry->queue.targets() > 0) {
      rank = {false, turn.when, turn.sequence};
    } else {
      fair_.ready(entry->account);
      rank = {true, entry->account.tag, turn.sequence};
    }
  } else if (entry->queue.empty()) {
    FairShare::idle(entry->account);
  }
  if (!entry->lacks || !stands || entry->rank != rank) {
    if (entry->lacks) stop_waiting(entry);
    if (!stands || !rank.patient) patient_.remove(entry);
    if (!stands || rank.patient) urgent_.remove(entry);
    entry->rank = rank;
    if (stands) stand(entry);
  }
  for (const ResourceRoom::Taken& need : entry->needs) wake(need.place);
  settle(urgent_);
  settle(patient_);
}

void Ready::stays_idle(Entry& entry) {
  FairShare::idle(entry.account);
  for (const ResourceRoom::Taken& need : entry.needs) wake(need.place);
  settle(urgent_);
  settle(patient_);
}

void Ready::stand(Entry* entry) {
  if (entry->rank.patient) {
    patient_.set(entry, entry->rank);
  } else {
    urgent_.set(entry, entry->rank);
  }
}

Ready::Entry* Ready::due(Nanos now) const {
  if (promoted_ != nullptr) return promoted_;
  if (now < due_from_) return nullptr;
  Entry* entry = patient_.empty() ? nullptr : patient_.top();
  if (!patient_waiting_.empty()) {
    const Waiter& first = *patient_waiting_.begin();
    if (entry == nullptr || first.rank < entry->rank) entry = first.entry;
  }
  return entry != nullptr && entry->turn.when <= now ? entry : nullptr;
}

void Ready::promote(Entry* entry) {
  HEADRACE_CHECK(promoted_ == nullptr && entry->rank.patient);
  promoted_ = entry;
  entry->promoted = true;
  set(entry, entry->turn);
}

bool Ready::may_run(const Entry& entry, bool& lacks_named) const {
  lacks_named = false;
  bool lacks_cores = false;
  for (const ResourceRoom::Taken& need : entry.needs) {
    const Waiter* first = first_waiting(need.place);
    if ((first == nullptr || !(first->rank < entry.rank)) && resources_.fits(need)) continue;
    (need.place == ResourceRoom::kCores ? lacks_cores : lacks_named) = true;
  }
  return !lacks_cores && !lacks_named;
}

// What stands first may run.
template <class Heap>
void Ready::settle(Heap& heap) {
  while (!heap.empty()) {
    Entry* entry = heap.top();
    bool lacks_named = false;
    if (entry->needs.empty() || may_run(*entry, lacks_named)) return;
    heap.remove(entry);
    wait(entry, lacks_named);
    if (lacks_named) wake(ResourceRoom::kCores);  // which it keeps no longer
  }
}

void Ready::wait(Entry* entry, bool lacks_named) {
  entry->lacks = true;
  entry->lacks_named = lacks_named;
  if (entry->rank.patient) patient_waiting_.insert({entry->rank, entry});
  for (const ResourceRoom::Taken& need : entry->needs) {
    if (need.place == ResourceRoom::kCores && lacks_named) continue;
    waiting(need.place).insert({entry->rank, entry});
  }
}

void Ready::stop_waiting(Entry* entry) {
  for (const ResourceRoom::Taken& need : entry->needs) {
    if (need.place < waiting_.size()) waiting_[need.place].erase({entry->rank, entry});
  }
  patient_waiting_.erase({entry->rank, entry});
  entry->lacks = false;
}

void Ready::wake(std::size_t place) {
  const Waiter* first = first_waiting(place);
  if (first == nullptr) return;
  Entry* entry = first->entry;
  bool lacks_named = false;
  if (may_run(*entry, lacks_named)) {
    stop_waiting(entry);
    stand(entry);
  } else if (lacks_named != entry->lacks_named) {
    // It keeps cores from others no longer, or from now on.
    stop_waiting(entry);
    wait(entry, lacks_named);
    if (lacks_named) wake(ResourceRoom::kCores);
  }
}

Nanos Ready::took(Entry& entry, Nanos predicted, Nanos now) {
  resources_.take(entry.needs);
  const bool charged = entry.rank.patient || entry.promoted;
  if (entry.promoted) {
    entry.promoted = false;
    promoted_ = nullptr;
  }
  if (!charged) return kNever;
  const Nanos charge = fair_.take(entry.account, predicted);
  due_from_ = now + kPart * charge / lanes_;
  return charge;
}

void Ready::gave(Entry& entry, Nanos charged, Nanos took) {
  resources_.give(entry.needs);
  if (charged == kNever) {
    entry.account.last = took;
  } else {
    FairShare::ended(entry.account, charged, took);
  }
}

void Ready::look_again() {
  for (std::size_t place = 0; place < waiting_.size(); ++place) wake(place);
  settle(urgent_);
  settle(patient_);
}

std::set<Ready::Waiter>& Ready::waiting(std::size_t place) {
  if (place >= waiting_.size()) waiting_.resize(place + 1);
  return waiting_[place];
}

const Ready::Waiter* Ready::first_waiting(std::size_t place) const {
  return place < waiting_.size() && !waiting_[place].empty() ? &*waiting_[place].begin() : nullptr;
}

}  // namespace headrace
