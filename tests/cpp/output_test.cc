#include "wire/output.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

namespace headrace::wire {
namespace {

std::string text_of(const std::vector<OutputChunk>& chunks) {
  std::string out;
  for (const OutputChunk& chunk : chunks) {
    out.append(reinterpret_cast<const char*>(chunk.bytes.data()), chunk.bytes.size());
  }
  return out;
}

std::string prefixed(const std::string& body) {
  const auto size = static_cast<std::uint32_t>(body.size());
  return std::string{0, static_cast<char>(size >> 24), static_cast<char>(size >> 16), static_cast<char>(size >> 8),
                     static_cast<char>(size)} +
         body;
}

struct Output : ::testing::Test {
  Pool pool{PoolOptions{}};
  OutputQueue queue;
  OutputWriter writer;

  ~Output() override {
    queue.clear();
    EXPECT_EQ(pool.stats().bytes_in_use, 0u);
    EXPECT_EQ(pool.stats().blocks_in_use, 0u);
  }
  Block block(std::size_t size, char fill) {
    Block made = std::move(pool.allocate(size).value());
    std::memset(made.data(), fill, size);
    return made;
  }
};

TEST_F(Output, SmallMessagesBecomeOneChunk) {
  OutMessage message;
  message.own = "one";
  queue.push_message(message);
  EXPECT_EQ(message.size(), 0u);
  message.own = "two";
  queue.push_message(message);
  EXPECT_EQ(queue.size(), 16u);
  std::vector<OutputChunk> chunks;
  writer.begin(chunks);
  writer.append("head", 4);
  queue.move_to(writer, 16);
  writer.end();
  ASSERT_EQ(chunks.size(), 1u);
  EXPECT_EQ(text_of(chunks), "head" + prefixed("one") + prefixed("two"));
  EXPECT_EQ(queue.size(), 0u);
}

TEST_F(Output, LargeViewsAreNotCopied) {
  Block large = block(100'000, 'x');
  const std::byte* const address = large.data();
  OutMessage message;
  message.own = "abcd";
  message.views.push_back({1, {address, 100'000}, large});
  message.views.push_back({3, {address, 100}, std::move(large)});
  queue.push_message(message);
  std::vector<OutputChunk> chunks;
  writer.begin(chunks);
  queue.move_to(writer, 60'000);  // cut in the middle of the view, as a frame would
  writer.append("frame", 5);
  queue.move_to(writer, queue.size());
  writer.end();
  const std::string body = "a" + std::string(100'000, 'x') + "bc" + std::string(100, 'x') + "d";
  std::string expected = prefixed(body);
  expected.insert(60'000, "frame");
  EXPECT_EQ(text_of(chunks), expected);
  ASSERT_EQ(chunks.size(), 5u);
  EXPECT_EQ(chunks[1].bytes.data(), address);
  EXPECT_TRUE(chunks[1].block);
  EXPECT_EQ(chunks[3].bytes.data(), address + chunks[1].bytes.size());
  EXPECT_TRUE(chunks[3].block);
  for (const std::size_t own : {0, 2, 4}) EXPECT_FALSE(chunks[own].block);
}

TEST_F(Output, BlocksAreGivenBackWithTheQueue) {
  OutMessage message;
  Block large = block(100'000, 'x');
  message.views.push_back({0, {large.data(), 100'000}, large});
  large.reset();
  queue.push_message(message);
  EXPECT_EQ(pool.stats().blocks_in_use, 1u);
  queue.clear();
  EXPECT_EQ(pool.stats().blocks_in_use, 0u);
  EXPECT_EQ(queue.size(), 0u);
}

TEST_F(Output, AnyMixCutAnywhere) {
  std::mt19937 random(7);
  std::string expected;
  std::string got;
  for (int round = 0; round < 2000; ++round) {
    OutMessage message;
    const std::size_t own = random() % 8 == 0 ? random() % 40'000 : random() % 50;
    for (std::size_t i = 0; i < own; ++i) message.own.push_back(static_cast<char>('a' + (i + own) % 26));
    std::string body;
    std::size_t at = 0;
    for (auto views = random() % 3; views > 0; --views) {
      const std::size_t size = random() % 3 == 0 ? random() % 20'000 : random() % 64;
      const std::size_t offset = at + random() % (message.own.size() - at + 1);
      const char fill = static_cast<char>('A' + random() % 26);
      Block bytes = block(size, fill);
      body += message.own.substr(at, offset - at) + std::string(size, fill);
      message.views.push_back({offset, {bytes.data(), size}, bytes});
      at = offset;
    }
    body += message.own.substr(at);
    expected += prefixed(body);
    queue.push_message(message);
    // Leaves something behind nearly always, so that the queue never runs dry for long.
    std::vector<OutputChunk> chunks;
    writer.begin(chunks);
    queue.move_to(writer, round == 1999 ? queue.size() : random() % (queue.size() + 1));
    writer.end();
    got += text_of(chunks);
    if (expected.size() > 1 << 20) {
      ASSERT_TRUE(std::string_view(expected).starts_with(got));
      expected.erase(0, got.size());
      got.clear();
    }
  }
  EXPECT_EQ(got, expected);
}

TEST_F(Output, QueueOfSmallPiecesDoesNotGrowWhileItIsDrained) {
  OutMessage message;
  std::vector<OutputChunk> chunks;
  message.own = std::string(1000, 'x');
  queue.push_message(message);
  const std::size_t left = 500;
  for (int i = 0; i < 20'000; ++i) {  // 20 MB through a queue that is never empty
    message.own = std::string(1000, 'x');
    queue.push_message(message);
    chunks.clear();
    writer.begin(chunks);
    queue.move_to(writer, queue.size() - left);
    writer.end();
    ASSERT_LE(queue.memory(), std::size_t{128} << 10);
  }
}

}  // namespace
}  // namespace headrace::wire
