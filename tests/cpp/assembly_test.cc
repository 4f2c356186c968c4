#include "batching/assembly.h"

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "shared_object.h"

namespace headrace {
namespace {

const std::vector<std::string> kNames = {"first", "second"};

template <class T>
Tensor tensor_of(Pool& pool, DType dtype, Shape shape, const std::vector<T>& values) {
  Tensor tensor;
  Result<Block> block = pool.allocate(values.size() * sizeof(T));
  EXPECT_TRUE(block);
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.block = std::move(*block);
  tensor.data = tensor.block.data();
  tensor.size = values.size() * sizeof(T);
  if (tensor.size != 0) std::memcpy(tensor.block.data(), values.data(), tensor.size);
  return tensor;
}

Tensor strings_of(Pool& pool, Shape shape, const std::vector<std::string>& values) {
  std::vector<char> bytes;
  for (const std::string& value : values) {
    for (unsigned shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(value.size() >> shift));
    bytes.insert(bytes.end(), value.begin(), value.end());
  }
  return tensor_of(pool, DType::kBytes, std::move(shape), bytes);
}

template <class T>
std::vector<T> values_of(const Tensor& tensor) {
  std::vector<T> values(tensor.size / sizeof(T));
  if (tensor.size != 0) std::memcpy(values.data(), tensor.data, tensor.size);
  return values;
}

std::vector<std::string> strings_in(const Tensor& tensor) {
  std::vector<std::string> values;
  std::size_t offset = 0;
  while (offset < tensor.size) {
    const std::size_t end = skip_strings(tensor.bytes(), offset, 1);
    values.emplace_back(reinterpret_cast<const char*>(tensor.data) + offset + 4, end - offset - 4);
    offset = end;
  }
  return values;
}

class Assembly : public ::testing::Test {
 protected:
  Assembly() : pool_(PoolOptions{}) {}
  ~Assembly() override {
    inputs_.clear();
    tickets_.clear();
    EXPECT_EQ(pool_.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
  }

  Ticket& ticket(std::int64_t rows, std::vector<Tensor> inputs, std::vector<std::uint8_t> wanted = {1, 1}) {
    Ticket& made = tickets_.emplace_back();
    made.rows = rows;
    made.inputs = std::move(inputs);
    made.wanted = std::move(wanted);
    batch_.push_back(&made);
    return made;
  }

  bool hand_out(std::int64_t rows, bool batched, std::span<const Tensor> outputs) {
    const Status status = check_outputs(batch_, rows, batched, outputs, kNames);
    EXPECT_TRUE(status.ok()) << status.to_string();
    if (status.ok()) scatter(batch_, batch_, rows, batched, outputs);
    return status.ok();
  }

  Pool pool_;
  std::deque<Ticket> tickets_;
  std::vector<Ticket*> batch_;
  std::vector<Tensor> inputs_;
};

TEST_F(Assembly, OneTicketIsBoundAsItLies) {
  ticket(2, {tensor_of<float>(pool_, DType::kFp32, {2, 2}, {1, 2, 3, 4}), Tensor()});
  ASSERT_TRUE(gather(batch_, pool_, inputs_).ok());
  ASSERT_EQ(inputs_.size(), 2U);
  EXPECT_EQ(inputs_[0].data, tickets_[0].inputs[0].data);
  EXPECT_EQ(inputs_[0].shape, (Shape{2, 2}));
  EXPECT_FALSE(inputs_[1]);
  EXPECT_EQ(pool_.stats().blocks_in_use, 1U);
}

TEST_F(Assembly, BorrowedBytesAreBoundToo) {
  alignas(8) const std::int64_t values[2] = {7, 8};
  Tensor borrowed;
  borrowed.dtype = DType::kInt64;
  borrowed.shape = Shape{1, 2};
  borrowed.data = reinterpret_cast<const std::byte*>(values);
  borrowed.size = sizeof values;
  ticket(1, {borrowed});
  ASSERT_TRUE(gather(batch_, pool_, inputs_).ok());
  EXPECT_EQ(inputs_[0].data, borrowed.data);
  EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
}

TEST_F(Assembly, OnlyWhatIsNotAlignedToItsElementIsCopied) {
  Tensor odd = tensor_of<std::int32_t>(pool_, DType::kInt32, {1, 3}, {0, 5, 6});
  std::byte* base = odd.block.data();
  const std::int32_t values[2] = {5, 6};
  std::memcpy(base + 1, values, sizeof values);
  odd.data = base + 1;
  odd.size = sizeof values;
  odd.shape = Shape{1, 2};
  Tensor bytes = strings_of(pool_, {1, 1}, {"abc"});
  Tensor text = bytes;
  text.data += 3;  // strings have no alignment
  text.size = 4;
  ticket(1, {odd, text});
  ASSERT_TRUE(gather(batch_, pool_, inputs_).ok());
  EXPECT_NE(inputs_[0].data, odd.data);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(inputs_[0].data) % 4, 0U);
  EXPECT_EQ(values_of<std::int32_t>(inputs_[0]), (std::vector<std::int32_t>{5, 6}));
  EXPECT_EQ(inputs_[0].shape, (Shape{1, 2}));
  EXPECT_EQ(inputs_[1].data, text.data);
}

TEST_F(Assembly, SeveralTicketsAreGatheredInOrder) {
  for (int i = 0; i < 3; ++i) {
    std::vector<std::int16_t> values;
    std::vector<std::string> texts;
    const auto rows = static_cast<std::size_t>(i);  // an empty one is among them
    for (std::size_t k = 0; k < 2 * rows; ++k)
      values.push_back(static_cast<std::int16_t>(10 * i + static_cast<int>(k)));
    for (std::size_t k = 0; k < rows; ++k) texts.push_back(std::string(k + rows, static_cast<char>('a' + i)));
    ticket(i, {tensor_of(pool_, DType::kInt16, {i, 2}, values), strings_of(pool_, {i}, texts), Tensor()});
  }
  const std::uint64_t before = pool_.stats().blocks_in_use;
  ASSERT_TRUE(gather(batch_, pool_, inputs_).ok());
  EXPECT_EQ(pool_.stats().blocks_in_use, before + 2);
  EXPECT_EQ(inputs_[0].shape, (Shape{3, 2}));
  EXPECT_EQ(values_of<std::int16_t>(inputs_[0]), (std::vector<std::int16_t>{10, 11, 20, 21, 22, 23}));
  EXPECT_EQ(inputs_[1].shape, (Shape{3}));
  EXPECT_EQ(strings_in(inputs_[1]), (std::vector<std::string>{"b", "cc", "ccc"}));
  EXPECT_FALSE(inputs_[2]);
  // The same vector again, for another batch.
  ASSERT_TRUE(gather(std::span(batch_).subspan(2), pool_, inputs_).ok());
  EXPECT_EQ(inputs_[0].data, tickets_[2].inputs[0].data);
}

TEST_F(Assembly, NoRoomIsSaidAndNothingIsKept) {
  PoolOptions tight;
  tight.cap = 4096;
  Pool small(tight);
  for (int i = 0; i < 2; ++i) {
    ticket(1, {tensor_of<float>(pool_, DType::kFp32, {1, 1}, {1}),
               tensor_of<std::uint8_t>(pool_, DType::kUint8, {1, 3000}, std::vector<std::uint8_t>(3000))});
  }
  const Status status = gather(batch_, small, inputs_);
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_TRUE(inputs_.empty());
  EXPECT_EQ(small.stats().bytes_in_use, 0U);
  EXPECT_EQ(small.stats().blocks_in_use, 0U);
}

TEST_F(Assembly, WantedIsWhatAnybodyWants) {
  std::vector<std::uint8_t> wanted = {9, 9, 9, 9, 9};
  ticket(1, {}, {1, 0, 0});
  wanted_outputs(batch_, wanted);
  EXPECT_EQ(wanted, (std::vector<std::uint8_t>{1, 0, 0}));
  ticket(1, {}, {0, 0, 1});
  wanted_outputs(batch_, wanted);
  EXPECT_EQ(wanted, (std::vector<std::uint8_t>{1, 0, 1}));
}

TEST_F(Assembly, EachTicketGetsItsRowsAndShares) {
  ticket(1, {}, {1, 1});
  ticket(0, {}, {1, 1});
  ticket(2, {}, {0, 1});
  std::vector<Tensor> outputs = {tensor_of<float>(pool_, DType::kFp32, {3, 2}, {1, 2, 3, 4, 5, 6}),
                                 strings_of(pool_, {3, 2}, {"a", "", "bbb", "cc", "d", "ee"})};
  const std::byte* data = outputs[0].data;
  ASSERT_TRUE(hand_out(3, true, outputs));
  EXPECT_EQ(pool_.stats().blocks_in_use, 2U) << "nothing was copied";
  outputs.clear();

  ASSERT_EQ(tickets_[0].outputs.size(), 2U);
  EXPECT_EQ(tickets_[0].outputs[0].data, data);
  EXPECT_EQ(tickets_[0].outputs[0].shape, (Shape{1, 2}));
  EXPECT_EQ(values_of<float>(tickets_[0].outputs[0]), (std::vector<float>{1, 2}));
  EXPECT_EQ(strings_in(tickets_[0].outputs[1]), (std::vector<std::string>{"a", ""}));
  EXPECT_EQ(tickets_[1].outputs[0].shape, (Shape{0, 2}));
  EXPECT_EQ(tickets_[1].outputs[0].size, 0U);
  EXPECT_EQ(tickets_[1].outputs[1].size, 0U);
  EXPECT_FALSE(tickets_[2].outputs[0]) << "not wanted";
  EXPECT_EQ(tickets_[2].outputs[1].shape, (Shape{2, 2}));
  EXPECT_EQ(strings_in(tickets_[2].outputs[1]), (std::vector<std::string>{"bbb", "cc", "d", "ee"}));
  // The batch's blocks live as long as anybody's rows.
  tickets_[0].outputs.clear();
  EXPECT_EQ(pool_.stats().blocks_in_use, 2U);
  tickets_[1].outputs.clear();
  EXPECT_EQ(pool_.stats().blocks_in_use, 1U);
  tickets_[2].outputs.clear();
  EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
}

TEST_F(Assembly, TicketsThatWereAnsweredBeforeKeepTheirPlaceAndAreNotTouched) {
  for (int i = 0; i < 4; ++i) ticket(1, {}, {1, 1});
  std::vector<Tensor> outputs = {tensor_of<float>(pool_, DType::kFp32, {4}, {1, 2, 3, 4}),
                                 strings_of(pool_, {4}, {"a", "bb", "ccc", "dddd"})};
  const std::vector<Ticket*> claimed = {batch_[1], batch_[3]};
  scatter(batch_, claimed, 4, true, outputs);
  outputs.clear();
  EXPECT_TRUE(tickets_[0].outputs.empty() && tickets_[2].outputs.empty());
  EXPECT_EQ(values_of<float>(tickets_[1].outputs[0]), (std::vector<float>{2}));
  EXPECT_EQ(strings_in(tickets_[1].outputs[1]), (std::vector<std::string>{"bb"}));
  EXPECT_EQ(values_of<float>(tickets_[3].outputs[0]), (std::vector<float>{4}));
  EXPECT_EQ(strings_in(tickets_[3].outputs[1]), (std::vector<std::string>{"dddd"}));
  tickets_[1].outputs.clear();
  tickets_[3].outputs.clear();
  EXPECT_EQ(pool_.stats().blocks_in_use, 0U) << "nothing is held for those who left";
  scatter(batch_, {}, 4, true, outputs);
}

TEST_F(Assembly, WhatWasInATicketBeforeIsReplaced) {
  ticket(1, {}, {1, 0}).outputs = {tensor_of<float>(pool_, DType::kFp32, {1}, {9}),
                                   tensor_of<float>(pool_, DType::kFp32, {1}, {9})};
  const std::vector<Tensor> outputs = {tensor_of<float>(pool_, DType::kFp32, {1}, {1}), Tensor()};
  ASSERT_TRUE(hand_out(1, true, outputs));
  EXPECT_EQ(values_of<float>(tickets_[0].outputs[0]), (std::vector<float>{1}));
  EXPECT_FALSE(tickets_[0].outputs[1]);
}

TEST_F(Assembly, AnEmptyBatchIsABatch) {
  ticket(0, {tensor_of<float>(pool_, DType::kFp32, {0, 2}, {})});
  ticket(0, {tensor_of<float>(pool_, DType::kFp32, {0, 2}, {})});
  ASSERT_TRUE(gather(batch_, pool_, inputs_).ok());
  EXPECT_EQ(inputs_[0].shape, (Shape{0, 2}));
  const std::vector<Tensor> outputs = {tensor_of<float>(pool_, DType::kFp32, {0, 7}, {}),
                                       strings_of(pool_, {0, 2}, {})};
  ASSERT_TRUE(hand_out(0, true, outputs));
  EXPECT_EQ(tickets_[1].outputs[0].shape, (Shape{0, 7}));
  EXPECT_EQ(tickets_[1].outputs[1].shape, (Shape{0, 2}));
}

TEST_F(Assembly, WithoutABatchDimensionTheTensorsGoWhole) {
  ticket(1, {}, {1, 1});
  const std::vector<Tensor> outputs = {tensor_of<double>(pool_, DType::kFp64, {}, {2.5}),
                                       tensor_of<std::uint8_t>(pool_, DType::kUint8, {5}, {1, 2, 3, 4, 5})};
  ASSERT_TRUE(hand_out(1, false, outputs));
  EXPECT_EQ(tickets_[0].outputs[0].shape, Shape());
  EXPECT_EQ(tickets_[0].outputs[0].data, outputs[0].data);
  EXPECT_EQ(tickets_[0].outputs[1].size, 5U);
}

TEST_F(Assembly, AnOutputThatIsNoBatchIsNamed) {
  ticket(1, {}, {1, 1});
  ticket(1, {}, {1, 1});
  const Tensor good = tensor_of<float>(pool_, DType::kFp32, {2, 1}, {1, 2});
  Tensor cut = strings_of(pool_, {2}, {"a", "b"});
  cut.size -= 1;
  Tensor wrong_size = good;
  wrong_size.size = 7;
  const std::vector<std::pair<Tensor, std::string>> bad = {
      {tensor_of<float>(pool_, DType::kFp32, {1, 2}, {1, 2}), "output 'second' has shape [1,2] for a batch of 2 rows"},
      {tensor_of<float>(pool_, DType::kFp32, {}, {1}), "output 'second' has shape [] for a batch of 2 rows"},
      {cut, "output 'second': BYTES element 1 of 2 is cut"},
      {wrong_size, "output 'second' of shape [2,1] has 7 bytes"},
      {Tensor(), "the runtime gave no output 'second'"}};
  for (const auto& [second, text] : bad) {
    const std::vector<Tensor> outputs = {good, second};
    const Status status = check_outputs(batch_, 2, true, outputs, kNames);
    EXPECT_EQ(status.code(), Code::kInternal);
    EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
  }
}

// Round trip over many tickets: what goes in as rows comes out as the same rows.
TEST_F(Assembly, RowsNeverMix) {
  std::int64_t rows = 0;
  for (int i = 0; i < 64; ++i) {
    const std::int64_t own = 1 + i % 5;
    std::vector<std::int32_t> values;
    std::vector<std::string> texts;
    for (std::int64_t row = 0; row < own; ++row) {
      values.push_back(i);
      values.push_back(static_cast<std::int32_t>(row));
      texts.push_back("ticket " + std::to_string(i) + " row " + std::to_string(row));
    }
    ticket(own, {tensor_of(pool_, DType::kInt32, {own, 2}, values), strings_of(pool_, {own, 1}, texts)});
    rows += own;
  }
  ASSERT_TRUE(gather(batch_, pool_, inputs_).ok());
  ASSERT_TRUE(hand_out(rows, true, inputs_));
  for (const Ticket& one : tickets_) {
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(one.outputs[i].shape, one.inputs[i].shape);
      ASSERT_EQ(one.outputs[i].size, one.inputs[i].size);
      EXPECT_EQ(std::memcmp(one.outputs[i].data, one.inputs[i].data, one.inputs[i].size), 0);
    }
  }
}

// Inputs that clients have in shared memory: no data, and a place for each.
class SharedAssembly : public Assembly {
 protected:
  SharedAssembly() { region_ = *SharedRegion::open("r", object_.key(), 0, kRoom); }
  Ticket& there(std::int64_t rows, std::uint64_t offset) {
    Tensor tensor;
    tensor.dtype = DType::kInt32;
    tensor.shape = {rows, 2};
    tensor.size = static_cast<std::size_t>(rows) * 8;
    Ticket& made = ticket(rows, {std::move(tensor)});
    made.input_places.push_back({0, &kNames[0], region_, offset});
    return made;
  }

