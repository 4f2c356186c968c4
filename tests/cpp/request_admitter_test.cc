#include "front/request_admitter.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "front_fixture.h"
#include "shared_object.h"

namespace headrace::testing {
namespace {

// A front of no protocol: its requests are written down, its contents are numbers in a vector.
class NumbersSource final : public RequestSource {
 public:
  NumbersSource(const wire::InferRequest& request, const Block& block, InflightBudget::Charge& charge, Values values)
      : RequestSource(request, block, charge), values_(std::move(values)) {}
  Result<Tensor> convert(std::size_t place, DType dtype, std::size_t elements, Pool& pool) const override {
    asked.push_back({place, dtype, elements});
    if (elements != values_.size()) return invalid_argument("the wrong number of numbers");
    Tensor tensor;
    tensor.size = values_.size() * sizeof(std::int32_t);
    tensor.block = *pool.allocate(tensor.size);
    tensor.data = tensor.block.data();
    std::memcpy(tensor.block.data(), values_.data(), tensor.size);
    return tensor;
  }
  struct Asked {
    std::size_t place;
    DType dtype;
    std::size_t elements;
  };
  mutable std::vector<Asked> asked;

 private:
  const Values values_;
};

class RequestAdmitterTest : public FrontTest {
 protected:
  void SetUp() override {
    FrontTest::SetUp();
    start(8);
    request_.model_name = "m";
    request_.inputs.resize(1);
    request_.inputs[0].name = "x";
    request_.inputs[0].datatype = "INT32";
    request_.inputs[0].shape = {2, 1};
  }
  Status admit(const Values& values = {4, 5}) {
    ticket_.clear();
    found_ = nullptr;
    NumbersSource source(request_, block_, charge_, values);
    const Status status = admitter_.admit(*engine_->catalog(), source, *engine_, ticket_, found_);
    asked_ = source.asked;
    return status;
  }
  void parameter(std::string_view key, wire::ParameterValue value) { request_.parameters = {{key, value}}; }
  void TearDown() override {
    ticket_.clear();
    block_.reset();
    charge_.release();
    FrontTest::TearDown();
  }

