#include "batching/policy.h"

#include <gtest/gtest.h>

namespace headrace {
namespace {

TEST(BatchingPolicyTest, WithoutLevelsEveryPriorityIsTheSame) {
  const BatchingPolicy policy;
  EXPECT_EQ(policy.level_of(0), 0U);
  EXPECT_EQ(policy.level_of(7), 0U);
}

TEST(BatchingPolicyTest, ALevelThatThereIsNotIsTheDefault) {
  BatchingPolicy policy;
  policy.priority_levels = 3;
  policy.default_priority_level = 2;
  EXPECT_EQ(policy.level_of(0), 2U);
  EXPECT_EQ(policy.level_of(1), 1U);
  EXPECT_EQ(policy.level_of(3), 3U);
  EXPECT_EQ(policy.level_of(4), 2U);
  policy.default_priority_level = 9;
  EXPECT_EQ(policy.level_of(0), 3U);
}

TEST(BatchingPolicyTest, ALevelsOwnQueuePolicyTakesTheDefaultsPlace) {
  BatchingPolicy policy;
  policy.default_timeout = 100;
  policy.allow_timeout_override = true;
  policy.level_queue[2] = {TimeoutAction::kDelay, 50, false, 7};
  EXPECT_EQ(policy.timeout_of(1, kNever), 100);
  EXPECT_EQ(policy.timeout_of(1, 20), 20);
  EXPECT_EQ(policy.timeout_of(1, 200), 100) << "a request can only shorten it";
  EXPECT_EQ(policy.timeout_of(2, 20), 50);
  EXPECT_EQ(policy.queue_of(2).max_queue_size, 7U);
  EXPECT_EQ(policy.queue_of(1).max_queue_size, 0U);
}

TEST(BatchingPolicyTest, KnowsWhetherAnyLevelDelays) {
  BatchingPolicy policy;
  EXPECT_FALSE(policy.delays_late());
  policy.level_queue[3].timeout_action = TimeoutAction::kDelay;
  EXPECT_TRUE(policy.delays_late());
  policy.level_queue.clear();
  policy.timeout_action = TimeoutAction::kDelay;
  EXPECT_TRUE(policy.delays_late());
}

}  // namespace
}  // namespace headrace
