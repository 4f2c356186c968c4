#include "engine/warmup.h"

#include <gtest/gtest.h>

#include "engine_fixture.h"

namespace headrace::testing {
namespace {

class WarmupTest : public EngineTest {
 protected:
  static WarmupInput x(std::vector<std::int64_t> dims = {1}, WarmupInput::Data data = WarmupInput::Data::kZero) {
    return {"x", DType::kInt32, std::move(dims), data, ""};
  }
  static ModelSpec with(WarmupSample sample) {
    ModelSpec made = spec("m");
    made.warmup.samples.push_back(std::move(sample));
    return made;
  }
  std::string refusal(WarmupSample sample) {
    const auto model = engine_->load(with(std::move(sample)));
    return model.ok() ? "" : model.status().to_string();
  }
  std::vector<std::size_t> sizes() const {
    std::vector<std::size_t> made;
    for (const Values& rows : trial_.runs()) made.push_back(rows.size());
    return made;
  }
};

TEST_F(WarmupTest, SizesFromOneRowToAWholeBatchAreRunTwice) {
  start();
  ModelSpec wanted = spec("m");
  wanted.warmup.made_up = true;
  const auto model = load(wanted);
  EXPECT_EQ(sizes(), (std::vector<std::size_t>{1, 1, 4, 4, 8, 8}));
  ASSERT_EQ(model->warmup_runs.size(), 6U);
  EXPECT_EQ(model->warmup_runs.back().rows, 8);
  EXPECT_EQ(model->warmup_runs.back().shapes, std::vector<Shape>{Shape({8, 1})});
  EXPECT_EQ(model->warmup_runs.back().dtypes, std::vector<DType>{DType::kInt32});
  EXPECT_EQ(model->warmup_note, "warmed up with 6 runs in 0 ms");
  EXPECT_EQ(row("m").stats.execution_count, 0U) << "nobody asked for these runs";
}

TEST_F(WarmupTest, NoSizeIsBegunThatWouldTakeLong) {
  start();
  trial_.on_run([this](const Values& rows) { clock_.advance(static_cast<Nanos>(rows.size()) * 100 * kMillisecond); });
  ModelSpec wanted = spec("m");
  wanted.warmup.made_up = true;
  const auto model = load(wanted);
  EXPECT_EQ(sizes(), (std::vector<std::size_t>{1, 1, 4, 4}));
  EXPECT_EQ(model->warmup_runs.front().time, 100 * kMillisecond);
}

TEST_F(WarmupTest, MadeUpValuesThatCannotRunAreNotedOnly) {
  start();
  trial_.fail_on(0, invalid_argument("a nought"));
  trial_.fail_on(1, invalid_argument("a one"));
  ModelSpec wanted = spec("m");
  wanted.warmup.made_up = true;
  const auto model = load(wanted);
  ASSERT_NE(model, nullptr);
  EXPECT_TRUE(model->warmup_runs.empty());
  EXPECT_TRUE(model->warmup_note.starts_with("not warmed up: made-up values cannot run (a ")) << model->warmup_note;
}

TEST_F(WarmupTest, WithoutAPlanNothingIsRun) {
  start();
  EXPECT_EQ(load(spec("m"))->warmup_note, "");
  EXPECT_TRUE(trial_.runs().empty());
}

TEST_F(WarmupTest, ASampleIsRunAsOftenAsItSaysWithItsOwnData) {
  start();
  WarmupInput given = x({1}, WarmupInput::Data::kGiven);
  given.bytes = std::string("\7\0\0\0", 4);
  ModelSpec wanted = with({"given", 3, {given}, 2});
  wanted.warmup.samples.push_back({"zeros", 1, {x()}, 0});
  wanted.warmup.made_up = true;  // samples come first
  load(wanted);
  EXPECT_EQ(trial_.runs(), (std::vector<Values>{{7, 7, 7}, {7, 7, 7}, {0}}));
}

TEST_F(WarmupTest, ASampleThatDoesNotFitFailsTheLoad) {
  start();
  const std::string label = "INVALID_ARGUMENT: model_warmup 's': ";
  EXPECT_EQ(refusal({"s", 9, {x()}, 1}), label + "batch_size is 9; it must be 1 to max_batch_size (8)");
  EXPECT_EQ(refusal({"s", 1, {}, 1}), label + "input 'x' is missing");
  EXPECT_EQ(refusal({"s", 1, {x({2})}, 1}),
            label + "input 'x' has dims [2], without the batch dimension; the model takes [-1,1]");
  WarmupInput typed = x();
  typed.dtype = DType::kFp32;
  EXPECT_EQ(refusal({"s", 1, {typed}, 1}), label + "input 'x' has data_type FP32; the model takes INT32");
  WarmupInput named = x();
  named.name = "q";
  EXPECT_EQ(refusal({"s", 1, {named}, 1}), label + "the model has no input 'q'; it has 'x'");
  WarmupInput given = x({1}, WarmupInput::Data::kGiven);
  given.bytes = "abc";
  EXPECT_EQ(refusal({"s", 2, {given}, 1}), label + "the file of input 'x' has 3 bytes; its dims need 4");
  EXPECT_TRUE(trial_.runs().empty());
  EXPECT_EQ(trial_.sessions(), 0) << "a version that cannot be warmed up is not loaded";
  EXPECT_TRUE(engine_->snapshot().models.empty());
}

TEST_F(WarmupTest, ASampleWhoseRunFailsFailsTheLoadWithTheRuntimesWords) {
  start();
  trial_.fail_on(0);
  EXPECT_EQ(refusal({"s", 1, {x()}, 1}), "INVALID_ARGUMENT: model_warmup 's': its run failed: a bad row");
}

TEST_F(WarmupTest, NoMemoryFailsTheSample) {
  options_.pool.cap = 1 << 20;
  start();
  ModelSpec wanted = with({"s", 1, {x({1 << 20})}, 1});
  wanted.batching.max_batch_size = 0;
  EXPECT_FALSE(engine_->load(wanted).ok());
}

}  // namespace
}  // namespace headrace::testing
