#include "schedule/lane_claims.h"

#include <gtest/gtest.h>

namespace headrace {
namespace {

constexpr double kRoom = LaneClaims::kRoom;
constexpr double kAll = 2;  // lanes

TEST(LaneClaimsTest, WhereThereIsEnoughNobodyAsksForTooMuch) {
  LaneClaims claims;
  claims.add(1.0, kAll, 1);
  claims.add(0.5, kAll, 1);
  claims.divide(2);
  EXPECT_FALSE(claims.asks_too_much(0));
  EXPECT_FALSE(claims.asks_too_much(1));
  EXPECT_DOUBLE_EQ(claims.left_to(0), 2 - 0.5 * kRoom);
  EXPECT_DOUBLE_EQ(claims.others(1), kRoom);
}

TEST(LaneClaimsTest, WhoAsksForLittleHasItAndTheOthersShareTheRest) {
  LaneClaims claims;
  claims.add(5, kAll, 1);
  claims.add(0.2, kAll, 1);
  claims.add(3, kAll, 1);
  claims.divide(2);
  EXPECT_TRUE(claims.asks_too_much(0));
  EXPECT_FALSE(claims.asks_too_much(1));
  EXPECT_TRUE(claims.asks_too_much(2));
  const double share = (2 - 0.2 * kRoom) / 2;
  EXPECT_DOUBLE_EQ(claims.left_to(0), share);
  EXPECT_DOUBLE_EQ(claims.left_to(2), share);
}

TEST(LaneClaimsTest, SharesAreByWeight) {
  LaneClaims claims;
  claims.add(5, kAll, 3);
  claims.add(5, kAll, 1);
  claims.divide(2);
  EXPECT_DOUBLE_EQ(claims.left_to(0), 1.5);
  EXPECT_DOUBLE_EQ(claims.left_to(1), 0.5);
}

TEST(LaneClaimsTest, WhatAModelMayNotHaveIsLeftToOthers) {
  LaneClaims claims;
  claims.add(5, 0.5, 1);
  claims.add(5, kAll, 1);
  claims.divide(2);
  EXPECT_TRUE(claims.asks_too_much(0));
  EXPECT_DOUBLE_EQ(claims.left_to(0), 0.5);
  EXPECT_DOUBLE_EQ(claims.left_to(1), 1.5);
}

TEST(LaneClaimsTest, NobodyIsNobody) {
  LaneClaims claims;
  claims.divide(2);
  claims.add(0, kAll, 1);
  claims.divide(2);
  EXPECT_DOUBLE_EQ(claims.left_to(0), 2);
  claims.clear();
  claims.add(3, kAll, 1);
  claims.divide(2);
  EXPECT_DOUBLE_EQ(claims.left_to(0), 2) << "it has all, though it asks for more";
  EXPECT_DOUBLE_EQ(claims.others(0), 0);
}

}  // namespace
}  // namespace headrace
