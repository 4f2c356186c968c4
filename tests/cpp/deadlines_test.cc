#include "batching/deadlines.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <vector>

namespace headrace {
namespace {

TEST(DeadlineHeap, IsEmptyAtFirst) {
  DeadlineHeap heap;
  EXPECT_EQ(heap.next(), kNever);
  EXPECT_EQ(heap.pop(), nullptr);
  EXPECT_EQ(heap.size(), 0U);
}

TEST(DeadlineHeap, GivesTheEarliestFirst) {
  std::deque<Ticket> tickets(5);
  const Nanos deadlines[] = {50, 10, 40, 20, 30};
  DeadlineHeap heap;
  for (std::size_t i = 0; i < tickets.size(); ++i) {
    tickets[i].deadline = deadlines[i];
    heap.push(&tickets[i]);
  }
  for (Nanos expected = 10; expected <= 50; expected += 10) {
    EXPECT_EQ(heap.next(), expected);
    Ticket* ticket = heap.pop();
    ASSERT_NE(ticket, nullptr);
    EXPECT_EQ(ticket->deadline, expected);
    EXPECT_EQ(ticket->heap_index, kNotInHeap);
  }
  EXPECT_EQ(heap.pop(), nullptr);
}

TEST(DeadlineHeap, RemovingWhatIsNotInItDoesNothing) {
  Ticket inside;
  Ticket outside;
  inside.deadline = 5;
  outside.deadline = 1;
  DeadlineHeap heap;
  heap.push(&inside);
  heap.remove(&outside);
  EXPECT_EQ(heap.size(), 1U);
  heap.remove(&inside);
  heap.remove(&inside);
  EXPECT_EQ(heap.size(), 0U);
}

TEST(DeadlineHeap, AgreesWithASortedListUnderRandomPushRemoveAndPop) {
  std::mt19937 random(7);
  std::deque<Ticket> tickets(300);
  DeadlineHeap heap;
  std::vector<Ticket*> inside;
  std::vector<Ticket*> outside;
  for (Ticket& ticket : tickets) outside.push_back(&ticket);
  for (int step = 0; step < 20'000; ++step) {
    const auto action = random() % 4;
    if (action < 2 && !outside.empty()) {
      Ticket* ticket = outside.back();
      outside.pop_back();
      ticket->deadline = static_cast<Nanos>(random() % 50);  // many are equal
      heap.push(ticket);
      inside.push_back(ticket);
    } else if (action == 2 && !inside.empty()) {
      const std::size_t at = random() % inside.size();
      heap.remove(inside[at]);
      outside.push_back(inside[at]);
      inside.erase(inside.begin() + static_cast<std::ptrdiff_t>(at));
    } else if (!inside.empty()) {
      Ticket* ticket = heap.pop();
      const auto least = std::min_element(inside.begin(), inside.end(),
                                          [](const Ticket* a, const Ticket* b) { return a->deadline < b->deadline; });
      ASSERT_EQ(ticket->deadline, (*least)->deadline);
      inside.erase(std::find(inside.begin(), inside.end(), ticket));
      outside.push_back(ticket);
    }
    ASSERT_EQ(heap.size(), inside.size());
  }
}

}  // namespace
}  // namespace headrace
