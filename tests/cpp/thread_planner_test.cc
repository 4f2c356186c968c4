#include "engine/thread_planner.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "engine_fixture.h"
#include "threaded_session.h"

namespace headrace::testing {
namespace {

// An engine whose models run on the threaded runtime, with one lane on four cores, so that the figures are exact.
class ThreadPlannerTest : public EngineTest {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    options_.clock = &runtime_.clock;
    options_.lanes = 1;
    options_.cores = 4;
    options_.backends["threaded"] = std::make_shared<ThreadedBackend>(runtime_);
    runtime_.cost = [](int threads, std::int64_t rows) { return rows * (threads == 2 ? 3 : 5) * kMillisecond; };
    start();
    file_ = std::filesystem::temp_directory_path() / ("thread_planner_test_" + std::to_string(::getpid()));
    std::ofstream(file_) << "model";
  }
  void TearDown() override {
    std::filesystem::remove(file_);
    EngineTest::TearDown();
    EXPECT_EQ(runtime_.sessions, 0);
  }
  ModelSpec threaded() const {
    ModelSpec made = spec("m", "threaded");
    made.model_file = file_;
    made.session.intra_op_threads = 0;
    return made;
  }

  Runtime runtime_;
  std::filesystem::path file_;
};

TEST_F(ThreadPlannerTest, ATrialDecidesWhereNothingIsConfigured) {
  const auto model = load(threaded());
  EXPECT_EQ(model->threads.plan, (ThreadPlan{2, 1}));
  EXPECT_EQ(model->threads.reason, "measured");
  EXPECT_EQ(runtime_.loads[2], 2) << "the one that was tried is gone, and made anew";
  EXPECT_EQ(runtime_.sessions, 1);
  engine_->unload(model);
}

TEST_F(ThreadPlannerTest, AModelThatComesBackIsNotTriedAgain) {
  engine_->unload(load(threaded()));
  runtime_.loads.clear();
  runtime_.runs = 0;
  const auto again = load(threaded());
  EXPECT_EQ(again->threads.plan, (ThreadPlan{2, 1}));
  EXPECT_EQ(again->threads.reason, "measured (when it was loaded before)");
  EXPECT_EQ(runtime_.loads, (std::map<int, int>{{2, 1}}));
  EXPECT_EQ(runtime_.runs, 0);
  engine_->unload(again);
}

TEST_F(ThreadPlannerTest, WhatWasFoundAloneIsTriedAgainInCompany) {
  options_.lanes = 4;  // two threads and two lanes are better than one thread and four, by less than a quarter
  runtime_.cost = [](int threads, std::int64_t rows) { return rows * (threads == 2 ? 45 : 100) * kMillisecond / 10; };
  start();
  engine_->unload(load(threaded()));
  const auto other = load(spec("other"));
  const auto model = load(threaded());
  EXPECT_EQ(model->threads.plan, (ThreadPlan{1, 4})) << "its runs would wait for two cores at once";
  EXPECT_EQ(model->threads.reason, "measured, beside other models");
  engine_->unload(other);
  engine_->unload(model);
  const auto alone = load(threaded());
  EXPECT_EQ(alone->threads.plan, (ThreadPlan{2, 2}));
  EXPECT_EQ(alone->threads.reason, "measured (when it was loaded before)");
  engine_->unload(alone);
}

TEST_F(ThreadPlannerTest, AFileThatWasWrittenAgainIsTriedAgain) {
  engine_->unload(load(threaded()));
  std::ofstream(file_) << "another model";
  const auto other = load(threaded());
  EXPECT_EQ(other->threads.reason, "measured");
  engine_->unload(other);
  ModelSpec wide = threaded();
  wide.batching.max_batch_size = 16;
  const auto wider = load(wide);
  EXPECT_EQ(wider->threads.reason, "measured") << "what it is asked to do differs";
  engine_->unload(wider);
}

TEST_F(ThreadPlannerTest, WhatIsConfiguredIsObeyed) {
  ModelSpec told = threaded();
  told.session.intra_op_threads = 3;
  const auto model = load(told);
  EXPECT_EQ(model->threads.plan, (ThreadPlan{3, 1}));
  EXPECT_EQ(model->threads.reason, "as configured");
  EXPECT_EQ(runtime_.loads, (std::map<int, int>{{3, 1}}));
  EXPECT_EQ(runtime_.runs, 0);
  engine_->unload(model);
  told = threaded();
  told.session.parallel_execution = true;
  told.session.inter_op_threads = 4;
  const auto parallel = load(told);
  EXPECT_EQ(parallel->threads.plan, (ThreadPlan{1, 1}));
  engine_->unload(parallel);
}

TEST_F(ThreadPlannerTest, ABackendWithoutComputeThreadsIsNotTried) {
  ModelSpec plain = spec("m");
  plain.session.intra_op_threads = 0;
  const auto model = load(plain);
  EXPECT_EQ(model->threads.plan, (ThreadPlan{1, 1}));
  EXPECT_EQ(model->threads.reason, "its backend has no compute threads");
  engine_->unload(model);
}

TEST_F(ThreadPlannerTest, ASessionThatCannotBeMadeAgainIsAFaultOfTheLoad) {
  engine_->unload(load(threaded()));
  runtime_.no_session_of = 2;
  const Result<std::shared_ptr<Model>> model = engine_->load(threaded());
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.status().message(), "no memory");
}

}  // namespace
}  // namespace headrace::testing
