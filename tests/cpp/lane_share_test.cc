#include "schedule/lane_share.h"

#include <gtest/gtest.h>

#include "known_costs.h"

namespace headrace {
namespace {

constexpr Nanos kSoon = 50 * kMillisecond;

constexpr Nanos kNow = kSecond;
constexpr double kHasty = 20 / static_cast<double>(kSecond);  // rows a nanosecond

// Rows that came for so many steps of 50 ms, each with as many.
LaneShare after(std::int64_t rows, Nanos span = kSoon, int steps = 200) {
  LaneShare share;
  for (int i = 0; i < steps; ++i) {
    share.note(rows, {}, span, kNow);
    share.step(50 * kMillisecond);
  }
  return share;
}

class LaneShareTest : public ::testing::Test {
 protected:
  // 10 ms and 1 ms for each row: sixteen rows, 26 ms, take 1.6 ms each, alone 11 ms.
  KnownCosts costs_{10 * kMillisecond, kMillisecond};
};

TEST_F(LaneShareTest, FewLanesMakeLargerBatches) {
  // 200 rows a second need 0.33 lanes; 800 need 1.3, and 1,200 need 1.95.
  EXPECT_EQ(after(10).lanes(costs_, 16, kSoon, kHasty, kNow, 4, 4), 1);
  EXPECT_EQ(after(40).lanes(costs_, 16, kSoon, kHasty, kNow, 4, 4), 2);
  EXPECT_EQ(after(60).lanes(costs_, 16, kSoon, kHasty, kNow, 4, 4), 3);
  EXPECT_EQ(after(1000).lanes(costs_, 16, kSoon, kHasty, kNow, 4, 4), 4) << "never more than there are";
}

TEST_F(LaneShareTest, ItDoesNotSwingBetweenTwo) {
  // 0.81 of a lane: too much to be given one, not enough for one to be too few.
  EXPECT_EQ(after(25).lanes(costs_, 16, kSoon, kHasty, kNow, 2, 4), 2);
  EXPECT_EQ(after(25).lanes(costs_, 16, kSoon, kHasty, kNow, 1, 4), 1);
  EXPECT_EQ(after(29).lanes(costs_, 16, kSoon, kHasty, kNow, 1, 4), 2);
}

TEST_F(LaneShareTest, WhereNobodyIsInHasteItHasAll) {
  EXPECT_EQ(after(10).lanes(costs_, 16, kNever, kHasty, kNow, 1, 4), 4);
}

TEST_F(LaneShareTest, RowsThatShareNothingGainNothing) {
  KnownCosts each(0, 10 * kMillisecond);
  EXPECT_EQ(after(2).lanes(each, 16, kSoon, kHasty, kNow, 4, 4), 4);
  EXPECT_EQ(after(10).lanes(costs_, 1, kSoon, kHasty, kNow, 4, 4), 4) << "a model without batches";
}

TEST_F(LaneShareTest, RunsAsLongAsOthersCanWaitLeaveThemALane) {
  KnownCosts slow(0, 40 * kMillisecond);
  // 20 rows a second need 0.8 lanes, 60 need 2.4.
  EXPECT_EQ(after(1, kSecond).lanes(slow, 16, kSoon, kHasty, kNow, 4, 4), 1);
  EXPECT_EQ(after(3, kSecond).lanes(slow, 16, kSoon, kHasty, kNow, 4, 4), 3);
  EXPECT_EQ(after(1, kNever).lanes(slow, 16, kSoon, kHasty, kNow, 4, 4), 1) << "it can always wait";
  EXPECT_EQ(after(1, kSoon).lanes(slow, 16, kSoon, kHasty, kNow, 4, 4), 4) << "it is in haste itself";
  EXPECT_EQ(after(1, kSecond).lanes(slow, 16, kSecond / 2, kHasty, kNow, 4, 4), 4) << "nobody waits that long for it";
}

TEST_F(LaneShareTest, ALaneIsLeftWhereMoreWouldBeLateThanIsLost) {
  KnownCosts slow(0, 40 * kMillisecond);
  const LaneShare share = after(10, kSecond);  // eight lanes' worth; a lane makes 25 rows a second
  EXPECT_EQ(share.lanes(slow, 16, kSoon, kHasty, kNow, 4, 4), 4);
  EXPECT_EQ(share.lanes(slow, 16, kSoon, 2 * kHasty, kNow, 4, 4), 3);
}

TEST_F(LaneShareTest, ItNeedsWhatItsArrivalsKeepBusy) {
  // 200 rows a second, 50 ms to gather: ten go together, 20 ms each time.
  EXPECT_NEAR(after(10, 2 * kSoon).need(costs_, 16, kNow), 0.4, 0.03);
  EXPECT_NEAR(after(10, kNever).need(costs_, 16, kNow), 200 * 0.026 / 16, 0.02) << "as many as fit, where it can wait";
  EXPECT_EQ(LaneShare().need(costs_, 16, kNow), 0);
}

TEST_F(LaneShareTest, WhoWantsAnswersSoonIsInHaste) {
  EXPECT_GT(after(10, kSoon).hasty(kSoon, kNow), 0);
  EXPECT_EQ(after(10, 2 * kSoon).hasty(kSoon, kNow), 0);
  EXPECT_EQ(after(10, kSoon).hasty(kNever, kNow), 0);
}

TEST_F(LaneShareTest, WhoseRequestsHaveCeasedHasAll) {
  LaneShare share = after(10);
  EXPECT_EQ(LaneShare().lanes(costs_, 16, kSoon, kHasty, kNow, 1, 4), 4) << "nothing came yet";
  for (int i = 0; i < 4; ++i) share.step(50 * kMillisecond);
  EXPECT_EQ(share.lanes(costs_, 16, kSoon, kHasty, kNow, 1, 4), 1);
  for (int i = 0; i < 400; ++i) share.step(50 * kMillisecond);
  EXPECT_EQ(share.lanes(costs_, 16, kSoon, kHasty, kNow, 1, 4), 4);
  EXPECT_EQ(share.need(costs_, 16, kNow), 0);
}

}  // namespace
}  // namespace headrace
