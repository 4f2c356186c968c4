#include "engine/completions.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace headrace {
namespace {

struct Item : Completion {
  int producer = 0;
  int number = 0;
};

bool readable(const CompletionRing& ring) {
  pollfd entry{ring.fileno(), POLLIN, 0};
  return ::poll(&entry, 1, 0) == 1;
}

std::vector<Item*> taken(CompletionRing& ring) {
  std::vector<Item*> items;
  for (Completion* link = ring.take(); link != nullptr; link = link->next) items.push_back(static_cast<Item*>(link));
  return items;
}

// Links items first..last as a chain, with rubbish behind the last: the ring must not follow it.
void deliver(CompletionRing& ring, std::vector<Item*> chain) {
  static Completion rubbish;
  for (std::size_t i = 0; i < chain.size(); ++i) chain[i]->next = i + 1 < chain.size() ? chain[i + 1] : &rubbish;
  ring.deliver(chain.front(), chain.back());
}

TEST(Completions, ComeBackInTheOrderOfTheirDelivery) {
  CompletionRing ring;
  Item items[6];
  EXPECT_FALSE(readable(ring));
  EXPECT_EQ(ring.take(), nullptr);
  deliver(ring, {&items[0]});
  EXPECT_TRUE(readable(ring));
  deliver(ring, {&items[1], &items[2], &items[3]});
  deliver(ring, {&items[4], &items[5]});
  EXPECT_EQ(taken(ring), (std::vector<Item*>{&items[0], &items[1], &items[2], &items[3], &items[4], &items[5]}));
  EXPECT_FALSE(readable(ring));
  EXPECT_TRUE(taken(ring).empty());
}

TEST(Completions, ManyDeliveriesAreOneWakeUp) {
  CompletionRing ring;
  std::vector<Item> items(1000);
  for (Item& item : items) deliver(ring, {&item});
  std::uint64_t wakes = 0;
  ASSERT_EQ(::read(ring.fileno(), &wakes, sizeof(wakes)), static_cast<ssize_t>(sizeof(wakes)));
  EXPECT_EQ(wakes, 1U);
  // Put back what the test has read: the ring counts its wake-ups.
  ASSERT_EQ(::write(ring.fileno(), &wakes, sizeof(wakes)), static_cast<ssize_t>(sizeof(wakes)));
  EXPECT_EQ(taken(ring).size(), 1000U);
  deliver(ring, {&items[0]});
  EXPECT_TRUE(readable(ring)) << "the next one wakes again";
  EXPECT_EQ(taken(ring).size(), 1U);
}

TEST(Completions, ALoopThatStopsBeforeItIsThroughStaysReadable) {
  CompletionRing ring;
  Item item;
  deliver(ring, {&item});
  EXPECT_EQ(taken(ring).size(), 1U);
  EXPECT_FALSE(readable(ring));
  ring.wake();
  EXPECT_TRUE(readable(ring));
  EXPECT_TRUE(taken(ring).empty());
  EXPECT_FALSE(readable(ring));
}

TEST(Completions, WaitReturnsWhenSomethingIsDelivered) {
  CompletionRing ring;
  Item item;
  std::thread producer([&] { deliver(ring, {&item}); });
  ring.wait(-1);
  EXPECT_EQ(taken(ring).size(), 1U);
  producer.join();
  ring.wait(0);  // nothing there: does not block
}

TEST(Completions, ManyProducersLoseNothingAndKeepTheirOrder) {
  static constexpr int kProducers = 4;
  static constexpr int kItems = 20'000;
  CompletionRing ring;
  std::vector<std::vector<Item>> items(kProducers);
  for (auto& row : items) row = std::vector<Item>(kItems);
  std::vector<std::thread> producers;
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&, p] {
      std::vector<Item>& mine = items[static_cast<std::size_t>(p)];
      for (int i = 0; i < kItems;) {
        std::vector<Item*> chain;
        for (int length = 1 + (i + p) % 5; length > 0 && i < kItems; --length, ++i) {
          Item& item = mine[static_cast<std::size_t>(i)];
          item.producer = p;
          item.number = i;
          chain.push_back(&item);
        }
        deliver(ring, chain);
      }
    });
  }
  std::vector<int> next(kProducers, 0);
  int wakes = 0;
  for (int seen = 0; seen < kProducers * kItems;) {
    ring.wait(-1);
    ++wakes;
    for (const Item* item : taken(ring)) {
      ASSERT_EQ(item->number, next[static_cast<std::size_t>(item->producer)]++);
      ++seen;
    }
  }
  EXPECT_LE(wakes, kProducers * kItems);
  for (std::thread& producer : producers) producer.join();
  EXPECT_EQ(ring.take(), nullptr);
}

// A producer that has pushed still has its wake-up to write. The loop that has everything by then, and goes, must wait
// for it: otherwise the write finds a ring that is freed, or somebody else's descriptor.
TEST(Completions, TheRingOutlivesTheWakeUpOfItsLastProducer) {
  for (int round = 0; round < 500; ++round) {
    auto ring = std::make_unique<CompletionRing>();
    Item item;
    std::atomic<bool> ready = false;
    std::thread producer([&ready, &item, &at = *ring] {
      ready = true;
      deliver(at, {&item});
    });
    while (!ready) std::this_thread::yield();
    while (ring->take() == nullptr) std::this_thread::yield();
    ring.reset();
    producer.join();
  }
}

}  // namespace
}  // namespace headrace
