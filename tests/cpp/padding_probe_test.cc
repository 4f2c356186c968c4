#include "engine/padding_probe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

namespace headrace {
namespace {

// A small encoder: token i of a row becomes its value minus the mean of the row's tokens; the answers are all tokens
// and the mean. What it does wrong is the test's to say.
struct Faults {
  bool ignores_mask = false;
  bool over_batch = false;  // the mean is one of all rows
  bool doubles = false;     // twice as many tokens come out
  std::int64_t shortest = 0;
};

class Encoder final : public Session {
 public:
  explicit Encoder(Faults faults) : faults_(faults) {
    signature_.inputs = {{"ids", DType::kInt64, {-1, -1}, {"batch", "length"}},
                         {"attention_mask", DType::kInt64, {-1, -1}, {"batch", "length"}}};
    signature_.outputs = {{"tokens", DType::kFp32, {-1, -1}, {"batch", "length"}},
                          {"pooled", DType::kFp32, {-1}, {"batch"}}};
  }
  const Signature& signature() const override { return signature_; }
  Signature& change() { return signature_; }
  Status run(BatchRun& batch) override {
    ++runs;
    const Shape& shape = batch.inputs[0].shape;
    const auto rows = static_cast<std::size_t>(shape[0]);
    const auto length = static_cast<std::size_t>(shape[1]);
    if (shape[1] < faults_.shortest) return internal_error("too short");
    const auto ids = values<std::int64_t>(batch.inputs[0]);
    auto mask = values<std::int64_t>(batch.inputs[1]);
    if (faults_.ignores_mask) std::ranges::fill(mask, 1);
    std::vector<float> means(rows);
    double whole = 0;
    double count = 0;
    for (std::size_t row = 0; row < rows; ++row) {
      double sum = 0;
      double kept = 0;
      for (std::size_t i = row * length; i < (row + 1) * length; ++i) {
        sum += static_cast<double>((ids[i] + 3) * mask[i]) * static_cast<double>(i - row * length + 1);
        kept += static_cast<double>(mask[i]);
      }
      whole += sum;
      count += kept;
      means[row] = static_cast<float>(sum / kept);
    }
    if (faults_.over_batch) std::ranges::fill(means, static_cast<float>(whole / count));
    const std::size_t times = faults_.doubles ? 2 : 1;
    std::vector<float> tokens;
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t i = 0; i < length * times; ++i) {
        tokens.push_back(static_cast<float>(ids[row * length + i / times]) - means[row]);
      }
    }
    batch.outputs.resize(2);
    give(*batch.pool, tokens, {shape[0], shape[1] * static_cast<std::int64_t>(times)}, batch.outputs[0]);
    give(*batch.pool, means, {shape[0]}, batch.outputs[1]);
    return {};
  }

  int runs = 0;

 private:
  template <class T>
  static std::vector<T> values(const Tensor& tensor) {
    std::vector<T> all(tensor.size / sizeof(T));
    std::memcpy(all.data(), tensor.data, tensor.size);
    return all;
  }
  static void give(Pool& pool, const std::vector<float>& values, std::vector<std::int64_t> dims, Tensor& output) {
    output.block = std::move(*pool.allocate(values.size() * sizeof(float)));
    std::memcpy(output.block.data(), values.data(), values.size() * sizeof(float));
    output.data = output.block.data();
    output.size = values.size() * sizeof(float);
    output.dtype = DType::kFp32;
    output.shape.assign(dims);
  }

  Faults faults_;
  Signature signature_;
};

class PaddingProbeTest : public testing::Test {
 protected:
  void TearDown() override {
    EXPECT_EQ(pool_.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
  }
  PaddingProbe probe(Faults faults) {
    Encoder encoder(faults);
    return probe_padding(encoder, pool_, {false, false});
  }
  void expect_refusal(Faults faults, const std::string& part) {
    const PaddingProbe found = probe(faults);
    EXPECT_FALSE(found.padding) << found.reason;
    EXPECT_NE(found.reason.find(part), std::string::npos) << found.reason;
  }

  Pool pool_{PoolOptions{}};
};

TEST_F(PaddingProbeTest, AMaskThatIsHeededIsEnough) {
  const PaddingProbe found = probe({});
  ASSERT_TRUE(found.padding) << found.reason;
  EXPECT_EQ(found.padding, (Padding{{1, 1}, {1, 0}}));
  EXPECT_NE(found.reason.find("the same answers"), std::string::npos);
}

TEST_F(PaddingProbeTest, AnswersThatPaddingChangesForbidIt) {
  expect_refusal({.ignores_mask = true}, "padding changes the answer 'tokens'");
  expect_refusal({.over_batch = true}, "padding changes the answer");
}

TEST_F(PaddingProbeTest, OutputsMustFollowTheLengthOrNot) { expect_refusal({.doubles = true}, "output 'tokens'"); }

TEST_F(PaddingProbeTest, LongerLengthsAreTriedWhereShortOnesDoNotRun) {
  EXPECT_TRUE(probe({.shortest = 60}).padding);
  expect_refusal({.shortest = 1000}, "cannot run");
}

TEST_F(PaddingProbeTest, WithoutAMaskItMustBeAllowedForEveryInput) {
  Encoder encoder({.ignores_mask = true});
  encoder.change().inputs[1].name = "types";
  EXPECT_FALSE(probe_padding(encoder, pool_, {false, false}).padding);
  EXPECT_EQ(probe_padding(encoder, pool_, {false, false}).reason, "");
  EXPECT_EQ(encoder.runs, 0) << "nobody asked";
  const PaddingProbe half = probe_padding(encoder, pool_, {true, false});
  EXPECT_NE(half.reason.find("not for 'types'"), std::string::npos) << half.reason;
  // Allowed, and yet tried.
  EXPECT_NE(probe_padding(encoder, pool_, {true, true}).reason.find("padding changes"), std::string::npos);
  EXPECT_GT(encoder.runs, 0);
}

TEST_F(PaddingProbeTest, ShapesThatHaveNoOneLength) {
  Encoder two({});
  two.change().inputs[0].dims = {-1, -1, -1};
  EXPECT_NE(probe_padding(two, pool_, {false, false}).reason.find("more than one free dimension"), std::string::npos);
  Encoder strings({});
  strings.change().inputs[0].dtype = DType::kBytes;
  EXPECT_NE(probe_padding(strings, pool_, {false, false}).reason.find("BYTES"), std::string::npos);
  Encoder fixed({});
  fixed.change().inputs[0].dims = fixed.change().inputs[1].dims = {-1, 8};
  EXPECT_EQ(probe_padding(fixed, pool_, {false, false}).reason, "");
  EXPECT_NE(probe_padding(fixed, pool_, {true, true}).reason.find("no effect"), std::string::npos);
}

}  // namespace
}  // namespace headrace
