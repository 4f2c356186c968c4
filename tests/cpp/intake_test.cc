#include "wire/intake.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace headrace::wire {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string framed(std::string_view body, char flag = 0) {
  const auto size = static_cast<std::uint32_t>(body.size());
  std::string out = {flag, static_cast<char>(size >> 24), static_cast<char>(size >> 16), static_cast<char>(size >> 8),
                     static_cast<char>(size)};
  return out.append(body);
}

std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
  return out;
}
std::string field(unsigned number, std::string_view payload) {
  return varint(number << 3 | 2) + varint(payload.size()) + std::string(payload);
}

// Shaped like a ModelInferRequest: names and tensors' heads, small fields of other kinds, then the raw contents.
struct Request {
  std::string bytes;
  std::size_t payload;
  explicit Request(std::size_t raw) {
    bytes = field(1, "model") + field(3, "id-17") + varint(9 << 3) + varint(300) + varint(10 << 3 | 5) + "abcd" +
            varint(11 << 3 | 1) + "abcdefgh" + field(5, std::string(90, 'i'));
    const std::string head = varint(7 << 3 | 2) + varint(raw);
    payload = bytes.size() + head.size();
    bytes += head + std::string(raw, 'r');
  }
};

struct Intake : ::testing::Test {
  Pool pool{PoolOptions{}};
  InflightBudget budget{std::size_t{1} << 30, std::size_t{64} << 20};
  IntakeContext context{pool, budget, std::size_t{64} << 20, std::size_t{256} << 20};
  MessageIntake intake;
  Status refusal;

  ~Intake() override {
    intake.reset(context);
    EXPECT_EQ(pool.stats().bytes_in_use, 0u);
    EXPECT_EQ(pool.stats().blocks_in_use, 0u);
    EXPECT_EQ(budget.charged(), 0u);
  }
  MessageIntake::Step feed(std::string_view text, Message& message, Encoding encoding = Encoding::kIdentity) {
    std::span<const std::byte> data = bytes_of(text);
    const auto step = intake.feed(context, encoding, data, message, refusal);
    EXPECT_TRUE(step != MessageIntake::Step::kMore || data.empty());
    return step;
  }
};

std::string text_of(const Message& message) {
  return {reinterpret_cast<const char*>(message.bytes.data()), message.bytes.size()};
}

TEST_F(Intake, TakesOneMessageAndLeavesTheNext) {
  const std::string two = framed("first") + framed("second");
  std::span<const std::byte> data = bytes_of(two);
  Message first;
  Message second;
  EXPECT_EQ(intake.feed(context, Encoding::kIdentity, data, first, refusal), MessageIntake::Step::kMessage);
  EXPECT_EQ(data.size(), 11u);
  EXPECT_FALSE(intake.partial());
  EXPECT_EQ(intake.feed(context, Encoding::kIdentity, data, second, refusal), MessageIntake::Step::kMessage);
  EXPECT_EQ(text_of(first), "first");
  EXPECT_EQ(text_of(second), "second");
  EXPECT_EQ(first.charge.bytes(), 5u);
  EXPECT_EQ(context.inflight_bytes, 11u);  // whoever ends the call gives it back
}

TEST_F(Intake, AnEmptyMessageHasNoBlock) {
  Message message;
  EXPECT_EQ(feed(framed(""), message), MessageIntake::Step::kMessage);
  EXPECT_EQ(message.bytes.size(), 0u);
  EXPECT_FALSE(message.block);
  EXPECT_FALSE(message.charge);
}

TEST_F(Intake, AlignsTheFirstLargeField) {
  for (const std::size_t raw : {4096u, 5000u, 65'000u, 70'000u, 602'112u}) {
    const Request request(raw);
    const std::string bytes = framed(request.bytes);
    // Cut nowhere, at each byte around the beginning of the payload, and byte by byte.
    for (std::size_t cut = 0; cut < 5 + request.payload + 3; ++cut) {
      Message message;
      if (cut != 0) {
        ASSERT_EQ(feed(bytes.substr(0, cut), message), MessageIntake::Step::kMore);
      }
      ASSERT_EQ(feed(bytes.substr(cut), message), MessageIntake::Step::kMessage);
      ASSERT_EQ(text_of(message), request.bytes);
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(message.bytes.data() + request.payload) % 64, 0u) << raw << " " << cut;
    }
  }
  const Request request(8192);
  const std::string bytes = framed(request.bytes);
  Message message;
  for (std::size_t i = 0; i + 1 < bytes.size(); ++i)
    ASSERT_EQ(feed(bytes.substr(i, 1), message), MessageIntake::Step::kMore);
  ASSERT_EQ(feed(bytes.substr(bytes.size() - 1), message), MessageIntake::Step::kMessage);
  EXPECT_EQ(text_of(message), request.bytes);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(message.bytes.data() + request.payload) % 64, 0u);
}

