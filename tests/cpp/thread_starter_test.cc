#include "schedule/thread_starter.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <vector>

namespace headrace {
namespace {

int niceness() { return ::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid())); }

TEST(NormalThreadsTest, AThreadHasThePriorityOfTheStarterNotOfWhoAsks) {
  const int mine = niceness();
  NormalThreads threads;
  std::atomic<int> inherited = 100;
  std::thread behind([&] {
    ASSERT_EQ(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), std::min(mine + 5, 19)), 0);
    const auto started =
        threads.start([](void* to) { static_cast<std::atomic<int>*>(to)->store(niceness()); }, &inherited);
    ASSERT_NE(started, nullptr);
    started->join();
  });
  behind.join();
  EXPECT_EQ(inherited, mine);
}

TEST(NormalThreadsTest, ManyMayAskAtOnce) {
  NormalThreads threads;
  std::atomic<int> ran = 0;
  std::vector<std::thread> askers;
  for (int i = 0; i < 8; ++i) {
    askers.emplace_back([&] {
      for (int k = 0; k < 8; ++k) threads.start([](void* to) { ++*static_cast<std::atomic<int>*>(to); }, &ran)->join();
    });
  }
  for (std::thread& asker : askers) asker.join();
  EXPECT_EQ(ran, 64);
}

}  // namespace
}  // namespace headrace
