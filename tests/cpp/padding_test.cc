#include "batching/padding.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <memory>

#include "batching/assembly.h"

namespace headrace {
namespace {

// Two inputs with a length: "ids" [rows, length] and "wide" [rows, 2, length, 3]; "flag" [rows, 1] has none.
const Padding kPadding{{1, 2, 0}, {1, 0, 2}};
const std::vector<std::string> kNames{"tokens", "pooled", "deep"};

class PaddingTest : public testing::Test {
 protected:
  void TearDown() override {
    tickets_.clear();
    inputs_.clear();
    EXPECT_EQ(pool_.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
  }

  template <class T>
  static Tensor tensor(Pool& pool, DType dtype, std::vector<std::int64_t> dims, const std::vector<T>& values) {
    Tensor made;
    made.dtype = dtype;
    made.shape.assign(dims);
    made.block = std::move(*pool.allocate(values.size() * sizeof(T)));
    std::memcpy(made.block.data(), values.data(), values.size() * sizeof(T));
    made.data = made.block.data();
    made.size = values.size() * sizeof(T);
    return made;
  }
  // Every value of the ticket's is unlike every other's, and none is 0.
  Ticket* add(std::int64_t rows, std::int64_t length) {
    auto& ticket = tickets_.emplace_back(std::make_unique<Ticket>());
    ticket->rows = rows;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(rows * length));
    for (auto& value : ids) value = ++last_;
    std::vector<std::int16_t> wide(static_cast<std::size_t>(rows * 2 * length * 3));
    for (auto& value : wide) value = static_cast<std::int16_t>(++last_);
    ticket->inputs.push_back(tensor(pool_, DType::kInt32, {rows, length}, ids));
    ticket->inputs.push_back(tensor(pool_, DType::kInt16, {rows, 2, length, 3}, wide));
    ticket->inputs.push_back(
        tensor(pool_, DType::kUint8, {rows, 1}, std::vector<std::uint8_t>(static_cast<std::size_t>(rows), 7)));
    ticket->wanted.assign(3, 1);
    batch_.push_back(ticket.get());
    return ticket.get();
  }
  template <class T>
  static std::vector<T> values(const Tensor& tensor) {
    std::vector<T> all(tensor.size / sizeof(T));
    if (tensor.size != 0) std::memcpy(all.data(), tensor.data, tensor.size);
    return all;
  }

