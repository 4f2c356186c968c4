#include "engine/model.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace headrace {
namespace {

std::vector<TensorSpec> specs(std::size_t count) {
  std::vector<TensorSpec> made;
  for (std::size_t i = 0; i < count; ++i) made.push_back({"t" + std::to_string(i), DType::kFp32, {-1}, {""}});
  return made;
}

TEST(NameIndex, FindsFewAndManyNamesAlike) {
  for (const std::size_t count : {0U, 1U, 8U, 9U, 256U}) {
    const NameIndex index(specs(count));
    for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(index.find("t" + std::to_string(i)), i) << count;
    EXPECT_EQ(index.find("t" + std::to_string(count)), std::nullopt) << count;
    EXPECT_EQ(index.find(""), std::nullopt);
    EXPECT_EQ(index.find("T0"), std::nullopt);
  }
}

TEST(NameIndex, ListsItsNames) {
  EXPECT_EQ(NameIndex(specs(0)).listed(), "");
  EXPECT_EQ(NameIndex(specs(3)).listed(), "'t0', 't1', 't2'");
}

TEST(Model, CompleteNumbersTheSymbolsThatMustAgree) {
  Model model;
  model.name = "m";
  model.version = 12;
  model.policy.max_batch_size = 4;
  model.signature.inputs = {{"a", DType::kFp32, {-1, -1, 3, -1}, {"batch", "length", "three", ""}},
                            {"b", DType::kFp32, {-1, -1}, {"batch", "width"}},
                            {"c", DType::kFp32, {-1, -1}, {"length", "length"}},
                            {"any", DType::kFp32, {}, {}, true, true}};
  model.signature.outputs = {{"y", DType::kFp32, {-1}, {"batch"}}};
  model.complete();
  EXPECT_EQ(model.version_text, "12");
  EXPECT_EQ(model.symbols, 3U);
  // A fixed dimension has no say, whatever its name; one without a name neither.
  EXPECT_EQ(model.symbol_places, (std::vector<std::vector<int>>{{0, 1, -1, -1}, {0, 2}, {1, 1}, {}}));
  EXPECT_EQ(model.inputs.find("b"), 1U);
  EXPECT_EQ(model.outputs.find("y"), 0U);
  EXPECT_TRUE(model.batched());
  EXPECT_TRUE(model.runnable.batched);
  EXPECT_EQ(model.runnable.output_names, (std::vector<std::string>{"y"}));
  EXPECT_EQ(model.runnable.observer, &model.counters);
}

TEST(Model, WithoutABatchSizeItIsNotBatched) {
  Model model;
  model.complete();
  EXPECT_FALSE(model.batched());
  EXPECT_FALSE(model.runnable.batched);
}

}  // namespace
}  // namespace headrace
