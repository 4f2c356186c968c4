#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <protozero/pbf_writer.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "infer_wire.h"
#include "wire/infer_codec.h"

namespace headrace::wire {
namespace {

using protozero::pbf_writer;
using testing::as_text;
using testing::input;
using testing::int_parameter;
using testing::message;

class InferEncode : public ::testing::Test {
 protected:
  void TearDown() override {
    tensors_.clear();
    out_.clear();
    const PoolStats stats = pool_.stats();
    EXPECT_EQ(stats.bytes_in_use, 0U);
    EXPECT_EQ(stats.blocks_in_use, 0U);
  }

  const Tensor* tensor(DType dtype, Shape shape, std::size_t size, char fill) {
    auto made = std::make_unique<Tensor>();
    made->dtype = dtype;
    made->shape = std::move(shape);
    made->block = std::move(*pool_.allocate(size));
    std::memset(made->block.data(), fill, size);
    made->data = made->block.data();
    made->size = size;
    tensors_.push_back(std::move(made));
    return tensors_.back().get();
  }

  std::string joined() const {
    std::string all;
    std::size_t at = 0;
    for (const OutMessage::View& view : out_.views) {
      all.append(out_.own, at, view.offset - at);
      all.append(as_text(view.bytes));
      at = view.offset;
    }
    all.append(out_.own, at);
    EXPECT_EQ(all.size(), out_.size());
    return all;
  }

  Pool pool_{PoolOptions{}};
  std::vector<std::unique_ptr<Tensor>> tensors_;
  OutMessage out_;
};

TEST_F(InferEncode, WritesWhatProtobufWouldWrite) {
  out_.own = "left over";
  const ResponseParameter parameters[] = {{"headrace_batch_size", 300}, {"", -1}, {"zero", 0}};
  const ResponseOutput outputs[] = {{"probabilities", tensor(DType::kFp32, {1, 300}, 1200, 'p')},
                                    {"", tensor(DType::kBytes, {}, 0, 0)}};
  encode_infer_response({"mlp", "", "id", parameters, outputs}, out_);
  const std::string expected = message([](pbf_writer& writer) {
    writer.add_string(1, "mlp");
    writer.add_string(3, "id");
    writer.add_message(4, int_parameter("headrace_batch_size", 300));
    writer.add_message(4, int_parameter("", -1));
    writer.add_message(4, int_parameter("zero", 0));
    writer.add_message(5, input("probabilities", "FP32", {1, 300}));
    writer.add_message(5, message([](pbf_writer& out) { out.add_string(2, "BYTES"); }));
    writer.add_bytes(6, std::string(1200, 'p'));
    writer.add_bytes(6, "");
  });
  EXPECT_EQ(joined(), expected);
  EXPECT_TRUE(out_.views.empty());
}

TEST_F(InferEncode, LeavesLargeTensorsAsViewsOfTheirBlocks) {
  Tensor borrowed = *tensor(DType::kInt8, {kViewBytes + 1}, kViewBytes + 1, 'b');
  borrowed.block.reset();  // no owner: must be copied
  const ResponseOutput outputs[] = {{"a", tensor(DType::kInt8, {kViewBytes + 1}, kViewBytes + 1, 'a')},
                                    {"b", &borrowed},
                                    {"c", tensor(DType::kInt8, {kViewBytes}, kViewBytes, 'c')},
                                    {"d", tensor(DType::kInt8, {200000}, 200000, 'd')}};
  encode_infer_response({"m", "1", "", {}, outputs}, out_);
  ASSERT_EQ(out_.views.size(), 2U);
  EXPECT_EQ(out_.views[0].bytes.data(), outputs[0].tensor->data);
  EXPECT_EQ(out_.views[0].block.data(), outputs[0].tensor->data);
  EXPECT_EQ(out_.views[1].bytes.data(), outputs[3].tensor->data);
  EXPECT_EQ(out_.views[1].offset, out_.own.size());
  const std::string expected = message([](pbf_writer& writer) {
    writer.add_string(1, "m");
    writer.add_string(2, "1");
    writer.add_message(5, input("a", "INT8", {kViewBytes + 1}));
    writer.add_message(5, input("b", "INT8", {kViewBytes + 1}));
    writer.add_message(5, input("c", "INT8", {kViewBytes}));
    writer.add_message(5, input("d", "INT8", {200000}));
    writer.add_bytes(6, std::string(kViewBytes + 1, 'a'));
    writer.add_bytes(6, std::string(kViewBytes + 1, 'b'));
    writer.add_bytes(6, std::string(kViewBytes, 'c'));
    writer.add_bytes(6, std::string(200000, 'd'));
  });
  EXPECT_EQ(joined(), expected);
}

TEST_F(InferEncode, AStreamsAnswerIsTheSameInAnEnvelope) {
  const ResponseParameter parameters[] = {{"final", true}};
  const ResponseOutput outputs[] = {{"a", tensor(DType::kInt8, {kViewBytes + 1}, kViewBytes + 1, 'a')}};
  const InferResponse response{"m", "1", "id", parameters, outputs};
  encode_infer_response(response, out_);
  const std::string alone = joined();
  EXPECT_NE(alone.find(std::string("\x05"
                                   "final\x12\x02\x08\x01")),
            std::string::npos);  // bool_param: true
  encode_stream_infer_response("", response, out_);
  EXPECT_EQ(joined(), message([&](pbf_writer& writer) { writer.add_message(2, alone); }));
  EXPECT_EQ(out_.views.size(), 1U);
  encode_stream_infer_response("no", {"m", "", "id", {}, {}}, out_);
  EXPECT_EQ(joined(), "\x0a\x02no\x12\x07\x0a\x01m\x1a\x02id");
}

TEST_F(InferEncode, SaysWhereAnOutputIsInSharedMemory) {
  Tensor written = *tensor(DType::kInt32, {3}, 12, 'w');
  written.size = 0;
  const ResponseOutput outputs[] = {{"a", &written, {"region", 0, 12}}, {"b", &written, {"r", 300, 12}}};
  encode_infer_response({"m", "", "", {}, outputs}, out_);
  EXPECT_NE(joined().find("\x0A\x14shared_memory_region\x12\x08\x1A\x06region"), std::string::npos);
  const std::string tail = message([](pbf_writer& writer) {
    writer.add_message(4, int_parameter("shared_memory_byte_size", 12));
    writer.add_message(4, int_parameter("shared_memory_offset", 300));
  });
  EXPECT_NE(joined().find(tail + std::string("\x32\0\x32\0", 4)), std::string::npos) << "and no bytes";
}

TEST_F(InferEncode, WritesAnEmptyResponse) {
  encode_infer_response({}, out_);
  EXPECT_EQ(out_.size(), 0U);
}

}  // namespace
}  // namespace headrace::wire
