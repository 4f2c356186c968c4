#include "engine/thread_choice.h"

#include <algorithm>
#include <cstddef>

namespace headrace {

namespace {

constexpr std::size_t kMostPlans = 4;
constexpr double kAsGood = 0.97;   // of the other's throughput: what a trial of this length can tell apart
constexpr double kSooner = 0.9;    // of the other's time for a lone row
constexpr double kByFar = 1.25;    // of the other's throughput: what waiting for cores may cost
constexpr double kHopeless = 0.8;  // of the champion's throughput: more threads will not make up for it

}  // namespace

double ThreadFigures::best_rate() const { return std::max(rate_one, rate_rows); }

std::vector<ThreadPlan> thread_plans(int cores, int lanes, int max_lanes) {
  cores = std::max(cores, 1);
  const int most = max_lanes > 0 ? std::min(max_lanes, lanes) : lanes;
  std::vector<int> counts;
  for (int threads = 1; threads < cores; threads *= 2) counts.push_back(threads);
  counts.push_back(cores);
  std::vector<ThreadPlan> plans;
  const std::size_t steps = std::min(counts.size(), kMostPlans);
  for (std::size_t i = 0; i < steps; ++i) {
    // Spread evenly over the powers of two, both ends included.
    const std::size_t at = steps == 1 ? 0 : i * (counts.size() - 1) / (steps - 1);
    plans.push_back({counts[at], std::clamp(cores / counts[at], 1, std::max(most, 1))});
  }
  return plans;
}

ThreadVerdict judge(const ThreadFigures& champion, const ThreadFigures& challenger, bool in_company) {
  const double ratio = champion.best_rate() > 0 ? challenger.best_rate() / champion.best_rate() : 0;
  const bool sooner = static_cast<double>(challenger.alone) < kSooner * static_cast<double>(champion.alone);
  ThreadVerdict verdict;
  verdict.takes_over = in_company && challenger.plan.lanes < champion.plan.lanes
                           ? ratio >= kByFar
                           : ratio > 1 / kAsGood || (ratio >= kAsGood && sooner);
  verdict.go_on = ratio >= kHopeless;
  return verdict;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 != 0) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

}  // namespace headrace
