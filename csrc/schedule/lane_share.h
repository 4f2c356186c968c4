// How many lanes one model should have at a time while answers are wanted soon. Two lanes that run one model make two
// small batches of what would have been one larger one: where most of a run does not depend on its rows, that is lane
// time which other models lack. And where a run takes as long as others can wait, those who come while such runs hold
// all lanes are late. Where nobody is in haste, or lanes stand idle, a model has all it may have: its requests are
// answered sooner. Pure.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/clock.h"
#include "batching/cost_model.h"
#include "batching/haste.h"

namespace headrace {

class LaneShare {
 public:
  static constexpr double kPays = 0.7;  // a row of a full batch takes at most this much of what it takes alone
  // A run takes so much of the span within which answers are wanted, and those of this model so many times as late.
  static constexpr double kLong = 0.5;
  static constexpr Nanos kLater = 2;
  static constexpr double kNone = 1e-12;  // rows a nanosecond, one in a quarter of an hour: idle models cost no thought

  // Requests of so many rows came, taken in or not, which want their answers within `span` (kNever: at any time).
  void note(std::int64_t rows, const CostKey& key, Nanos span, Nanos now) {
    rows_ += rows;
    key_ = key;
    if (span != kNever) own_.note(span, now);
  }
  // A step of time is over.
  void step(Nanos time) {
    const double now = static_cast<double>(rows_) / static_cast<double>(std::max<Nanos>(time, 1));
    rate_ += std::min(1.0, static_cast<double>(time) / static_cast<double>(kSecond)) * (now - rate_);
    rows_ = 0;
    if (rate_ < kNone) rate_ = 0;
  }
  // So many lanes would its arrivals keep busy, in batches of what comes within half of the time that they can wait.
  double need(const Costs& costs, std::int64_t max_rows, Nanos now) const {
    if (rate_ <= 0) return 0;
    const auto most = static_cast<double>(costs.best_rows(key_, std::max<std::int64_t>(max_rows, 1), kNever));
    const double rows = std::clamp(std::floor(rate_ * static_cast<double>(own_.exact(now)) / 2), 1.0, most);
    const auto time = static_cast<double>(costs.predict(key_, static_cast<std::int64_t>(rows)).typical);
    return rate_ * time / rows;
  }
  // Rows a nanosecond that want their answers about as soon as `span`.
  double hasty(Nanos span, Nanos now) const { return span != kNever && own_.exact(now) / kLater < span ? rate_ : 0; }
  // Of 1 .. `most` lanes, where others want answers within `span`, `hasty` rows a nanosecond of them; it has `has`
  // lanes.
  int lanes(const Costs& costs, std::int64_t max_rows, Nanos span, double hasty, Nanos now, int has, int most) const {
    if (span == kNever || most == 1 || rate_ <= 0) return most;
    const std::int64_t rows = costs.best_rows(key_, max_rows, span);
    const auto alone = static_cast<double>(costs.predict(key_, 1).typical);
    const double row = static_cast<double>(costs.predict(key_, rows).typical) / static_cast<double>(rows);
    if (row <= 0) return most;
    const bool is_long = alone >= kLong * static_cast<double>(span) && own_.exact(now) / kLater >= span;
    if (row > kPays * alone && !is_long) return most;
    const Fill& fill = is_long ? kWaits : kInTime;
    const double need = rate_ * row;  // lanes
    const int fewer = static_cast<int>(std::ceil(need / fill.fewer));
    // It could have them all. With one less as many of its own are lost as do not fit, and else those in haste.
    if (is_long && fewer >= most) {
      const double lost = (std::min<double>(need, most) - (most - 1)) / row;
      return hasty > lost * (has < most ? fill.fewer : fill.more) ? most - 1 : most;
    }
    if (need > fill.more * has || fewer < has) return std::clamp(fewer, 1, most);
    return has;
  }

 private:
  // Of its lanes' time a model may need so much, when it gets fewer, and when it gets more.
  struct Fill {
    double fewer;
    double more;
  };
  static constexpr Fill kInTime{0.75, 0.9};
  static constexpr Fill kWaits{0.9, 1.05};  // it can

  std::int64_t rows_ = 0;
  double rate_ = 0;  // rows a nanosecond
  CostKey key_;
  Haste own_;
};

}  // namespace headrace
