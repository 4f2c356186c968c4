#include "batching/cost_model.h"

#include <gtest/gtest.h>

namespace headrace {
namespace {

TEST(CostModelTest, KeepsDevicesAndShapesApart) {
  CostModel model(16);
  model.record({0, 7}, 4, 1000, 1);
  model.record({1, 7}, 4, 100, 2);
  model.record({0, 8}, 4, 5000, 3);
  EXPECT_EQ(model.predict({0, 7}, 4).typical, 1000);
  EXPECT_EQ(model.predict({1, 7}, 4).typical, 100);
  EXPECT_EQ(model.predict({0, 8}, 4).typical, 5000);
  EXPECT_FALSE(model.predict({1, 8}, 4).known);
  EXPECT_EQ(model.size(), 3U);
}

TEST(CostModelTest, OfUnknownKeysItSaysNothing) {
  CostModel model(16);
  EXPECT_EQ(model.curve({0, 1}), nullptr);
  EXPECT_EQ(model.best_rows({0, 1}, 9, kNever), 9);
  EXPECT_EQ(model.trial({0, 1}, 9, kNever), 0);
  EXPECT_EQ(model.size(), 0U);
}

TEST(CostModelTest, TheKeyThatWasRecordedLongestAgoGivesItsPlace) {
  CostModel model(16, 3);
  for (const std::uint64_t shape : {1, 2, 3}) model.record({0, shape}, 1, 100, 1);
  model.record({0, 1}, 1, 100, 2);
  model.record({0, 4}, 1, 400, 3);
  EXPECT_EQ(model.size(), 3U);
  EXPECT_EQ(model.keys(), (std::vector<CostKey>{{0, 4}, {0, 1}, {0, 3}}));
  EXPECT_FALSE(model.predict({0, 2}, 1).known);
  EXPECT_EQ(model.predict({0, 4}, 1).typical, 400);  // nothing of the old key is left
}

TEST(CostModelTest, ManyShapesStayWithinTheBound) {
  CostModel model(16);
  for (std::uint64_t shape = 0; shape < 10'000; ++shape) {
    model.record({static_cast<std::uint32_t>(shape % 3), shape * 0x9e3779b97f4a7c15U}, 1, 100, 1);
  }
  EXPECT_EQ(model.size(), CostModel::kMaxKeys);
  EXPECT_EQ(model.keys().size(), CostModel::kMaxKeys);
  for (const CostKey& key : model.keys()) EXPECT_TRUE(model.predict(key, 1).known);
}

TEST(CostModelTest, WarmUpSeedsAKey) {
  CostModel model(16);
  model.record_warmup({0, 5}, 1, 1000);
  EXPECT_TRUE(model.predict({0, 5}, 1).known);
  EXPECT_FALSE(model.predict({0, 5}, 1).sure);
}

TEST(CostModelTest, BestRowsKeepsToTheCallersBound) {
  CostModel model(64);
  EXPECT_EQ(model.best_rows({0, 1}, 32, kNever), 32);
  for (int i = 0; i < 20; ++i) {
    for (std::int64_t rows = 1; rows <= 64; ++rows) model.record({0, 1}, rows, 1000 * rows, i);
  }
  EXPECT_EQ(model.best_rows({0, 1}, 32, kNever), 1);
}

}  // namespace
}  // namespace headrace
