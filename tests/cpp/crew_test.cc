#include "schedule/crew.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <set>

namespace headrace {
namespace {

TEST(CrewTest, EachPieceIsDoneOnceByAThreadOfTheLowestPriority) {
  Mutex mutex;
  std::set<int> pieces;
  std::set<pid_t> threads;
  std::set<int> priorities;
  const int before = ::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()));
  {
    Crew crew(3, [&](int piece) {
      MutexLock lock(mutex);
      pieces.insert(piece);
      threads.insert(::gettid());
      priorities.insert(::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid())));
    });
    EXPECT_TRUE(crew.wait_until(kNever));
  }
  EXPECT_EQ(pieces, (std::set<int>{0, 1, 2}));
  EXPECT_EQ(threads.size(), 3U);
  EXPECT_EQ(priorities, std::set<int>{19});
  EXPECT_EQ(::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid())), before) << "ours is as it was";
}

TEST(CrewTest, PiecesGoSideBySide) {
  std::atomic<int> there{0};
  Crew crew(4, [&](int) {
    there.fetch_add(1);
    there.notify_all();
    for (int seen = there.load(); seen < 4; seen = there.load()) there.wait(seen);
  });
  EXPECT_TRUE(crew.wait_until(kNever)) << "each needs the others";
}

TEST(CrewTest, WaitingHasAnEnd) {
  std::atomic<bool> go{false};
  Crew crew(1, [&](int) { go.wait(false); });
  EXPECT_FALSE(crew.wait_until(SteadyClock::instance().now() + kMillisecond));
  go.store(true);
  go.notify_all();
  EXPECT_TRUE(crew.wait_until(kNever));
}

}  // namespace
}  // namespace headrace
