#include "wire/body_intake.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>

namespace headrace::wire {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

struct Body : ::testing::Test {
  Pool pool{PoolOptions{}};
  InflightBudget budget{std::size_t{1} << 30, 8 * kMiB};
  IntakeContext context{pool, budget, 8 * kMiB, 16 * kMiB};
  BodyIntake intake;

  ~Body() override {
    intake.reset(context);
    EXPECT_EQ(context.inflight_bytes, 0U);
    EXPECT_EQ(pool.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool.stats().blocks_in_use, 0U);
    EXPECT_EQ(budget.charged(), 0U);
  }
  Message finish() {
    std::size_t charged = 0;
    Message message = intake.finish(charged);
    context.inflight_bytes -= charged;
    return message;
  }
  static std::string text(const Message& message) {
    return {reinterpret_cast<const char*>(message.bytes.data()), message.bytes.size()};
  }
};

TEST_F(Body, OfAKnownSizeInAnyPieces) {
  std::string whole;
  for (int i = 0; i < 300'000; ++i) whole.push_back(static_cast<char>(i * 7));
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{100}, std::size_t{65536}, std::size_t{65537}, whole.size()}) {
    for (const std::size_t piece : {std::size_t{999}, size}) {
      const std::string sent = whole.substr(0, size);
      ASSERT_TRUE(intake.begin(context, size, 0, Encoding::kGzip, std::min(piece, size)).ok());
      for (std::size_t at = 0; at < size; at += piece) {
        ASSERT_TRUE(intake.append(context, bytes_of(std::string_view(sent).substr(at, piece))).ok());
      }
      EXPECT_EQ(context.inflight_bytes, size);
      const Message message = finish();
      EXPECT_EQ(text(message), sent);
      EXPECT_EQ(message.encoding, Encoding::kGzip);
      EXPECT_EQ(message.charge.bytes(), size);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(message.bytes.data()) % Pool::kAlignment, 0U);
    }
  }
}

