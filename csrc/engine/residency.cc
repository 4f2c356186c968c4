#include "engine/residency.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace headrace {

Residency::Residency(std::size_t budget, int loads_at_once) : budget_(budget), loads_at_once_(loads_at_once) {
  HEADRACE_CHECK(loads_at_once > 0);
}

Residency::Item* Residency::add(void* owner, ModelMemory expected) {
  items_.push_back(std::make_unique<Item>());
  Item* item = items_.back().get();
  item->owner = owner;
  item->memory = {expected.footprint, std::max(expected.footprint, expected.peak)};
  return item;
}

void Residency::remove(Item* item) {
  HEADRACE_CHECK(item->state != State::kLoading);
  if (item->state == State::kResident) bytes_ -= item->memory.footprint;
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
  std::size_t could = room + leaving_;
  for (const auto& item : items_) {
    if (item->state == State::kResident && !item->in_use) could += item->memory.footprint;
  }
  // What loads or is in use may leave later; until then what is loaded had better stay.
  if (could < needed && bytes_ <= budget_) return {};
  victim->state = State::kEvicting;
  leaving_ += victim->memory.footprint;
  return {Decision::kEvict, victim};
}

// What a load was measured to take may be more than was reserved for it.
Residency::Decision Residency::make_up(const Uses& uses) {
  if (bytes_ - leaving_ <= budget_) return {};
  Item* victim = least_worth(uses);
  if (victim == nullptr || victim->memory.footprint == bytes_ - leaving_) return {};  // it alone is more: it stays
  victim->state = State::kEvicting;
  leaving_ += victim->memory.footprint;
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
      const auto size = static_cast<double>(std::max<std::size_t>(item->memory.footprint, 1));
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

void Residency::loaded(Item* item, ModelMemory memory, Nanos took, std::uint64_t uses) {
  HEADRACE_CHECK(item->state == State::kLoading);
  --loading_;
  bytes_ -= item->memory.peak;
  item->memory = {memory.footprint, std::max(memory.footprint, memory.peak)};
  charge(item->memory.footprint);
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
  bytes_ -= item->memory.footprint;
  leaving_ -= item->memory.footprint;
  floor_ = std::max(floor_, item->worth);
  item->state = State::kAsleep;
  if (std::exchange(item->asked, false)) {
    item->state = State::kWaiting;
    line_.push_back(item);
  }
}

void Residency::keep(Item* item) {
  HEADRACE_CHECK(item->state == State::kEvicting);
  leaving_ -= item->memory.footprint;
  item->state = State::kResident;
  item->in_use = true;
}

void Residency::became_idle() {
  for (const auto& item : items_) item->in_use = false;
}

void Residency::retire(Item* item) {
  HEADRACE_CHECK(item->state != State::kLoading && item->state != State::kEvicting);
  withdraw(item);
  if (item->state != State::kResident) return;
  item->state = State::kEvicting;
  leaving_ += item->memory.footprint;
}

std::size_t Residency::resident() const {
  return static_cast<std::size_t>(std::count_if(items_.begin(), items_.end(), [](const auto& item) {
    return item->state == State::kResident || item->state == State::kEvicting;
  }));
}

}  // namespace headrace
