// Named resources that batches need while they run: what Triton's rate limiter counts, and the cores of a process. A
// resource is there once for each device, or once for all (kEverywhere). Pure; the dispatcher asks.
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
  struct Taken {
    std::size_t place = 0;
    std::uint32_t count = 0;
  };
  using Needs = std::vector<Taken>;

  // What needs more than there is fits where nobody else has any.
  bool fits(const Needs& needs) const {
    for (const Taken& need : needs) {
      const Row& row = rows_[need.place];
      if (row.used != 0 && row.used + need.count > row.count) return false;
    }
    return true;
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
  // While somebody waits for his turn, at least so many batches run: what he waits for is with others, up to what the
  // neediest of all lacks.
  std::int64_t least_running() const {
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (const Row& row : rows_) {
      if (row.most == 0) continue;
      least =
          std::min(least, row.count < row.most ? 1 : static_cast<std::int64_t>((row.count - row.most) / row.most) + 1);
    }
    return least;
  }
  static bool share(const Needs& a, const Needs& b) {
    for (const Taken& one : a) {
      for (const Taken& other : b) {
        if (one.place == other.place) return true;
      }
    }
    return false;
  }

 protected:
  struct Row {
    std::uint64_t count = 0;
    std::uint64_t used = 0;
    std::uint64_t most = 0;  // that one batch needs
  };
  std::vector<Row> rows_;
};

class Resources : public ResourceRoom {
 public:
  // So many of it there are. What nobody says is as much as the model that needs most of it.
  void set(std::string_view name, int device, std::uint32_t count) {
    const std::size_t place = place_of(name, device);
    names_[place].said = true;
    rows_[place].count = count;
  }
  // Where a need is counted.
  Taken place(const ResourceNeed& need) {
    const std::size_t place = place_of(need.name, need.device);
    if (!names_[place].said && need.count > rows_[place].count) rows_[place].count = need.count;
    rows_[place].most = std::max<std::uint64_t>(rows_[place].most, need.count);
    return {place, need.count};
  }

 private:
  struct Name {
    std::string name;
    int device = kEverywhere;
    bool said = false;
  };

  std::size_t place_of(std::string_view name, int device) {
    for (std::size_t i = 0; i < names_.size(); ++i) {
      if (names_[i].name == name && names_[i].device == device) return i;
    }
    names_.push_back({std::string(name), device, false});
    rows_.emplace_back();
    return names_.size() - 1;
  }

  std::vector<Name> names_;
};

}  // namespace headrace
