// How many lanes one model should have at a time while answers are wanted soon. Two lanes that run one model make two
// small batches of what would have been one larger one: where most of a run does not depend on its rows, that is lane
// time which other models lack. Where nobody is in haste, or lanes stand idle, a model has all it may have: its
// requests are answered sooner. Pure.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/clock.h"
#include "batching/cost_model.h"

namespace headrace {

class LaneShare {
 public:
  static constexpr double kPays = 0.7;   // a row of a full batch takes at most this much of what it takes alone
  static constexpr double kFill = 0.75;  // of its lanes' time a model may need, when it gets fewer
  static constexpr double kMost = 0.9;   // and when it gets more

  // Requests of so many rows came, taken in or not.
  void note(std::int64_t rows, const CostKey& key) {
    rows_ += rows;
    key_ = key;
  }
  // A step of time is over.
  void step(Nanos time) {
    constexpr double kNew = 0.25;  // of what the last step says
    rate_ += kNew * (static_cast<double>(rows_) / static_cast<double>(std::max<Nanos>(time, 1)) - rate_);
    rows_ = 0;
  }
  // Of 1 .. `most` lanes; it has `now` of them.
  int lanes(const Costs& costs, std::int64_t max_rows, Nanos span, int now, int most) const {
    if (span == kNever || most == 1 || rate_ <= 0) return most;
    const std::int64_t rows = costs.best_rows(key_, max_rows, span);
    const auto alone = static_cast<double>(costs.predict(key_, 1).typical);
    const double row = static_cast<double>(costs.predict(key_, rows).typical) / static_cast<double>(rows);
    if (row <= 0 || row > kPays * alone) return most;
    const double need = rate_ * row;  // lanes
    const int fewer = static_cast<int>(std::ceil(need / kFill));
    if (need > kMost * now || fewer < now) return std::clamp(fewer, 1, most);
    return now;
  }

 private:
  std::int64_t rows_ = 0;
  double rate_ = 0;  // rows a nanosecond
  CostKey key_;
};

}  // namespace headrace
