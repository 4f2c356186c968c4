#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine_fixture.h"

namespace headrace::testing {
namespace {

TEST_F(EngineTest, UnloadAnswersTheQueuedLetsTheRunningEndAndFreesTheSession) {
  start();
  ModelSpec narrow = spec("m");
  narrow.max_lanes = 1;
  narrow.batching.max_batch_size = 1;
  auto model = load(narrow);
  auto catalog = std::make_shared<Catalog>();
  catalog->add("m", "", model);
  engine_->publish(catalog);
  const std::shared_ptr<const Catalog> stale = engine_->catalog();
  trial_.hold();
  Ticket* running = submit(*model, {1});
  trial_.await_inside(1);
  Ticket* queued = submit(*model, {2});
  std::atomic<int> unloaded = 0;
  std::vector<std::thread> unloaders;
  for (int i = 0; i < 2; ++i) {  // two who do it at once
    unloaders.emplace_back([&] {
      engine_->unload(model);
      ++unloaded;
    });
  }
  answers_.await(1);
  EXPECT_EQ(of(queued).status.to_string(), "UNAVAILABLE: model 'm' version 1 was unloaded");
  EXPECT_EQ(unloaded, 0);
  EXPECT_EQ(trial_.sessions(), 1);
  trial_.let_go();
  for (std::thread& unloader : unloaders) unloader.join();
  EXPECT_TRUE(of(running).status.ok());
  EXPECT_EQ(trial_.sessions(), 0);
  EXPECT_TRUE(engine_->snapshot().models.empty());
  EXPECT_EQ(engine_->pool().stats().bytes_retained, 0U) << "the memory goes back";

  // Somebody may still hold the catalog that names it.
  Model* found = *stale->resolve("m", "");
  EXPECT_EQ(found, model.get());
  Ticket* late = submit(*found, {3});
  EXPECT_EQ(of(late).status.code(), Code::kUnavailable);
}

TEST_F(EngineTest, WhatNobodyNeedsGoesBack) {
  start();
  auto model = load(spec("m"));
  Ticket* before = submit(*model, {1});
  answers_.await(1);
  EXPECT_TRUE(of(before).status.ok());
  { const Result<Block> large = engine_->pool().allocate(std::size_t{4} << 20); }
  EXPECT_GE(engine_->pool().stats().bytes_retained, std::size_t{4} << 20);
  // The first call sees that something was asked since the engine began; the second, or a later one, that nothing was.
  const Nanos deadline = SteadyClock::instance().now() + 30 * kSecond;
  while (engine_->pool().stats().bytes_retained != 0) {
    ASSERT_LT(SteadyClock::instance().now(), deadline);
    engine_->give_back();
    std::this_thread::yield();
  }
  Ticket* after = submit(*model, {2});
  answers_.await(2);
  EXPECT_TRUE(of(after).status.ok());
  engine_->unload(model);
}

TEST_F(EngineTest, UnloadMayServeTheQueuedFirst) {
  start();
  ModelSpec narrow = spec("m");
  narrow.max_lanes = 1;
  narrow.batching.max_batch_size = 1;
  auto model = load(narrow);
  trial_.hold();
  Ticket* running = submit(*model, {1});
  trial_.await_inside(1);
  Ticket* queued = submit(*model, {2});
  std::atomic<bool> unloaded = false;
  std::thread unloader([&] {
    engine_->unload(model, true);
    unloaded = true;
  });
  trial_.let_go();
  answers_.await(2);
  unloader.join();
  EXPECT_TRUE(unloaded);
  EXPECT_TRUE(of(running).status.ok());
  EXPECT_TRUE(of(queued).status.ok()) << of(queued).status.to_string();
  EXPECT_EQ(trial_.sessions(), 0);
}

TEST_F(EngineTest, AnUnloadThatServesTheQueuedEndsWithTheEngine) {
  start();
  ModelSpec narrow = spec("m");
  narrow.max_lanes = 1;
  narrow.batching.max_batch_size = 1;
  auto model = load(narrow);
  trial_.hold();
  submit(*model, {1});
  trial_.await_inside(1);
  Ticket* queued = submit(*model, {2});
  std::thread unloader([&] { engine_->unload(model, true); });
  std::thread closer([&] { engine_->close(); });
  answers_.await(1);
  trial_.let_go();
  closer.join();
  unloader.join();
  EXPECT_EQ(of(queued).status.code(), Code::kUnavailable);
}

TEST_F(EngineTest, AModelOutlivesItsUnloadForAsLongAsACatalogNamesIt) {
  start();
  auto model = load(spec("m"));
  std::weak_ptr<Model> seen = model;
  auto catalog = std::make_shared<Catalog>();
  catalog->add("m", "", model);
  engine_->publish(std::move(catalog));
  engine_->unload(model);
  model.reset();
  EXPECT_FALSE(seen.expired());
  engine_->publish(std::make_shared<Catalog>());
  EXPECT_TRUE(seen.expired());
}

}  // namespace
}  // namespace headrace::testing
