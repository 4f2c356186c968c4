#include "front/answer_order.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace headrace {
namespace {

// A stream's writer on letters: what goes out, in order.
class Writer {
 public:
  void answer(AnswerOrder::Place& place, const std::string& text, bool final) {
    wire::OutMessage message;
    message.own = text;
    if (!order.has_turn(place)) {
      order.keep(place, message, final);
      EXPECT_TRUE(message.own.empty());
      return;
    }
    out += text;
    AnswerOrder::Place* next = final ? order.leave(place) : nullptr;
    while (next != nullptr) {
      for (const wire::OutMessage& kept : order.take_kept(*next)) out += kept.own;
      next = next->final_kept ? order.leave(*next) : nullptr;
    }
  }
  AnswerOrder order;
  std::string out;
};

TEST(AnswerOrder, TheUnorderedComeAsTheyAre) {
  Writer writer;
  AnswerOrder::Place places[3];
  for (auto& place : places) writer.order.enter(place, false);
  EXPECT_TRUE(writer.order.empty());
  for (const int i : {2, 0, 1}) writer.answer(places[i], std::string(1, static_cast<char>('a' + i)), true);
  EXPECT_EQ(writer.out, "cab");
}

TEST(AnswerOrder, TheOrderedWaitForThoseBeforeThem) {
  Writer writer;
  AnswerOrder::Place places[4];
  for (auto& place : places) writer.order.enter(place, true);
  writer.answer(places[1], "b", true);
  writer.answer(places[3], "dd", true);
  EXPECT_EQ(writer.out, "");
  EXPECT_EQ(writer.order.kept_bytes(), 3U);
  writer.answer(places[0], "a", true);
  EXPECT_EQ(writer.out, "ab");
  EXPECT_EQ(writer.order.kept_bytes(), 2U);
  writer.answer(places[2], "c", true);
  EXPECT_EQ(writer.out, "abcdd");
  EXPECT_EQ(writer.order.kept_bytes(), 0U);
  EXPECT_TRUE(writer.order.empty());
}

TEST(AnswerOrder, TheUnorderedPassTheOrdered) {
  Writer writer;
  AnswerOrder::Place ordered[2];
  AnswerOrder::Place other;
  writer.order.enter(ordered[0], true);
  writer.order.enter(other, false);
  writer.order.enter(ordered[1], true);
  writer.answer(ordered[1], "2", true);
  writer.answer(other, "x", true);
  writer.answer(ordered[0], "1", true);
  EXPECT_EQ(writer.out, "x12");
}

TEST(AnswerOrder, ManyAnswersToOneMessage) {
  Writer writer;
  AnswerOrder::Place places[3];
  for (auto& place : places) writer.order.enter(place, true);
  writer.answer(places[0], "a", false);
  writer.answer(places[1], "b", false);
  writer.answer(places[2], "c", false);
  writer.answer(places[0], "a", false);
  EXPECT_EQ(writer.out, "aa") << "those of the message whose turn it is go out at once";
  writer.answer(places[2], "C", true);
  writer.answer(places[0], "A", true);
  EXPECT_EQ(writer.out, "aaAb") << "the next one's kept ones, and its turn has come";
  writer.answer(places[1], "b", false);
  writer.answer(places[1], "B", true);
  EXPECT_EQ(writer.out, "aaAbbBcC");
  EXPECT_TRUE(writer.order.empty());
}

TEST(AnswerOrder, APlaceIsUsedAgain) {
  Writer writer;
  AnswerOrder::Place first;
  AnswerOrder::Place second;
  writer.order.enter(first, true);
  writer.order.enter(second, true);
  writer.answer(second, "2", true);
  writer.answer(first, "1", true);
  writer.order.enter(second, true);
  writer.order.enter(first, true);
  writer.answer(first, "4", true);
  writer.answer(second, "3", true);
  EXPECT_EQ(writer.out, "1234");
}

}  // namespace
}  // namespace headrace