  static constexpr std::size_t kRoom = 1000;
  const testing::SharedObject object_{kRoom};
  std::shared_ptr<const SharedRegion> region_;
};

TEST_F(SharedAssembly, OfOneTicketIsCopied) {
  object_.put_values<std::int32_t>(12, {1, 2, 3, 4});
  there(2, 12);
  ASSERT_TRUE(gather(batch_, pool_, inputs_).ok());
  object_.put_values<std::int32_t>(12, {0, 0, 0, 0});
  EXPECT_EQ(values_of<std::int32_t>(inputs_[0]), (std::vector<std::int32_t>{1, 2, 3, 4}))
      << "not the client's any more";
  EXPECT_EQ(inputs_[0].shape, (Shape{2, 2}));
}

TEST_F(SharedAssembly, AnywhereInTheRegion) {
  object_.put_values<std::int32_t>(13, {1, 2});
  there(1, 13);
  ASSERT_TRUE(gather(batch_, pool_, inputs_).ok());
  EXPECT_EQ(values_of<std::int32_t>(inputs_[0]), (std::vector<std::int32_t>{1, 2}));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(inputs_[0].data) % alignof(std::int32_t), 0U);
}

TEST_F(SharedAssembly, IsGatheredBesideOthers) {
  object_.put_values<std::int32_t>(0, {5, 6});
  object_.put_values<std::int32_t>(900, {7, 8, 9, 10});
  there(1, 0);
  ticket(1, {tensor_of<std::int32_t>(pool_, DType::kInt32, {1, 2}, {1, 2})});
  there(2, 900);
  ASSERT_TRUE(gather(batch_, pool_, inputs_).ok());
  EXPECT_EQ(values_of<std::int32_t>(inputs_[0]), (std::vector<std::int32_t>{5, 6, 1, 2, 7, 8, 9, 10}));
}

