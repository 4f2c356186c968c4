#include "engine/trace.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace headrace {
namespace {

TEST(TraceSampler, TakesEverySoMany) {
  TraceSampler sampler(7, 3, -1);
  std::vector<bool> taken;
  for (int i = 0; i < 7; ++i) taken.push_back(sampler.sample());
  EXPECT_EQ(taken, (std::vector<bool>{false, false, true, false, false, true, false}));
  EXPECT_EQ(sampler.id(), 7U);
  EXPECT_EQ(sampler.remaining(), -1);
}

TEST(TraceSampler, TakesNoMoreThanItsCount) {
  TraceSampler sampler(1, 2, 2);
  int taken = 0;
  for (int i = 0; i < 20; ++i) taken += sampler.sample() ? 1 : 0;
  EXPECT_EQ(taken, 2);
  EXPECT_EQ(sampler.remaining(), 0);
  TraceSampler none(1, 1, 0);
  EXPECT_FALSE(none.sample());
}

TEST(TraceSampler, ThreadsShareOneCount) {
  TraceSampler sampler(1, 4, 1000);
  std::atomic<int> taken = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 2000; ++n) taken += sampler.sample() ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(taken, 1000);
  EXPECT_EQ(sampler.remaining(), 0);
}

}  // namespace
}  // namespace headrace
