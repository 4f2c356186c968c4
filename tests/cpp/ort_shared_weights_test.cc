#include "backend/ort_shared_weights.h"

#include <filesystem>
#include <map>
#include <random>
#include <thread>

#include "ort_fixture.h"

namespace headrace::testing {
namespace {

class OrtSharedWeightsTest : public OrtTest {
 protected:
  void SetUp() override {
    OrtTest::SetUp();
    if (HasFatalFailure()) return;
    weights_ = &library_->weights();
    share_.share_weights = true;
  }
  void TearDown() override {
    if (weights_ != nullptr) {
      EXPECT_EQ(weights_->bytes(), 0U) << "all sessions are gone";
    }
    OrtTest::TearDown();
  }

  std::vector<float> noise(std::size_t count) {
    std::mt19937 random(3);
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(random() % 2000) / 1000.0F - 1.0F;
    return values;
  }
  std::vector<Tensor> inputs_of(std::string_view name) {
    if (name == "weights_conv") return {tensor<float>({2, 128, 6, 6}, noise(std::size_t{2} * 128 * 36))};
    if (name == "weights_mixed") {
      const std::uint8_t yes = 1;
      return {tensor<std::int64_t>({3}, {7, 4095, 0}), bytes_tensor(DType::kBool, {}, &yes, 1), Tensor()};
    }
    if (name == "weights_quantized") return {bytes_tensor(DType::kInt8, {2, 1024}, noise(512).data(), 2048)};
    return {tensor<float>({3, 256}, noise(std::size_t{3} * 256))};
  }
  std::vector<std::vector<std::uint8_t>> bytes_of(Session& session, std::string_view name) {
    std::vector<std::vector<std::uint8_t>> bytes;
    for (const Tensor& output : answers(session, inputs_of(name))) bytes.push_back(values<std::uint8_t>(output));
    return bytes;
  }
  static std::size_t sum(const std::vector<SharedMemory>& memory) {
    std::size_t bytes = 0;
    for (const SharedMemory& each : memory) bytes += each.bytes;
    return bytes;
  }
  static std::map<std::uint64_t, std::size_t> by_id(const Session& session) {
    std::map<std::uint64_t, std::size_t> ids;
    for (const SharedMemory& each : session.shared_memory()) ids[each.id] = each.bytes;
    return ids;
  }

  ort::SharedWeights* weights_ = nullptr;
  SessionOptions share_;
};

constexpr std::string_view kModels[] = {"weights_dense", "weights_dense_other", "weights_conv", "weights_mixed",
                                        "weights_quantized"};

TEST_F(OrtSharedWeightsTest, AnswersAreTheSameToTheBit) {
  for (const std::string_view name : kModels) {
    const auto plain = load(name);
    const auto shared = load(name, share_);
    EXPECT_EQ(plain->signature().metadata, shared->signature().metadata) << name;
    EXPECT_GT(sum(shared->shared_memory()), std::size_t{900} << 10) << name;
    EXPECT_TRUE(plain->shared_memory().empty()) << name;
    EXPECT_EQ(bytes_of(*plain, name), bytes_of(*shared, name)) << name;
    EXPECT_EQ(bytes_of(*plain, name), bytes_of(*shared, name)) << name << ", once more";
  }
}

TEST_F(OrtSharedWeightsTest, AReplacedDefaultIsReplaced) {
  const auto plain = load("weights_mixed");
  const auto shared = load("weights_mixed", share_);
  std::vector<Tensor> inputs = inputs_of("weights_mixed");
  ASSERT_EQ(shared->signature().inputs[2].name, "scale");
  ASSERT_TRUE(shared->signature().inputs[2].optional);
  inputs[2] = tensor<float>({512}, noise(512));
  const std::uint8_t no = 0;
  inputs[1] = bytes_tensor(DType::kBool, {}, &no, 1);
  const auto expected = answers(*plain, inputs);
  const auto got = answers(*shared, inputs);
  EXPECT_EQ(values<float>(got[0]), values<float>(expected[0]));
  EXPECT_EQ(string_values(got[1]), string_values(expected[1]));
}

TEST_F(OrtSharedWeightsTest, EqualWeightsAreHeldTogether) {
  for (const auto& [one, other] :
       {std::pair("weights_dense", "weights_dense_other"), std::pair("weights_conv", "weights_conv"),
        std::pair("weights_mixed", "weights_mixed")}) {
    auto first = load(one, share_);
    const auto ids = by_id(*first);
    const std::size_t bytes = weights_->bytes();
    SessionOptions more = share_;
    more.intra_op_threads = 2;
    auto second = load(other, more);
    EXPECT_EQ(by_id(*second), ids) << one << " and " << other;
    EXPECT_EQ(weights_->bytes(), bytes);
    const auto expected = bytes_of(*second, other);
    first.reset();
    EXPECT_EQ(bytes_of(*second, other), expected) << "the first is gone";
    EXPECT_EQ(weights_->bytes(), bytes);
    second.reset();
    EXPECT_EQ(weights_->bytes(), 0U);
  }
}

TEST_F(OrtSharedWeightsTest, WhatKernelsHavePackedIsNotKeptBesides) {
  ASSERT_TRUE(weights_->sees_holders());
  const auto dense = load("weights_dense", share_);
  EXPECT_EQ(weights_->bytes(), 0U);
  EXPECT_EQ(sum(dense->shared_memory()), std::size_t{5} * 256 * 256 * 4);
}

TEST_F(OrtSharedWeightsTest, OtherWeightsAreNot) {
  const auto dense = load("weights_dense", share_);
  const auto conv = load("weights_conv", share_);
  for (const auto& [id, bytes] : by_id(*conv)) EXPECT_FALSE(by_id(*dense).contains(id)) << bytes;
}

TEST_F(OrtSharedWeightsTest, SmallModelsAndBrokenOnesAreLoadedAsEver) {
  EXPECT_TRUE(load("mlp", share_)->shared_memory().empty());
  const Result<std::unique_ptr<Session>> broken = load_file(model_file("corrupt"), share_);
  EXPECT_EQ(broken.status().code(), Code::kInvalidArgument);
}

TEST_F(OrtSharedWeightsTest, TheFileMayGo) {
  namespace fs = std::filesystem;
  const std::string copy = ::testing::TempDir() + "headrace_weights_" + std::to_string(::getpid()) + ".onnx";
  fs::copy_file(model_file("weights_mixed"), copy, fs::copy_options::overwrite_existing);
  auto loaded = load_file(copy, share_);
  fs::resize_file(copy, 10);
  fs::remove(copy);
  ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
  EXPECT_EQ(bytes_of(**loaded, "weights_mixed"), bytes_of(*load("weights_mixed"), "weights_mixed"));
}

TEST_F(OrtSharedWeightsTest, LoadsSideBySide) {
  const auto plain = load("weights_conv");
  const auto expected = bytes_of(*plain, "weights_conv");
  const std::vector<Tensor> inputs = inputs_of("weights_conv");
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 3; ++round) {
        const auto session = load("weights_conv", share_);
        std::vector<Tensor> outputs;
        ASSERT_TRUE(run(*session, inputs, outputs).ok());
        EXPECT_EQ(values<std::uint8_t>(outputs[0]), expected[0]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace headrace::testing
