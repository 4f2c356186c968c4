#include "engine/thread_trial.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <utility>

#include "threaded_session.h"

namespace headrace::testing {
namespace {

class ThreadTrialTest : public ::testing::Test {
 protected:
  // Plans of one lane each: their runs go one after the other, so that the figures are exact.
  ThreadDecision decide() {
    options_.clock = &runtime_.clock;
    ThreadedSession first(runtime_, options_.plans.front().threads);
    return try_threads(
        first,
        [this](const ThreadPlan& plan) -> Result<std::unique_ptr<Session>> {
          if (plan.threads == runtime_.no_session_of) return Status(Code::kResourceExhausted, "no memory");
          return std::unique_ptr<Session>(std::make_unique<ThreadedSession>(runtime_, plan.threads));
        },
        pool_, options_);
  }
  void TearDown() override {
    EXPECT_EQ(runtime_.sessions, 0);
    EXPECT_LE(runtime_.most_sessions, 3) << "the best one, the one it is tried with, and the first";
    EXPECT_EQ(pool_.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
  }

  Pool pool_{PoolOptions()};
  Runtime runtime_;
  ThreadTrialOptions options_ = [] {
    ThreadTrialOptions made;
    made.plans = {{1, 1}, {2, 1}, {4, 1}};
    made.max_rows = 32;
    return made;
  }();
};

TEST_F(ThreadTrialTest, TakesTheThreadsThatServeMost) {
  runtime_.cost = [](int threads, std::int64_t rows) { return rows * (threads == 2 ? 3 : 5) * kMillisecond; };
  const ThreadDecision decision = decide();
  EXPECT_EQ(decision.plan, (ThreadPlan{2, 1}));
  EXPECT_EQ(decision.reason, "measured");
  EXPECT_TRUE(decision.final);
  ASSERT_EQ(decision.trials.size(), 4U);
  EXPECT_EQ(decision.trials[0].plan.threads, 1);
  EXPECT_NEAR(decision.trials[0].rate_one, 200, 1);
  EXPECT_NEAR(decision.trials[1].rate_one, 333, 1);
  EXPECT_EQ(decision.trials[1].alone, 3 * kMillisecond);
  EXPECT_EQ(decision.trials[1].rows, 8);
  EXPECT_GE(decision.trials[1].rounds, 3);
  EXPECT_EQ(decision.trials[3].plan.threads, 4);
}

TEST_F(ThreadTrialTest, LargerBatchesCount) {
  // With four threads a run costs 8 ms, whatever its rows.
  runtime_.cost = [](int threads, std::int64_t rows) { return (threads == 4 ? 8 : 5 * rows) * kMillisecond; };
  EXPECT_EQ(decide().plan.threads, 4);
  options_.max_rows = 1;
  EXPECT_EQ(decide().plan.threads, 1);
}

TEST_F(ThreadTrialTest, OneSlowRunDoesNotKeepTheLargerBatchAway) {
  int run = 0;
  runtime_.cost = [&](int threads, std::int64_t rows) {
    if (++run == 2) return 60 * kMillisecond;  // it did not get the processor
    return (threads == 1 ? 4 + rows : 3 + 2 * rows) * kMillisecond;
  };
  const ThreadDecision decision = decide();
  ASSERT_FALSE(decision.trials.empty());
  EXPECT_EQ(decision.trials[0].rows, 8);
}

TEST_F(ThreadTrialTest, AHopelessPlanEndsTheTrial) {
  runtime_.cost = [](int threads, std::int64_t rows) { return rows * threads * 5 * kMillisecond; };
  EXPECT_EQ(decide().plan.threads, 1);
  EXPECT_EQ(runtime_.loads[2], 1);
  EXPECT_EQ(runtime_.loads[4], 0);
}

TEST_F(ThreadTrialTest, ShortRunsAreNotWorthATrial) {
  runtime_.cost = [](int, std::int64_t rows) { return rows * 20 * kMicrosecond; };
  const ThreadDecision decision = decide();
  EXPECT_EQ(decision.plan.threads, 1);
  EXPECT_EQ(decision.reason, "a run of one row takes 0.02 ms, too short for more threads to pay");
  EXPECT_TRUE(decision.trials.empty());
  EXPECT_EQ(runtime_.loads[2], 0);
  EXPECT_LE(runtime_.runs, 6);
}

TEST_F(ThreadTrialTest, VeryLongRunsAreNotTried) {
  runtime_.cost = [](int, std::int64_t) { return 3 * kSecond; };
  EXPECT_EQ(decide().reason, "a run of one row takes 3000.00 ms, too long for a trial");
  EXPECT_LE(runtime_.runs, 2);
}

TEST_F(ThreadTrialTest, TheTimeOfATrialIsBounded) {
  runtime_.cost = [](int, std::int64_t rows) { return rows * 10 * kMillisecond; };
  const Nanos start = runtime_.clock.now();
  decide();
  EXPECT_LT(runtime_.clock.now() - start, 2 * kSecond);
}

TEST_F(ThreadTrialTest, ABusyServerIsNotDisturbed) {
  runtime_.cost = [](int, std::int64_t rows) { return rows * 5 * kMillisecond; };
  int asked = 0;
  options_.patience = 10 * kMillisecond;
  options_.busy = [&] { return ++asked > 2; };
  const ThreadDecision decision = decide();
  EXPECT_EQ(decision.plan.threads, 1);
  EXPECT_FALSE(decision.final) << "a later load may try again";
  EXPECT_EQ(decision.reason, "the server was busy, so nothing was tried");
  EXPECT_GT(asked, 3) << "it waits a while";
}

TEST_F(ThreadTrialTest, SaysWhyThereIsNothingToTry) {
  runtime_.cost = [](int, std::int64_t) { return kMillisecond; };
  runtime_.run_status = Status(Code::kInvalidArgument, "index out of range");
  EXPECT_EQ(decide().reason, "made-up inputs cannot run (index out of range)");
  runtime_.run_status = {};
  runtime_.no_session_of = 2;
  const ThreadDecision decision = decide();
  EXPECT_EQ(decision.reason, "a session of 2 threads could not be tried: no memory");
  EXPECT_EQ(decision.plan.threads, 1);
  options_.plans = {{1, 1}};
  EXPECT_EQ(decide().reason, "there is one way only on these cores");
}

// Runs as its inner session does, one at a time, and notes which lanes came.
class Noting final : public Session {
 public:
  explicit Noting(Runtime& runtime) : inner_(runtime, 1) {}
  const Signature& signature() const override { return inner_.signature(); }
  Status run(BatchRun& batch) override {
    MutexLock lock(mutex_);
    lanes_.insert(batch.lane);
    return inner_.run(batch);
  }
  std::set<int> lanes() {
    MutexLock lock(mutex_);
    return lanes_;
  }

 private:
  ThreadedSession inner_;
  Mutex mutex_;
  std::set<int> lanes_ HEADRACE_GUARDED_BY(mutex_);
};

TEST_F(ThreadTrialTest, APlanIsTriedWithAllOfItsLanes) {
  options_.plans = {{1, 3}, {3, 1}};
  options_.clock = &runtime_.clock;
  runtime_.cost = [](int, std::int64_t) { return 5 * kMillisecond; };
  Noting first(runtime_);
  const auto source = [this](const ThreadPlan& plan) -> Result<std::unique_ptr<Session>> {
    return std::unique_ptr<Session>(std::make_unique<ThreadedSession>(runtime_, plan.threads));
  };
  EXPECT_EQ(try_threads(first, source, pool_, options_).reason, "measured");
  EXPECT_EQ(first.lanes(), (std::set<int>{0, 1, 2}));
}

}  // namespace
}  // namespace headrace::testing