TEST_F(Intake, NonsenseIsTakenAsItIs) {
  std::mt19937 random(5);
  for (int round = 0; round < 500; ++round) {
    std::string body(4096 + random() % 100'000, '\0');
    for (std::size_t i = 0; i < 300; ++i) body[i] = static_cast<char>(random() % (round % 2 == 0 ? 256 : 16));
    const std::string bytes = framed(body);
    Message message;
    const std::size_t cut = 1 + random() % (bytes.size() - 1);
    ASSERT_EQ(feed(bytes.substr(0, cut), message), MessageIntake::Step::kMore);
    ASSERT_EQ(feed(bytes.substr(cut), message), MessageIntake::Step::kMessage);
    ASSERT_EQ(text_of(message), body);
  }
}

TEST_F(Intake, ChargesInStepsAndNoMore) {
  const std::string bytes = framed(std::string(1'000'000, 'x'));
  Message message;
  ASSERT_EQ(feed(bytes.substr(0, 5), message), MessageIntake::Step::kMore);
  EXPECT_EQ(context.inflight_bytes, 0u);
  EXPECT_EQ(intake.left(), 1'000'000u);
  ASSERT_EQ(feed(bytes.substr(5, 1), message), MessageIntake::Step::kMore);
  EXPECT_EQ(context.inflight_bytes, Pool::kChargeStep);
  EXPECT_EQ(budget.charged(), Pool::kChargeStep);
  ASSERT_EQ(feed(bytes.substr(6, 600'000), message), MessageIntake::Step::kMore);
  EXPECT_EQ(context.inflight_bytes, 3 * Pool::kChargeStep);
  ASSERT_EQ(feed(bytes.substr(600'006), message), MessageIntake::Step::kMessage);
  EXPECT_EQ(context.inflight_bytes, 1'000'000u);
  EXPECT_EQ(message.charge.bytes(), 1'000'000u);
}

// A peer that sends prefixes costs a small block each, whatever the prefix says; the rest of the way is as always.
TEST_F(Intake, TheFirstBytesLieInASmallBlock) {
  for (const std::size_t size : {5'000u, 60'000u, 200'000u, 1'000'000u, 60'000'000u}) {
    for (const std::size_t have : {1u, 200u, 4032u}) {
      const std::string bytes = framed(std::string(size, 'x'));
      Message message;
      ASSERT_EQ(feed(bytes.substr(0, 5), message), MessageIntake::Step::kMore);
      ASSERT_EQ(feed(bytes.substr(5, have), message), MessageIntake::Step::kMore);
      EXPECT_LE(pool.stats().bytes_in_use, 4096 + Pool::kAlignment + sizeof(pool_detail::Header)) << size;
      EXPECT_EQ(context.inflight_bytes, std::min(size, Pool::kChargeStep)) << "of the connection it is charged as ever";
      ASSERT_EQ(feed(bytes.substr(5 + have, 4033 - have), message), MessageIntake::Step::kMore);
      EXPECT_GE(pool.stats().bytes_in_use, std::min(size, Pool::kChargeStep));
      if (size > 1'000'000) {
        intake.reset(context);
      } else {
        ASSERT_EQ(feed(bytes.substr(5 + 4033), message), MessageIntake::Step::kMessage);
        ASSERT_EQ(message.bytes.size(), size);
        ASSERT_EQ(text_of(message), bytes.substr(5));
        context.inflight_bytes -= size;
      }
    }
  }
}

TEST_F(Intake, ResetGivesAllBack) {
  for (const std::size_t have : {3u, 5u, 6u, 300'000u}) {
    Message message;
    ASSERT_EQ(feed(framed(std::string(1'000'000, 'x')).substr(0, have), message), MessageIntake::Step::kMore);
    EXPECT_TRUE(intake.partial());
    intake.reset(context);
    EXPECT_FALSE(intake.partial());
    EXPECT_EQ(context.inflight_bytes, 0u);
    EXPECT_EQ(budget.charged(), 0u);
    EXPECT_EQ(pool.stats().blocks_in_use, 0u);
  }
}

TEST_F(Intake, RefusalsHoldNothing) {
  Message message;
  context.max_message_bytes = 100;
  EXPECT_EQ(feed(framed(std::string(101, 'x')), message), MessageIntake::Step::kRefused);
  EXPECT_EQ(refusal.code(), Code::kResourceExhausted);
  context.max_message_bytes = 1 << 20;
  context.max_inflight_bytes = 50;
  for (const std::size_t have : {10u, 106u}) {  // half of it, and all
    EXPECT_EQ(feed(framed(std::string(101, 'x')).substr(0, have), message), MessageIntake::Step::kRefused);
    EXPECT_EQ(refusal.code(), Code::kResourceExhausted);
    EXPECT_EQ(pool.stats().blocks_in_use, 0u);
    EXPECT_EQ(context.inflight_bytes, 0u);
  }
  EXPECT_EQ(feed(framed("x", 1), message), MessageIntake::Step::kRefused);
  EXPECT_EQ(refusal.code(), Code::kInternal);
  EXPECT_EQ(feed(framed("x", 1), message, Encoding::kGzip), MessageIntake::Step::kMessage);
  EXPECT_EQ(message.encoding, Encoding::kGzip);
}

}  // namespace
}  // namespace headrace::wire
