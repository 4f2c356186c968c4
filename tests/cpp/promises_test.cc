// Promises made in constant time are kept: long queues on lanes whose runs take exactly what is known, driven through
// the dispatcher.
#include "schedule/promises.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "known_costs.h"

namespace headrace {
namespace {

struct Load {
  int lanes;
  int models;
  int max_lanes;
  Nanos gap;       // between two arrivals, on average
  Nanos shortest;  // deadline
  Nanos longest;
  std::int64_t rows = 3;  // of a request, at most
  int requests = 4000;
  bool far_first = false;        // half of the requests have the longest deadline, the others the shortest
  unsigned without_percent = 0;  // of the requests that have no deadline
  std::uint32_t cores = 0;       // of the process; 0: as many as anybody likes
  bool unlike_cores = false;     // a batch of the first model keeps one busy, of the second two, and so on
  bool shared = false;           // all batches but the first model's need a resource of which there is one
};

struct Outcome {
  int taken_in = 0;
  int refused = 0;
  int late = 0;
  std::size_t most_queued = 0;
};

// Runs of 100 us and 10 us for each row, in batches of 16 at most.
Outcome play(const Load& load, unsigned seed) {
  std::mt19937_64 random(seed);
  const auto between = [&random](Nanos from, Nanos to) {
    return from + static_cast<Nanos>(random() % static_cast<std::uint64_t>(to - from + 1));
  };
  KnownCosts costs(100 * kMicrosecond, 10 * kMicrosecond);
  Dispatcher dispatcher(load.lanes);
  BatchingPolicy policy;
  policy.dynamic_batching = true;
  policy.max_batch_size = 16;
  std::vector<Dispatcher::Entry*> entries;
  if (load.cores > 0) dispatcher.set_cores(load.cores);
  for (int i = 0; i < load.models; ++i) {
    Share share;
    if (load.cores > 0) share.cores = load.unlike_cores ? static_cast<std::uint32_t>(i + 1) : 1;
    if (load.shared && i > 0) share.needs.push_back({"r", kEverywhere, 1});
    entries.push_back(dispatcher.add("m" + std::to_string(i), policy, load.max_lanes, nullptr, &costs, share));
  }
  struct Lane {
    Dispatcher::Assignment assignment;
    Nanos end = kNever;
  };
  std::vector<std::unique_ptr<Lane>> lanes;
  for (int i = 0; i < load.lanes; ++i) lanes.push_back(std::make_unique<Lane>());
  std::vector<std::unique_ptr<Ticket>> tickets;
  Outcome outcome;
  Nanos arrival = 0;
  Nanos now = 0;
  int left = load.requests;
  const auto give_work = [&] {
    for (int i = 0; i < load.lanes; ++i) {
      Lane& lane = *lanes[static_cast<std::size_t>(i)];
      if (lane.assignment.entry != nullptr) continue;
      dispatcher.take(i, now, lane.assignment);
      if (lane.assignment.entry == nullptr) continue;
      lane.end = now + costs.predict({}, lane.assignment.rows).typical;
    }
  };
  for (;;) {
    Nanos next = left > 0 ? arrival : kNever;
    for (const auto& lane : lanes) next = std::min(next, lane->end);
    if (next == kNever) break;
    now = next;
    for (int i = 0; i < load.lanes; ++i) {
      Lane& lane = *lanes[static_cast<std::size_t>(i)];
      if (lane.end != now) continue;
      for (const Ticket* ticket : lane.assignment.tickets) outcome.late += now >= ticket->deadline ? 1 : 0;
      dispatcher.settle(lane.assignment.entry, lane.assignment.tickets);
      dispatcher.release(i, lane.assignment, now);
      lane.end = kNever;
    }
    while (left > 0 && arrival <= now) {
      --left;
      arrival += between(0, 2 * load.gap);
      tickets.push_back(std::make_unique<Ticket>());
      Ticket* ticket = tickets.back().get();
      ticket->rows = between(1, load.rows);
      ticket->time.received = now;
      if (load.far_first) {
        ticket->deadline = now + (left > load.requests / 2 ? load.longest : load.shortest);
      } else if (random() % 100 >= load.without_percent) {
        ticket->deadline = now + between(load.shortest, load.longest);
      }
      Dispatcher::Entry* entry = entries[random() % entries.size()];
      ++(dispatcher.submit(entry, ticket, now).ok() ? outcome.taken_in : outcome.refused);
      outcome.most_queued = std::max(outcome.most_queued, dispatcher.queued(entry));
    }
    give_work();
  }
  return outcome;
}

TEST(PromisesTest, NobodyThatIsTakenInIsLate) {
  constexpr Nanos kMs = kMillisecond;
  const std::vector<Load> loads = {
      {1, 1, 1, 10 * kMicrosecond, 20 * kMs, 20 * kMs},  // first come, first served
      {1, 1, 1, 10 * kMicrosecond, 1 * kMs, 60 * kMs},   // newcomers go before others
      {1, 3, 1, 15 * kMicrosecond, 2 * kMs, 40 * kMs},
      {3, 1, 3, 5 * kMicrosecond, 5 * kMs, 30 * kMs},
      {3, 3, 3, 4 * kMicrosecond, 2 * kMs, 20 * kMs},
      {3, 3, 1, 8 * kMicrosecond, 5 * kMs, 50 * kMs},
      {1, 1, 1, 8 * kMicrosecond, 20 * kMs, 20 * kMs, 1},
      {2, 1, 2, 4 * kMicrosecond, 3 * kMs, 9 * kMs, 1, 4000, false, 20},
      // What is near goes before a long queue of what is far.
      {1, 1, 1, 8 * kMicrosecond, 5 * kMs, 60 * kMs, 1, 20'000, true},
      {1, 2, 1, 30 * kMicrosecond, 300 * kMicrosecond, 3 * kMs},
      // Fewer cores than lanes, batches that need several, and what they share.
      {3, 2, 3, 8 * kMicrosecond, 5 * kMs, 30 * kMs, 3, 4000, false, 0, 2, false},
      {3, 3, 3, 10 * kMicrosecond, 5 * kMs, 40 * kMs, 3, 4000, false, 0, 3, true},
      {3, 3, 3, 10 * kMicrosecond, 5 * kMs, 40 * kMs, 3, 4000, false, 20, 2, true},
      {3, 3, 3, 12 * kMicrosecond, 5 * kMs, 40 * kMs, 3, 4000, false, 0, 0, false, true},
      {4, 3, 2, 20 * kMicrosecond, 500 * kMicrosecond, 4 * kMs, 3, 4000, false, 0, 3, true, true},
  };
  for (std::size_t i = 0; i < loads.size(); ++i) {
    for (unsigned seed = 0; seed < 3; ++seed) {
      const Outcome outcome = play(loads[i], seed);
      EXPECT_EQ(outcome.late, 0) << "load " << i << " seed " << seed;
      EXPECT_GT(outcome.refused, 100) << "load " << i << ": it is not put to the test";
      EXPECT_GT(outcome.taken_in, 500) << "load " << i;
      if (loads[i].longest >= 20 * kMs && loads[i].models == 1) {
        EXPECT_GT(outcome.most_queued, Promises::kMostPlayed) << "load " << i << ": no queue was long";
      }
    }
  }
}

TEST(PromisesTest, WhatMayWaitRefusesNobody) {
  // Twice what the lane can do, most of it without a deadline: the others are few, and go first.
  const Load load{1, 1, 1, 8 * kMicrosecond, 20 * kMillisecond, 30 * kMillisecond, 1, 4000, false, 85};
  const Outcome outcome = play(load, 1);
  EXPECT_EQ(outcome.late, 0);
  EXPECT_GT(outcome.most_queued, 10 * Promises::kMostPlayed);
  EXPECT_EQ(outcome.refused, 0);
}

TEST(PromisesTest, OnlyWhatCannotBeDoneIsRefused) {
  const Outcome outcome = play({2, 2, 2, 500 * kMicrosecond, 5 * kMillisecond, 9 * kMillisecond}, 1);
  EXPECT_EQ(outcome.refused, 0);
  EXPECT_EQ(outcome.late, 0);
}

}  // namespace
}  // namespace headrace
