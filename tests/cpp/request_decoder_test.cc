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

TEST_F(RequestDecoderTest, OnlyWhatIsLookedAtOneByOneIsHeavy) {
  const Values many(100'000, 1000);
  wire::Message raw = message(InferText{}(many));
  ASSERT_TRUE(decoder_.decode(raw, {}).ok());
  EXPECT_FALSE(decoder_.heavy()) << "raw numbers are never looked at";
  wire::Message few = message(InferText{.typed = true}(Values(100, 1000)));
  ASSERT_TRUE(decoder_.decode(few, {}).ok());
  EXPECT_FALSE(decoder_.heavy());
  Values larger(300'000, 1);
  wire::Message typed = message(InferText{.typed = true}(larger));
  ASSERT_TRUE(decoder_.decode(typed, {}).ok());
  EXPECT_TRUE(decoder_.heavy());
  wire::Message strings = message(InferText{.datatype = "BYTES"}(many));
  ASSERT_TRUE(decoder_.decode(strings, {}).ok());
  EXPECT_TRUE(decoder_.heavy()) << "strings are walked";
}

// However short its message is.
TEST_F(RequestDecoderTest, BytesInSharedMemoryAreHeavySoon) {
  const auto naming = [](std::int64_t bytes) {
    const auto parameter = [](protozero::pbf_writer& input, const std::string& key, auto set) {
      protozero::pbf_writer entry(input, 4);
      entry.add_string(1, key);
      protozero::pbf_writer value(entry, 2);
      set(value);
    };
    std::string data;
    protozero::pbf_writer writer(data);
    for (const char* name : {"x", "w"}) {
      protozero::pbf_writer input(writer, 5);
      input.add_string(1, name);
      parameter(input, "shared_memory_region", [](protozero::pbf_writer& value) { value.add_string(3, "r"); });
      parameter(input, "shared_memory_byte_size", [&](protozero::pbf_writer& value) { value.add_int64(2, bytes); });
    }
    return data;
  };
  wire::Message few = message(naming(512));
  ASSERT_TRUE(decoder_.decode(few, {}).ok());
  EXPECT_FALSE(decoder_.heavy());
  wire::Message many = message(naming(513));
  ASSERT_TRUE(decoder_.decode(many, {}).ok());
  EXPECT_TRUE(decoder_.heavy());
}

}  // namespace
}  // namespace headrace::testing
