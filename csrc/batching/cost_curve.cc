#include "batching/cost_curve.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"

namespace headrace {

namespace {

constexpr double kFirstSpread = 1.25;    // until enough runs were seen
constexpr float kEnoughRatios = 32;      // of them
constexpr double kTail = 0.01;           // of the runs take longer than `high`
constexpr float kOutliers = 2.5F;        // so many of the latest never count as a tail
constexpr float kMemory = 512;           // runs that the spread remembers
constexpr float kMoved = 0.03F;          // a location that moved more than this is fitted at once
constexpr std::uint32_t kFitEvery = 16;  // runs, at most
constexpr double kBinsPerOctave = 16;
constexpr double kSuspect = 2;  // times the cost of a row so far: more is not believed of few runs

constexpr std::size_t kSingle = 8;  // sizes up to this one have a bucket of their own

}  // namespace

std::size_t CostCurve::bucket_of(std::int64_t rows) {
  const auto below = static_cast<std::uint64_t>(rows - 1);
  if (below < kSingle) return static_cast<std::size_t>(below);
  const auto octave = static_cast<std::size_t>(std::bit_width(below)) - 1;
  return kSingle + (octave - 3) * 4 + static_cast<std::size_t>((below - (std::uint64_t{1} << octave)) >> (octave - 2));
}

CostCurve::CostCurve(std::int64_t max_rows)
    : max_rows_(std::clamp<std::int64_t>(max_rows, 1, kMostRows)), best_rows_(max_rows_), spread_(kFirstSpread) {
  buckets_.resize(bucket_of(max_rows_) + 1);
  nodes_.reserve(buckets_.size());
  node_of_.assign(buckets_.size(), -1);
}

void CostCurve::reset() {
  std::fill(buckets_.begin(), buckets_.end(), Bucket());
  std::fill(node_of_.begin(), node_of_.end(), std::int16_t{-1});
  nodes_.clear();
  ratios_.fill(0);
  slope_down_ = slope_up_ = 0;
  best_rows_ = max_rows_;
  runs_ = 0;
  seen_ = 0;
  until_fit_ = until_trial_ = 0;
  ratio_weight_ = 1;
  ratio_total_ = 0;
  spread_ = kFirstSpread;
}

// No branch depends on the values: a sort of sixteen by insertion mispredicts more than it moves.
void CostCurve::Window::put(float value, std::uint32_t at) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float gone = ring[at];
  ring[at] = value;
  std::array<float, kWindow + 1> padded;
  std::copy(sorted.begin(), sorted.end(), padded.begin());
  padded[kWindow] = kInfinity;
  std::array<float, kWindow + 1> rest;  // from its second on, with `gone` taken out
  rest[0] = -kInfinity;
  for (std::size_t i = 0; i < kWindow; ++i) rest[i + 1] = padded[i] < gone ? padded[i] : padded[i + 1];
  for (std::size_t i = 0; i < kWindow; ++i) {
    const float low = value > rest[i] ? value : rest[i];
    sorted[i] = low < rest[i + 1] ? low : rest[i + 1];
  }
}

void CostCurve::Bucket::add(float run_rows, float time) {
  if (size < kWindow) ++size;
  times.put(time, next);
  if (run_rows > static_cast<float>(kSingle)) {
    rows.put(run_rows, next);
  } else {
    rows.sorted.fill(run_rows);  // all of this bucket's runs have as many
  }
  next = (next + 1) % kWindow;
}

// Time that was stolen from a run only ever makes it longer: of two, the shorter tells more.
float CostCurve::Bucket::location() const {
  if (size == 0) return warmup;
  const float time = times.sorted[middle()];
  return size < 3 && warmup > 0 ? std::min(warmup, time) : time;
}

