#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

#include "deflated.h"
#include "wire/grpc.h"

namespace headrace::wire {
namespace {

constexpr std::size_t kLimit = std::size_t{8} << 20;

using headrace::testing::gzip;
using headrace::testing::zlib_text;

struct Inflate : ::testing::Test {
  Pool pool{PoolOptions{}};
  InflightBudget budget{std::size_t{1} << 30, kLimit};

  ~Inflate() override {
    EXPECT_EQ(pool.stats().bytes_in_use, 0u);
    EXPECT_EQ(pool.stats().blocks_in_use, 0u);
    EXPECT_EQ(budget.charged(), 0u);
  }
  Message message(const std::string& bytes, Encoding encoding) {
    Message made;
    made.block = std::move(pool.allocate(bytes.size()).value());
    std::memcpy(made.block.data(), bytes.data(), bytes.size());
    made.bytes = {made.block.data(), bytes.size()};
    made.encoding = encoding;
    return made;
  }
  // The text, or the status.
  std::string run(const std::string& bytes, Encoding encoding, std::size_t limit = kLimit) {
    const Result<Message> result = inflate(message(bytes, encoding), limit, pool, budget);
    if (!result.ok()) return result.status().to_string();
    EXPECT_EQ(result.value().encoding, Encoding::kIdentity);
    EXPECT_GE(result.value().charge.bytes(), result.value().bytes.size());
    return {reinterpret_cast<const char*>(result.value().bytes.data()), result.value().bytes.size()};
  }
};

TEST_F(Inflate, GzipAndDeflateOfManySizes) {
  std::mt19937 random(2);
  for (const std::size_t size : {0u, 1u, 100u, 262'143u, 262'144u, 262'145u, 3'000'000u}) {
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>('a' + random() % 4);
    EXPECT_EQ(run(gzip(text), Encoding::kGzip), text);
    EXPECT_EQ(run(zlib_text(text), Encoding::kDeflate), text);
  }
}

TEST_F(Inflate, StopsAtTheLimit) {
  const std::string at_limit(1'000'000, 'x');
  EXPECT_EQ(run(gzip(at_limit), Encoding::kGzip, 1'000'000), at_limit);
  const std::string over = run(gzip(at_limit + "x"), Encoding::kGzip, 1'000'000);
  EXPECT_EQ(over,
            "RESOURCE_EXHAUSTED: the message is over the limit of 1000000 bytes after inflating "
            "(--max-request-bytes): send less at once, or raise the limit");
  // A bomb: 100 MB of zeros never takes more than the limit.
  const std::string bomb = run(gzip(std::string(100'000'000, '\0')), Encoding::kGzip);
  EXPECT_TRUE(bomb.starts_with("RESOURCE_EXHAUSTED")) << bomb;
  EXPECT_LE(pool.stats().bytes_in_use_peak, kLimit + 2 * Pool::kChargeStep);
}

TEST_F(Inflate, BrokenDataIsInternal) {
  const std::string good = gzip("some text, and then some more of it");
  EXPECT_TRUE(run("not gzip at all", Encoding::kGzip).starts_with("INTERNAL: a message cannot be inflated"));
  EXPECT_TRUE(run("", Encoding::kGzip).starts_with("INTERNAL: a compressed message is cut short"));
  for (std::size_t cut = 1; cut < good.size(); ++cut) {
    EXPECT_TRUE(run(good.substr(0, cut), Encoding::kGzip).starts_with("INTERNAL: a compressed message is cut short"));
  }
  EXPECT_TRUE(run(good + "xyz", Encoding::kGzip).starts_with("INTERNAL: 3 bytes follow"));
  std::string flipped = good;
  flipped[good.size() - 5] = static_cast<char>(flipped[good.size() - 5] ^ 1);  // the checksum
  EXPECT_TRUE(run(flipped, Encoding::kGzip).starts_with("INTERNAL: a message cannot be inflated"));
  EXPECT_TRUE(run(good, Encoding::kDeflate).starts_with("INTERNAL"));
}

TEST_F(Inflate, NoRoomIsRefused) {
  InflightBudget::Charge most = budget.begin(budget.cap());
  std::size_t held = 0;
  std::vector<InflightBudget::Charge> charges;
  for (;;) {
    InflightBudget::Charge charge = budget.take(kLimit);
    if (!charge) break;
    held += charge.bytes();
    charges.push_back(std::move(charge));
  }
  EXPECT_GT(held, budget.cap() / 2);
  std::string answer = run(gzip(std::string(6'000'000, 'x')), Encoding::kGzip);
  EXPECT_TRUE(answer.starts_with("RESOURCE_EXHAUSTED: no room to inflate")) << answer;
  EXPECT_NE(answer.find("--process-inflight-bytes"), std::string::npos);
}

TEST_F(Inflate, AFullPoolIsRefused) {
  PoolOptions options;
  options.cap = 1 << 20;
  Pool small(options);
  const Result<Message> result =
      inflate(message(gzip(std::string(6'000'000, 'x')), Encoding::kGzip), kLimit, small, budget);
  EXPECT_EQ(result.status().code(), Code::kResourceExhausted);
  EXPECT_EQ(small.stats().bytes_in_use, 0u);
}

}  // namespace
}  // namespace headrace::wire
