#include "batching/extent.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "known_costs.h"

namespace headrace {
namespace {

class ExtentTest : public ::testing::Test {
 protected:
  ExtentTest() {
    rule_.batched = true;
    rule_.max_rows = 8;
  }
  void add(std::int32_t rows, Nanos target = kNever) {
    Slot slot;
    slot.key = {0, target, slots_.size()};
    slot.target = target;
    slot.load = slot.rows = rows;
    slots_.push_back(slot);
  }
  std::size_t tickets(Nanos now = 0) const { return batch_extent(slots_, rule_, now).tickets; }

  std::vector<Slot> slots_;
  ExtentRule rule_;
  KnownCosts costs_{100, 10};  // 100 and 10 a row
};

TEST_F(ExtentTest, AllThatFitsInOrder) {
  add(3);
  add(5);
  add(1);
  const Extent extent = batch_extent(slots_, rule_, 0);
  EXPECT_EQ(extent.tickets, 2U);
  EXPECT_EQ(extent.load, 8);
  EXPECT_EQ(extent.rows, 8);
}

TEST_F(ExtentTest, OneAloneWhereNothingIsBatched) {
  rule_.batched = false;
  add(1);
  add(1);
  EXPECT_EQ(tickets(), 1U);
}

TEST_F(ExtentTest, ClosedWhereABiggerBatchDoesNotPay) {
  costs_.best = 4;
  rule_.costs = &costs_;
  for (int i = 0; i < 8; ++i) add(1);
  EXPECT_EQ(tickets(), 4U);
  rule_.trial_rows = 6;
  EXPECT_EQ(tickets(), 6U) << "a trial looks beyond";
  rule_.trial_rows = 2;
  EXPECT_EQ(tickets(), 2U);
  const std::vector<std::int64_t> preferred = {7};
  rule_.trial_rows = 0;
  rule_.preferred = &preferred;
  EXPECT_EQ(tickets(), 7U) << "what the configuration prefers goes before what is learnt";
}

TEST_F(ExtentTest, ClosedWhereATargetWouldBeMissed) {
  rule_.costs = &costs_;
  add(1, 131);  // three rows take 130
  for (int i = 0; i < 7; ++i) add(1);
  EXPECT_EQ(tickets(0), 3U);
  EXPECT_EQ(tickets(1), 2U);
}

TEST_F(ExtentTest, AnEarlierTargetFurtherBackCountsToo) {
  rule_.costs = &costs_;
  add(1, 1000);
  add(1, 131);
  for (int i = 0; i < 6; ++i) add(1, 2000);
  EXPECT_EQ(tickets(), 3U);
}

TEST_F(ExtentTest, OneThatWouldBeLateInThisBatchWaitsForItsOwn) {
  rule_.costs = &costs_;
  for (int i = 0; i < 4; ++i) add(1);
  add(1, 141);  // five rows take 150; alone it takes 110
  EXPECT_EQ(tickets(), 4U);
}

TEST_F(ExtentTest, ATargetThatIsLostHoldsNobodyUp) {
  rule_.costs = &costs_;
  add(1, 50);
  for (int i = 0; i < 4; ++i) add(1);
  add(1, 60);
  EXPECT_EQ(tickets(), 6U);
  EXPECT_EQ(tickets(100), 6U);
}

TEST_F(ExtentTest, WhatCameLaterJoinsNone) {
  for (int i = 0; i < 5; ++i) add(1, i == 3 ? Nanos{900} : kNever);
  rule_.joins_before = 2;
  EXPECT_EQ(tickets(), 2U);
  rule_.joins_before = 3;
  EXPECT_EQ(tickets(), 3U) << "not with a target either: it makes the batch longer for those that are promised";
}

TEST_F(ExtentTest, WhatIsLateAnywayHoldsTheLaneNoLongerThanItMay) {
  rule_.costs = &costs_;
  for (int i = 0; i < 8; ++i) add(1, 50);
  EXPECT_EQ(tickets(60), 8U) << "nobody is helped by a smaller batch";
  rule_.late_time = 145;
  EXPECT_EQ(tickets(60), 4U) << "140 for four rows";
  EXPECT_EQ(batch_extent(slots_, rule_, 60).why, Closed::kTarget);
  rule_.late_time = 1;
  EXPECT_EQ(tickets(60), 1U) << "it has to run some time";
}

}  // namespace
}  // namespace headrace