bool CostCurve::record(std::int64_t rows, Nanos time, Nanos now) {
  rows = std::clamp<std::int64_t>(rows, 1, max_rows_);
  const auto nanos = static_cast<float>(std::max<Nanos>(time, 1));
  bool sure = false;
  if (const double expected = at(static_cast<double>(rows), sure); sure) note_ratio(nanos / expected);
  Bucket& bucket = buckets_[bucket_of(rows)];
  bucket.add(static_cast<float>(rows), nanos);
  bucket.last = ++runs_;
  seen_ = std::max(seen_, now);
  const float moved = std::abs(bucket.location() - bucket.fitted);
  if (until_fit_-- != 0 && bucket.size > kSure && moved <= kMoved * bucket.fitted) return false;
  fit();
  return true;
}

void CostCurve::record_warmup(std::int64_t rows, Nanos time) {
  rows = std::clamp<std::int64_t>(rows, 1, max_rows_);
  const auto nanos = static_cast<float>(std::max<Nanos>(time, 1));
  Bucket& bucket = buckets_[bucket_of(rows)];
  if (bucket.warmup > 0 && bucket.warmup <= nanos) return;
  bucket.warmup = nanos;
  bucket.warmup_rows = static_cast<float>(rows);
  fit();
}

void CostCurve::fit() {
  until_fit_ = kFitEvery;
  nodes_.clear();
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    Bucket& bucket = buckets_[i];
    if (!bucket.empty()) {
      bucket.fitted = bucket.location();
      const auto age = static_cast<float>(runs_ - bucket.last);
      const auto runs = std::max(static_cast<float>(bucket.size), 0.5F);
      nodes_.push_back({bucket.location_rows(), bucket.fitted, runs / (1 + age / kMemory), bucket.sure(), bucket.size});
    }
    node_of_[i] = static_cast<std::int16_t>(static_cast<int>(nodes_.size()) - 1);
  }
  believe_within_neighbours();

  // Pool adjacent violators. A block's nodes are consecutive; the first one holds its mean, weight and length.
  std::array<std::int16_t, 128> first;
  std::size_t blocks = 0;
  HEADRACE_CHECK(nodes_.size() <= first.size());
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    first[blocks++] = static_cast<std::int16_t>(i);
    while (blocks > 1) {
      Node& last = nodes_[static_cast<std::size_t>(first[blocks - 1])];
      Node& before = nodes_[static_cast<std::size_t>(first[blocks - 2])];
      if (before.time <= last.time) break;
      const float weight = before.weight + last.weight;
      before.time = (before.time * before.weight + last.time * last.weight) / weight;
      before.weight = weight;
      --blocks;
    }
  }
  for (std::size_t block = 0; block < blocks; ++block) {
    const auto begin = static_cast<std::size_t>(first[block]);
    const std::size_t end = block + 1 < blocks ? static_cast<std::size_t>(first[block + 1]) : nodes_.size();
    for (std::size_t i = begin + 1; i < end; ++i) nodes_[i].time = nodes_[begin].time;
  }

  const std::size_t count = nodes_.size();
  const auto slope = [this](std::size_t from, std::size_t to) {
    const Node& a = nodes_[from];
    const Node& b = nodes_[to];
    return from == to ? 0.0 : static_cast<double>(b.time - a.time) / static_cast<double>(b.rows - a.rows);
  };
  slope_down_ = slope(0, std::min<std::size_t>(count - 1, 1));
  slope_up_ = count == 1 ? nodes_[0].time / nodes_[0].rows : slope(count > 3 ? count - 3 : 0, count - 1);
  fit_best_rows();
  fit_spread();
}

// A bucket of few runs may be one that was descheduled.
void CostCurve::believe_within_neighbours() {
  const std::size_t count = nodes_.size();
  const Node* below = nullptr;
  for (std::size_t i = 0; i < count; ++i) {
    Node& node = nodes_[i];
    if (!node.sure && below != nullptr) {
      const double most = kSuspect * below->time * node.rows / below->rows;
      node.time = std::clamp(node.time, below->time, static_cast<float>(most));
    }
    if (node.sure) below = &node;
  }
  const Node* above = nullptr;
  for (std::size_t i = count; i-- > 0;) {
    Node& node = nodes_[i];
    if (!node.sure && above != nullptr) node.time = std::min(node.time, above->time);
    if (node.sure) above = &node;
  }
}

