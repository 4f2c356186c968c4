#include "schedule/forecast.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace headrace {

void Forecast::begin(Nanos now) {
  now_ = now;
  models_.clear();
  lanes_.clear();
  groups_.clear();
  targets_left_ = 0;
}

int Forecast::add_model(const Queue& queue, int lanes, int max_lanes) {
  waiting_.clear();
  queue.append_groups(waiting_);
  const std::size_t begin = groups_.size();
  for (const WaitingGroup& each : waiting_) groups_.push_back({each, 0});
  models_.push_back({lanes, max_lanes, begin, groups_.size(), queue.targets(), queue.policy().priority_levels > 1});
  targets_left_ += queue.targets();
  return static_cast<int>(models_.size()) - 1;
}

void Forecast::add_lane(std::uint32_t device, int model, Nanos end, double variance) {
  lanes_.push_back({device, model, std::max(end, now_), variance});
}

void Forecast::take_first(int lane, int model, const Slot* line, std::size_t tickets) {
  const Model& taken = models_[static_cast<std::size_t>(model)];
  for (std::size_t i = taken.groups_begin; i < taken.groups_end; ++i) {
    if (groups_[i].waiting.slots.data() != line) continue;
    Result result;
    start(lanes_[static_cast<std::size_t>(lane)], model, groups_[i], tickets, now_, nullptr, result);
    return;
  }
  HEADRACE_CHECK(false && "the model has no such group");
}

bool Forecast::surely_in_time() const {
  Nanos end = now_;
  double variance = 0;
  for (const Lane& lane : lanes_) {
    end = std::max(end, lane.free);
    variance = std::max(variance, lane.variance);
  }
  double total = std::sqrt(variance);
  Nanos first = kNever;
  for (const Model& model : models_) {
    if (model.levels && model.targets > 0) return false;
    for (std::size_t i = model.groups_begin; i < model.groups_end; ++i) {
      const WaitingGroup& waiting = groups_[i].waiting;
      first = std::min(first, waiting.slots.front().key.when);
      if (!waiting.due) total += static_cast<double>(std::max<Nanos>(waiting.ripens - now_, 0));
      if (waiting.rule.costs == nullptr) continue;
      ExtentRule rule = waiting.rule;
      Nanos dearest = 0;
      const std::int64_t most = rule.costs->best_rows(rule.key, rule.max_rows);
      for (const Lane& lane : lanes_) {
        rule.key.device = lane.device;
        dearest = std::max(dearest, rule.costs->predict(rule.key, rule.batched ? rule.max_rows : 1).high);
      }
      // Strictly in order, two batches that follow each other have more rows than fit into one.
      const std::int64_t batches = rule.batched ? 2 * waiting.load / std::max<std::int64_t>(most, 1) + 1
                                                : static_cast<std::int64_t>(waiting.slots.size());
      total += static_cast<double>(batches) * static_cast<double>(dearest);
    }
  }
  return total < static_cast<double>(first - end);
}

// What a lane that is free at `now` gets.
Forecast::Group* Forecast::next(Nanos now, int& chosen) {
  Group* best = nullptr;
  for (std::size_t m = 0; m < models_.size(); ++m) {
    const Model& model = models_[m];
    if (model.lanes >= model.max_lanes) continue;
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

void Forecast::release(Nanos now) {
  for (Lane& lane : lanes_) {
    if (lane.model < 0 || lane.free > now) continue;
    --models_[static_cast<std::size_t>(lane.model)].lanes;
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
  if (group.waiting.rule.costs != nullptr) cost = group.waiting.rule.costs->predict(key, rows);
  if (!cost.sure) cost.typical = cost.high = 0;
  const auto deviation = static_cast<double>(cost.high - cost.typical);
  lane.free = now + cost.typical;
  lane.variance += deviation * deviation;
  lane.model = model;
  ++models_[static_cast<std::size_t>(model)].lanes;
  const Nanos end = lane.free + static_cast<Nanos>(std::sqrt(lane.variance));
  for (const Slot& slot : slots) {
    if (slot.ticket == asked) result.asked_end = end;
    if (slot.target == kNever) continue;
    --targets_left_;
    if (end < slot.target) continue;
    ++result.late;
    if (slot.ticket == asked) result.asked_late = true;
  }
  group.taken += tickets;
}

Forecast::Result Forecast::run(const Ticket* asked) {
  Result result;
  while (targets_left_ > 0) {
    Lane& lane =
        *std::min_element(lanes_.begin(), lanes_.end(), [](const Lane& a, const Lane& b) { return a.free < b.free; });
    const Nanos now = lane.free;
    release(now);
    int model = -1;
    Group* group = next(now, model);
    if (group == nullptr) {
      lane.free = next_event(now);
      if (lane.free == kNever) break;
      continue;
    }
    ExtentRule rule = group->waiting.rule;
    rule.key.device = lane.device;
    if (group->waiting.delays && group->waiting.ripens <= now) rule.preferred = nullptr;
    const Extent extent = batch_extent(group->waiting.slots.subspan(group->taken), rule, now);
    start(lane, model, *group, extent.tickets, now, asked, result);
  }
  return result;
}

}  // namespace headrace
