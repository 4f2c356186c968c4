#include "reference.h"

#include <algorithm>

#include "base/check.h"

namespace headrace::sim {

namespace {

constexpr int kTurnEvery = 16;

std::int64_t weight(const Waiting& request) { return request.rows == 0 ? 1 : request.rows; }

}  // namespace

int Reference::add(const BatchingPolicy& policy, int max_lanes, const Needs& needs) {
  models_.push_back({policy, max_lanes, needs, 0, 0, {}});
  return static_cast<int>(models_.size()) - 1;
}

void Reference::lane(int index, int change) {
  Model& model = models_[static_cast<std::size_t>(index)];
  model.lanes += change;
  used_.cores += model.needs.cores * static_cast<std::uint32_t>(change);
  used_.named += model.needs.named * static_cast<std::uint32_t>(change);
}

bool Reference::fits_cores(const Needs& needs) const {
  return needs.cores == 0 || room_.cores == 0 || used_.cores == 0 || used_.cores + needs.cores <= room_.cores;
}

bool Reference::fits_named(const Needs& needs) const {
  return needs.named == 0 || used_.named == 0 || used_.named + needs.named <= room_.named;
}

std::size_t Reference::bytes(int index) const {
  std::size_t sum = 0;
  for (const Waiting& request : models_[static_cast<std::size_t>(index)].waiting) sum += request.bytes;
  return sum;
}

Reference::Room Reference::room(int index, std::size_t more, std::uint32_t level) const {
  const Model& model = models_[static_cast<std::size_t>(index)];
  if (model.waiting.size() >= model.policy.max_queue_size) return Room::kTooMany;
  if (!model.waiting.empty() && bytes(index) + more > model.policy.max_queue_bytes) return Room::kTooManyBytes;
  const auto bound = model.policy.level_queue.find(level);
  if (bound != model.policy.level_queue.end() && bound->second.max_queue_size > 0) {
    const auto mates = std::count_if(model.waiting.begin(), model.waiting.end(),
                                     [level](const Waiting& each) { return each.level == level; });
    if (static_cast<std::size_t>(mates) >= bound->second.max_queue_size) return Room::kTooManyOfLevel;
  }
  return Room::kYes;
}

void Reference::join(int model, const Waiting& request) {
  models_[static_cast<std::size_t>(model)].waiting.push_back(request);
}

void Reference::leave(int model, std::uint64_t id) {
  auto& waiting = models_[static_cast<std::size_t>(model)].waiting;
  const auto found = std::find_if(waiting.begin(), waiting.end(), [id](const Waiting& each) { return each.id == id; });
  HEADRACE_CHECK(found != waiting.end());
  waiting.erase(found);
}

void Reference::took(int index) {
  Model& model = models_[static_cast<std::size_t>(index)];
  model.batches = model.turns() && model.batches + 1 >= kTurnEvery ? 0 : model.batches + 1;
}

bool Reference::before(const Waiting& a, const Waiting& b, Nanos now) {
  if (a.level != b.level) return a.level < b.level;
  const bool a_off = a.put_off <= now;
  const bool b_off = b.put_off <= now;
  if (a_off != b_off) return b_off;
  const Nanos a_when = std::min(a.target, a.since + a.patience);
  const Nanos b_when = std::min(b.target, b.since + b.patience);
  return a_when != b_when ? a_when < b_when : a.id < b.id;
}

std::vector<Reference::Group> Reference::groups(const Model& model, Nanos now) {
  std::vector<Group> result;
  for (const Waiting& request : model.waiting) {
    auto mates = std::find_if(result.begin(), result.end(), [&](const Group& group) {
      return !model.batched() || group.front().shape == request.shape;
    });
    if (mates == result.end()) {
      result.push_back({request});
    } else {
      mates->push_back(request);
    }
  }
  for (Group& group : result) {
    std::sort(group.begin(), group.end(), [now](const Waiting& a, const Waiting& b) { return before(a, b, now); });
  }
  return result;
}

const Waiting& Reference::oldest(const Group& group) {
  return *std::min_element(group.begin(), group.end(), [](const Waiting& a, const Waiting& b) { return a.id < b.id; });
}

bool Reference::preferred(const Model& model, std::int64_t rows) {
  const auto& sizes = model.policy.preferred_batch_sizes;
  return std::find(sizes.begin(), sizes.end(), rows) != sizes.end();
}

bool Reference::aged(const Model& model, const Group& group, Nanos now) {
  return now - oldest(group).since >= model.policy.max_queue_delay;
}

bool Reference::due(const Model& model, const Group& group, Nanos now) {
  if (!model.batched() || model.policy.max_queue_delay == 0 || aged(model, group, now)) return true;
  std::int64_t rows = 0;
  for (const Waiting& request : group) {
    rows += weight(request);
    if (preferred(model, rows)) return true;
  }
  const auto& sizes = model.policy.preferred_batch_sizes;
  const std::int64_t enough =
      sizes.empty() ? model.policy.max_batch_size : *std::max_element(sizes.begin(), sizes.end());
  return rows >= enough;
}

Pick Reference::batch(const Model& model, const Group& group, Nanos now) {
  std::size_t count = 1;
  Pick pick;
  if (model.batched()) {
    const bool late = model.policy.max_queue_delay > 0 && aged(model, group, now);
    std::int64_t rows = 0;
    std::size_t fits = 0;
    std::size_t exact = 0;
    while (fits < group.size() && rows + weight(group[fits]) <= model.policy.max_batch_size) {
      rows += weight(group[fits++]);
      if (preferred(model, rows)) exact = fits;
    }
    pick.preferred = exact > 0 && !late;
    pick.aged = late;
    pick.full = rows == model.policy.max_batch_size || fits < group.size();
    count = pick.preferred ? exact : fits;
  }
  for (std::size_t i = 0; i < count; ++i) {
    pick.ids.push_back(group[i].id);
    pick.rows += group[i].rows;
  }
  return pick;
}

// The model's next batch, were it the only model.
Pick Reference::own(const Model& model, Nanos now) {
  Group chosen;
  const bool turn = model.turns() && model.batches + 1 >= kTurnEvery;
  for (const Group& group : groups(model, now)) {
    if (!due(model, group, now)) continue;
    const bool first = turn ? !chosen.empty() && oldest(group).id < oldest(chosen).id
                            : !chosen.empty() && before(group.front(), chosen.front(), now);
    if (chosen.empty() || first) chosen = group;
  }
  if (chosen.empty()) return {};
  const Waiting longest = oldest(chosen);
  const bool passed = chosen.front().id != longest.id;
  if (turn) {
    std::erase_if(chosen, [&longest](const Waiting& each) { return each.id == longest.id; });
    chosen.insert(chosen.begin(), longest);
  }
  const Waiting& first = chosen.front();
  Pick pick = batch(model, chosen, now);
  pick.passed_old = model.waiting.front().id < first.id;
  pick.turn = turn && passed;
  pick.by_level = passed && !turn && first.level < longest.level;
  pick.by_target = passed && !turn && first.level == longest.level && longest.put_off > now;
  pick.was_put_off = passed && !turn && first.level == longest.level && longest.put_off <= now;
  pick.urgent = std::any_of(model.waiting.begin(), model.waiting.end(),
                            [](const Waiting& each) { return each.target != kNever; });
  pick.when = std::min(first.target, first.since + first.patience);
  pick.overdue = pick.when <= now;
  return pick;
}

// While the first waits for something, may it keep the second from it?
bool Reference::may_keep(const Pick& first, const Pick& second) const {
  const Needs& a = models_[static_cast<std::size_t>(first.model)].needs;
  const Needs& b = models_[static_cast<std::size_t>(second.model)].needs;
  const bool share = (a.named > 0 && b.named > 0) || (a.cores > 0 && b.cores > 0 && fits_named(a));
  if (!share) return false;
  if (!second.urgent) return true;
  if (!first.urgent) return first.overdue;
  return first.when != second.when ? first.when < second.when : first.ids.front() < second.ids.front();
}

std::vector<Pick> Reference::picks(Nanos now) const {
  std::vector<Pick> all;
  bool lacking = false;
  for (std::size_t i = 0; i < models_.size(); ++i) {
    const Model& model = models_[i];
    if (model.lanes >= model.max_lanes) continue;
    Pick pick = own(model, now);
    if (pick.ids.empty()) continue;
    pick.model = static_cast<int>(i);
    pick.fits = fits_cores(model.needs) && fits_named(model.needs);
    lacking = lacking || !pick.fits;
    all.push_back(std::move(pick));
  }
  for (Pick& pick : all) {
    pick.certain = pick.fits && (!lacking || std::none_of(all.begin(), all.end(), [&](const Pick& other) {
                     return other.model != pick.model && may_keep(other, pick);
                   }));
  }
  return all;
}

bool Reference::could_run(int index, std::uint64_t id, Nanos now) const {
  const Model& model = models_[static_cast<std::size_t>(index)];
  if (model.lanes >= model.max_lanes) return false;
  for (const Group& group : groups(model, now)) {
    const bool in = std::any_of(group.begin(), group.end(), [id](const Waiting& each) { return each.id == id; });
    if (in) return due(model, group, now);
  }
  return false;
}

Nanos Reference::next_time(Nanos now) const {
  Nanos time = kNever;
  for (const Model& model : models_) {
    if (model.lanes >= model.max_lanes) continue;
    for (const Group& group : groups(model, now)) {
      if (!due(model, group, now)) time = std::min(time, oldest(group).since + model.policy.max_queue_delay);
    }
  }
  return time;
}

bool Reference::capped(Nanos now) const {
  for (const Model& model : models_) {
    if (model.lanes < model.max_lanes) continue;
    for (const Group& group : groups(model, now)) {
      if (due(model, group, now)) return true;
    }
  }
  return false;
}

}  // namespace headrace::sim
