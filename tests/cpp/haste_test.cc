#include "batching/haste.h"

#include <gtest/gtest.h>

namespace headrace {
namespace {

TEST(HasteTest, NobodyIsInHasteUntilSomebodyComes) {
  Haste haste;
  EXPECT_EQ(haste.exact(0), kNever);
  EXPECT_EQ(haste.span(), kNever);
  EXPECT_FALSE(haste.moved(0));
}

TEST(HasteTest, TheSpansOfAFewSayWhatManyHaveToHeed) {
  Haste haste;
  for (int i = 0; i < 2000; ++i) haste.note((i % 16 == 0 ? 50 : 400) * kMillisecond, i);
  EXPECT_GE(haste.exact(2000), 50 * kMillisecond);
  EXPECT_LT(haste.exact(2000), 120 * kMillisecond) << "one in sixteen is not to be overlooked";
}

TEST(HasteTest, OneOddSpanIsForgottenSoon) {
  Haste haste;
  for (int i = 0; i < 100; ++i) haste.note(400 * kMillisecond, i);
  haste.note(1, 100);
  EXPECT_GE(haste.exact(100), 300 * kMillisecond);
  for (int i = 0; i < 512; ++i) haste.note(400 * kMillisecond, 101 + i);
  EXPECT_GT(haste.exact(613), 380 * kMillisecond);
}

TEST(HasteTest, WhoCameLongAgoCountsNoMore) {
  Haste haste;
  haste.note(50 * kMillisecond, 0);
  EXPECT_EQ(haste.exact(Haste::kForgotten), 50 * kMillisecond);
  EXPECT_EQ(haste.exact(Haste::kForgotten + 1), kNever);
  haste.note(80 * kMillisecond, 2 * Haste::kForgotten);
  EXPECT_EQ(haste.exact(2 * Haste::kForgotten), 80 * kMillisecond) << "the first after that begins anew";
}

TEST(HasteTest, WhatIsFollowedMovesInSteps) {
  Haste haste;
  haste.note(100 * kMillisecond, 0);
  EXPECT_TRUE(haste.moved(0));
  const std::uint64_t before = haste.edition();
  haste.set_span(haste.exact(0));
  EXPECT_NE(haste.edition(), before);
  EXPECT_FALSE(haste.moved(0));
  haste.note(10 * kMillisecond, 1);  // 77.5 ms
  EXPECT_FALSE(haste.moved(1));
  haste.note(10 * kMillisecond, 2);  // 60.6 ms
  EXPECT_TRUE(haste.moved(2));
  EXPECT_TRUE(haste.moved(Haste::kForgotten * 2)) << "nobody is in haste any more";
}

}  // namespace
}  // namespace headrace
