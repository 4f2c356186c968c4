#include "backend/ort_staging.h"

#include <atomic>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "ort_fixture.h"
#include "staged_session.h"

namespace headrace::testing {
namespace {

constexpr std::size_t kEnough = std::size_t{64} << 20;
constexpr std::int64_t kRows = 4096;  // of 64 bytes each

// What no machine has. The sanitizers' allocators end the process instead.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kCanAskForTooMuch = false;
#else
constexpr bool kCanAskForTooMuch = true;
#endif
constexpr std::size_t kTooMuch = std::size_t{1} << 45;

class OrtStagingTest : public OrtTest {
 protected:
  void TearDown() override {
    EXPECT_TRUE(staging().stats().empty()) << "a GPU's pool goes with its last session";
    OrtTest::TearDown();
  }
  ort::Staging& staging() { return library_->staging(); }
  PoolStats stats(int gpu = 0) { return staging().stats().at("gpu " + std::to_string(gpu)); }
  std::unique_ptr<Session> load_on(int gpu, std::size_t bytes = kEnough) {
    auto session = load_staged(*library_, model_file("add_sub"), gpu, bytes);
    EXPECT_TRUE(session.ok()) << session.status().to_string();
    return session.ok() ? std::move(*session) : nullptr;
  }
  std::vector<Tensor> inputs(std::int32_t a, std::int32_t b, std::int64_t rows = kRows) {
    const auto count = static_cast<std::size_t>(rows) * 16;
    return {filled(rows, std::vector<std::int32_t>(count, a)), filled(rows, std::vector<std::int32_t>(count, b))};
  }
  Tensor filled(std::int64_t rows, const std::vector<std::int32_t>& values) {
    return tensor<std::int32_t>({rows, 16}, values);
  }
  static bool holds(const Tensor& tensor, std::int32_t value) {
    return values<std::int32_t>(tensor) ==
           std::vector<std::int32_t>(static_cast<std::size_t>(tensor.shape[0]) * 16, value);
  }
};

TEST_F(OrtStagingTest, OutputsLieInItFromAThreadsSecondRunOn) {
  const auto session = load_on(0);
  EXPECT_EQ(session->staging(), nullptr) << "the thread has no device yet";
  auto out = answers(*session, inputs(5, 2));
  EXPECT_TRUE(holds(out[0], 7) && holds(out[1], 3));
  EXPECT_EQ(stats().allocations, 0U);
  ASSERT_NE(session->staging(), nullptr);
  out = answers(*session, inputs(6, 2));
  EXPECT_TRUE(holds(out[0], 8) && holds(out[1], 4));
  EXPECT_EQ(stats().allocations, 2U);
  EXPECT_EQ(stats().blocks_in_use, 2U);
  EXPECT_EQ(stats().bytes_in_use, 2 * out[0].size);
  out = answers(*load("add_sub"), inputs(1, 1));  // of the CPU
  EXPECT_TRUE(holds(out[0], 2));
  EXPECT_EQ(stats().blocks_in_use, 0U);
  EXPECT_EQ(stats().bytes_retained, 2 * out[0].size) << "kept for the next run";
  std::thread([&] { EXPECT_EQ(session->staging(), nullptr) << "this thread has run nothing"; }).join();
}

TEST_F(OrtStagingTest, IsOfTheDeviceThatTheThreadWasOnLast) {
  const auto one = load_on(0);
  const auto other = load_on(1);
  static_cast<void>(answers(*one, inputs(1, 2)));
  EXPECT_NE(one->staging(), nullptr);
  EXPECT_EQ(other->staging(), nullptr);
  static_cast<void>(answers(*other, inputs(1, 2)));
  EXPECT_EQ(one->staging(), nullptr);
  EXPECT_NE(other->staging(), nullptr);
}

TEST_F(OrtStagingTest, SessionsOnOneGpuShareOnePool) {
  auto one = load_on(3);
  auto other = load_on(3);
  static_cast<void>(answers(*one, inputs(1, 2)));
  EXPECT_EQ(one->staging(), other->staging());
  one.reset();  // whose allocator the pool has
  const auto out = answers(*other, inputs(4, 2));
  EXPECT_TRUE(holds(out[0], 6) && holds(out[1], 2));
  EXPECT_EQ(stats(3).blocks_in_use, 2U);
}

TEST_F(OrtStagingTest, WhatIsFreeGoesBackToTheRuntime) {
  const auto session = load_on(0);
  for (int i = 0; i < 2; ++i) static_cast<void>(answers(*session, inputs(1, 2)));
  EXPECT_GT(stats().bytes_retained, 0U);
  auto backend = open_backend("onnxruntime", options_);
  ASSERT_TRUE(backend.ok());
  EXPECT_EQ((*backend)->staging().at("gpu 0").bytes_retained, stats().bytes_retained);
  (*backend)->give_back(false);
  (*backend)->give_back(false);
  EXPECT_EQ(stats().bytes_retained, 0U) << "it was not needed since";
  auto out = answers(*session, inputs(9, 2));
  EXPECT_TRUE(holds(out[0], 11));
  out.clear();
  (*backend)->give_back(true);
  EXPECT_EQ(stats().bytes_retained, 0U);
}

TEST_F(OrtStagingTest, AnAnswerOutlivesTheSessionAndItsPool) {
  auto session = load_on(0);
  static_cast<void>(answers(*session, inputs(1, 2)));
  std::vector<Tensor> out = answers(*session, inputs(40, 2));
  EXPECT_EQ(stats().blocks_in_use, 2U);
  session.reset();
  EXPECT_TRUE(staging().stats().empty());
  EXPECT_TRUE(holds(out[0], 42) && holds(out[1], 38)) << "read after both are gone";
  Block last = out[1].block;
  out.clear();
  std::memset(last.data(), 1, last.capacity());
  std::thread([gone = std::move(last)]() mutable { gone.reset(); }).join();  // as a loop drops it
}

TEST_F(OrtStagingTest, WithoutRoomOutputsLieInOrdinaryMemory) {
  const auto session = load_on(0, std::size_t{300} << 10);  // for one of two outputs
  for (int i = 0; i < 3; ++i) {
    const auto out = answers(*session, inputs(i, 2));
    EXPECT_TRUE(holds(out[0], i + 2) && holds(out[1], i - 2));
    EXPECT_EQ(stats().blocks_in_use, i == 0 ? 0U : 1U);
  }
  EXPECT_EQ(stats().refusals, 2U);
}

// The allocators of devices throw, through functions of C.
TEST_F(OrtStagingTest, WhatTheRuntimeCannotHaveIsNoRoom) {
  if (!kCanAskForTooMuch) GTEST_SKIP() << "under a sanitizer";
  const auto session = load_on(0, 2 * kTooMuch);
  static_cast<void>(answers(*session, inputs(1, 2)));
  Pool& pool = *session->staging();
  const Result<Block> some = pool.allocate(std::size_t{1} << 20);
  ASSERT_TRUE(some.ok());
  EXPECT_EQ(pool.allocate(kTooMuch).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(pool.allocate(std::size_t{2} << 20).status().code(), Code::kResourceExhausted)
      << "it is not asked again until something has come back";
  const auto out = answers(*session, inputs(3, 2));
  EXPECT_TRUE(holds(out[0], 5)) << "in ordinary memory";
  EXPECT_EQ(stats().blocks_in_use, 1U);
}

TEST_F(OrtStagingTest, TheRuntimeIsAskedAgainOnceSomethingHasComeBack) {
  if (!kCanAskForTooMuch) GTEST_SKIP() << "under a sanitizer";
  const auto session = load_on(0, 2 * kTooMuch);
  static_cast<void>(answers(*session, inputs(1, 2)));
  Pool& pool = *session->staging();
  { const Result<Block> some = pool.allocate(std::size_t{1} << 20); }
  EXPECT_FALSE(pool.allocate(kTooMuch).ok());
  EXPECT_FALSE(pool.allocate(std::size_t{2} << 20).ok());
  pool.trim();
  EXPECT_TRUE(pool.allocate(std::size_t{2} << 20).ok());
}

TEST_F(OrtStagingTest, WithoutSuchAnAllocatorThereIsNoneAndTheLogSaysSo) {
  std::vector<std::string> lines;
  const ort::LogReceiver receiver{[](void* to, LogLevel level, std::string_view where, std::string_view message) {
                                    if (where != "staging") return;
                                    EXPECT_EQ(level, LogLevel::kWarning);
                                    static_cast<std::vector<std::string>*>(to)->emplace_back(message);
                                  },
                                  &lines};
  library_->add_receiver(&receiver);
  ort::SessionHandle session(library_->api());
  ASSERT_FALSE(open_plain_session(*library_, model_file("add_sub"), session));
  const std::vector<Provider> chain{{"tensorrt", {{"device_id", "2"}}, true}, {"cuda", {{"device_id", "1"}}, true}};
  EXPECT_EQ(ort::staging_for(*library_, session.get(), chain, "cpu", kEnough), nullptr);
  EXPECT_EQ(ort::staging_for(*library_, session.get(), chain, "cuda", 0), nullptr) << "none is wanted";
  EXPECT_TRUE(lines.empty());
  EXPECT_EQ(ort::staging_for(*library_, session.get(), chain, "cuda", kEnough), nullptr);
  EXPECT_EQ(ort::staging_for(*library_, session.get(), chain, "tensorrt", kEnough), nullptr);
  library_->remove_receiver(&receiver);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0].rfind("the runtime has no allocator of page-locked memory for GPU 1: ", 0), 0U) << lines[0];
  EXPECT_EQ(lines[1].rfind("the runtime has no allocator of page-locked memory for GPU 2: ", 0), 0U) << lines[1];
  EXPECT_NE(lines[0].find("; copies go through ordinary memory"), std::string::npos);
}

TEST_F(OrtStagingTest, LanesRunAndOthersDropTheirAnswers) {
  constexpr int kLanes = 3;
  constexpr int kRuns = 40;
  const auto session = load_on(0, std::size_t{2} << 20);  // too little for all at once
  std::vector<std::vector<Tensor>> given;
  for (std::int32_t lane = 0; lane < kLanes; ++lane) given.push_back(inputs(lane, 2));
  std::atomic<bool> done{false};
  std::thread giver([&] {
    while (!done.load()) staging().give_back(true);
  });
  std::vector<std::thread> lanes;
  for (std::int32_t lane = 0; lane < kLanes; ++lane) {
    lanes.emplace_back([&, lane] {
      std::vector<Tensor> kept;
      for (int i = 0; i < kRuns; ++i) {
        std::vector<Tensor> out;
        ASSERT_TRUE(run(*session, given[static_cast<std::size_t>(lane)], out).ok());
        EXPECT_TRUE(holds(out[0], lane + 2) && holds(out[1], lane - 2));
        kept.swap(out);
      }
    });
  }
  for (std::thread& lane : lanes) lane.join();
  done.store(true);
  giver.join();
  EXPECT_EQ(stats().blocks_in_use, 0U);
  EXPECT_GT(stats().allocations, 0U);
}

}  // namespace
}  // namespace headrace::testing
