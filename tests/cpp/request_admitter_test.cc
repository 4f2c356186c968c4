#include "front/request_admitter.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "front_fixture.h"

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
    const Status status = admitter_.admit(*engine_->catalog(), source, engine_->pool(), ticket_, found_);
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

TEST_F(RequestAdmitterTest, WhatIsNotServedIsRefusedByName) {
  for (const char* name :
       {"shared_memory_region", "shared_memory_offset", "shared_memory_byte_size", "classification"}) {
    const wire::Parameter parameter{name, true};
    request_.inputs[0].parameters = {&parameter, 1};
    EXPECT_EQ(admit().to_string(), std::string("UNIMPLEMENTED: parameter '") + name +
                                       "' of tensor 'x' asks for something that this server does not do; leave it out");
  }
  const wire::Parameter other{"other", true};
  request_.inputs[0].parameters = {&other, 1};
  EXPECT_TRUE(admit().ok());
}

TEST_F(RequestAdmitterTest, AnUnknownModelIsNotCountedAgainstAnybody) {
  request_.model_name = "n";
  EXPECT_EQ(admit().code(), Code::kNotFound);
  EXPECT_EQ(found_, nullptr);
}

}  // namespace
}  // namespace headrace::testing
