#include "engine/admission.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace headrace {
namespace {

class AdmissionTest : public ::testing::Test {
 protected:
  AdmissionTest() {
    model_.name = "digits";
    model_.signature.inputs = {{"image", DType::kFp32, {-1, 2, -1}, {"N", "", "L"}},
                               {"mask", DType::kInt32, {-1, -1}, {"N", "L"}},
                               {"words", DType::kBytes, {-1}, {"N"}, true}};
    model_.signature.outputs = {{"label", DType::kInt64, {-1}, {"N"}}, {"score", DType::kFp32, {-1}, {"N"}}};
    model_.policy.max_batch_size = 4;
    model_.policy.dynamic_batching = true;
    model_.complete();
  }
  void TearDown() override {
    ticket_.clear();
    EXPECT_EQ(pool_.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
  }

  void begin() { admission_.begin(model_, ticket_); }
  Status declare(std::string_view name, std::string_view datatype, const Shape& shape) {
    return admission_.declare(name, datatype, shape, slot_);
  }
  // The refusal's text; "" when it was accepted.
  std::string refusal(const Status& status) {
    EXPECT_TRUE(status.ok() || status.code() == Code::kInvalidArgument) << status.to_string();
    return status.message();
  }
  Status bind(std::size_t bytes) {
    Result<Block> block = pool_.allocate(bytes);
    EXPECT_TRUE(block.ok());
    std::memset(block->data(), 0, bytes);
    return admission_.bind(slot_, *block, {block->data(), bytes});
  }

  Pool pool_{PoolOptions{}};
  Model model_;
  Ticket ticket_;
  Admission admission_;
  std::size_t slot_ = 99;
};

TEST_F(AdmissionTest, FillsTheTicketInTheSignaturesOrder) {
  begin();
  ASSERT_TRUE(declare("mask", "INT32", {2, 3}).ok());
  EXPECT_EQ(slot_, 1U);
  EXPECT_EQ(admission_.elements(slot_), 6U);
  EXPECT_EQ(admission_.dtype(slot_), DType::kInt32);
  ASSERT_TRUE(bind(24).ok());
  ASSERT_TRUE(declare("image", "FP32", {2, 2, 3}).ok());
  EXPECT_EQ(slot_, 0U);
  ASSERT_TRUE(bind(48).ok());
  ASSERT_TRUE(admission_.finish().ok());
  EXPECT_EQ(ticket_.rows, 2);
  ASSERT_EQ(ticket_.inputs.size(), 3U);
  EXPECT_EQ(ticket_.inputs[0].dtype, DType::kFp32);
  EXPECT_EQ(ticket_.inputs[0].shape, (Shape{2, 2, 3}));
  EXPECT_EQ(ticket_.inputs[0].size, 48U);
  EXPECT_EQ(ticket_.inputs[1].size, 24U);
  EXPECT_FALSE(ticket_.inputs[2]) << "an optional input that was not given";
  EXPECT_EQ(ticket_.wanted, (std::vector<std::uint8_t>{1, 1})) << "all outputs unless some are asked for";
  EXPECT_EQ(pool_.stats().blocks_in_use, 2U) << "the ticket shares the blocks";
}

TEST_F(AdmissionTest, AnUnknownInputIsNamedWithThoseThereAre) {
  begin();
  EXPECT_EQ(refusal(declare("img", "FP32", {1, 2, 3})),
            "model 'digits' has no input 'img'; its inputs are: 'image', 'mask', 'words'");
}

TEST_F(AdmissionTest, AnInputGivenTwice) {
  begin();
  ASSERT_TRUE(declare("image", "FP32", {1, 2, 3}).ok());
  EXPECT_EQ(refusal(declare("image", "FP32", {1, 2, 3})), "input 'image' of model 'digits' is given twice");
}

TEST_F(AdmissionTest, AWrongDatatype) {
  begin();
  EXPECT_EQ(refusal(declare("image", "FP64", {1, 2, 3})), "input 'image' of model 'digits' is FP32, not 'FP64'");
  EXPECT_EQ(refusal(declare("image", "", {1, 2, 3})), "input 'image' of model 'digits' is FP32, not ''");
}

TEST_F(AdmissionTest, AWrongShape) {
  const std::string start = "input 'image' of model 'digits' has shape [-1,2,-1] (-1: any size), not ";
  for (const auto& [shape, text] : std::vector<std::pair<Shape, std::string>>{{{1, 2}, "[1,2]"},
                                                                              {{1, 2, 3, 4}, "[1,2,3,4]"},
                                                                              {{1, 3, 3}, "[1,3,3]"},
                                                                              {{1, 2, -3}, "[1,2,-3]"},
                                                                              {{-1, 2, 3}, "[-1,2,3]"},
                                                                              {{}, "[]"}}) {
    begin();
    EXPECT_EQ(refusal(declare("image", "FP32", shape)), start + text);
  }
}

TEST_F(AdmissionTest, ABatchOutsideTheModelsLimits) {
  begin();
  EXPECT_EQ(refusal(declare("image", "FP32", {5, 2, 3})),
            "input 'image' of model 'digits' has a batch of 5 (dimension 0); the model takes 1 to 4 (max_batch_size)");
  begin();
  EXPECT_EQ(refusal(declare("image", "FP32", {0, 2, 3})),
            "input 'image' of model 'digits' has a batch of 0 (dimension 0); the model takes 1 to 4 (max_batch_size)");
  begin();
  EXPECT_TRUE(declare("image", "FP32", {4, 2, 3}).ok());
}

TEST_F(AdmissionTest, DimensionsUnderOneSymbolThatDisagree) {
  begin();
  ASSERT_TRUE(declare("image", "FP32", {1, 2, 3}).ok());
  EXPECT_EQ(
      refusal(declare("mask", "INT32", {1, 4})),
      "input 'mask' of model 'digits' has 4 as dimension 1 (L), but another input gives 3 for the same dimension");
  begin();
  ASSERT_TRUE(declare("mask", "INT32", {1, 4}).ok()) << "what was refused is forgotten";
  ASSERT_TRUE(declare("image", "FP32", {1, 2, 4}).ok());
}

TEST_F(AdmissionTest, BatchesThatDisagreeAlsoWithoutASymbol) {
  model_.signature.inputs[1].symbols = {"", ""};
  model_.complete();
  begin();
  ASSERT_TRUE(declare("image", "FP32", {1, 2, 3}).ok());
  EXPECT_EQ(refusal(declare("mask", "INT32", {2, 3})),
            "input 'mask' of model 'digits' has a batch of 2 (dimension 0), but another input has 1");
}

TEST_F(AdmissionTest, ASizeThatCannotBeRepresented) {
  model_.policy.max_batch_size = 0;
  model_.signature.inputs[0].dims = {-1, -1, -1};
  model_.complete();
  begin();
  const std::int64_t huge = std::int64_t{1} << 40;
  EXPECT_EQ(refusal(declare("image", "FP32", {huge, huge, 1})),
            "input 'image' of model 'digits' has a shape whose size cannot be represented: "
            "[1099511627776,1099511627776,1]");
  begin();
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  EXPECT_FALSE(declare("image", "FP32", {most, 1, 1}).ok()) << "elements fit, bytes do not";
  begin();
  EXPECT_FALSE(declare("image", "FP32", {0, huge, huge}).ok()) << "a zero does not hide it";
}

TEST_F(AdmissionTest, AWrongNumberOfBytes) {
  begin();
  ASSERT_TRUE(declare("image", "FP32", {1, 2, 3}).ok());
  EXPECT_EQ(refusal(bind(20)), "input 'image' of model 'digits' has 20 bytes; shape [1,2,3] of FP32 takes 24");
  EXPECT_FALSE(bind(28).ok());
  EXPECT_TRUE(bind(24).ok());
}

TEST_F(AdmissionTest, BytesThatAreNoStrings) {
  begin();
  ASSERT_TRUE(declare("words", "BYTES", {2}).ok());
  EXPECT_EQ(admission_.elements(slot_), 2U);
  const std::string refused = refusal(bind(4));
  EXPECT_EQ(refused.rfind("input 'words' of model 'digits' is not a BYTES tensor of shape [2]: ", 0), 0U) << refused;
  EXPECT_TRUE(bind(8).ok()) << "two empty strings";
}

TEST_F(AdmissionTest, ATensorThatSomebodyMadeIsTakenAsItIs) {
  begin();
  ASSERT_TRUE(declare("mask", "INT32", {1, 2}).ok());
  Tensor tensor;
  tensor.block = *pool_.allocate(8);
  tensor.data = tensor.block.data();
  tensor.size = 8;
  admission_.bind(slot_, std::move(tensor));
  EXPECT_EQ(ticket_.inputs[1].shape, (Shape{1, 2}));
  EXPECT_EQ(ticket_.inputs[1].size, 8U);
  EXPECT_NE(ticket_.inputs[1].data, nullptr);
}

TEST_F(AdmissionTest, AMissingInput) {
  begin();
  ASSERT_TRUE(declare("image", "FP32", {1, 2, 3}).ok());
  EXPECT_EQ(refusal(admission_.finish()),
            "input 'mask' of model 'digits' is missing; the model's inputs are: 'image', 'mask', 'words'");
}

TEST_F(AdmissionTest, ARequestWithoutAnyInputHasNoBatch) {
  for (TensorSpec& spec : model_.signature.inputs) spec.optional = true;
  begin();
  EXPECT_EQ(refusal(admission_.finish()), "a request for model 'digits' must give at least one input");
  model_.policy.max_batch_size = 0;
  begin();
  EXPECT_TRUE(admission_.finish().ok()) << "a model that is not batched may do without";
  EXPECT_EQ(ticket_.rows, 1);
}

TEST_F(AdmissionTest, OutputsAskedForAreTheOnlyOnes) {
  begin();
  EXPECT_TRUE(admission_.want("score").ok());
  EXPECT_EQ(ticket_.wanted, (std::vector<std::uint8_t>{0, 1}));
  EXPECT_TRUE(admission_.want("score").ok()) << "twice is as good as once";
  EXPECT_TRUE(admission_.want("label").ok());
  EXPECT_EQ(ticket_.wanted, (std::vector<std::uint8_t>{1, 1}));
  EXPECT_EQ(refusal(admission_.want("logits")),
            "model 'digits' has no output 'logits'; its outputs are: 'label', 'score'");
}

TEST_F(AdmissionTest, AnotherRequestStartsFromNothing) {
  begin();
  ASSERT_TRUE(declare("image", "FP32", {3, 2, 3}).ok());
  ASSERT_TRUE(admission_.want("label").ok());
  begin();
  EXPECT_EQ(ticket_.rows, 1);
  EXPECT_EQ(ticket_.wanted, (std::vector<std::uint8_t>{1, 1}));
  EXPECT_FALSE(ticket_.inputs[0]);
  EXPECT_TRUE(declare("image", "FP32", {2, 2, 7}).ok());
}

TEST_F(AdmissionTest, AModelThatIsNotBatchedHasShapesOfItsOwn) {
  model_.policy.max_batch_size = 0;
  model_.complete();
  begin();
  EXPECT_TRUE(declare("image", "FP32", {100, 2, 0}).ok()) << "no batch dimension, no limit, empty tensors too";
  EXPECT_EQ(admission_.elements(slot_), 0U);
  EXPECT_TRUE(bind(0).ok());
  EXPECT_EQ(ticket_.rows, 1);
}

TEST_F(AdmissionTest, AnInputWithoutAStatedShapeTakesAny) {
  model_.policy.max_batch_size = 0;
  model_.signature.inputs = {{"x", DType::kFp32, {}, {}, false, true}, {"scalar", DType::kFp32, {}, {}}};
  model_.complete();
  for (const Shape& shape : {Shape{}, Shape{2, 3}, Shape{1, 1, 1, 1, 1, 1, 1, 5}}) {
    begin();
    EXPECT_TRUE(declare("x", "FP32", shape).ok()) << shape.to_string();
  }
  begin();
  EXPECT_FALSE(declare("x", "FP32", {2, -1}).ok());
  EXPECT_TRUE(declare("scalar", "FP32", {}).ok());
  EXPECT_EQ(admission_.elements(slot_), 1U);
  begin();
  EXPECT_FALSE(declare("scalar", "FP32", {1}).ok());
}

}  // namespace
}  // namespace headrace
