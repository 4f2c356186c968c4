#include "engine/thread_choice.h"

#include <gtest/gtest.h>

#include <vector>

namespace headrace {
namespace {

using Plans = std::vector<ThreadPlan>;

TEST(ThreadPlansTest, ThreadsTimesLanesNeverExceedTheCores) {
  for (int cores = 1; cores <= 130; ++cores) {
    for (const int lanes : {1, 2, 4, cores}) {
      for (const int max_lanes : {0, 1, 3}) {
        const Plans plans = thread_plans(cores, lanes, max_lanes);
        ASSERT_FALSE(plans.empty());
        EXPECT_LE(plans.size(), 4U);
        EXPECT_EQ(plans.front().threads, 1);
        EXPECT_EQ(plans.back().threads, cores);
        for (std::size_t i = 0; i < plans.size(); ++i) {
          EXPECT_LE(plans[i].threads * plans[i].lanes, cores);
          EXPECT_LE(plans[i].lanes, lanes);
          EXPECT_GE(plans[i].lanes, 1);
          EXPECT_TRUE(max_lanes == 0 || plans[i].lanes <= max_lanes);
          EXPECT_TRUE(i == 0 || plans[i].threads > plans[i - 1].threads);
        }
      }
    }
  }
}

TEST(ThreadPlansTest, TakesTheCoresForThreadsOrForLanes) {
  EXPECT_EQ(thread_plans(1, 1, 0), (Plans{{1, 1}}));
  EXPECT_EQ(thread_plans(2, 2, 0), (Plans{{1, 2}, {2, 1}}));
  EXPECT_EQ(thread_plans(6, 6, 0), (Plans{{1, 6}, {2, 3}, {4, 1}, {6, 1}}));
  EXPECT_EQ(thread_plans(64, 64, 0), (Plans{{1, 64}, {4, 16}, {16, 4}, {64, 1}}));
  EXPECT_EQ(thread_plans(4, 4, 1), (Plans{{1, 1}, {2, 1}, {4, 1}}));
}

ThreadFigures figures(double rate_one, double rate_rows, Nanos alone) {
  ThreadFigures made;
  made.rows = 8;
  made.rate_one = rate_one;
  made.rate_rows = rate_rows;
  made.alone = alone;
  return made;
}

TEST(ThreadVerdictTest, MoreThroughputWins) {
  const ThreadVerdict verdict = judge(figures(100, 110, 1000), figures(90, 120, 1000), false);
  EXPECT_TRUE(verdict.takes_over) << "the larger batch counts, where it pays";
  EXPECT_TRUE(verdict.go_on);
  EXPECT_FALSE(judge(figures(100, 110, 1000), figures(110, 100, 1000), false).takes_over);
}

TEST(ThreadVerdictTest, AsGoodAThroughputAndASoonerAnswerWins) {
  EXPECT_TRUE(judge(figures(100, 0, 1000), figures(98, 0, 600), false).takes_over);
  EXPECT_FALSE(judge(figures(100, 0, 1000), figures(96, 0, 600), false).takes_over) << "it would cost throughput";
  EXPECT_FALSE(judge(figures(100, 0, 1000), figures(100, 0, 950), false).takes_over) << "threads for nothing";
}

TEST(ThreadVerdictTest, InCompanyLanesAreNotGivenUpForALittle) {
  ThreadFigures narrow = figures(100, 110, 1000);
  narrow.plan = {1, 2};
  ThreadFigures wide = figures(100, 130, 600);
  wide.plan = {2, 1};
  EXPECT_TRUE(judge(narrow, wide, false).takes_over);
  EXPECT_FALSE(judge(narrow, wide, true).takes_over) << "a run of all cores waits for everybody's longest";
  wide.rate_rows = 140;
  EXPECT_TRUE(judge(narrow, wide, true).takes_over);
  narrow.plan.lanes = 1;  // as configured: there is no lane to be given up
  wide.rate_rows = 115;
  EXPECT_TRUE(judge(narrow, wide, true).takes_over);
}

TEST(ThreadVerdictTest, EvenMoreThreadsAreNotTriedBehindAHopelessPlan) {
  EXPECT_TRUE(judge(figures(100, 0, 1000), figures(81, 0, 600), false).go_on);
  EXPECT_FALSE(judge(figures(100, 0, 1000), figures(79, 0, 600), false).go_on);
}

TEST(ThreadVerdictTest, APlanWithoutFiguresLoses) {
  const ThreadVerdict verdict = judge(figures(100, 0, 1000), figures(0, 0, 0), false);
  EXPECT_FALSE(verdict.takes_over);
  EXPECT_FALSE(verdict.go_on);
  EXPECT_FALSE(judge(figures(0, 0, 0), figures(0, 0, 0), false).takes_over);
}

TEST(MedianTest, IsTheMiddleOne) {
  EXPECT_EQ(median({}), 0);
  EXPECT_EQ(median({3}), 3);
  EXPECT_EQ(median({9, 1}), 5);
  EXPECT_EQ(median({9, 1, 2}), 2);
  EXPECT_EQ(median({4, 100, 1, 2}), 3);
}

}  // namespace
}  // namespace headrace
