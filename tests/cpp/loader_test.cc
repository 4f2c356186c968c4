#include "engine/loader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "engine_fixture.h"

namespace headrace::testing {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

// Loads trial sessions that are said to have 1 MiB of weights: 1.5 MiB while loaded, 3 MiB while loading.
class Heavy final : public Backend {
 public:
  explicit Heavy(Trial& trial) : inner_(trial) {}
  std::string_view name() const override { return "heavy"; }
  std::string version() const override { return ""; }
  Result<std::uint64_t> weight_bytes(const std::string& file, const std::string& /*dir*/) override {
    return file == "/models/huge" ? std::uint64_t{1} << 40 : kMiB;
  }
  Result<std::unique_ptr<Session>> load(const std::string& file, const std::string& dir,
                                        const SessionOptions& options) override {
    const MutexLock lock(mutex_);
    ++begun_[file];
    most_ = std::max(most_, ++now_);
    changed_.notify_all();
    while (held_) changed_.wait(mutex_);
    --now_;
    if (broken_) return internal_error("the disk is gone");
    return inner_.load(file, dir, options);
  }
  void hold(bool held) {
    const MutexLock lock(mutex_);
    held_ = held;
    changed_.notify_all();
  }
  void fail(bool broken) {
    const MutexLock lock(mutex_);
    broken_ = broken;
  }
  void await(const std::string& name, int loads) {
    const MutexLock lock(mutex_);
    const auto limit = patience();
    while (begun_["/models/" + name] < loads && std::chrono::steady_clock::now() < limit)
      changed_.wait_until(mutex_, limit);
    EXPECT_GE(begun_["/models/" + name], loads);
  }
  int loads(const std::string& name) {
    const MutexLock lock(mutex_);
    return begun_["/models/" + name];
  }
  int most() {
    const MutexLock lock(mutex_);
    return most_;
  }

 private:
  TrialBackend inner_;
  Mutex mutex_;
  CondVar changed_;
  bool held_ = false;
  bool broken_ = false;
  int now_ = 0;
  int most_ = 0;
  std::map<std::string, int> begun_;
};

class LoaderTest : public EngineTest {
 protected:
  LoaderTest() : heavy_(std::make_shared<Heavy>(trial_)) { options_.backends["heavy"] = heavy_; }
  // Room for two, and for one more only where one of them goes.
  void start_tight() {
    options_.model_memory = 4 * kMiB + 700'000;
    options_.measure_memory = false;
    start();
  }
  std::shared_ptr<Model> heavy(const std::string& name) { return load(spec(name, "heavy")); }
  LoaderStats stats() const { return engine_->snapshot().loader; }
  bool asleep(const std::string& name) const { return row(name).residency.asleep; }
  // What a loader's thread does is over when nothing loads or waits.
  template <class Condition>
  static void eventually(Condition condition) {
    const auto limit = patience();
    bool met = condition();
    for (; !met && std::chrono::steady_clock::now() < limit; met = condition()) std::this_thread::yield();
    EXPECT_TRUE(met);
  }