  Pool pool_{PoolOptions{}};
  std::vector<std::unique_ptr<Ticket>> tickets_;
  std::vector<Ticket*> batch_;
  std::vector<Tensor> inputs_;
  std::int32_t last_ = 0;
};

TEST_F(PaddingTest, ClassesAreExactWhileSmallAndThenFourToADoubling) {
  std::vector<std::int64_t> ends;
  for (std::int64_t length = 1; length <= 64; ++length) {
    const std::int64_t end = length_class(length);
    EXPECT_GE(end, length);
    EXPECT_LE((end - length) * 4, length) << "a quarter at most";
    EXPECT_EQ(length_class(end), end);
    if (ends.empty() || ends.back() != end) ends.push_back(end);
  }
  EXPECT_EQ(ends, (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64}));
  EXPECT_EQ(length_class(65), 80);
  EXPECT_EQ(length_class(1'000'000), 1'048'576);
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(length_class(most), most);
}

TEST_F(PaddingTest, LengthIsWhatTheInputsAgreeIn) {
  Ticket* ticket = add(1, 5);
  EXPECT_EQ(length_of(ticket->inputs, kPadding), 5);
  ticket->inputs[0].shape.set(1, 4);
  EXPECT_EQ(length_of(ticket->inputs, kPadding), -1) << "they do not agree";
  ticket->inputs[0].dtype = DType::kInvalid;
  EXPECT_EQ(length_of(ticket->inputs, kPadding), 5) << "one is not given";
  ticket->inputs[1].shape.set(2, 0);
  EXPECT_EQ(length_of(ticket->inputs, kPadding), -1);
  EXPECT_EQ(padded_length(batch_, kPadding), 0);
}

TEST_F(PaddingTest, EqualLengthsNeedNone) {
  add(1, 4);
  add(2, 4);
  EXPECT_EQ(padded_length(batch_, kPadding), 0);
  EXPECT_EQ(padded_length(batch_, {}), 0);
  add(1, 3);
  EXPECT_EQ(padded_length(batch_, kPadding), 4);
  EXPECT_EQ(padded_length(std::span(batch_).first(1), kPadding), 0);
}

TEST_F(PaddingTest, RowsArePaddedWithZerosWhereTheLengthIs) {
  add(2, 1);
  add(1, 3);
  add(1, 2);
  ASSERT_TRUE(gather_padded(batch_, kPadding, 3, pool_, inputs_).ok());
  EXPECT_EQ(inputs_[0].shape, (Shape{4, 3}));
  EXPECT_EQ(inputs_[1].shape, (Shape{4, 2, 3, 3}));
  EXPECT_EQ(inputs_[2].shape, (Shape{4, 1}));
  // add() numbers ids first, then wide.
  EXPECT_EQ(values<std::int32_t>(inputs_[0]), (std::vector<std::int32_t>{1, 0, 0, 2, 0, 0, 15, 16, 17, 36, 37, 0}));
  const std::vector<std::int16_t> wide = values<std::int16_t>(inputs_[1]);
  ASSERT_EQ(wide.size(), 72U);
  EXPECT_EQ(std::vector<std::int16_t>(wide.begin(), wide.begin() + 18),
            (std::vector<std::int16_t>{3, 4, 5, 0, 0, 0, 0, 0, 0, 6, 7, 8, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(std::vector<std::int16_t>(wide.begin() + 36, wide.begin() + 45),
            (std::vector<std::int16_t>{18, 19, 20, 21, 22, 23, 24, 25, 26}));
  EXPECT_EQ(std::vector<std::int16_t>(wide.begin() + 54, wide.end()),
            (std::vector<std::int16_t>{38, 39, 40, 41, 42, 43, 0, 0, 0, 44, 45, 46, 47, 48, 49, 0, 0, 0}));
}

TEST_F(PaddingTest, OutputsAreCutBackToTheirOwnLength) {
  add(2, 1);
  add(1, 3);
  add(1, 2);
  std::vector<Tensor> outputs(3);
  std::vector<std::int32_t> tokens(12);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i);
  outputs[0] = tensor(pool_, DType::kInt32, {4, 3}, tokens);
  outputs[1] = tensor(pool_, DType::kInt32, {4, 3}, tokens);  // has no length, whatever its size
  std::string strings;
  for (int i = 0; i < 4 * 2 * 3; ++i) {
    const std::string text(static_cast<std::size_t>(i % 5), static_cast<char>('a' + i));
    const auto size = static_cast<std::uint32_t>(text.size());
    strings.append(reinterpret_cast<const char*>(&size), 4).append(text);
  }
  outputs[2] = tensor(pool_, DType::kBytes, {4, 2, 3}, std::vector<char>(strings.begin(), strings.end()));
  ASSERT_TRUE(check_outputs(batch_, 4, true, outputs, kNames).ok());
  ASSERT_TRUE(check_lengths(outputs, kPadding, 3, kNames).ok());
  scatter(batch_, batch_, 4, true, outputs);
  for (Ticket* ticket : batch_) ASSERT_TRUE(cut_outputs(*ticket, kPadding, 3, pool_).ok());
  outputs.clear();
  EXPECT_EQ(batch_[0]->outputs[0].shape, (Shape{2, 1}));
  EXPECT_EQ(values<std::int32_t>(batch_[0]->outputs[0]), (std::vector<std::int32_t>{0, 3}));
  EXPECT_EQ(values<std::int32_t>(batch_[1]->outputs[0]), (std::vector<std::int32_t>{6, 7, 8}));
  EXPECT_EQ(batch_[2]->outputs[0].shape, (Shape{1, 2}));
  EXPECT_EQ(values<std::int32_t>(batch_[2]->outputs[0]), (std::vector<std::int32_t>{9, 10}));
  EXPECT_EQ(batch_[0]->outputs[1].shape, (Shape{2, 3}));
  const auto text = [](const Tensor& tensor) {
    std::string all;
    for (std::size_t at = 0; at < tensor.size;) {
      std::uint32_t size = 0;
      std::memcpy(&size, tensor.data + at, 4);
      all.append(reinterpret_cast<const char*>(tensor.data) + at + 4, size).append("|");
      at += 4 + size;
    }
    return all;
  };
  EXPECT_EQ(batch_[0]->outputs[2].shape, (Shape{2, 2, 1}));
  EXPECT_EQ(text(batch_[0]->outputs[2]), "|ddd|g|jjjj|");
  EXPECT_EQ(text(batch_[1]->outputs[2]), "mm|nnn|oooo||q|rr|");
  EXPECT_EQ(text(batch_[2]->outputs[2]), "sss|tttt|v|ww|");
}

TEST_F(PaddingTest, AnOutputWithoutTheLengthIsNamed) {
  std::vector<Tensor> outputs(3);
  outputs[0] = tensor(pool_, DType::kInt32, {1, 2}, std::vector<std::int32_t>{1, 2});
  const Status status = check_lengths(outputs, kPadding, 3, kNames);
  EXPECT_EQ(status.code(), Code::kInternal);
  EXPECT_NE(status.message().find("'tokens' has shape [1,2]"), std::string::npos) << status.message();
}

TEST_F(PaddingTest, NoMemoryIsARefusalAndLeavesNothing) {
  add(1, 3);
  add(1, 300);
  PoolOptions options;
  options.cap = 1024;
  Pool small(options);
  EXPECT_EQ(gather_padded(batch_, kPadding, 300, small, inputs_).code(), Code::kResourceExhausted);
  EXPECT_TRUE(inputs_.empty());
  EXPECT_EQ(small.stats().bytes_in_use, 0U);
}

}  // namespace
}  // namespace headrace