TEST_F(Body, TheBinaryPartIsAligned) {
  for (const std::size_t json : {1, 63, 64, 65, 277}) {
    for (const std::size_t size : {std::size_t{1000}, std::size_t{200'000}, BodyIntake::kUnknown}) {
      ASSERT_TRUE(intake.begin(context, size, json, Encoding::kIdentity, 0).ok());
      const std::string sent(size == BodyIntake::kUnknown ? 300'000 : size, 'x');
      ASSERT_TRUE(intake.append(context, bytes_of(sent)).ok());
      const Message message = finish();
      EXPECT_EQ(text(message), sent);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(message.bytes.data() + json) % Pool::kAlignment, 0U);
    }
  }
}

TEST_F(Body, OfAnUnknownSizeGrows) {
  std::string sent;
  ASSERT_TRUE(intake.begin(context, BodyIntake::kUnknown, 0, Encoding::kIdentity, 0).ok());
  EXPECT_EQ(context.inflight_bytes, 0U) << "nothing came yet";
  for (int i = 0; i < 400; ++i) {
    const std::string piece(1000, static_cast<char>(i));
    ASSERT_TRUE(intake.append(context, bytes_of(piece)).ok());
    sent += piece;
    EXPECT_LT(context.inflight_bytes, sent.size() + Pool::kChargeStep);
  }
  EXPECT_EQ(text(finish()), sent);
}

TEST_F(Body, MayBeEmpty) {
  ASSERT_TRUE(intake.begin(context, 0, 0, Encoding::kIdentity, 0).ok());
  EXPECT_TRUE(finish().bytes.empty());
  ASSERT_TRUE(intake.begin(context, BodyIntake::kUnknown, 0, Encoding::kIdentity, 0).ok());
  EXPECT_TRUE(finish().bytes.empty());
}

TEST_F(Body, OverTheLimitIsRefusedWhicheverWayItComes) {
  const Status known = intake.begin(context, 8 * kMiB + 1, 0, Encoding::kIdentity, 0);
  EXPECT_EQ(known.code(), Code::kResourceExhausted);
  EXPECT_NE(known.message().find("8388608 bytes (--max-request-bytes)"), std::string::npos) << known.message();
  ASSERT_TRUE(intake.begin(context, BodyIntake::kUnknown, 0, Encoding::kIdentity, 0).ok());
  const std::string piece(kMiB, 'x');
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(intake.append(context, bytes_of(piece)).ok());
  const Status grown = intake.append(context, bytes_of("x"));
  EXPECT_NE(grown.message().find("--max-request-bytes"), std::string::npos) << grown.message();
  EXPECT_FALSE(intake.open());
  EXPECT_EQ(context.inflight_bytes, 0U);
}

TEST_F(Body, TheConnectionsBound) {
  std::size_t charged = 0;
  ASSERT_TRUE(intake.begin(context, 8 * kMiB, 0, Encoding::kIdentity, 0).ok());
  ASSERT_TRUE(intake.append(context, bytes_of(std::string(8 * kMiB, 'x'))).ok());
  const Message first = intake.finish(charged);
  context.inflight_bytes += 7 * kMiB;  // of other requests
  ASSERT_TRUE(intake.begin(context, 4 * kMiB, 0, Encoding::kIdentity, 0).ok());
  const Status refused = intake.append(context, bytes_of(std::string(2 * kMiB, 'x')));
  EXPECT_EQ(refused.code(), Code::kResourceExhausted);
  EXPECT_NE(refused.message().find("--connection-inflight-bytes"), std::string::npos) << refused.message();
  context.inflight_bytes -= 7 * kMiB + charged;
}

TEST_F(Body, TheProcesssBound) {
  InflightBudget small(0, 8 * kMiB);  // raised to its reserves
  IntakeContext tight{pool, small, 8 * kMiB, std::size_t{1} << 30};
  BodyIntake first;
  ASSERT_TRUE(first.begin(tight, 8 * kMiB, 0, Encoding::kIdentity, 0).ok());
  ASSERT_TRUE(first.append(tight, bytes_of(std::string(8 * kMiB, 'x'))).ok());
  std::size_t charged = 0;
  Message whole = first.finish(charged);
  BodyIntake second;
  Status refused = second.begin(tight, 8 * kMiB, 0, Encoding::kIdentity, 0);
  if (refused.ok()) refused = second.append(tight, bytes_of(std::string(8 * kMiB, 'x')));
  EXPECT_EQ(refused.code(), Code::kResourceExhausted);
  EXPECT_NE(refused.message().find("--process-inflight-bytes"), std::string::npos) << refused.message();
  whole = Message();
  ASSERT_TRUE(second.begin(tight, 8 * kMiB, 0, Encoding::kIdentity, 0).ok());
  ASSERT_TRUE(second.append(tight, bytes_of(std::string(8 * kMiB, 'x'))).ok());
  second.reset(tight);
}

TEST(BodyPool, AtItsCap) {
  PoolOptions options;
  options.cap = 2 * kMiB;
  Pool pool(options);
  InflightBudget budget(std::size_t{1} << 30, 8 * kMiB);
  IntakeContext context{pool, budget, 8 * kMiB, std::size_t{1} << 30};
  BodyIntake intake;
  for (const std::size_t size : {4 * kMiB, BodyIntake::kUnknown}) {
    ASSERT_TRUE(intake.begin(context, size, 0, Encoding::kIdentity, 0).ok());
    EXPECT_EQ(intake.append(context, bytes_of(std::string(3 * kMiB, 'x'))).code(), Code::kResourceExhausted);
    EXPECT_FALSE(intake.open());
  }
  EXPECT_EQ(pool.stats().blocks_in_use, 0U);
  EXPECT_EQ(budget.charged(), 0U);
  EXPECT_EQ(context.inflight_bytes, 0U);
}

}  // namespace
}  // namespace headrace::wire
