#include "batching/output_request.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "shared_object.h"

namespace headrace {
namespace {

using testing::SharedObject;

class OutputRequestTest : public ::testing::Test {
 protected:
  OutputRequestTest() {
    for (Tensor& tensor : outputs_) {
      tensor.dtype = DType::kInt32;
      tensor.shape.assign(std::vector<std::int64_t>{2, 2});
      tensor.size = 16;
      tensor.block = *pool_.allocate(16);
      tensor.data = tensor.block.data();
      const std::int32_t values[] = {1, 2, 4, 3};
      std::memcpy(tensor.block.data(), values, 16);
    }
  }
  ~OutputRequestTest() override {
    outputs_.clear();
    EXPECT_EQ(pool_.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
  }
  Status fulfil(std::vector<OutputRequest>& requests) {
    return fulfil_requests(requests, outputs_, true, names_, labels_, pool_);
  }

  Pool pool_{PoolOptions{}};
  std::vector<Tensor> outputs_{2};
  const std::vector<std::string> names_{"y", "z"};
  std::vector<std::vector<std::string>> labels_{{}, {"left", "right"}};
  const SharedObject object_{100};
  const std::shared_ptr<const SharedRegion> region_ = *SharedRegion::open("r", object_.key(), 20, 80);
};

TEST_F(OutputRequestTest, AnOutputIsWrittenToSharedMemory) {
  std::vector<OutputRequest> requests(1);
  requests[0] = {.output = 1, .region = region_, .offset = 4, .bytes = 50};
  ASSERT_TRUE(fulfil(requests).ok());
  EXPECT_EQ(requests[0].written, 16U);
  EXPECT_EQ(object_.values<std::int32_t>(24, 4), (std::vector<std::int32_t>{1, 2, 4, 3}));
  EXPECT_EQ(outputs_[1].size, 0U);
  EXPECT_FALSE(outputs_[1].block) << "its memory is free";
  EXPECT_EQ(outputs_[1].dtype, DType::kInt32);
  EXPECT_EQ(outputs_[1].shape.to_string(), "[2,2]");
  EXPECT_EQ(outputs_[0].size, 16U) << "the other is as it was";
}

TEST_F(OutputRequestTest, ClassesHaveTheirOutputsLabels) {
  std::vector<OutputRequest> requests(2);
  requests[0] = {.output = 0, .classes = 1, .region = nullptr};
  requests[1] = {.output = 1, .classes = 1, .region = nullptr};
  ASSERT_TRUE(fulfil(requests).ok());
  const auto text = [&](std::size_t output) {
    return std::string(reinterpret_cast<const char*>(outputs_[output].data), outputs_[output].size);
  };
  EXPECT_EQ(text(0), std::string("\3\0\0\0"
                                 "2:1"
                                 "\3\0\0\0"
                                 "4:0",
                                 14));
  EXPECT_EQ(text(1), std::string("\11\0\0\0"
                                 "2:1:right"
                                 "\10\0\0\0"
                                 "4:0:left",
                                 25));
  labels_.clear();
  std::vector<OutputRequest> none;
  EXPECT_TRUE(fulfil(none).ok());
}

TEST_F(OutputRequestTest, ClassesMayGoToSharedMemoryToo) {
  std::vector<OutputRequest> requests(1);
  requests[0] = {.output = 0, .classes = 1, .region = region_, .offset = 0, .bytes = 14};
  ASSERT_TRUE(fulfil(requests).ok());
  EXPECT_EQ(requests[0].written, 14U);
  EXPECT_EQ(outputs_[0].dtype, DType::kBytes);
}

TEST_F(OutputRequestTest, RefusalsNameTheOutputAndBothSizes) {
  std::vector<OutputRequest> requests(1);
  requests[0] = {.output = 1, .region = region_, .offset = 0, .bytes = 15};
  EXPECT_EQ(fulfil(requests).to_string(),
            "INVALID_ARGUMENT: output 'z' takes 16 bytes; the request's shared_memory_byte_size for it is 15");
  requests[0].bytes = 16;
  object_.resize(30);
  const Status refused = fulfil(requests);
  EXPECT_EQ(refused.code(), Code::kInvalidArgument);
  EXPECT_EQ(refused.message().find("output 'z': the shared memory object of region 'r' has become smaller"), 0U)
      << refused.message();
}

}  // namespace
}  // namespace headrace
