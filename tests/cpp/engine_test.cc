#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/completions.h"
#include "engine_fixture.h"

namespace headrace::testing {
namespace {

TEST_F(EngineTest, LoadsAModelAndAnswers) {
  start();
  const auto model = load(spec("m"));
  EXPECT_EQ(model->name, "m");
  EXPECT_EQ(model->version_text, "1");
  EXPECT_EQ(model->backend, "trial");
  EXPECT_TRUE(model->batched());
  EXPECT_EQ(model->batching_reason, "config.pbtxt sets max_batch_size: 8 and dynamic_batching");
  Ticket* only = submit(*model, {21});
  answers_.await(1);
  EXPECT_EQ(of(only).outputs, (std::vector<Values>{{42}, {-21}}));
}

TEST_F(EngineTest, WithoutALimitAllLanesRunAModel) {
  start();
  const auto model = load(spec("m"));
  EXPECT_EQ(model->max_lanes, 0);
  trial_.hold();
  submit(*model, {1});
  trial_.await_inside(1);
  submit(*model, {2});
  trial_.await_inside(2);
}

TEST_F(EngineTest, AModelMayHaveFewerLanesThanThereAre) {
  start();
  ModelSpec narrow = spec("m");
  narrow.max_lanes = 1;
  const auto model = load(narrow);
  trial_.hold();
  submit(*model, {1});
  trial_.await_inside(1);
  submit(*model, {2});
  clock_.await_waiters(2);  // the other lane, the timer thread
  trial_.let_go();
  answers_.await(2);
  EXPECT_EQ(trial_.most_inside(), 1);
}

TEST_F(EngineTest, WhyAModelCannotBeLoaded) {
  start();
  ModelSpec broken = spec("m");
  broken.model_file = "broken";
  EXPECT_EQ(engine_->load(broken).status().to_string(), "INVALID_ARGUMENT: the file is broken");
  EXPECT_EQ(engine_->load(spec("m", "fortran")).status().code(), Code::kNotFound);
  EXPECT_EQ(engine_->load(spec("m", "onnxruntime")).status().code(), Code::kFailedPrecondition)
      << "no library was named";
  EXPECT_TRUE(engine_->snapshot().models.empty());
  EXPECT_EQ(trial_.sessions(), 0);
}

TEST_F(EngineTest, TheRuleByWhichAModelIsBatchedIsNamed) {
  start();
  ModelSpec plain = spec("plain");
  plain.batching.dynamic_batching = false;
  EXPECT_EQ(load(plain)->batching_reason,
            "config.pbtxt sets max_batch_size: 8 without dynamic_batching, so each request runs alone");
  ModelSpec none = spec("none");
  none.batching.max_batch_size = 0;
  const auto unbatched = load(none);
  EXPECT_EQ(unbatched->batching_reason,
            "not batched: config.pbtxt sets max_batch_size: 0, so shapes are the model's own");
  EXPECT_FALSE(unbatched->batched());
  EXPECT_FALSE(unbatched->policy.dynamic_batching);
  ModelSpec probed = spec("probed");
  probed.batching_decided = false;
  const auto tried = load(probed);
  EXPECT_TRUE(tried->batched()) << tried->batching_reason;
  EXPECT_EQ(tried->batching_reason.rfind("no config says; ", 0), 0U) << tried->batching_reason;
  EXPECT_FALSE(trial_.runs().empty()) << "found out by trying";
}

TEST_F(EngineTest, AProbeThatFailsMeansNotBatched) {
  start();
  trial_.fail_on(0);
  trial_.fail_on(1);
  ModelSpec probed = spec("probed");
  probed.batching_decided = false;
  const auto model = load(probed);
  EXPECT_FALSE(model->batched());
  EXPECT_EQ(model->batching_reason.rfind("not batched: ", 0), 0U) << model->batching_reason;
}

TEST_F(EngineTest, EachCatalogIsAnEditionOfItsOwn) {
  start();
  const std::uint64_t first = engine_->catalog_edition();
  const auto empty = engine_->catalog();
  ASSERT_NE(empty, nullptr);
  EXPECT_FALSE(empty->resolve("m", "").ok());
  auto model = load(spec("m"));
  auto catalog = std::make_shared<Catalog>();
  catalog->add("m", "", model);
  engine_->publish(catalog);
  EXPECT_NE(engine_->catalog_edition(), first);
  EXPECT_EQ(engine_->catalog(), catalog);
  EXPECT_FALSE(empty->resolve("m", "").ok()) << "what was published never changes";
}

TEST_F(EngineTest, ALoadInProgressKeepsNobodyFromTheCatalog) {
  // A backend whose load waits for the test.
  struct Slow final : Backend {
    explicit Slow(Trial& trial) : inner(trial) {}
    std::string_view name() const override { return "slow"; }
    std::string version() const override { return ""; }
    Result<std::unique_ptr<Session>> load(const std::string& file, const std::string& dir,
                                          const SessionOptions& options) override {
      MutexLock lock(mutex);
      entered = true;
      changed.notify_all();
      while (!open) changed.wait(mutex);
      return inner.load(file, dir, options);
    }
    TrialBackend inner;
    Mutex mutex;
    CondVar changed;
    bool entered = false;
    bool open = false;
  };
  const auto slow = std::make_shared<Slow>(trial_);
  options_.backends["slow"] = slow;
  start();
  std::thread loader([&] { load(spec("m", "slow")); });
  {
    MutexLock lock(slow->mutex);
    while (!slow->entered) slow->changed.wait(slow->mutex);
  }
  EXPECT_NE(engine_->catalog(), nullptr);
  EXPECT_TRUE(engine_->snapshot().models.empty());
  const auto other = load(spec("quick"));
  submit(*other, {1});
  answers_.await(1);
  {
    MutexLock lock(slow->mutex);
    slow->open = true;
    slow->changed.notify_all();
  }
  loader.join();
}

TEST_F(EngineTest, TheSnapshotCountsWhatHappened) {
  options_.learns_costs = false;  // no size is tried
  start();
  const auto model = load(spec("m"));
  const auto other = load(spec("other", "other"));
  Snapshot snapshot = engine_->snapshot();
  EXPECT_EQ(snapshot.lanes, 2);
  EXPECT_EQ(snapshot.lanes_busy, 0);
  EXPECT_EQ(snapshot.models.size(), 2U);
  EXPECT_EQ(row("m").last_inference_ms, 0) << "never";

  trial_.hold();
  trial_.on_run([&](const Values&) { clock_.advance(700); });
  submit(*model, {1});
  trial_.await_inside(1);
  InflightBudget::Charge charge = engine_->budget().take(1000);
  snapshot = engine_->snapshot();
  EXPECT_EQ(snapshot.tickets, 1U);
  EXPECT_EQ(snapshot.lanes_busy, 1);
  EXPECT_EQ(snapshot.inflight_bytes, 1000U);
  EXPECT_EQ(snapshot.pool.blocks_in_use, 1U);
  EXPECT_EQ(row("m").depth.running, 1U);
  charge.release();
  EXPECT_EQ(engine_->snapshot().inflight_bytes, 0U);
  EXPECT_EQ(engine_->snapshot().inflight_bytes_peak, 1000U);
  trial_.let_go();
  answers_.await(1);

  clock_.await_waiters(3);  // both lanes sleep
  trial_.fail_on(5);
  std::vector<Ticket*> chain;
  for (const std::int32_t value : {3, 4, 5}) chain.push_back(tickets_->make({value}, model->entry, clock_.now()));
  engine_->submit(Tickets::chain(chain));
  answers_.await(4);
  const ModelSnapshot m = row("m");
  // Runs: {1}; {3, 4, 5} which fails, {3, 4}, {5} which fails.
  EXPECT_EQ(m.version, 1);
  EXPECT_EQ(m.stats.inference_count, 3U);
  EXPECT_EQ(m.stats.execution_count, 2U);
  EXPECT_EQ(m.stats.success.count, 3U);
  EXPECT_EQ(m.stats.success.ns, 700U + 2 * 1400U);
  EXPECT_EQ(m.stats.queue.ns, 2 * 700U) << "those of the second half waited for the first run of the whole";
  EXPECT_EQ(m.stats.compute_infer.count, 3U);
  EXPECT_EQ(m.stats.compute_infer.ns, 700U + 2 * 700U);
  EXPECT_EQ(m.stats.fail.count, 1U);
  EXPECT_EQ(m.stats.fail.ns, 3 * 700U);
  ASSERT_EQ(m.stats.batches.size(), 2U);
  EXPECT_EQ(m.stats.batches.at(1).compute_infer.count, 1U);
  EXPECT_EQ(m.stats.batches.at(2).compute_infer.ns, 700U);
  EXPECT_GT(m.last_inference_ms, std::int64_t{1'600'000'000'000}) << "since the epoch";
  EXPECT_EQ(row("other").stats.inference_count, 0U);
}

TEST_F(EngineTest, DrainWaitsForWhatIsInFlight) {
  start();
  const auto model = load(spec("m"));
  EXPECT_TRUE(engine_->drain(clock_.now()));
  trial_.hold();
  submit(*model, {1});
  trial_.await_inside(1);
  EXPECT_FALSE(engine_->drain(clock_.now())) << "time is up";
  std::thread drainer([&] { EXPECT_TRUE(engine_->drain(clock_.now() + kSecond)); });
  clock_.await_waiters(3);  // a lane, the timer thread, and it
  trial_.let_go();
  drainer.join();
  EXPECT_EQ(answers_.size(), 1U);
}

TEST_F(EngineTest, CloseAnswersEverybodyFromWhateverThread) {
  start();
  const auto model = load(spec("m"));
  trial_.hold();
  Ticket* running = submit(*model, {1});
  trial_.await_inside(1);
  std::vector<std::thread> closers;
  for (int i = 0; i < 3; ++i) closers.emplace_back([&] { engine_->close(); });
  for (std::thread& closer : closers) closer.join();
  EXPECT_EQ(of(running).status.code(), Code::kUnavailable);
  Ticket* late = submit(*model, {2});
  EXPECT_EQ(of(late).status.to_string(), "UNAVAILABLE: the server is shutting down");
  engine_->unload(model);  // still possible
  EXPECT_EQ(trial_.sessions(), 0);
}

// What a loop does when it goes: everything that it has in flight is cancelled, and comes back, whatever the lanes do.
TEST_F(EngineTest, AThousandTicketsInFlightComeBackToALoopThatCloses) {
  options_.clock = nullptr;
  start();
  const auto model = load(spec("m"));
  for (int round = 0; round < 3; ++round) {
    const std::size_t before = answers_.size();
    auto ring = std::make_unique<CompletionRing>();
    std::vector<Ticket*> chain;
    for (std::int32_t i = 0; i < 1000; ++i) {
      chain.push_back(tickets_->make({i}, model->entry, engine_->clock().now()));
      chain.back()->sink = ring.get();
    }
    engine_->submit(Tickets::chain(chain));
    for (Ticket* each : chain) engine_->cancel(each, {Code::kCancelled, "the loop closes"});
    std::size_t outstanding = chain.size();
    while (outstanding != 0) {
      ring->wait(-1);
      for (Completion* link = ring->take(); link != nullptr;) {
        Completion* next = link->next;
        answers_.deliver(link, link);
        --outstanding;
        link = next;
      }
    }
    ring.reset();
    EXPECT_EQ(answers_.size(), before + 1000);
  }
}

// Blocks that the pool will not keep are unmapped by the worker, not by the thread that drops them, which may be a
// loop's.
TEST_F(EngineTest, TheWorkerSweepsThePool) {
  start();
  const auto waste = [&] {
    std::vector<Block> blocks;
    for (int i = 0; i < 10; ++i) {
      Result<Block> block = engine_->pool().reserve(std::size_t{4} << 20);
      EXPECT_TRUE(block.ok() && block->charge(1));
      blocks.push_back(std::move(*block));
    }
  };
  struct Held final : Job, CompletionSink {
    Held() { sink = this; }
    void run() noexcept override {
      inside = true;
      inside.notify_one();
      open.wait(false);
    }
    void deliver(Completion* /*first*/, Completion* /*last*/) noexcept override {}
    std::atomic<bool> inside = false;
    std::atomic<bool> open = false;
  } held;
  ASSERT_TRUE(engine_->worker().submit(&held));
  held.inside.wait(false);
  waste();
  EXPECT_EQ(engine_->worker().waiting(), 1U) << "one job for all ten";
  EXPECT_EQ(engine_->snapshot().pool.bytes_waste, 10 * Pool::kChargeStep);
  EXPECT_EQ(engine_->snapshot().pool.blocks_in_use, 0U);
  held.open = true;
  held.open.notify_one();
  while (engine_->snapshot().pool.bytes_waste != 0) std::this_thread::yield();
  waste();
  engine_->close();
  EXPECT_EQ(engine_->snapshot().pool.bytes_waste, 0U) << "what the worker had not come to";
  waste();
  EXPECT_EQ(engine_->snapshot().pool.bytes_waste, 0U) << "without a worker at once";
}

TEST_F(EngineTest, ModelsComeAndGoUnderLoad) {
  options_.clock = nullptr;
  start();
  const auto steady = load(spec("steady"));
  auto catalog = std::make_shared<Catalog>();
  catalog->add("steady", "", steady);
  engine_->publish(catalog);
  std::atomic<bool> stop = false;
  std::thread operations([&] {
    for (int i = 0; i < 30; ++i) {
      auto model = load(spec("changing"));
      auto with = std::make_shared<Catalog>();
      with->add("steady", "", steady);
      with->add("changing", "", model);
      engine_->publish(std::move(with));
      while (row("changing").stats.success.count < 2 && !stop) std::this_thread::yield();
      auto without = std::make_shared<Catalog>();
      without->add("steady", "", steady);
      engine_->publish(std::move(without));
      engine_->unload(model);
    }
    stop = true;
  });
  // Like a loop: it holds the catalogs under which its tickets were admitted.
  std::vector<std::shared_ptr<const Catalog>> holds;
  std::size_t sent = 0;
  while (!stop) {
    const auto now = engine_->catalog();
    if (holds.empty() || holds.back() != now) holds.push_back(now);
    for (const char* name : {"steady", "changing"}) {
      if (Result<Model*> model = now->resolve(name, ""); model.ok()) {
        submit(**model, {static_cast<std::int32_t>(sent)});
        ++sent;
      }
    }
    if (sent > answers_.size() + 500) answers_.await(sent - 200);
  }
  operations.join();
  answers_.await(sent);
  for (const Answer& answer : answers_.all()) {
    EXPECT_TRUE(answer.status.ok() || answer.status.code() == Code::kUnavailable ||
                answer.status.code() == Code::kResourceExhausted)
        << answer.status.to_string();
  }
  holds.clear();
}

}  // namespace
}  // namespace headrace::testing