void CostCurve::fit_best_rows() {
  const auto rate = [](const Node& node) { return node.rows / node.time; };
  best_rows_ = max_rows_;
  Node top{};  // max_rows, where its bucket is known
  float best = 0;
  const Node* last = nullptr;
  for (const Node& node : nodes_) {
    if (!node.sure) continue;
    best = std::max(best, rate(node));
    last = &node;
  }
  if (last == nullptr) return;
  if (last == &nodes_.back() && buckets_.back().sure()) {
    top = *last;
    top.rows = static_cast<float>(max_rows_);
    top.time += static_cast<float>(slope_up_) * (top.rows - last->rows);
    best = std::max(best, rate(top));
  }
  const auto enough = static_cast<float>(best * (1 - kPays));
  double rows = top.time > 0 ? top.rows : last->rows;
  const Node* before = nullptr;
  const auto pays = [&](const Node& node) {
    if (rate(node) < enough) {
      before = &node;
      return false;
    }
    rows = node.rows;
    if (before != nullptr && before->rows < node.rows) {
      // Where the line from the node before reaches the rate: rows = enough * (a + b * rows).
      const double b = (node.time - before->time) / (node.rows - before->rows);
      const double a = before->time - b * before->rows;
      if (1 - enough * b > 1e-9) rows = std::clamp<double>(enough * a / (1 - enough * b), before->rows, node.rows);
    }
    return true;
  };
  const bool found =
      std::any_of(nodes_.begin(), nodes_.end(), [&](const Node& node) { return node.sure && pays(node); });
  if (!found && top.time > 0) pays(top);
  // It still pays at the end of what is known: then nothing is known against larger batches.
  if (2 * last->rows <= static_cast<float>(max_rows_) && 2 * rows > last->rows) return;
  best_rows_ = std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(rows - 1e-3)), 1, max_rows_);
}

std::int64_t CostCurve::best_rows(Nanos span) const {
  if (span == kNever || nodes_.empty() || best_rows_ == 1) return best_rows_;
  const auto worth = [span](double rows, double time) {
    return rows / time * (1 - time / (2 * static_cast<double>(span)));
  };
  bool sure = false;
  const double most = at(static_cast<double>(best_rows_), sure);
  if (most <= 0 || most < static_cast<double>(span) * kNoHaste) return best_rows_;
  double best = 0;
  double rows = 1;
  double known = 0;
  const auto look = [&](double some, double time) {
    if (worth(some, time) <= best) return;
    best = worth(some, time);
    rows = some;
  };
  for (const Node& node : nodes_) {
    if (!node.sure) continue;
    known = node.rows;
    if (node.rows < static_cast<float>(best_rows_)) look(node.rows, node.time);
  }
  if (sure) look(static_cast<double>(best_rows_), most);
  // It pays at the end of what is known: then the next size is to become known.
  if (rows >= known) rows *= 2;
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::lround(rows)), 1, best_rows_);
}

double CostCurve::at(double rows, bool& sure) const {
  sure = false;
  if (nodes_.empty()) return 0;
  int left = node_of_[bucket_of(static_cast<std::int64_t>(rows))];
  if (left >= 0 && nodes_[static_cast<std::size_t>(left)].rows > rows) --left;
  if (left < 0) {
    const Node& node = nodes_.front();
    sure = node.sure && 2 * rows > node.rows;
    const double least = node.time * rows / node.rows;
    return nodes_.size() == 1 ? node.time : std::max(node.time - slope_down_ * (node.rows - rows), least);
  }
  const Node& a = nodes_[static_cast<std::size_t>(left)];
  if (static_cast<std::size_t>(left) + 1 == nodes_.size()) {
    sure = a.sure && rows < 2 * a.rows;
    return a.time + slope_up_ * (rows - a.rows);
  }
  const Node& b = nodes_[static_cast<std::size_t>(left) + 1];
  sure = a.sure && (b.sure || rows == a.rows);
  return a.time + (b.time - a.time) * (rows - a.rows) / (b.rows - a.rows);
}

