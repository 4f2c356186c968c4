// The run time of one model on one kind of lane for inputs of one shape, as a function of the batch's rows. Learnt on
// line from runs, pure: no clock, threads or I/O. Memory is fixed when it is made.
//
// Sizes fall into buckets: 1 to 8 each alone, then four to the octave. A bucket keeps its last 16 times and stands for
// their median, which half of them being wrong cannot move far (a breakdown point of one half: Hampel, "The influence
// curve and its role in robust estimation", 1974). The medians are made to grow with the rows by isotonic regression,
// the pool-adjacent-violators algorithm (Ayer, Brunk, Ewing, Reid, Silverman 1955; Barlow et al. 1972), weighted by
// how many runs and how recent; between them the curve is linear, beyond them it goes on at the last ones' marginal
// cost. What a bucket of few runs claims is believed only within what its neighbours allow.
//
// Spread: how much longer than predicted runs take is kept as one decaying histogram of ratios for all sizes. That run
// times of a network hardly differ from run to run is the main finding of Clockwork (Gujarati et al., OSDI 2020).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/clock.h"

namespace headrace {

struct CostEstimate {
  Nanos typical = 0;   // half of the runs take no longer
  Nanos high = 0;      // 99 of 100 take no longer
  bool known = false;  // something has run, or a warm-up has
  bool sure = false;   // enough runs of about this size
  Nanos seen = 0;      // when the last run was recorded; 0: none

  // What is counted where a request could be refused for it: of what is not sure, the typical time. Nothing at all
  // would let a crowd in that no lane can serve in time, and the large batches of such a crowd would never become sure.
  CostEstimate counted() const { return {typical, sure ? high : typical, known, sure, seen}; }
};

struct CostPoint {
  double rows = 0;
  double nanos = 0;  // as fitted
  std::uint32_t runs = 0;
};

class CostCurve {
 public:
  static constexpr std::size_t kWindow = 16;        // runs that a bucket remembers
  static constexpr std::uint32_t kSure = 4;         // runs that make a bucket believed
  static constexpr std::uint32_t kTrialEvery = 16;  // batches to one that tries a size; 4 while the curve is new
  static constexpr std::uint32_t kStale = 2048;     // runs after which a size is tried again
  static constexpr double kPays = 0.02;             // more rows a second than this, or a bigger batch does not pay

  static constexpr double kNoHaste = 1.0 / 16;  // of a span: so short a batch is in nobody's way

  explicit CostCurve(std::int64_t max_rows);  // 1 or more; more rows than that count as that many
  void reset();

  // A run of that many rows took so long, and ended at `now`. Only runs that succeeded. True when predictions change.
  bool record(std::int64_t rows, Nanos time, Nanos now);
  // The same of a warm-up run: it counts until real runs of its size are known.
  void record_warmup(std::int64_t rows, Nanos time);

  CostEstimate predict(std::int64_t rows) const;
  // The rows up to which a bigger batch pays; max_rows until bigger ones were tried.
  std::int64_t best_rows() const { return best_rows_; }
  // The same where answers are wanted within `span`: rows a second weigh (1 - t / 2 span), t being what the batch
  // takes. Half a span is what a lane may be held without making late who comes right after; our own rule, measured by
  // benchmarks/serving/slo.py.
  std::int64_t best_rows(Nanos span) const;
  // The most rows, 0 .. max_rows, whose high prediction is within `time`; max_rows where nothing is known.
  std::int64_t most_rows_within(Nanos time) const;
  // Called for each batch that could have `available` rows: now and then a size of at most that many rows which is
  // little known, else 0. Bounded: at most one batch in four while sizes are unknown, and one in sixteen after that;
  // and no size whose high prediction is beyond `time`.
  std::int64_t trial(std::int64_t available, Nanos time = kNever);
  // 99 of 100 runs take at most this many times the typical time.
  double spread() const { return spread_; }
  std::uint64_t runs() const { return runs_; }
  std::vector<CostPoint> points() const;

 private:
  // The last few of something, in order of arrival and ascending; infinity where there is none yet.
  struct Window {
    std::array<float, kWindow> ring;
    std::array<float, kWindow> sorted;
    Window() {
      ring.fill(std::numeric_limits<float>::infinity());
      sorted = ring;
    }
    void put(float value, std::uint32_t at);  // in the place of the one there
  };
  struct Bucket {
    Window times;
    Window rows;       // the middle of the times belongs to the middle of the rows
    float warmup = 0;  // least time of the warm-up runs; 0: none
    float warmup_rows = 0;
    float fitted = 0;  // its location at the last fit
    std::uint32_t size = 0;
    std::uint32_t next = 0;
    std::uint32_t trials = 0;
    std::uint64_t last = 0;        // of the curve's runs
    std::uint64_t last_trial = 0;  // the same, when it was last tried

    bool empty() const { return size == 0 && warmup == 0; }
    bool sure() const { return size >= kSure; }
    void add(float rows, float time);
    std::size_t middle() const { return size < 3 ? 0 : (size - 1) / 2; }
    float location() const;
    float location_rows() const { return size == 0 ? warmup_rows : rows.sorted[middle()]; }
  };
  // A point of the fitted curve.
  struct Node {
    float rows;
    float time;
    float weight;
    bool sure;
    std::uint32_t runs;
  };
  static constexpr std::size_t kBins = 80;  // sixteen to the octave, from half to sixteen times the prediction
  static constexpr std::int64_t kMostRows = std::int64_t{1} << 24;

  static std::size_t bucket_of(std::int64_t rows);
  double at(double rows, bool& sure) const;
  void fit();
  void believe_within_neighbours();
  void fit_best_rows();
  void note_ratio(double ratio);
  void fit_spread();

  std::int64_t max_rows_;
  std::vector<Bucket> buckets_;
  std::vector<Node> nodes_;            // ascending in rows, and not descending in time
  std::vector<std::int16_t> node_of_;  // for a bucket the last node at or below it; -1: none
  double slope_down_ = 0;              // of the line below the first node
  double slope_up_ = 0;                // and beyond the last
  std::int64_t best_rows_;
  std::uint64_t runs_ = 0;
  Nanos seen_ = 0;
  std::uint32_t until_fit_ = 0;
  std::uint32_t until_trial_ = 0;
  std::array<float, kBins> ratios_{};
  float ratio_weight_ = 1;  // of the next run; grows, so that what is older weighs less
  float ratio_total_ = 0;
  double spread_;
};

}  // namespace headrace