  std::shared_ptr<Heavy> heavy_;
};

TEST_F(LoaderTest, WhatDoesNotFitSleepsAndAnswersAllTheSame) {
  start_tight();
  const auto a = heavy("a");
  const auto b = heavy("b");
  const auto c = heavy("c");
  EXPECT_EQ(stats().resident, 2U);
  EXPECT_EQ(stats().asleep, 1U);
  EXPECT_EQ(stats().evictions, 1U);
  EXPECT_EQ(trial_.sessions(), 2);
  EXPECT_LE(stats().bytes_peak, stats().budget);
  for (const auto& model : {a, b, c, a, b, c}) submit(*model, {1});
  answers_.await(6);
  for (const Answer& answer : answers_.all()) EXPECT_TRUE(answer.status.ok()) << answer.status.to_string();
  EXPECT_LE(stats().bytes_peak, stats().budget);
  EXPECT_LE(trial_.sessions(), 2);
  EXPECT_EQ(stats().loads, stats().evictions + stats().resident);
}

TEST_F(LoaderTest, FirstRequestsShareOneLoad) {
  start_tight();
  const auto a = heavy("a");
  heavy("b");
  heavy("c");
  ASSERT_TRUE(asleep("a"));
  heavy_->hold(true);
  for (int i = 0; i < 20; ++i) submit(*a, {i});
  heavy_->await("a", 2);
  for (int i = 0; i < 20; ++i) submit(*a, {i});
  EXPECT_EQ(engine_->snapshot().tickets, 40U);
  EXPECT_EQ(stats().misses, 40U);
  heavy_->hold(false);
  answers_.await(40);
  EXPECT_EQ(heavy_->loads("a"), 2);
  eventually([&] { return !asleep("a"); });
  EXPECT_EQ(row("a").residency.loads, 2U);
}

TEST_F(LoaderTest, ADeadlineEndsAWaitForALoad) {
  start_tight();
  const auto a = heavy("a");
  heavy("b");
  heavy("c");
  heavy_->hold(true);
  Ticket* late = submit(*a, {1}, clock_.now() + kMillisecond);
  Ticket* patient = submit(*a, {2});
  heavy_->await("a", 2);
  clock_.advance(2 * kMillisecond);
  answers_.await(1);
  EXPECT_EQ(of(late).status.code(), Code::kDeadlineExceeded);
  heavy_->hold(false);
  answers_.await(2);
  EXPECT_TRUE(of(patient).status.ok());
}

TEST_F(LoaderTest, AModelInUseIsNotEvictedAndTheLoadWaits) {
  start_tight();
  const auto a = heavy("a");
  const auto b = heavy("b");
  const auto c = heavy("c");
  ASSERT_TRUE(asleep("a"));
  trial_.hold();
  submit(*b, {1});
  submit(*c, {2});
  trial_.await_inside(2);
  submit(*a, {3});
  eventually([&] { return stats().waiting == 1; });
  EXPECT_EQ(trial_.sessions(), 2);
  EXPECT_EQ(stats().evictions, 1U) << "the one of before";
  trial_.let_go();
  answers_.await(3);
  EXPECT_EQ(stats().evictions, 2U);
}

TEST_F(LoaderTest, AReloadThatFailsAnswersThoseWhoWaitAndIsTriedAgainLater) {
  start_tight();
  const auto a = heavy("a");
  heavy("b");
  heavy("c");
  ASSERT_TRUE(asleep("a"));
  heavy_->fail(true);
  Ticket* first = submit(*a, {1});
  answers_.await(1);
  EXPECT_EQ(of(first).status.to_string(),
            "UNAVAILABLE: model 'a' version 1 could not be loaded again: the disk is gone");
  heavy_->fail(false);
  Ticket* second = submit(*a, {2});
  answers_.await(2);
  EXPECT_EQ(
      of(second).status.to_string(),
      "UNAVAILABLE: model 'a' version 1 could not be loaded again: the disk is gone; it is tried again in 100 ms");
  clock_.advance(Residency::kFirstPause);
  Ticket* third = submit(*a, {3});
  answers_.await(3);
  EXPECT_TRUE(of(third).status.ok()) << of(third).status.to_string();
  EXPECT_EQ(stats().failures, 1U);
}

TEST_F(LoaderTest, NobodyLeftToWaitMeansNoLoad) {
  start_tight();
  const auto a = heavy("a");
  const auto b = heavy("b");
  const auto c = heavy("c");
  trial_.hold();
  submit(*b, {1});
  submit(*c, {2});
  trial_.await_inside(2);
  Ticket* gone = submit(*a, {3});
  eventually([&] { return stats().waiting == 1; });
  engine_->cancel(gone, {Code::kCancelled, "the caller left"});
  trial_.let_go();
  answers_.await(3);
  eventually([&] { return stats().waiting == 0 && stats().loading == 0; });
  EXPECT_EQ(heavy_->loads("a"), 1);
  submit(*a, {4});
  answers_.await(4);
  EXPECT_EQ(heavy_->loads("a"), 2);
}

TEST_F(LoaderTest, UnloadWaitsForALoadInProgressAndServesTheQueued) {
  start_tight();
  const auto a = heavy("a");
  heavy("b");
  heavy("c");
  heavy_->hold(true);
  Ticket* queued = submit(*a, {1});
  heavy_->await("a", 2);
  std::thread unloader([&] { engine_->unload(a, true); });
  heavy_->hold(false);
  unloader.join();
  answers_.await(1);
  EXPECT_TRUE(of(queued).status.ok());
  EXPECT_EQ(trial_.sessions(), 1);
}

TEST_F(LoaderTest, UnloadOfASleepingModelAnswersWhoWaitsForIt) {
  start_tight();
  const auto a = heavy("a");
  heavy("b");
  heavy("c");
  heavy_->hold(true);
  Ticket* queued = submit(*a, {1});
  heavy_->await("a", 2);
  std::thread unloader([&] { engine_->unload(a); });
  answers_.await(1);
  EXPECT_EQ(of(queued).status.to_string(), "UNAVAILABLE: model 'a' version 1 was unloaded");
  heavy_->hold(false);
  unloader.join();
  EXPECT_EQ(stats().resident + stats().asleep, 2U);
  EXPECT_LE(stats().bytes, 2 * (kMiB + kMiB / 2));
}

TEST_F(LoaderTest, CloseEndsWhatLoadsAndRefusesWhatWaits) {
  options_.load_threads = 1;
  start_tight();
  const auto a = heavy("a");
  heavy("b");
  heavy("c");
  heavy_->hold(true);
  Ticket* queued = submit(*a, {1});
  heavy_->await("a", 2);
  Result<std::shared_ptr<Model>> late = Status(Code::kInternal, "not loaded yet");
  std::thread loader([&] { late = engine_->load(spec("d", "heavy")); });
  eventually([&] { return stats().waiting == 1; });
  std::thread closer([&] { engine_->close(); });
  answers_.await(1);
  EXPECT_EQ(of(queued).status.code(), Code::kUnavailable);
  heavy_->hold(false);
  closer.join();
  loader.join();
  EXPECT_EQ(late.status().to_string(), "UNAVAILABLE: the server is shutting down");
}

TEST_F(LoaderTest, NoMoreLoadsAtOneTimeThanThreads) {
  options_.load_threads = 2;
  start();
  heavy_->hold(true);
  std::vector<std::thread> loaders;
  for (int i = 0; i < 4; ++i) loaders.emplace_back([&, i] { heavy("m" + std::to_string(i)); });
  eventually([&] { return heavy_->most() == 2 && stats().waiting == 2; });
  heavy_->hold(false);
  for (std::thread& loader : loaders) loader.join();
  EXPECT_EQ(heavy_->most(), 2);
}

TEST_F(LoaderTest, WeightsBeyondTheBudgetAreRefusedUnread) {
  start_tight();
  EXPECT_EQ(engine_->load(spec("huge", "heavy")).status().to_string(),
            "RESOURCE_EXHAUSTED: model 'huge' has 1048576 MiB of weights; all models together may have 5 MiB "
            "(--model-memory-budget)");
  EXPECT_EQ(heavy_->loads("huge"), 0);
  EXPECT_EQ(stats().resident + stats().asleep + stats().waiting, 0U);
}

TEST_F(LoaderTest, ManyThreadsAndFewPlaces) {
  SteadyClock& steady = SteadyClock::instance();
  options_.clock = &steady;
  start_tight();
  std::vector<std::shared_ptr<Model>> models;
  for (int i = 0; i < 8; ++i) models.push_back(heavy("m" + std::to_string(i)));
  constexpr int kRequests = 2000;
  // Requests in order of a seeded draw; the sink takes answers meanwhile.
  std::uint32_t state = 1;
  for (int i = 0; i < kRequests; ++i) {
    state = state * 1664525U + 1013904223U;
    submit(*models[(state >> 16) % (state >> 24 > 200 ? 8 : 2)], {i});
  }
  answers_.await(kRequests);
  for (const Answer& answer : answers_.all()) ASSERT_TRUE(answer.status.ok()) << answer.status.to_string();
  EXPECT_LE(stats().bytes_peak, stats().budget);
  std::vector<std::thread> unloaders;
  for (const auto& model : models) unloaders.emplace_back([&, model] { engine_->unload(model); });
  for (std::thread& unloader : unloaders) unloader.join();
  EXPECT_EQ(stats().bytes, 0U);
  EXPECT_EQ(trial_.sessions(), 0);
}

}  // namespace
}  // namespace headrace::testing
