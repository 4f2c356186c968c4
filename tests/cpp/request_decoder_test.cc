#include "front/request_decoder.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <utility>

#include "front_fixture.h"

namespace headrace::testing {
namespace {

class RequestDecoderTest : public FrontTest {
 protected:
  void SetUp() override {
    FrontTest::SetUp();
    start(8);
  }
  wire::Message message(const std::string& text) {
    wire::Message made;
    made.block = *engine_->pool().allocate(text.size());
    std::memcpy(made.block.data(), text.data(), text.size());
    made.bytes = {made.block.data(), text.size()};
    made.charge = engine_->budget().take(text.size());
    return made;
  }
  Status admit(const std::string& text) {
    message_ = message(text);
    ticket_.clear();
    found_ = nullptr;
    if (Status status = decoder_.decode(message_, {}); !status.ok()) return status;
    return decoder_.admit(*engine_->catalog(), message_, *engine_, ticket_, found_);
  }
  void TearDown() override {
    ticket_.clear();
    message_ = wire::Message();
    FrontTest::TearDown();
  }

  RequestDecoder decoder_;
  wire::Message message_;
  Ticket ticket_;
  Model* found_ = nullptr;
};

TEST_F(RequestDecoderTest, FillsATicketWithViewsOfTheMessage) {
  ASSERT_TRUE(admit(InferText{.id = "a", .outputs = {"y"}}({4, 5})).ok());
  EXPECT_EQ(found_, model_.get());
  EXPECT_EQ(ticket_.model, model_->entry);
  EXPECT_EQ(ticket_.id, "a");
  EXPECT_EQ(ticket_.rows, 2);
  EXPECT_EQ(ticket_.wanted, (std::vector<std::uint8_t>{1, 0}));
  EXPECT_EQ(values_of(ticket_.inputs[0]), (Values{4, 5}));
  EXPECT_GE(ticket_.inputs[0].data, message_.bytes.data());
  EXPECT_LT(ticket_.inputs[0].data, message_.bytes.data() + message_.bytes.size()) << "nothing was copied";
  EXPECT_TRUE(ticket_.charge) << "the ticket answers for the message's bytes";
  EXPECT_FALSE(message_.charge);
  message_ = wire::Message();
  EXPECT_EQ(values_of(ticket_.inputs[0]), (Values{4, 5})) << "and keeps them";
}

TEST_F(RequestDecoderTest, TypedContentsBecomeATensorOfTheirOwn) {
  ASSERT_TRUE(admit(InferText{.typed = true}({-1, 7})).ok());
  EXPECT_EQ(values_of(ticket_.inputs[0]), (Values{-1, 7}));
  EXPECT_EQ(ticket_.inputs[0].shape, (Shape{2, 1}));
  EXPECT_EQ(admit(InferText{.shape = {3, 1}, .typed = true}({-1, 7})).code(), Code::kInvalidArgument);
}

TEST_F(RequestDecoderTest, ARefusalLeavesTheMessageItsCharge) {
  EXPECT_FALSE(admit(InferText{.input = "w"}({1})).ok());
  EXPECT_TRUE(message_.charge);
  EXPECT_FALSE(ticket_.charge);
}

}  // namespace
}  // namespace headrace::testing
