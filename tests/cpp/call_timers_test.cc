#include "wire/call_timers.h"

#include <gtest/gtest.h>

#include <array>
#include <random>

namespace headrace::wire {
namespace {

struct Owner {
  int name = 0;
  TimedNode<Owner> node;
};

TEST(TimedList, OldestIsDueFirst) {
  std::array<Owner, 3> owners;
  TimedList<Owner> list;
  EXPECT_EQ(list.due(10), kNever);
  for (int i = 0; i < 3; ++i) {
    owners[static_cast<std::size_t>(i)].node.owner = &owners[static_cast<std::size_t>(i)];
    list.add(owners[static_cast<std::size_t>(i)].node, 100 + i);
  }
  EXPECT_EQ(list.due(10), 110);
  list.touch(owners[0].node, 200);
  EXPECT_EQ(list.first(), &owners[1]);
  list.remove(owners[2].node);
  list.remove(owners[2].node);  // not in it: nothing happens
  list.touch(owners[1].node, 300);
  EXPECT_EQ(list.first(), &owners[0]);
  EXPECT_EQ(list.due(10), 210);
  list.touch(owners[1].node, 400);  // the last stays the last
  EXPECT_EQ(owners[1].node.since, 400);
  list.remove(owners[0].node);
  list.remove(owners[1].node);
  EXPECT_EQ(list.due(10), kNever);
  EXPECT_EQ(list.first(), nullptr);
}

TEST(DeadlineHeap, TakesInOrderOfTime) {
  DeadlineHeap<Owner> heap;
  std::mt19937 random(1);
  for (int i = 0; i < 500; ++i) heap.add({static_cast<Nanos>(random() % 1000), nullptr, i});
  Nanos last = 0;
  while (heap.size() != 0) {
    const Nanos due = heap.due();
    const auto entry = heap.take();
    EXPECT_EQ(entry.time, due);
    EXPECT_GE(entry.time, last);
    last = entry.time;
  }
  EXPECT_EQ(heap.due(), kNever);
}

TEST(DeadlineHeap, SweepKeepsOrder) {
  DeadlineHeap<Owner> heap;
  for (int i = 0; i < 100; ++i) heap.add({(i * 37) % 100, nullptr, i});
  heap.sweep([](const auto& entry) { return entry.time % 2 == 1; });
  EXPECT_EQ(heap.size(), 50u);
  for (Nanos expected = 1; expected < 100; expected += 2) EXPECT_EQ(heap.take().time, expected);
}

}  // namespace
}  // namespace headrace::wire
