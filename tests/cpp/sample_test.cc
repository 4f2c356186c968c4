#include "engine/sample.h"

#include <gtest/gtest.h>

#include <cstring>

#include "model_fixture.h"

namespace headrace::testing {
namespace {

TensorSpec input(const char* name, DType dtype, std::vector<std::int64_t> dims) {
  TensorSpec spec;
  spec.name = name;
  spec.dtype = dtype;
  spec.dims = std::move(dims);
  return spec;
}

class SampleTest : public BackendTest {};

TEST_F(SampleTest, FillsFreeDimensions) {
  Signature signature;
  signature.inputs = {input("a", DType::kFp32, {-1, 3, -1}), input("b", DType::kBytes, {-1}),
                      input("c", DType::kInt64, {}), input("d", DType::kUint8, {4, -1})};
  MadeUp values(1);
  const Result<Sample> sample = make_sample(signature, pool_, 5, 7, values);
  ASSERT_TRUE(sample.ok()) << sample.status().to_string();
  const std::vector<Tensor>& made = sample->inputs;
  ASSERT_EQ(made.size(), 4U);
  EXPECT_EQ(made[0].shape.to_string(), "[5,3,7]");
  EXPECT_EQ(made[0].size, 5U * 3 * 7 * 4);
  EXPECT_EQ(std::memcmp(made[0].data, made[0].data + 3 * 7 * 4, 3 * 7 * 4), 0) << "every row is the same";
  EXPECT_TRUE(check_bytes_tensor(made[1].bytes(), 5).ok());
  EXPECT_EQ(made[2].shape.to_string(), "[]");
  EXPECT_EQ(made[2].size, 8U);
  EXPECT_EQ(made[3].shape.to_string(), "[4,7]");
  EXPECT_EQ(made[3].size, 28U);
}

TEST_F(SampleTest, SaysWhatCannotBeMade) {
  Signature signature;
  signature.inputs = {input("a", DType::kFp32, {-1, std::int64_t{1} << 40})};
  MadeUp values(1);
  EXPECT_EQ(make_sample(signature, pool_, 5, 7, values).status().code(), Code::kResourceExhausted);
  signature.inputs[0].any_rank = true;
  EXPECT_EQ(make_sample(signature, pool_, 5, 7, values).status().message(), "input 'a' states no shape");
}

TEST_F(SampleTest, RealModelsRunOnIt) {
  for (const char* name : {"mlp", "magika", "dynamic_inner", "scalar", "twice_bytes", "optional_input"}) {
    const auto session = load(name);
    ASSERT_NE(session, nullptr);
    MadeUp values(1);
    const Result<Sample> sample = make_sample(session->signature(), pool_, 2, 8, values);
    ASSERT_TRUE(sample.ok()) << sample.status().to_string();
    const Status status = run_sample(*session, pool_, *sample);
    EXPECT_TRUE(status.ok()) << name << ": " << status.to_string();
  }
}

}  // namespace
}  // namespace headrace::testing
