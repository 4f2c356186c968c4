#include "schedule/forecast.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace headrace {

void Forecast::begin(Nanos now, const ResourceRoom* resources) {
  now_ = now;
  needs_ = false;
  if (resources != nullptr) room_ = *resources;
  models_.clear();
  lanes_.clear();
  groups_.clear();
  targets_left_ = 0;
  forced_ = {};
}

int Forecast::add_model(const Queue* queue, int lanes, int max_lanes, const ResourceRoom::Needs& needs) {
  waiting_.clear();
  if (queue != nullptr) {
    queue->append_groups(waiting_);
    targets_left_ += queue->targets();
  }
  const std::size_t begin = groups_.size();
  for (const WaitingGroup& each : waiting_) groups_.push_back({each, 0, each.targets});
  models_.push_back({lanes, max_lanes, begin, groups_.size(), needs.empty() ? nullptr : &needs, false, false,
                     queue != nullptr ? queue->targets() : 0, false});
  if (!needs.empty()) needs_ = true;
  return static_cast<int>(models_.size()) - 1;
}

void Forecast::add_lane(std::uint32_t device, int model, Nanos end, double variance) {
  lanes_.push_back({device, model, std::max(end, now_), variance});
}

void Forecast::take_first(int lane, int model, const Slot* line, std::size_t tickets) {
  const Model& taken = models_[static_cast<std::size_t>(model)];
  for (std::size_t i = taken.groups_begin; i < taken.groups_end; ++i) {
    if (groups_[i].waiting.slots.data() != line) continue;
    start(lanes_[static_cast<std::size_t>(lane)], model, groups_[i], tickets, now_, nullptr, forced_);
    return;
  }
  HEADRACE_CHECK(false && "the model has no such group");
}

Nanos Forecast::hold(int lane) {
  const Nanos until = next_event(now_);
  if (until != kNever) lanes_[static_cast<std::size_t>(lane)].free = until;
  return until;
}

// In the order of turns: what those before it lack is known.
bool Forecast::must_wait(Model& model) const {
  if (model.needs == nullptr) return false;
  bool lacks_cores = false;
  for (const ResourceRoom::Taken& need : *model.needs) {
    const bool kept = std::any_of(models_.begin(), models_.end(), [&need](const Model& other) {
      return other.lacks && ResourceRoom::keeps(*other.needs, other.lacks_named, need.place);
    });
    if (!kept && room_.fits(need)) continue;
    (need.place == ResourceRoom::kCores ? lacks_cores : model.lacks_named) = true;
  }
  model.lacks = lacks_cores || model.lacks_named;
  return model.lacks;
}

// Of the models that may have another lane and what they need, the one whose turn it is.
Forecast::Group* Forecast::first_in_order(Nanos now, int& chosen) {
  Group* best = nullptr;
  for (std::size_t m = 0; m < models_.size(); ++m) {
    const Model& model = models_[m];
    if (model.lanes >= model.max_lanes || model.lacks || (model.targets == 0 && !model.once)) continue;
    Group* first = nullptr;
    for (std::size_t i = model.groups_begin; i < model.groups_end; ++i) {
      Group& group = groups_[i];
      if (group.empty() || (!group.waiting.due && group.waiting.ripens > now)) continue;
      if (first == nullptr || group.key() < first->key()) first = &group;
    }
    if (first == nullptr) continue;
    const Turn turn{first->key().when, first->key().sequence};
    if (best != nullptr && !(turn < Turn{best->key().when, best->key().sequence})) continue;
    best = first;
    chosen = static_cast<int>(m);
  }
  return best;
}

// What a lane that is free at `now` gets.
Forecast::Group* Forecast::next(Nanos now, std::uint64_t joins_before, int& chosen) {
  Group* best = first_in_order(now, chosen);
  if (needs_) {
    while (best != nullptr && must_wait(models_[static_cast<std::size_t>(chosen)])) {
      best = first_in_order(now, chosen);
    }
    for (Model& model : models_) model.lacks = model.lacks_named = false;
  }
  if (best == nullptr || best->targets > 0 || best->key().sequence < joins_before) return best;
  return overtakes(*best) ? nullptr : best;
}

bool Forecast::overtakes(const Group& group) const {
  const OrderKey& key = group.key();
  return std::any_of(groups_.begin(), groups_.end(), [&key](const Group& other) {
    return other.targets > 0 && Turn{other.key().when, other.key().sequence} < Turn{key.when, key.sequence};
  });
}

void Forecast::release(Nanos now) {
  for (Lane& lane : lanes_) {
    if (lane.model < 0 || lane.free > now) continue;
    Model& model = models_[static_cast<std::size_t>(lane.model)];
    --model.lanes;
    if (model.needs != nullptr) room_.give(*model.needs);
    lane.model = -1;
  }
}

Nanos Forecast::next_event(Nanos now) const {
  Nanos time = kNever;
  for (const Lane& lane : lanes_) {
    if (lane.free > now) time = std::min(time, lane.free);
  }
  for (const Group& group : groups_) {
    if (!group.empty() && !group.waiting.due && group.waiting.ripens > now) time = std::min(time, group.waiting.ripens);
  }
  return time;
}

void Forecast::start(Lane& lane, int model, Group& group, std::size_t tickets, Nanos now, const Ticket* asked,
                     Result& result) {
  CostKey key = group.waiting.rule.key;
  key.device = lane.device;
  const auto slots = group.waiting.slots.subspan(group.taken, tickets);
  std::int64_t rows = 0;
  for (const Slot& slot : slots) rows += slot.rows;
  CostEstimate cost;
  if (group.waiting.rule.costs != nullptr) cost = group.waiting.rule.costs->predict(key, rows).counted();
  const auto deviation = static_cast<double>(cost.high - cost.typical);
  lane.free = now + cost.typical;
  lane.variance += deviation * deviation;
  lane.model = model;
  Model& taken = models_[static_cast<std::size_t>(model)];
  ++taken.lanes;
  taken.once = false;
  if (taken.needs != nullptr) room_.take(*taken.needs);
  const Nanos end = lane.free + static_cast<Nanos>(std::sqrt(lane.variance));
  for (const Slot& slot : slots) {
    if (slot.ticket == asked) result.asked_end = end;
    if (slot.target == kNever) continue;
    --targets_left_;
    --group.targets;
    --taken.targets;
    if (end < slot.target) continue;
    ++result.late;
    if (slot.ticket == asked) result.asked_late = true;
  }
  group.taken += tickets;
}

Forecast::Result Forecast::run(std::uint64_t joins_before, const Ticket* asked, std::size_t most) {
  Result result = forced_;
  std::size_t started = 0;
  while (targets_left_ > 0 && started <= most) {
    Lane& lane =
        *std::min_element(lanes_.begin(), lanes_.end(), [](const Lane& a, const Lane& b) { return a.free < b.free; });
    const Nanos now = lane.free;
    release(now);
    int model = -1;
    Group* group = next(now, joins_before, model);
    if (group == nullptr) {
      lane.free = next_event(now);
      if (lane.free == kNever) break;
      continue;
    }
    ExtentRule rule = group->waiting.rule;
    rule.key.device = lane.device;
    rule.joins_before = joins_before;
    if (group->waiting.delays && group->waiting.ripens <= now) rule.preferred = nullptr;
    const Extent extent = batch_extent(group->waiting.slots.subspan(group->taken), rule, now);
    start(lane, model, *group, extent.tickets, now, asked, result);
    started += extent.tickets;
  }
  return result;
}

}  // namespace headrace