TEST_F(SharedAssembly, IsPaddedBesideOthers) {
  object_.put_values<std::int32_t>(900, {7, 8, 9, 10});
  there(2, 900);
  ticket(1, {tensor_of<std::int32_t>(pool_, DType::kInt32, {1, 3}, {1, 2, 3})});
  const Padding padding{{1}, {0}};
  EXPECT_EQ(padded_length(batch_, padding), 3);
  ASSERT_TRUE(gather_padded(batch_, padding, 3, pool_, inputs_).ok());
  EXPECT_EQ(values_of<std::int32_t>(inputs_[0]), (std::vector<std::int32_t>{7, 8, 0, 9, 10, 0, 1, 2, 3}));
}

TEST_F(SharedAssembly, WhatIsCutShortIsTheClientsFault) {
  ticket(1, {tensor_of<std::int32_t>(pool_, DType::kInt32, {1, 2}, {1, 2})});
  there(1, 996);
  Status status = gather(batch_, pool_, inputs_);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  object_.resize(4);
  batch_.clear();
  there(1, 0);
  status = gather(batch_, pool_, inputs_);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_EQ(status.message().rfind("input 'first': ", 0), 0U) << status.message();
  EXPECT_NE(status.message().find("has become smaller"), std::string::npos) << status.message();
  EXPECT_TRUE(inputs_.empty());
  object_.resize(kRoom);
  EXPECT_TRUE(gather(batch_, pool_, inputs_).ok());
}

}  // namespace
}  // namespace headrace
