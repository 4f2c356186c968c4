// Costs that a test says.
#pragma once

#include <algorithm>

#include "batching/cost_model.h"

namespace headrace {

// `fixed` and `row` for each row; devices above 0 take so many times as long.
class KnownCosts final : public Costs {
 public:
  KnownCosts(Nanos fixed, Nanos row) : fixed_(fixed), row_(row) {}

  CostEstimate predict(const CostKey& key, std::int64_t rows) const override {
    const Nanos time = (fixed_ + row_ * rows) * (key.device + 1);
    return {time, time + deviation, true, sure, seen};
  }
  std::int64_t best_rows(const CostKey&, std::int64_t most, Nanos span) const override {
    return std::min({best, span == kNever ? most : best_in_haste, most});
  }
  std::int64_t most_rows_within(const CostKey& key, Nanos time, std::int64_t most) const override {
    std::int64_t rows = 0;
    while (rows < most && predict(key, rows + 1).high <= time) ++rows;
    return rows;
  }
  std::int64_t trial(const CostKey& key, std::int64_t available, Nanos time) override {
    last_available = time == kNever ? available : most_rows_within(key, time, available);
    return last_available > 0 ? trial_rows : 0;
  }

  std::int64_t best = 1'000'000;
  std::int64_t best_in_haste = 1'000'000;
  std::int64_t trial_rows = 0;
  std::int64_t last_available = 0;
  bool sure = true;
  Nanos seen = kNever;
  Nanos deviation = 0;

 private:
  const Nanos fixed_;
  const Nanos row_;
};

}  // namespace headrace
