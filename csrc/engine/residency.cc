#include "engine/residency.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace headrace {

Residency::Residency(std::size_t budget, int loads_at_once) : budget_(budget), loads_at_once_(loads_at_once) {
  HEADRACE_CHECK(loads_at_once > 0);
}

Residency::Item* Residency::add(void* owner, const ModelMemory& expected) {
  items_.push_back(std::make_unique<Item>());
  Item* item = items_.back().get();
  item->owner = owner;
  item->memory.footprint = expected.footprint;
  item->memory.peak = std::max(expected.footprint, expected.peak);
  return item;
}

void Residency::remove(Item* item) {
  HEADRACE_CHECK(item->state != State::kLoading);
  if (item->state == State::kResident) let_go(item->memory);
  if (item->state == State::kEvicting) evicted(item);
  withdraw(item);
  const auto found =
      std::find_if(items_.begin(), items_.end(), [item](const auto& each) { return each.get() == item; });
  HEADRACE_CHECK(found != items_.end());
  items_.erase(found);
}

Status Residency::ask(Item* item, Nanos now) {
  if (item->state == State::kEvicting) item->asked = true;
  if (item->state != State::kAsleep) return {};
  if (item->failures > 0 && now < item->retry_at) {
    return {Code::kUnavailable, item->words + "; it is tried again in " +
                                    std::to_string((item->retry_at - now + kMillisecond - 1) / kMillisecond) + " ms"};
  }
  item->state = State::kWaiting;
  line_.push_back(item);
  return {};
}

void Residency::withdraw(Item* item) {
  if (item->state != State::kWaiting) return;
  std::erase(line_, item);
  item->state = State::kAsleep;
}

Residency::Decision Residency::next(const Uses& uses) {
  if (line_.empty()) return make_up(uses);
  if (loading_ >= loads_at_once_) return {};
  Item* first = line_.front();
  // More than the whole budget: alone, then.
  const std::size_t needed = std::min(first->memory.peak, budget_);
  const std::size_t room = budget_ > bytes_ ? budget_ - bytes_ : 0;
  if (needed <= room || bytes_ == 0) {
    line_.pop_front();
    first->state = State::kLoading;
    ++loading_;
    charge(first->memory.peak);
    return {Decision::kLoad, first};
  }
  if (needed <= room + leaving_) return {};  // it is on its way
  Item* victim = least_worth(uses);
  if (victim == nullptr) return {};
  // What loads or is in use may leave later; until then what is loaded had better stay.
  if (room + leaving_ + could_go() < needed && bytes_ <= budget_) return {};
  begin_to_leave(victim);
  return {Decision::kEvict, victim};
}

// What a load was measured to take may be more than was reserved for it.
Residency::Decision Residency::make_up(const Uses& uses) {
  if (bytes_ - leaving_ <= budget_) return {};
  Item* victim = least_worth(uses);
  if (victim == nullptr || alone(*victim) == bytes_ - leaving_) return {};  // it alone is more: it stays
  begin_to_leave(victim);
  return {Decision::kEvict, victim};
}

Residency::Item* Residency::least_worth(const Uses& uses) {
  Item* least = nullptr;
  for (const auto& item : items_) {
    if (item->state != State::kResident || item->in_use) continue;
    if (const std::uint64_t now = uses(item->owner); now != item->uses_seen || item->worth == 0) {
      // L has not moved since the last look, so this is what its uses since then would have made of it.
      item->uses_seen = now;
      const auto times = static_cast<double>(std::max<std::uint64_t>(now - item->uses_at_load, 1));
      const auto size = static_cast<double>(std::max<std::size_t>(part(item.get()), 1));
      item->worth = floor_ + times * static_cast<double>(std::max<Nanos>(item->reload_time, 1)) / size;
    }
    if (least == nullptr || item->worth < least->worth) least = item.get();
  }
  return least;
}

void Residency::charge(std::size_t bytes) {
  bytes_ += bytes;
  bytes_peak_ = std::max(bytes_peak_, bytes_);
}

std::size_t Residency::shared_already(const std::vector<SharedMemory>& shared) const {
  std::size_t bytes = 0;
  for (const SharedMemory& memory : shared) bytes += holders_.contains(memory.id) ? memory.bytes : 0;
  return bytes;
}