CostEstimate CostCurve::predict(std::int64_t rows) const {
  CostEstimate estimate;
  if (nodes_.empty()) return estimate;
  rows = std::clamp<std::int64_t>(rows, 1, max_rows_);
  const double typical = at(static_cast<double>(rows), estimate.sure);
  estimate.typical = static_cast<Nanos>(typical);
  estimate.high = static_cast<Nanos>(typical * spread_);
  estimate.known = true;
  estimate.seen = seen_;
  return estimate;
}

std::int64_t CostCurve::most_rows_within(Nanos time) const {
  if (nodes_.empty()) return max_rows_;
  std::int64_t low = 0;
  std::int64_t high = max_rows_;
  while (low < high) {
    const std::int64_t middle = low + (high - low + 1) / 2;
    if (predict(middle).high <= time) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

std::int64_t CostCurve::trial(std::int64_t available, Nanos time) {
  if (until_trial_ > 0) {
    --until_trial_;
    return 0;
  }
  if (time != kNever) available = std::min(available, most_rows_within(time));
  if (available == 0) return 0;
  until_trial_ = kTrialEvery - 1;
  available = std::clamp<std::int64_t>(available, 1, max_rows_);
  std::int64_t unknown = 0;
  std::int64_t stale = 0;
  std::uint64_t oldest = runs_ > kStale ? runs_ - kStale : 0;
  std::uint32_t fewest = kSure;
  for (std::int64_t rows = 1; rows <= available; rows *= 2) {
    const Bucket& bucket = buckets_[bucket_of(rows)];
    // Requests of many rows may never make a batch of few, however often it is tried.
    if (const std::uint32_t known = std::max(bucket.size, bucket.trials / 2); known < fewest) {
      fewest = known;
      unknown = rows;
    }
    if (const std::uint64_t last = std::max(bucket.last, bucket.last_trial); last < oldest) {
      oldest = last;
      stale = rows;
    }
  }
  if (unknown != 0) until_trial_ = kTrialEvery / 4 - 1;
  const std::int64_t chosen = unknown != 0 ? unknown : stale;
  if (chosen != 0) {
    Bucket& bucket = buckets_[bucket_of(chosen)];
    ++bucket.trials;
    bucket.last_trial = runs_;
  }
  return chosen;
}

void CostCurve::note_ratio(double ratio) {
  const auto octaves = std::log2(static_cast<float>(std::clamp(ratio, 0.51, 15.9)));
  const auto bin = static_cast<std::size_t>((octaves + 1) * static_cast<float>(kBinsPerOctave));
  ratios_[std::min(bin, kBins - 1)] += ratio_weight_;
  ratio_total_ += ratio_weight_;
  ratio_weight_ *= 1 + 1 / kMemory;
  if (ratio_weight_ < 1e12F) return;
  for (float& each : ratios_) each /= ratio_weight_;
  ratio_total_ /= ratio_weight_;
  ratio_weight_ = 1;
}

// The upper edge of the bin in which the tail begins.
void CostCurve::fit_spread() {
  const float tail = std::max(static_cast<float>(kTail) * ratio_total_, kOutliers * ratio_weight_);
  float above = 0;
  std::size_t bin = kBins;
  while (bin > 0 && above + ratios_[bin - 1] <= tail) above += ratios_[--bin];
  spread_ = std::max(1.0, std::exp2(static_cast<double>(bin) / kBinsPerOctave - 1));
  // Few runs cannot tell that there is no tail.
  if (ratio_total_ < kEnoughRatios * ratio_weight_) spread_ = std::max(spread_, kFirstSpread);
}

std::vector<CostPoint> CostCurve::points() const {
  std::vector<CostPoint> points;
  points.reserve(nodes_.size());
  for (const Node& node : nodes_) points.push_back({node.rows, node.time, node.runs});
  return points;
}

}  // namespace headrace
