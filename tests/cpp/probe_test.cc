#include "engine/probe.h"

#include <filesystem>

#include "model_fixture.h"

namespace headrace::testing {
namespace {

class ProbeTest : public BackendTest {
 protected:
  ProbeResult probe(std::string_view name, std::uint64_t seed = 1) {
    const auto session = load(name);
    return session != nullptr ? probe_batching(*session, pool_, seed) : ProbeResult();
  }
};

TEST_F(ProbeTest, AcceptsModelsOfIndependentRows) {
  for (const char* name : {"mlp",           "add_sub",    "different_symbols", "dynamic_inner", "gather_rows",
                           "shared_symbol", "twice_bool", "twice_uint8",       "twice_uint16",  "twice_uint32",
                           "twice_uint64",  "twice_int8", "twice_int16",       "twice_int32",   "twice_int64",
                           "twice_fp16",    "twice_bf16", "twice_fp32",        "twice_fp64",    "twice_bytes"}) {
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      const ProbeResult result = probe(name, seed);
      EXPECT_TRUE(result.batchable) << name << ": " << result.reason;
      EXPECT_EQ(result.reason, "a probe found that its rows do not depend on each other");
    }
  }
}

TEST_F(ProbeTest, TriesSizesUntilOneRuns) {
  const ProbeResult result = probe("multiple_of_32");
  EXPECT_TRUE(result.batchable) << result.reason;
}

TEST_F(ProbeTest, RejectsModelsWhoseRowsMix) {
  for (const char* name : {"mean_over_batch", "dynamic_quantize", "running_sum"}) {
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      const ProbeResult result = probe(name, seed);
      EXPECT_FALSE(result.batchable) << name << " with seed " << seed;
      EXPECT_EQ(result.reason, "one row's values change another row's 'y'");
    }
  }
}

TEST_F(ProbeTest, SaysWhyThereIsNoCandidate) {
  EXPECT_EQ(probe("twice_fp32_fixed").reason, "input 'x' has the fixed first dimension 2");
  EXPECT_EQ(probe("scalar").reason, "input 'x' is a scalar");
  EXPECT_EQ(probe("unranked").reason, "input 'x' states no shape");
  EXPECT_EQ(probe("square_of_batch").reason, "input 'x' has the batch dimension 'batch' as an inner one too");
  EXPECT_EQ(probe("optional_input").reason, "input 'scale' has the fixed first dimension 1");
  EXPECT_EQ(probe("branch").reason, "input 'condition' is a scalar");
}

TEST_F(ProbeTest, WhatChangesNothingIsNotBatched) {
  const ProbeResult result = probe("constant_answer");
  EXPECT_FALSE(result.batchable);
  EXPECT_EQ(result.reason, "a probe's answers do not depend on its values, so nothing can be said of its rows");
}

TEST_F(ProbeTest, RowsThatGetLostAreNotBatched) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const ProbeResult result = probe("compress", seed);
    EXPECT_FALSE(result.batchable) << "seed " << seed;
  }
}

// Hands its input back, and refuses every inner size but one.
class Stubborn final : public Session {
 public:
  explicit Stubborn(Signature signature) : signature_(std::move(signature)) {}
  const Signature& signature() const override { return signature_; }
  Status run(BatchRun& batch) override {
    ++runs;
    if (static_cast<std::int64_t>(batch.inputs[0].shape.dims().back()) == only_inner || only_inner == 0) {
      batch.outputs = {batch.inputs[0]};
      return {};
    }
    return invalid_argument("only " + std::to_string(only_inner));
  }
  int runs = 0;
  std::int64_t only_inner = 0;

 private:
  const Signature signature_;
};

Signature of(std::vector<std::int64_t> dims) {
  Signature signature;
  TensorSpec spec;
  spec.name = "x";
  spec.dtype = DType::kFp32;
  spec.symbols.assign(dims.size(), "");
  spec.dims = std::move(dims);
  signature.inputs.push_back(spec);
  signature.outputs.push_back(spec);
  return signature;
}

TEST_F(ProbeTest, AProbeThatCannotRunIsNotBatched) {
  Stubborn free(of({-1, -1}));
  free.only_inner = 7;
  const ProbeResult result = probe_batching(free, pool_);
  EXPECT_FALSE(result.batchable);
  EXPECT_EQ(result.reason, "a probe with four rows of made-up values cannot run (only 7)");
  EXPECT_EQ(free.runs, 5);
  Stubborn fixed(of({-1, 3}));
  fixed.only_inner = 7;
  EXPECT_FALSE(probe_batching(fixed, pool_).batchable);
  EXPECT_EQ(fixed.runs, 1);  // no other size to try
}

TEST_F(ProbeTest, NoMemoryIsAReasonToo) {
  Pool small(PoolOptions{.cap = 64, .retain = 0});
  Stubborn session(of({-1, 1000}));
  const ProbeResult result = probe_batching(session, small);
  EXPECT_FALSE(result.batchable);
  EXPECT_NE(result.reason.find("cannot run ("), std::string::npos) << result.reason;
  EXPECT_EQ(session.runs, 0);
}

TEST_F(ProbeTest, InputsHandedBackAreIndependentRows) {
  Stubborn session(of({-1, 3}));
  EXPECT_TRUE(probe_batching(session, pool_).batchable);
}

}  // namespace
}  // namespace headrace::testing
