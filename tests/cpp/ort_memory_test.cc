#include "backend/ort_memory.h"

#include "ort_fixture.h"

namespace headrace::testing {
namespace {

class OrtMemoryTest : public OrtTest {
 protected:
  void SetUp() override {
    OrtTest::SetUp();
    if (HasFatalFailure()) return;
    ASSERT_NE(library_->session_memory(), nullptr);
    runs_ = &library_->session_memory()->runs();
  }
  std::vector<Tensor> rows(std::int64_t count) {
    return {tensor<float>({count, 128, 6, 6}, std::vector<float>(static_cast<std::size_t>(count) * 128 * 36, 0.5F))};
  }
  Pool* runs_ = nullptr;
};

TEST_F(OrtMemoryTest, RunsTakeItAndGiveItBack) {
  const auto session = load("weights_conv");
  const std::uint64_t before = runs_->stats().allocations;
  const auto first = values<float>(answers(*session, rows(64))[0]);
  EXPECT_GT(runs_->stats().allocations, before);
  EXPECT_EQ(runs_->stats().blocks_in_use, 0U) << "no run goes on";
  EXPECT_GT(runs_->stats().bytes_retained, std::size_t{1} << 20);
  auto backend = open_backend("onnxruntime", options_);
  ASSERT_TRUE(backend.ok());
  (*backend)->give_back(false);
  (*backend)->give_back(false);
  EXPECT_LT(runs_->stats().bytes_retained, std::size_t{1} << 20) << "it was not needed since";
  EXPECT_EQ(values<float>(answers(*session, rows(64))[0]), first);
  (*backend)->give_back(true);
  EXPECT_EQ(runs_->stats().bytes_retained, 0U);
  EXPECT_EQ(values<float>(answers(*session, rows(64))[0]), first);
}

TEST_F(OrtMemoryTest, ASessionWithoutAnArenaTakesNone) {
  SessionOptions options;
  options.memory_arena = false;
  const auto session = load("weights_conv", options);
  const std::uint64_t before = runs_->stats().allocations;
  const auto out = answers(*session, rows(8));
  EXPECT_EQ(runs_->stats().allocations, before);
  EXPECT_EQ(values<float>(out[0]), values<float>(answers(*load("weights_conv"), rows(8))[0]));
}

TEST_F(OrtMemoryTest, NothingIsKeptOfASessionThatIsGone) {
  auto session = load("weights_dense");  // its packed weights are taken for as long as it is there
  EXPECT_EQ(runs_->stats().blocks_in_use, 0U);
  session.reset();
  EXPECT_EQ(runs_->stats().blocks_in_use, 0U);
}

TEST_F(OrtMemoryTest, WhatCannotBeHadIsNull) {
  auto* library = *ort::Library::open(options_.onnxruntime_library);
  ort::Allocator* allocator = library->session_memory()->allocator();
  EXPECT_EQ(allocator->alloc(allocator, 0), nullptr);
  EXPECT_EQ(allocator->alloc(allocator, SIZE_MAX), nullptr);
  EXPECT_EQ(allocator->reserve(allocator, SIZE_MAX - 10), nullptr);
  allocator->free(allocator, nullptr);
  void* some = allocator->reserve(allocator, 100);
  ASSERT_NE(some, nullptr);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(some) % 64, 0U);
  allocator->free(allocator, some);
}

}  // namespace
}  // namespace headrace::testing
