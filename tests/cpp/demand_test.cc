#include "schedule/demand.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace headrace {
namespace {

constexpr Nanos kBucket = Nanos{1} << Demand::kShift;

TEST(DemandTest, CountsWhatGoesBeforeAMoment) {
  Demand demand;
  const std::uint32_t first = demand.add(1, 10);
  const std::uint32_t second = demand.add(5 * kBucket, 20);
  EXPECT_EQ(demand.until(kBucket - 1), 10);
  EXPECT_EQ(demand.until(5 * kBucket - 1), 10);
  EXPECT_EQ(demand.until(5 * kBucket), 30);
  demand.remove(first, 10);
  EXPECT_EQ(demand.until(5 * kBucket), 20);
  demand.remove(second, 20);
  EXPECT_EQ(demand.all(), 0);
}

TEST(DemandTest, WhatIsOverGoesBeforeEverything) {
  Demand demand;
  const std::uint32_t at = demand.add(3 * kBucket, 10);
  demand.advance(70 * kBucket);
  const std::uint32_t again = demand.add(67 * kBucket, 5);  // the same bucket of the ring, and over too
  const std::uint32_t now = demand.add(70 * kBucket, 1);
  EXPECT_EQ(demand.until(0), 15);
  EXPECT_EQ(demand.until(70 * kBucket), 16);
  demand.remove(at, 10);
  demand.remove(again, 5);
  demand.advance(1000 * kBucket);
  demand.remove(now, 1);
  EXPECT_EQ(demand.all(), 0);
}

TEST(DemandTest, WhatIsTooFarIsTheLast) {
  Demand demand;
  const std::uint32_t at = demand.add(kNever, 10);
  EXPECT_EQ(demand.until(62 * kBucket), 0);
  EXPECT_EQ(demand.until(63 * kBucket), 10);
  demand.advance(40 * kBucket);
  EXPECT_EQ(demand.until(63 * kBucket), 10);
  demand.remove(at, 10);
}

TEST(DemandTest, WhatGoesLaterIsAskedAboutBucketByBucket) {
  Demand demand;
  const std::uint32_t a = demand.add(2 * kBucket, 10);
  const std::uint32_t b = demand.add(4 * kBucket + 5, 20);
  std::vector<std::pair<Nanos, Nanos>> asked;
  EXPECT_TRUE(demand.later_keeps(kBucket, [&asked](Nanos work, Nanos begin) {
    asked.emplace_back(work, begin);
    return true;
  }));
  EXPECT_EQ(asked, (std::vector<std::pair<Nanos, Nanos>>{{10, 2 * kBucket}, {30, 4 * kBucket}}));
  EXPECT_FALSE(demand.later_keeps(kBucket, [](Nanos work, Nanos) { return work < 30; }));
  EXPECT_TRUE(demand.later_keeps(4 * kBucket, [](Nanos, Nanos) { return false; })) << "nothing is later";
  demand.remove(a, 10);
  demand.remove(b, 20);
}

}  // namespace
}  // namespace headrace
