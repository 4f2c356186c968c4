// Costs that are known exactly, for worlds in which a run takes what the scenario says and nothing else. And how a
// planted bug makes them wrong.
#pragma once

#include <algorithm>
#include <cstdint>

#include "batching/cost_model.h"
#include "scenario.h"

namespace headrace::sim {

class Oracle final : public Costs {
 public:
  // Says `percent` of the truth.
  Oracle(const ModelPlan& plan, const Scenario& scenario, int percent)
      : plan_(plan), scenario_(scenario), percent_(percent) {}

  CostEstimate predict(const CostKey& key, std::int64_t rows) const override {
    const Nanos time = plan_.run_time(rows, scenario_.slowness(key.device)) * percent_ / 100;
    return {time, time, true, true, kNever};
  }
  std::int64_t best_rows(const CostKey& key, std::int64_t most, Nanos span) const override {
    const auto rate = [&](std::int64_t rows) {
      const auto time = static_cast<double>(predict(key, rows).typical + 1);
      const double haste = span == kNever ? 1 : 1 - time / (2 * static_cast<double>(span));
      return static_cast<double>(rows) / time * haste;
    };
    double best = 0;
    for (std::int64_t rows = 1; rows <= most; ++rows) best = std::max(best, rate(rows));
    for (std::int64_t rows = 1; rows < most; ++rows) {
      if (rate(rows) >= 0.98 * best) return rows;
    }
    return most;
  }
  std::int64_t most_rows_within(const CostKey& key, Nanos time, std::int64_t most) const override {
    std::int64_t rows = 0;
    while (rows < most && predict(key, rows + 1).high <= time) ++rows;
    return rows;
  }
  std::int64_t trial(const CostKey& key, std::int64_t available, Nanos time) override {
    if (++batches_ % 5 != 0) return 0;
    if (time != kNever) available = most_rows_within(key, time, available);
    return available == 0 ? 0 : std::max<std::int64_t>(available / 2, 1);
  }

 private:
  const ModelPlan& plan_;
  const Scenario& scenario_;
  const int percent_;
  int batches_ = 0;
};

}  // namespace headrace::sim