  RequestAdmitter admitter_;
  wire::InferRequest request_;
  Block block_;
  InflightBudget::Charge charge_;
  Ticket ticket_;
  Model* found_ = nullptr;
  std::vector<NumbersSource::Asked> asked_;
};

TEST_F(RequestAdmitterTest, ContentsComeFromWhoeverDecodedTheRequest) {
  charge_ = engine_->budget().take(100);
  request_.id = "a";
  ASSERT_TRUE(admit().ok());
  EXPECT_EQ(found_, model_.get());
  EXPECT_EQ(ticket_.model, model_->entry);
  EXPECT_EQ(ticket_.id, "a");
  EXPECT_EQ(ticket_.rows, 2);
  EXPECT_EQ(values_of(ticket_.inputs[0]), (Values{4, 5}));
  ASSERT_EQ(asked_.size(), 1U);
  EXPECT_EQ(asked_[0].place, 0U);
  EXPECT_EQ(asked_[0].dtype, DType::kInt32);
  EXPECT_EQ(asked_[0].elements, 2U);
  EXPECT_TRUE(ticket_.charge);
  EXPECT_FALSE(charge_) << "the ticket answers for the body's bytes now";
}

TEST_F(RequestAdmitterTest, RawBytesAreBorrowedFromTheBlock) {
  const Values values{7, 8};
  block_ = *engine_->pool().allocate(8);
  std::memcpy(block_.data(), values.data(), 8);
  request_.inputs[0].raw = std::span<const std::byte>(block_.data(), 8);
  ASSERT_TRUE(admit().ok());
  EXPECT_TRUE(asked_.empty());
  EXPECT_EQ(ticket_.inputs[0].data, block_.data()) << "nothing was copied";
  block_.reset();
  EXPECT_EQ(values_of(ticket_.inputs[0]), values) << "and the ticket keeps them";
}

TEST_F(RequestAdmitterTest, WhatTheSourceRefusesIsRefused) {
  charge_ = engine_->budget().take(100);
  EXPECT_EQ(admit({1, 2, 3}).to_string(), "INVALID_ARGUMENT: the wrong number of numbers");
  EXPECT_EQ(found_, model_.get()) << "known, so that the refusal can be counted";
  EXPECT_TRUE(charge_) << "still the front's";
  EXPECT_FALSE(ticket_.charge);
}

TEST_F(RequestAdmitterTest, TimingIsABool) {
  ASSERT_TRUE(admit().ok());
  EXPECT_FALSE(ticket_.timing);
  parameter("headrace_timing", true);
  ASSERT_TRUE(admit().ok());
  EXPECT_TRUE(ticket_.timing);
  parameter("headrace_timing", false);
  ASSERT_TRUE(admit().ok());
  EXPECT_FALSE(ticket_.timing);
  parameter("headrace_timing", std::int64_t{1});
  EXPECT_EQ(admit().to_string(), "INVALID_ARGUMENT: request parameter 'headrace_timing' must be a bool_param");
  EXPECT_EQ(found_, model_.get());
}

TEST_F(RequestAdmitterTest, PriorityAndSequenceStandOnTheTicket) {
  ASSERT_TRUE(admit().ok());
  EXPECT_EQ(ticket_.priority, 0U);
  EXPECT_FALSE(ticket_.in_sequence);
  request_.parameters = {{"priority", std::int64_t{2}}, {"sequence_id", std::string_view("s")}};
  ASSERT_TRUE(admit().ok());
  EXPECT_EQ(ticket_.priority, 2U);
  EXPECT_TRUE(ticket_.in_sequence);
}

TEST_F(RequestAdmitterTest, ATimeoutCountsWhereTheModelAllowsItAndOnlyIfItIsShorter) {
  parameter("timeout", std::int64_t{2000});
  ASSERT_TRUE(admit().ok());
  EXPECT_EQ(ticket_.timeout, kNever);
  model_->policy.allow_timeout_override = true;
  ASSERT_TRUE(admit().ok());
  EXPECT_EQ(ticket_.timeout, 2 * kMillisecond);
  model_->policy.default_timeout = kMillisecond;
  ASSERT_TRUE(admit().ok());
  EXPECT_EQ(ticket_.timeout, kMillisecond);
  parameter("timeout", std::int64_t{0});
  ASSERT_TRUE(admit().ok());
  EXPECT_EQ(ticket_.timeout, kMillisecond) << "0 is none of its own";
  model_->policy.allow_timeout_override = false;
  parameter("timeout", std::int64_t{5});
  ASSERT_TRUE(admit().ok());
  EXPECT_EQ(ticket_.timeout, kMillisecond);
}

TEST_F(RequestAdmitterTest, OtherParametersOfTensorsMeanNothing) {
  const wire::Parameter other{"other", true};
  request_.inputs[0].parameters = {&other, 1};
  EXPECT_TRUE(admit().ok());
}

TEST_F(RequestAdmitterTest, AnUnknownModelIsNotCountedAgainstAnybody) {
  request_.model_name = "n";
  EXPECT_EQ(admit().code(), Code::kNotFound);
  EXPECT_EQ(found_, nullptr);
}

// Clients' shared memory: what a request says of it, and the region "r" in it.
class SharedRequestTest : public RequestAdmitterTest {
 protected:
  void SetUp() override {
    engine_options_.max_shared_regions = 4;
    engine_options_.max_message_bytes = 1000;
    RequestAdmitterTest::SetUp();
    ASSERT_TRUE(engine_->shared_regions().add("r", object_.key(), 0, 1000).ok());
  }
  void in_memory(std::uint64_t offset, std::uint64_t bytes, std::string_view region = "r") {
    place_ = {{"shared_memory_region", region}, {"shared_memory_offset", offset}, {"shared_memory_byte_size", bytes}};
    request_.inputs[0].parameters = place_;
  }
  void want(std::vector<wire::Parameter> parameters) {
    wanted_ = std::move(parameters);
    request_.outputs.emplace_back();
    request_.outputs.back().name = "y";
    request_.outputs.back().parameters = wanted_;
  }
  const SharedObject object_{2000};
  std::vector<wire::Parameter> place_;
  std::vector<wire::Parameter> wanted_;
};

TEST_F(SharedRequestTest, NumbersInSharedMemoryAreLeftForTheLane) {
  in_memory(100, 8);
  ASSERT_TRUE(admit().ok());
  EXPECT_TRUE(asked_.empty());
  EXPECT_EQ(ticket_.inputs[0].data, nullptr);
  EXPECT_EQ(ticket_.inputs[0].size, 8U);
  ASSERT_EQ(ticket_.input_places.size(), 1U);
  EXPECT_EQ(ticket_.input_places[0].input, 0U);
  EXPECT_EQ(*ticket_.input_places[0].name, "x");
  EXPECT_EQ(ticket_.input_places[0].region->name(), "r");
  EXPECT_EQ(ticket_.input_places[0].offset, 100U);
  EXPECT_FALSE(ticket_.shared_charge) << "no memory is taken for it yet";
}

TEST_F(SharedRequestTest, WhatIsWrongWithAnInputIsNamed) {
  in_memory(0, 8, "q");
  EXPECT_EQ(admit().to_string(), "NOT_FOUND: input 'x': shared memory region 'q' is not registered");
  in_memory(993, 8);
  EXPECT_EQ(admit().to_string(),
            "INVALID_ARGUMENT: input 'x': offset 993 and byte size 8 go beyond the end of shared "
            "memory region 'r', which has 1000 bytes");
  in_memory(0, 12);
  EXPECT_EQ(admit().to_string(), "INVALID_ARGUMENT: input 'x' of model 'm' has 12 bytes; shape [2,1] of INT32 takes 8");
  in_memory(0, 1001);
  EXPECT_EQ(admit().code(), Code::kResourceExhausted);
  EXPECT_NE(admit().message().find("--max-request-bytes"), std::string::npos);
  in_memory(0, 8);
  request_.inputs[0].has_contents = true;
  EXPECT_NE(admit().message().find("send one of the two"), std::string::npos);
  request_.inputs[0].has_contents = false;
  EXPECT_TRUE(admit().ok());
}

TEST_F(SharedRequestTest, WhatIsAskedOfOutputsIsNoted) {
  want({{"shared_memory_region", std::string_view("r")}, {"shared_memory_byte_size", std::int64_t{40}}});
  ASSERT_TRUE(admit().ok());
  ASSERT_EQ(ticket_.output_requests.size(), 1U);
  EXPECT_EQ(ticket_.output_requests[0].output, 0U);
  EXPECT_EQ(ticket_.output_requests[0].region->name(), "r");
  EXPECT_EQ(ticket_.output_requests[0].bytes, 40U);
  EXPECT_EQ(ticket_.output_requests[0].classes, 0U);
  request_.outputs.clear();
  want({{"classification", std::int64_t{2}}});
  ASSERT_TRUE(admit().ok());
  ASSERT_EQ(ticket_.output_requests.size(), 1U);
  EXPECT_EQ(ticket_.output_requests[0].classes, 2U);
  EXPECT_EQ(ticket_.output_requests[0].region, nullptr);
  request_.outputs.push_back(request_.outputs[0]);
  EXPECT_EQ(admit().to_string(), "INVALID_ARGUMENT: output 'y' is asked for twice");
  request_.outputs.clear();
  want({{"other", true}});
  ASSERT_TRUE(admit().ok());
  EXPECT_TRUE(ticket_.output_requests.empty());
}

TEST_F(SharedRequestTest, WhatIsWrongWithAnOutputIsNamed) {
  want({{"shared_memory_region", std::string_view("q")}, {"shared_memory_byte_size", std::int64_t{40}}});
  EXPECT_EQ(admit().to_string(), "NOT_FOUND: output 'y': shared memory region 'q' is not registered");
  request_.outputs.clear();
  want({{"shared_memory_region", std::string_view("r")}, {"shared_memory_byte_size", std::int64_t{1001}}});
  EXPECT_EQ(admit().code(), Code::kInvalidArgument);
  request_.outputs.clear();
  want({{"classification", std::int64_t{0}}});
  EXPECT_EQ(admit().code(), Code::kInvalidArgument);
}

TEST_F(RequestAdmitterTest, WithoutTheFlagSharedMemoryIsRefused) {
  const wire::Parameter place[] = {{"shared_memory_region", std::string_view("r")},
                                   {"shared_memory_byte_size", std::int64_t{8}}};
  request_.inputs[0].parameters = place;
  const Status refused = admit();
  EXPECT_EQ(refused.code(), Code::kPermissionDenied);
  EXPECT_NE(refused.message().find("--allow-client-shm"), std::string::npos);
}

}  // namespace
}  // namespace headrace::testing