std::size_t Residency::part(const Item* item) const {
  std::size_t bytes = item->memory.footprint;
  for (const SharedMemory& memory : item->memory.shared) {
    const auto found = holders_.find(memory.id);
    bytes += found == holders_.end() ? memory.bytes : memory.bytes / found->second;
  }
  return bytes;
}

// What goes with it.
std::size_t Residency::alone(const Item& item) const {
  std::size_t bytes = item.memory.footprint;
  for (const SharedMemory& memory : item.memory.shared) {
    if (holders_.at(memory.id) == 1) bytes += memory.bytes;
  }
  return bytes;
}

// What would go with all that is not in use, besides what is going.
std::size_t Residency::could_go() const {
  std::size_t bytes = 0;
  std::size_t counted = 0;  // of what is shared, in leaving_
  std::unordered_map<std::uint64_t, std::size_t> going;
  for (const auto& item : items_) {
    const bool leaves = item->state == State::kEvicting;
    if (!leaves && (item->state != State::kResident || item->in_use)) continue;
    (leaves ? counted : bytes) += leaves ? item->leaving - item->memory.footprint : item->memory.footprint;
    for (const SharedMemory& memory : item->memory.shared) {
      if (++going[memory.id] == holders_.at(memory.id)) bytes += memory.bytes;
    }
  }
  return bytes - std::min(bytes, counted);
}

void Residency::hold(const ModelMemory& memory) {
  std::size_t bytes = memory.footprint;
  for (const SharedMemory& shared : memory.shared) {
    if (holders_[shared.id]++ == 0) bytes += shared.bytes;
  }
  charge(bytes);
}

void Residency::let_go(const ModelMemory& memory) {
  bytes_ -= memory.footprint;
  for (const SharedMemory& shared : memory.shared) {
    const auto found = holders_.find(shared.id);
    if (--found->second != 0) continue;
    bytes_ -= shared.bytes;
    holders_.erase(found);
  }
}

void Residency::begin_to_leave(Item* item) {
  item->state = State::kEvicting;
  item->leaving = alone(*item);
  leaving_ += item->leaving;
}

void Residency::loaded(Item* item, ModelMemory memory, Nanos took, std::uint64_t uses) {
  HEADRACE_CHECK(item->state == State::kLoading);
  --loading_;
  bytes_ -= item->memory.peak;
  item->memory = std::move(memory);
  item->memory.peak = std::max(item->memory.footprint, item->memory.peak);
  hold(item->memory);
  item->state = State::kResident;
  item->reload_time = took;
  item->failures = 0;
  item->in_use = false;
  item->uses_at_load = item->uses_seen = uses;
  item->worth = 0;  // told at the next look
}

void Residency::abandoned(Item* item) {
  HEADRACE_CHECK(item->state == State::kLoading);
  --loading_;
  bytes_ -= item->memory.peak;
  item->state = State::kAsleep;
}

void Residency::failed(Item* item, const std::string& words, Nanos now) {
  abandoned(item);
  item->words = words;
  const Nanos pause = kFirstPause << std::min(item->failures, 20);
  item->retry_at = now + std::min(pause, kLongestPause);
  ++item->failures;
}

void Residency::evicted(Item* item) {
  HEADRACE_CHECK(item->state == State::kEvicting);
  let_go(item->memory);
  leaving_ -= item->leaving;
  floor_ = std::max(floor_, item->worth);
  item->state = State::kAsleep;
  if (std::exchange(item->asked, false)) {
    item->state = State::kWaiting;
    line_.push_back(item);
  }
}

void Residency::keep(Item* item) {
  HEADRACE_CHECK(item->state == State::kEvicting);
  leaving_ -= item->leaving;
  item->state = State::kResident;
  item->in_use = true;
}

void Residency::became_idle() {
  for (const auto& item : items_) item->in_use = false;
}

void Residency::retire(Item* item) {
  HEADRACE_CHECK(item->state != State::kLoading && item->state != State::kEvicting);
  withdraw(item);
  if (item->state == State::kResident) begin_to_leave(item);
}

std::size_t Residency::resident() const {
  return static_cast<std::size_t>(std::count_if(items_.begin(), items_.end(), [](const auto& item) {
    return item->state == State::kResident || item->state == State::kEvicting;
  }));
}

}  // namespace headrace
