// Staging from a lane's gathering to the last answer: a model of ONNX Runtime on lanes of a GPU, whose session has
// staging as one on a GPU has.
#include <algorithm>
#include <set>
#include <utility>

#include "engine/engine.h"
#include "model_fixture.h"
#include "staged_session.h"
#include "trial_session.h"

namespace headrace::testing {
namespace {

constexpr std::int64_t kRows = 2048;  // of 64 bytes, in each request
constexpr int kRequests = 4;          // of a batch

class StagedBackend final : public Backend {
 public:
  StagedBackend(std::shared_ptr<Backend> runtime, ort::Library& library, std::size_t bytes)
      : runtime_(std::move(runtime)), library_(library), bytes_(bytes) {}
  std::string_view name() const override { return "staged"; }
  std::string version() const override { return runtime_->version(); }
  void give_back(bool all) override { runtime_->give_back(all); }
  std::map<std::string, PoolStats> staging() const override { return runtime_->staging(); }
  Result<std::unique_ptr<Session>> load(const std::string& model_file, const std::string& /*model_dir*/,
                                        const SessionOptions& /*options*/) override {
    return load_staged(library_, model_file, 0, bytes_);
  }

 private:
  const std::shared_ptr<Backend> runtime_;
  ort::Library& library_;
  const std::size_t bytes_;
};

// Keeps the answered tickets with their outputs.
class Keeper final : public CompletionSink {
 public:
  void deliver(Completion* first, Completion* last) noexcept override {
    MutexLock lock(mutex_);
    for (Completion* link = first; link != nullptr; link = link == last ? nullptr : link->next) {
      answered_.insert(static_cast<Ticket*>(link));
    }
    changed_.notify_all();
  }
  void await(std::size_t count) {
    MutexLock lock(mutex_);
    const auto limit = patience();
    while (answered_.size() < count && std::chrono::steady_clock::now() < limit) changed_.wait_until(mutex_, limit);
    ASSERT_EQ(answered_.size(), count);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::set<Ticket*> answered_ HEADRACE_GUARDED_BY(mutex_);
};

class EngineStagingTest : public BackendTest {
 protected:
  void start(std::size_t staging_bytes) {
    auto runtime = open_backend("onnxruntime", options_);
    ASSERT_TRUE(runtime.ok()) << runtime.status().to_string();
    const auto library = ort::Library::open(options_.onnxruntime_library);
    ASSERT_TRUE(library.ok());
    EngineOptions options;
    options.lanes = 1;
    options.clock = &clock_;
    options.backends["staged"] = std::make_shared<StagedBackend>(*runtime, **library, staging_bytes);
    engine_ = std::make_unique<Engine>(options);
    ModelSpec spec;
    spec.name = "m";
    spec.backend = "staged";
    spec.model_file = model_file("add_sub");
    spec.model_dir = models_;
    spec.max_lanes = 1;
    spec.batching_decided = true;
    spec.batching.max_batch_size = kRequests * kRows;
    spec.batching.dynamic_batching = true;
    spec.batching.preferred_batch_sizes = {kRequests * kRows};
    Result<std::shared_ptr<Model>> model = engine_->load(spec);
    ASSERT_TRUE(model.ok()) << model.status().to_string();
    model_ = *model;
  }
  void TearDown() override {
    if (engine_ != nullptr) {
      if (model_ != nullptr) engine_->unload(model_);
      model_.reset();
      engine_->close();
      EXPECT_EQ(engine_->pool().stats().blocks_in_use, 0U);
      EXPECT_EQ(engine_->pool().stats().bytes_in_use, 0U);
      EXPECT_TRUE(engine_->snapshot().staging.empty());
      engine_.reset();
    }
    BackendTest::TearDown();
  }

  // Requests a + b and a - b, with an a of their own, submitted as one chain.
  std::vector<std::unique_ptr<Ticket>> ask(CompletionSink& sink, std::int32_t base) {
    std::vector<std::unique_ptr<Ticket>> tickets;
    for (std::int32_t i = 0; i < kRequests; ++i) {
      auto ticket = std::make_unique<Ticket>();
      ticket->sink = &sink;
      ticket->inputs = {rows(base + i), rows(1)};
      ticket->wanted = {1, 1};
      ticket->rows = kRows;
      ticket->time.received = clock_.now();
      model_->address(*ticket);
      if (!tickets.empty()) tickets.back()->next = ticket.get();
      tickets.push_back(std::move(ticket));
    }
    engine_->submit(tickets.front().get());
    return tickets;
  }
  Tensor rows(std::int32_t value) {
    const Values values(static_cast<std::size_t>(kRows) * 16, value);
    return int32_tensor(engine_->pool(), {kRows, 16}, values);
  }
  static void expect_answers(const std::vector<std::unique_ptr<Ticket>>& tickets, std::int32_t base) {
    for (std::size_t i = 0; i < tickets.size(); ++i) {
      const Ticket& ticket = *tickets[i];
      ASSERT_TRUE(ticket.status.ok()) << ticket.status.to_string();
      const auto a = base + static_cast<std::int32_t>(i);
      ASSERT_EQ(ticket.outputs.size(), 2U);
      EXPECT_EQ(values_of(ticket.outputs[0]), Values(static_cast<std::size_t>(kRows) * 16, a + 1));
      EXPECT_EQ(values_of(ticket.outputs[1]), Values(static_cast<std::size_t>(kRows) * 16, a - 1));
    }
  }
  PoolStats staging() const { return engine_->snapshot().staging.at("gpu 0"); }

  ManualClock clock_{kSecond};
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<Model> model_;
};

TEST_F(EngineStagingTest, ABatchIsGatheredInItAndItsAnswersOutliveTheModel) {
  start(std::size_t{64} << 20);
  EXPECT_EQ(engine_->devices().name(model_->device), "gpu 0");
  Keeper first;
  {
    const auto tickets = ask(first, 100);  // the lane's first run: its thread has no device before
    first.await(kRequests);
    expect_answers(tickets, 100);
  }
  const std::uint64_t before = staging().allocations;
  Keeper second;
  auto tickets = ask(second, 200);
  second.await(kRequests);
  expect_answers(tickets, 200);
  EXPECT_EQ(tickets.front()->batch_rows, kRequests * kRows);
  EXPECT_EQ(staging().allocations - before, 4U) << "two inputs gathered, two outputs";
  EXPECT_EQ(staging().blocks_in_use, 2U) << "the inputs are gone with the run";
  EXPECT_EQ(staging().bytes_in_use, 2U * kRequests * kRows * 64);
  engine_->unload(model_);
  EXPECT_TRUE(engine_->snapshot().staging.empty()) << "given back, but for what is being read";
  expect_answers(tickets, 200);
  tickets.clear();
}

TEST_F(EngineStagingTest, WithoutRoomInItNobodyIsRefused) {
  start(std::size_t{100} << 10);
  for (std::int32_t base : {100, 200, 300}) {
    Keeper keeper;
    const auto tickets = ask(keeper, base);
    keeper.await(kRequests);
    expect_answers(tickets, base);
  }
  EXPECT_EQ(staging().blocks_in_use, 0U);
  EXPECT_GT(staging().refusals, 0U);
}

}  // namespace
}  // namespace headrace::testing
