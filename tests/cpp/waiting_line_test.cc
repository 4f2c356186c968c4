#include "batching/waiting_line.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace headrace {
namespace {

Slot slot(Nanos when, std::uint64_t sequence, std::uint64_t level = 0) {
  Slot made;
  made.key = {level, when, sequence};
  return made;
}

std::vector<std::uint64_t> sequences(const WaitingLine& line) {
  std::vector<std::uint64_t> result;
  for (const Slot& each : line.slots()) result.push_back(each.key.sequence);
  return result;
}

TEST(WaitingLineTest, LevelThenTimeThenArrival) {
  WaitingLine line;
  line.insert(slot(50, 1));
  line.insert(slot(50, 2));
  line.insert(slot(20, 3));
  line.insert(slot(90, 4));
  line.insert(slot(1, 5, 2));
  line.insert(slot(60, 6));
  EXPECT_EQ(sequences(line), (std::vector<std::uint64_t>{3, 1, 2, 6, 4, 5}));
  EXPECT_EQ(line.front().key.sequence, 3U);
  EXPECT_EQ(line.back().key.sequence, 5U);
}

TEST(WaitingLineTest, MovesOneToTheFrontAndDropsIt) {
  WaitingLine line;
  for (std::uint64_t i = 0; i < 5; ++i) line.insert(slot(10, i));
  line.move_to_front(3);
  EXPECT_EQ(sequences(line), (std::vector<std::uint64_t>{3, 0, 1, 2, 4}));
  line.drop_front(2);
  EXPECT_EQ(sequences(line), (std::vector<std::uint64_t>{1, 2, 4}));
}

TEST(WaitingLineTest, AgreesWithASortedSetWhateverIsDone) {
  std::mt19937 engine(5);
  WaitingLine line;
  std::set<OrderKey> expected;
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    const auto what = engine() % 10;
    if (what < 5 || expected.empty()) {
      const Slot made = slot(static_cast<Nanos>(what == 0 ? engine() % 1000 : i), i, engine() % 3);
      line.insert(made);
      expected.insert(made.key);
    } else if (what < 8) {
      line.erase(expected.begin()->level == 0 ? *expected.begin() : *expected.rbegin());
      expected.erase(expected.begin()->level == 0 ? expected.begin() : std::prev(expected.end()));
    } else {
      const auto at = std::next(expected.begin(), static_cast<std::ptrdiff_t>(engine() % expected.size()));
      EXPECT_EQ(line.at(*at).key, *at);
      line.erase(*at);
      expected.erase(at);
    }
    ASSERT_EQ(line.size(), expected.size());
    if (i % 100 != 0) continue;
    std::size_t index = 0;
    for (const OrderKey& key : expected) ASSERT_EQ(line[index++].key, key);
  }
}

TEST(WaitingLineTest, AQueueThatMovesOnDoesNotGrow) {
  WaitingLine line;
  for (std::uint64_t i = 0; i < 100; ++i) line.insert(slot(10, i));
  for (std::uint64_t i = 100; i < 10'000; ++i) {
    line.insert(slot(10, i));
    line.drop_front(1);
    ASSERT_EQ(line.size(), 100U);
  }
  EXPECT_LE(line.capacity(), 400U);
}

TEST(WaitingLineTest, GivesACrowdsMemoryBack) {
  WaitingLine line;
  for (std::uint64_t i = 0; i < 1000; ++i) line.insert(slot(10, i));
  line.clear();
  line.shrink();
  EXPECT_LE(line.capacity(), WaitingLine::kMaxIdle);
}

}  // namespace
}  // namespace headrace
