#include "batching/cost_curve.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

namespace headrace {
namespace {

using Law = std::function<double(std::int64_t)>;

// Run times with the noise of a quiet machine: a few per cent, and always upwards now and then.
class Runs {
 public:
  explicit Runs(std::uint32_t seed, double noise = 0.02) : engine_(seed), noise_(noise) {}
  Nanos time(const Law& law, std::int64_t rows) {
    const double stretched = law(rows) * std::exp(noise_ * normal_(engine_));
    return static_cast<Nanos>(stretched);
  }
  std::int64_t rows(std::int64_t most) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(most)) + 1;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<double> normal_{0, 1};
  double noise_;
};

double line(std::int64_t rows) { return 100e3 + 20e3 * static_cast<double>(rows); }

void expect_monotone(const CostCurve& curve, std::int64_t most) {
  Nanos before = 0;
  for (std::int64_t rows = 1; rows <= most; ++rows) {
    const Nanos time = curve.predict(rows).typical;
    ASSERT_GE(time, before) << rows << " rows";
    before = time;
  }
}

TEST(CostCurveTest, KnowsNothingAtFirst) {
  CostCurve curve(32);
  EXPECT_FALSE(curve.predict(4).known);
  EXPECT_EQ(curve.best_rows(), 32);
  EXPECT_EQ(curve.most_rows_within(1), 32);
}

TEST(CostCurveTest, LearnsALineToWithinAFewPerCent) {
  CostCurve curve(64);
  Runs runs(1);
  for (int i = 0; i < 2000; ++i) {
    const std::int64_t rows = runs.rows(64);
    curve.record(rows, runs.time(line, rows), i);
  }
  for (std::int64_t rows = 1; rows <= 64; ++rows) {
    const CostEstimate estimate = curve.predict(rows);
    EXPECT_TRUE(estimate.known && estimate.sure) << rows;
    EXPECT_NEAR(static_cast<double>(estimate.typical), line(rows), 0.04 * line(rows)) << rows;
  }
  EXPECT_EQ(curve.predict(1).seen, 1999);
  expect_monotone(curve, 64);
}

TEST(CostCurveTest, NeverFallsWithMoreRowsWhateverIsRecorded) {
  std::mt19937 engine(7);
  for (int round = 0; round < 50; ++round) {
    CostCurve curve(200);
    for (int i = 0; i < 400; ++i) {
      curve.record(static_cast<std::int64_t>(engine() % 200) + 1, static_cast<Nanos>(engine() % 1'000'000), i);
      if (i % 40 == 0) expect_monotone(curve, 200);
    }
    expect_monotone(curve, 200);
    for (std::int64_t rows : {1, 3, 77, 200}) {
      const CostEstimate estimate = curve.predict(rows);
      EXPECT_GE(estimate.high, estimate.typical);
      EXPECT_GE(estimate.typical, 0);
    }
  }
}

TEST(CostCurveTest, GoesOnAtTheMarginalCostBeyondWhatItKnows) {
  CostCurve curve(256);
  for (int i = 0; i < 8; ++i) {
    for (const std::int64_t rows : {4, 8, 16}) curve.record(rows, static_cast<Nanos>(line(rows)), i);
  }
  EXPECT_NEAR(static_cast<double>(curve.predict(64).typical), line(64), 0.01 * line(64));
  EXPECT_NEAR(static_cast<double>(curve.predict(1).typical), line(1), 0.01 * line(1));
  EXPECT_FALSE(curve.predict(64).sure);
  EXPECT_TRUE(curve.predict(12).sure);
}

TEST(CostCurveTest, OneSizeAloneCountsAsAllRowsAndNoFixedCost) {
  CostCurve curve(64);
  curve.record(8, 800, 0);
  EXPECT_EQ(curve.predict(16).typical, 1600);
  EXPECT_EQ(curve.predict(2).typical, 800);  // the most that it can be
  EXPECT_FALSE(curve.predict(8).sure);
}

TEST(CostCurveTest, ARunThatWasDescheduledChangesNothing) {
  CostCurve curve(32);
  Runs runs(2);
  for (int i = 0; i < 300; ++i) {
    const std::int64_t rows = runs.rows(32);
    curve.record(rows, runs.time(line, rows), i);
  }
  for (const std::int64_t rows : {1, 8, 20, 32}) {
    const CostEstimate before = curve.predict(rows);
    curve.record(rows, 50 * kMillisecond, 300);
    const CostEstimate after = curve.predict(rows);
    EXPECT_NEAR(static_cast<double>(after.typical), static_cast<double>(before.typical), 0.03 * line(rows));
    EXPECT_LE(after.high, before.high * 11 / 10);
    curve.record(rows, static_cast<Nanos>(line(rows)), 301);
    for (int i = 0; i < 300; ++i) curve.record(rows, runs.time(line, rows), 302 + i);
  }
}

TEST(CostCurveTest, TheFirstRunOfALargerSizeIsNotTakenAtItsWord) {
  CostCurve curve(32);
  for (int i = 0; i < 8; ++i) curve.record(4, static_cast<Nanos>(line(4)), i);
  curve.record(16, 50 * kMillisecond, 9);
  EXPECT_LE(curve.predict(16).typical, 8 * line(4) + 1);  // twice the cost of a row so far
  EXPECT_FALSE(curve.predict(16).sure);
  for (int i = 0; i < 4; ++i) curve.record(16, static_cast<Nanos>(line(16)), 10 + i);
  EXPECT_NEAR(static_cast<double>(curve.predict(16).typical), line(16), 0.01 * line(16));
}

TEST(CostCurveTest, AFirstRunBetweenKnownSizesIsNotEither) {
  CostCurve curve(32);
  for (int i = 0; i < 8; ++i) {
    curve.record(4, static_cast<Nanos>(line(4)), i);
    curve.record(16, static_cast<Nanos>(line(16)), i);
  }
  curve.record(8, 50 * kMillisecond, 9);
  EXPECT_LE(curve.predict(8).typical, line(16));
  EXPECT_NEAR(static_cast<double>(curve.predict(16).typical), line(16), 0.01 * line(16));
}

TEST(CostCurveTest, ALastingChangeIsLearntWithinAWindow) {
  CostCurve curve(8);
  for (int i = 0; i < 100; ++i) curve.record(4, 1'000'000, i);
  for (std::size_t i = 0; i < CostCurve::kWindow / 2 + 1; ++i) curve.record(4, 3'000'000, 200);
  EXPECT_NEAR(static_cast<double>(curve.predict(4).typical), 3e6, 3e4);
}

TEST(CostCurveTest, FreshSizesOverruleStaleOnes) {
  CostCurve curve(8);
  for (int i = 0; i < 20; ++i) curve.record(8, 1'000'000, i);
  for (int i = 0; i < 5000; ++i) curve.record(4, 3'000'000, i);
  // Half the rows take three times as long now: the larger batch cannot take less.
  EXPECT_GT(curve.predict(8).typical, 2'500'000);
  EXPECT_GT(curve.predict(4).typical, 2'500'000);
}

TEST(CostCurveTest, TheHighPredictionHolds99Of100Runs) {
  CostCurve curve(32);
  Runs runs(3, 0.1);
  for (int i = 0; i < 3000; ++i) {
    const std::int64_t rows = runs.rows(32);
    curve.record(rows, runs.time(line, rows), i);
  }
  int over = 0;
  for (int i = 0; i < 10000; ++i) {
    const std::int64_t rows = runs.rows(32);
    if (runs.time(line, rows) > curve.predict(rows).high) ++over;
  }
  EXPECT_LT(over, 200);
  EXPECT_LT(curve.spread(), 1.5);  // and is no wild guess: 99 % of these are within 1.26
}

TEST(CostCurveTest, TwoOutliersNeverMakeATailButManyDo) {
  CostCurve curve(4);
  for (int i = 0; i < 100; ++i) curve.record(2, 1'000'000, i);
  const double before = curve.spread();
  curve.record(2, 5'000'000, 100);
  curve.record(2, 5'000'000, 101);
  for (int i = 0; i < 20; ++i) curve.record(2, 1'000'000, i);
  EXPECT_LE(curve.spread(), before);
  for (int i = 0; i < 200; ++i) curve.record(2, i % 10 == 0 ? 5'000'000 : 1'000'000, i);
  EXPECT_NEAR(static_cast<double>(curve.predict(2).typical), 1e6, 1e4);
  EXPECT_GT(curve.spread(), 4.5);
}

TEST(CostCurveTest, WarmUpIsAPriorThatRealRunsReplace) {
  CostCurve curve(16);
  curve.record_warmup(1, 9'000'000);  // the very first run initialises the runtime
  curve.record_warmup(1, 1'000'000);
  curve.record_warmup(16, 4'000'000);
  EXPECT_EQ(curve.predict(1).typical, 1'000'000);
  EXPECT_TRUE(curve.predict(8).known);
  EXPECT_FALSE(curve.predict(8).sure);
  EXPECT_EQ(curve.predict(8).seen, 0);
  EXPECT_NEAR(static_cast<double>(curve.predict(8).typical), 2.4e6, 1e5);
  for (int i = 0; i < 3; ++i) curve.record(1, 2'000'000, i);
  EXPECT_EQ(curve.predict(1).typical, 2'000'000);
}

TEST(CostCurveTest, ABatchIsClosedWhereABiggerOneDoesNotPay) {
  const auto best = [](std::int64_t most, const Law& law) {
    CostCurve curve(most);
    for (int i = 0; i < 20; ++i) {
      for (std::int64_t rows = 1; rows <= most; ++rows) curve.record(rows, static_cast<Nanos>(law(rows)), i);
    }
    return curve.best_rows();
  };
  // Rows that share nothing: one at a time.
  EXPECT_EQ(best(32, [](std::int64_t rows) { return 1e6 * static_cast<double>(rows); }), 1);
  // A fixed cost that is shared for ever: all of them.
  EXPECT_EQ(best(32, [](std::int64_t) { return 1e6; }), 32);
  // A device that is full at eight rows.
  const std::int64_t full =
      best(64, [](std::int64_t rows) { return 1e6 * std::max(1.0, static_cast<double>(rows) / 8); });
  EXPECT_GE(full, 7);
  EXPECT_LE(full, 9);
  // A cache that is too small for more than sixteen: each further row costs twice.
  const std::int64_t cache = best(64, [](std::int64_t rows) {
    return 2e5 + 1e5 * static_cast<double>(rows) + 1e5 * static_cast<double>(std::max<std::int64_t>(rows - 16, 0));
  });
  EXPECT_GE(cache, 12);
  EXPECT_LE(cache, 18);
}

TEST(CostCurveTest, WhereAnswersAreWantedSoonBatchesAreShorter) {
  CostCurve curve(32);
  for (int i = 0; i < 20; ++i) {
    for (const std::int64_t rows : {1, 2, 4, 8, 16, 32}) curve.record(rows, 2'000'000 + 8'000'000 * rows, i);
  }
  EXPECT_EQ(curve.best_rows(kNever), curve.best_rows());
  EXPECT_GE(curve.best_rows(), 8);
  EXPECT_EQ(curve.best_rows(10 * kSecond), curve.best_rows()) << "so short a batch is in nobody's way";
  EXPECT_EQ(curve.best_rows(200 * kMillisecond), 4);  // 4 / 34 * (1 - 34 / 400) is the most
  EXPECT_EQ(curve.best_rows(50 * kMillisecond), 2);   // 1 / 10 * (1 - 10 / 100) is a little less
  EXPECT_EQ(curve.best_rows(20 * kMillisecond), 1);
  EXPECT_EQ(curve.best_rows(1), 1) << "what is through soonest";
  // Rows that cost next to nothing are worth their time.
  CostCurve flat(32);
  for (int i = 0; i < 20; ++i) {
    for (const std::int64_t rows : {1, 2, 4, 8, 16, 32}) flat.record(rows, 10'000'000 + 200'000 * rows, i);
  }
  EXPECT_EQ(flat.best_rows(50 * kMillisecond), flat.best_rows());
}

TEST(CostCurveTest, InHasteTheNextSizeStillBecomesKnown) {
  CostCurve curve(32);
  for (int i = 0; i < 20; ++i) curve.record(1, 10'000'000, i);
  EXPECT_EQ(curve.best_rows(40 * kMillisecond), 2) << "by what is known each row takes 10 ms";
  for (int i = 0; i < 20; ++i) curve.record(2, 11'000'000, i);
  EXPECT_EQ(curve.best_rows(40 * kMillisecond), 4);
  for (int i = 0; i < 20; ++i) curve.record(4, 60'000'000, i);
  EXPECT_EQ(curve.best_rows(40 * kMillisecond), 2);
}

TEST(CostCurveTest, UnseenLargerSizesAreNotRuledOut) {
  CostCurve curve(64);
  for (int i = 0; i < 20; ++i) {
    for (const std::int64_t rows : {1, 2, 4}) curve.record(rows, static_cast<Nanos>(line(rows)), i);
  }
  EXPECT_EQ(curve.best_rows(), 64);  // four rows paid more than two did
  for (int i = 0; i < 20; ++i) {
    for (const std::int64_t rows : {8, 16})
      curve.record(rows, static_cast<Nanos>(line(4) * static_cast<double>(rows) / 4), i);
  }
  EXPECT_LE(curve.best_rows(), 4);  // eight and sixteen did not
}

TEST(CostCurveTest, SaysHowManyRowsFitIntoATime) {
  CostCurve curve(64);
  for (int i = 0; i < 100; ++i) {
    for (std::int64_t rows = 1; rows <= 64; rows *= 2) curve.record(rows, static_cast<Nanos>(line(rows)), i);
  }
  EXPECT_EQ(curve.most_rows_within(10), 0);
  EXPECT_EQ(curve.most_rows_within(kSecond), 64);
  const std::int64_t rows = curve.most_rows_within(500'000);
  EXPECT_LE(curve.predict(rows).high, 500'000);
  EXPECT_GT(curve.predict(rows + 1).high, 500'000);
  EXPECT_GE(rows, 17);  // 20 rows typically take that long
}

TEST(CostCurveTest, UnknownSizesAreTriedAndFewOfThem) {
  CostCurve curve(32);
  int trials = 0;
  for (int batch = 0; batch < 1000; ++batch) {
    const std::int64_t trial = curve.trial(32);
    if (trial != 0) ++trials;
    const std::int64_t rows = trial != 0 ? trial : 32;
    curve.record(rows, static_cast<Nanos>(line(rows)), batch);
    EXPECT_LE(trials, batch / 4 + 1);
  }
  for (std::int64_t rows = 1; rows <= 32; rows *= 2) EXPECT_TRUE(curve.predict(rows).sure) << rows;
  EXPECT_EQ(trials, static_cast<int>(5 * CostCurve::kSure));  // 1, 2, 4, 8, 16: and then no more
  // What was seen long ago is tried again.
  for (int batch = 0; batch < 3000; ++batch) curve.record(32, static_cast<Nanos>(line(32)), batch);
  bool again = false;
  for (std::uint32_t batch = 0; batch < CostCurve::kTrialEvery; ++batch) again |= curve.trial(32) != 0;
  EXPECT_TRUE(again);
}

TEST(CostCurveTest, ASizeThatNoRequestCanMakeIsGivenUp) {
  CostCurve curve(32);
  int trials = 0;
  for (int batch = 0; batch < 1000; ++batch) {
    if (curve.trial(32) != 0) ++trials;
    curve.record(32, static_cast<Nanos>(line(32)), batch);  // one request of 32 rows
  }
  EXPECT_LE(trials, static_cast<int>(2 * 5 * CostCurve::kSure));
}

TEST(CostCurveTest, ATrialIsNeverLargerThanWhatIsThere) {
  CostCurve curve(64);
  for (int batch = 0; batch < 500; ++batch) {
    const std::int64_t available = batch % 7 + 1;
    EXPECT_LE(curve.trial(available), available);
  }
}

TEST(CostCurveTest, NoTrialTakesLongerThanItMay) {
  CostCurve curve(32);
  for (const std::int64_t rows : {1, 32}) {
    for (int run = 0; run < 8; ++run) curve.record(rows, static_cast<Nanos>(line(rows)), run);
  }
  bool tried = false;
  for (int batch = 0; batch < 500; ++batch) {
    const std::int64_t trial = curve.trial(32, static_cast<Nanos>(line(8)));
    EXPECT_LE(trial, 8);
    tried |= trial != 0;
    EXPECT_EQ(curve.trial(32, 1), 0);
  }
  EXPECT_TRUE(tried);
}

TEST(CostCurveTest, OddRowsAndTimesAreBounded) {
  CostCurve curve(10);
  curve.record(0, -5, 0);
  curve.record(-3, 0, 0);
  curve.record(1'000'000'000'000, 7, 0);
  EXPECT_GE(curve.predict(1).typical, 0);
  EXPECT_EQ(curve.predict(11).typical, curve.predict(10).typical);
  CostCurve huge(std::int64_t{1} << 60);
  huge.record(std::int64_t{1} << 59, 100, 0);
  EXPECT_TRUE(huge.predict(1).known);
}

TEST(CostCurveTest, ResetForgets) {
  CostCurve curve(8);
  for (int i = 0; i < 50; ++i) curve.record(4, 1000, i);
  curve.reset();
  EXPECT_FALSE(curve.predict(4).known);
  EXPECT_EQ(curve.runs(), 0U);
  EXPECT_EQ(curve.best_rows(), 8);
  EXPECT_TRUE(curve.points().empty());
}

TEST(CostCurveTest, ShowsItsPoints) {
  CostCurve curve(8);
  for (int i = 0; i < 3; ++i) curve.record(2, 1000, i);
  curve.record(8, 3000, 4);
  const std::vector<CostPoint> points = curve.points();
  ASSERT_EQ(points.size(), 2U);
  EXPECT_EQ(points[0].rows, 2);
  EXPECT_EQ(points[0].runs, 3U);
  EXPECT_EQ(points[1].nanos, 3000);
}

}  // namespace
}  // namespace headrace
