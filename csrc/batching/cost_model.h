// What runs of one model cost, by the kind of lane and the shape of the inputs: a CostCurve for each of the pairs that
// were used last. Pure, not synchronised. A pair's first run allocates; after that nothing does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "batching/cost_curve.h"

namespace headrace {

// Two shapes with equal hashes share a curve: 64 bits make that a matter of no concern, and nothing but a guess of time
// depends on it.
struct CostKey {
  std::uint32_t device = 0;  // of the lane: lanes of one kind run a batch in the same time
  std::uint64_t shape = 0;   // hash of what the inputs of a batch agree in
  bool operator==(const CostKey&) const = default;
};

// What the batching policy asks. The simulation puts an oracle here.
class Costs {
 public:
  virtual ~Costs() = default;
  virtual CostEstimate predict(const CostKey& key, std::int64_t rows) const = 0;
  // The rows up to which a bigger batch pays where answers are wanted within `span`, never over `most`.
  virtual std::int64_t best_rows(const CostKey& key, std::int64_t most, Nanos span) const = 0;
  // The most rows, 0 .. most, that 99 of 100 runs are through with in `time`.
  virtual std::int64_t most_rows_within(const CostKey& key, Nanos time, std::int64_t most) const = 0;
  // A size of at most `available` rows that should be tried with the next batch, none that 99 of 100 runs are not
  // through with in `time` (kNever: any); 0: none.
  virtual std::int64_t trial(const CostKey& key, std::int64_t available, Nanos time) = 0;
  // Changes when the answers of the others do.
  virtual std::uint64_t edition() const { return 1; }
};

class CostModel final : public Costs {
 public:
  static constexpr std::size_t kMaxKeys = 64;

  explicit CostModel(std::int64_t max_rows, std::size_t max_keys = kMaxKeys);

  void record(const CostKey& key, std::int64_t rows, Nanos time, Nanos now);
  void record_warmup(const CostKey& key, std::int64_t rows, Nanos time);
  CostEstimate predict(const CostKey& key, std::int64_t rows) const override;
  std::int64_t best_rows(const CostKey& key, std::int64_t most, Nanos span) const override;
  std::int64_t most_rows_within(const CostKey& key, Nanos time, std::int64_t most) const override;
  std::int64_t trial(const CostKey& key, std::int64_t available, Nanos time) override;
  std::uint64_t edition() const override { return edition_; }

  const CostCurve* curve(const CostKey& key) const;  // null: nothing known; valid until the next record
  std::vector<CostKey> keys() const;                 // last recorded first
  std::size_t size() const { return slots_.size(); }

 private:
  static constexpr std::uint32_t kNone = 0xffffffffU;
  struct Slot {
    CostKey key;
    std::unique_ptr<CostCurve> curve;
    std::uint32_t newer = kNone;
    std::uint32_t older = kNone;
    std::uint32_t next_in_bucket = kNone;
  };

  std::size_t bucket_of(const CostKey& key) const;
  std::uint32_t find(const CostKey& key) const;
  CostCurve& use(const CostKey& key);  // makes it the newest; takes the oldest's place where there is no room
  void unlink(std::uint32_t index);
  void make_newest(std::uint32_t index);

  std::int64_t max_rows_;
  std::size_t max_keys_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> buckets_;  // a power of two of them
  std::uint32_t newest_ = kNone;
  std::uint32_t oldest_ = kNone;
  std::uint64_t edition_ = 1;
};

}  // namespace headrace
