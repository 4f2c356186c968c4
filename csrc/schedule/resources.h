// What batches need while they run: cores of the process, and named resources (what Triton's rate limiter counts). A
// named one is there once for each device, or once for the whole server (kEverywhere). Pure; the dispatcher and its
// forecasts ask.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"

namespace headrace {

inline constexpr int kEverywhere = -1;

struct ResourceNeed {
  std::string name;
  int device = kEverywhere;
  std::uint32_t count = 1;
};

// How much of each there is, and is used. A forecast plays with a copy.
class ResourceRoom {
 public:
  static constexpr std::size_t kCores = 0;  // its place; the named ones follow
  struct Taken {
    std::size_t place = 0;
    std::uint32_t count = 0;
  };
  using Needs = std::vector<Taken>;  // cores first, where there are any

  // What needs more than there is fits where nobody else has any.
  bool fits(const Taken& need) const {
    const Row& row = rows_[need.place];
    return row.used == 0 || row.used + need.count <= row.count;
  }
  bool fits(const Needs& needs) const {
    return std::all_of(needs.begin(), needs.end(), [this](const Taken& need) { return fits(need); });
  }
  void take(const Needs& needs) {
    for (const Taken& need : needs) rows_[need.place].used += need.count;
  }
  void give(const Needs& needs) {
    for (const Taken& need : needs) {
      HEADRACE_CHECK(rows_[need.place].used >= need.count);
      rows_[need.place].used -= need.count;
    }
  }
  // Who waits keeps those that come later in order from every named resource that he needs, or he would wait for ever
  // where others take what comes free bit by bit; from cores only while they are all that he lacks.
  static bool keeps(const Needs& waiting, bool lacks_named, std::size_t place) {
    if (place == kCores && lacks_named) return false;
    return std::any_of(waiting.begin(), waiting.end(), [place](const Taken& need) { return need.place == place; });
  }
  // While somebody waits for cores of which nobody needs or has more than `most`, at least so many batches run.
  std::int64_t least_on_cores(std::uint32_t most) const { return least_running(rows_[kCores].count, most); }
  // The same of named resources.
  std::int64_t least_on_named() const {
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (std::size_t i = kCores + 1; i < rows_.size(); ++i) {
      least = std::min(least, least_running(rows_[i].count, rows_[i].most));
    }
    return least;
  }
  // So many batches with these needs may run at a time, of `most`, where nothing else does.
  std::int64_t at_once(const Needs& needs, std::int64_t most) const {
    for (const Taken& need : needs) {
      const auto fit = static_cast<std::int64_t>(rows_[need.place].count / std::max(need.count, 1U));
      most = std::min(most, std::max<std::int64_t>(fit, 1));
    }
    return most;
  }
  std::uint64_t cores_used() const { return rows_[kCores].used; }

 protected:
  struct Row {
    std::uint64_t count = 0;
    std::uint64_t used = 0;
    std::uint64_t most = 0;  // that one batch needs
  };
  // What he waits for is with others, but for what the neediest of all lacks.
  static std::int64_t least_running(std::uint64_t count, std::uint64_t most) {
    if (most == 0) return std::numeric_limits<std::int64_t>::max();
    return count < most ? 1 : static_cast<std::int64_t>((count - most) / most) + 1;
  }

  std::vector<Row> rows_{{std::numeric_limits<std::uint32_t>::max(), 0, 0}};  // of cores as many as anybody likes
};

class Resources : public ResourceRoom {
 public:
  void set_cores(std::uint32_t count) { rows_[kCores].count = count; }
  // So many of it there are on a device; with kEverywhere on each, and of what the server has once. What nobody says
  // is as much as the model that needs most of it.
  void set(std::string_view name, int device, std::uint32_t count) {
    const auto same = [&](const ResourceNeed& limit) { return limit.name == name && limit.device == device; };
    std::erase_if(limits_, same);
    limits_.push_back({std::string(name), device, count});
    for (std::size_t place = kCores + 1; place < rows_.size(); ++place) fit_count(place);
  }
  // What somebody said; null: nobody did. A device is of no account where the server has it once.
  const ResourceNeed* limit(std::string_view name, int device) const {
    const ResourceNeed* found = nullptr;
    for (const ResourceNeed& limit : limits_) {
      if (limit.name != name || (device != kEverywhere && limit.device != device && limit.device != kEverywhere))
        continue;
      const bool closer =
          found == nullptr || limit.device == device || (found->device != device && limit.count > found->count);
      if (closer) found = &limit;
    }
    return found;
  }
  // Where a need is counted from now on, until it is dropped.
  Taken add(const ResourceNeed& need) {
    const std::size_t place = place_of(need.name, need.device);
    names_[place].needs.push_back(need.count);
    fit_count(place);
    return {place, need.count};
  }
  void drop(const Taken& need) {
    if (need.place == kCores) return;
    auto& needs = names_[need.place].needs;
    needs.erase(std::find(needs.begin(), needs.end(), need.count));
    fit_count(need.place);
  }
  // One row for each resource that somebody has named.
  struct View {
    std::string name;
    int device = kEverywhere;
    std::uint64_t count = 0;
    std::uint64_t used = 0;
    std::uint32_t need = 0;  // of a batch
  };
  View view(const Taken& need) const {
    const Name& name = names_[need.place];
    return {name.name, name.device, rows_[need.place].count, rows_[need.place].used, need.count};
  }
  std::uint64_t cores() const { return rows_[kCores].count; }

 private:
  struct Name {
    std::string name;
    int device = kEverywhere;
    std::vector<std::uint32_t> needs;  // of all models
  };

  std::size_t place_of(std::string_view name, int device) {
    for (std::size_t i = kCores + 1; i < names_.size(); ++i) {
      if (names_[i].name == name && names_[i].device == device) return i;
    }
    names_.push_back({std::string(name), device, {}});
    rows_.emplace_back();
    return names_.size() - 1;
  }
  void fit_count(std::size_t place) {
    const Name& name = names_[place];
    Row& row = rows_[place];
    row.most = name.needs.empty() ? 0 : *std::max_element(name.needs.begin(), name.needs.end());
    const ResourceNeed* said = limit(name.name, name.device);
    row.count = said != nullptr ? said->count : row.most;
  }

  std::vector<Name> names_{{"cores", kEverywhere, {}}};
  std::vector<ResourceNeed> limits_;
};

}  // namespace headrace
