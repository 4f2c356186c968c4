#include "front/decode_job.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstring>
#include <string>
#include <utility>

#include "front_fixture.h"

namespace headrace::testing {
namespace {

class DecodeJobTest : public FrontTest {
 protected:
  void SetUp() override {
    FrontTest::SetUp();
    loop_options_.grpc.max_message_bytes = 1 << 20;
    start(8);
    hold_.catalog = engine_->catalog();
  }
  void TearDown() override {
    hold_.catalog.reset();
    FrontTest::TearDown();
  }
  void prepare(DecodeJob& job, const std::string& text, wire::Encoding encoding, bool infer) {
    job.message.block = *engine_->pool().allocate(text.size());
    std::memcpy(job.message.block.data(), text.data(), text.size());
    job.message.bytes = {job.message.block.data(), text.size()};
    job.message.charge = engine_->budget().take(text.size());
    job.message.encoding = encoding;
    job.infer = infer;
    job.engine = engine_.get();
    job.options = &loop_options_;
    job.hold = &hold_;
  }
  static std::string compress(const std::string& text) {
    uLongf size = compressBound(static_cast<uLong>(text.size()));
    std::string out(size, '\0');
    EXPECT_EQ(::compress(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(text.data()),
                         static_cast<uLong>(text.size())),
              Z_OK);
    out.resize(size);
    return out;
  }

  CatalogHold hold_;
};

TEST_F(DecodeJobTest, MakesATicketOfAnInferRequest) {
  for (const bool compressed : {false, true}) {
    DecodeJob job;
    const std::string text = InferText{.id = "a"}({4, 5});
    prepare(job, compressed ? compress(text) : text, compressed ? wire::Encoding::kDeflate : wire::Encoding::kIdentity,
            true);
    job.run();
    ASSERT_TRUE(job.status.ok()) << job.status.to_string();
    ASSERT_NE(job.ticket, nullptr);
    EXPECT_EQ(job.ticket->id, "a");
    EXPECT_EQ(values_of(job.ticket->inputs[0]), (Values{4, 5}));
    EXPECT_EQ(job.model, model_.get());
    EXPECT_TRUE(job.ticket->charge);
    EXPECT_GE(engine_->budget().charged(), text.size());
    EXPECT_EQ(engine_->pool().stats().blocks_in_use, 1U);
  }
}

TEST_F(DecodeJobTest, InflatesAnotherMethodsMessageAndLeavesItAtThat) {
  DecodeJob job;
  prepare(job, compress("hello"), wire::Encoding::kDeflate, false);
  job.run();
  ASSERT_TRUE(job.status.ok()) << job.status.to_string();
  EXPECT_EQ(job.ticket, nullptr);
  EXPECT_EQ(job.message.encoding, wire::Encoding::kIdentity);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(job.message.bytes.data()), job.message.bytes.size()), "hello");
}

TEST_F(DecodeJobTest, ABombIsStoppedAtTheLimit) {
  DecodeJob job;
  prepare(job, compress(std::string(8 << 20, '\0')), wire::Encoding::kDeflate, true);
  job.run();
  EXPECT_EQ(job.status.code(), Code::kResourceExhausted) << job.status.to_string();
}

TEST_F(DecodeJobTest, WhatIsWrongIsItsStatus) {
  DecodeJob broken;
  prepare(broken, "this is not deflated", wire::Encoding::kDeflate, true);
  broken.run();
  EXPECT_EQ(broken.status.code(), Code::kInternal);
  EXPECT_EQ(broken.model, nullptr);

  DecodeJob malformed;
  prepare(malformed, "\xff\xff\xff", wire::Encoding::kIdentity, true);
  malformed.run();
  EXPECT_EQ(malformed.status.code(), Code::kInvalidArgument);

  DecodeJob refused;
  prepare(refused, InferText{.datatype = "FP32"}({1}), wire::Encoding::kIdentity, true);
  refused.run();
  EXPECT_EQ(refused.status.code(), Code::kInvalidArgument);
  EXPECT_EQ(refused.model, model_.get()) << "its model counts the refusal";
  EXPECT_EQ(engine_->budget().charged(), 0U) << "a refused request holds nothing while it travels back";
}

}  // namespace
}  // namespace headrace::testing
