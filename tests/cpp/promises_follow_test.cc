// Promises over seconds of arrivals: what one model is promised leaves room for the others.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "known_costs.h"
#include "schedule/dispatcher.h"

namespace headrace {
namespace {

constexpr std::size_t kLanes = 2;
constexpr Nanos kTick = kMillisecond;

struct Load {
  Nanos every;
  Nanos run;  // of one row; a row more takes as long again
  Nanos deadline;
  double weight = 1;
  std::uint32_t cores = 1;  // of a run, of two
  Nanos start = 0;          // of a run, before its first row
  std::int64_t best = 1;    // rows up to which a larger batch pays
};

struct Outcome {
  int sent = 0;
  int refused = 0;
  int late = 0;
  int good = 0;
};

// Plays `seconds` of two models on two lanes, a tick at a time; runs take exactly what is known of them.
class PromisesFollowTest : public ::testing::Test {
 protected:
  std::array<Outcome, 2> play(const std::array<Load, 2>& loads, Nanos seconds) {
    Dispatcher dispatcher(kLanes);
    dispatcher.set_cores(kLanes);
    std::array<std::unique_ptr<KnownCosts>, 2> costs;
    std::array<Dispatcher::Entry*, 2> entries{};
    std::array<Outcome, 2> outcomes;
    for (std::size_t i = 0; i < loads.size(); ++i) {
      costs[i] = std::make_unique<KnownCosts>(loads[i].start, loads[i].run);
      costs[i]->best = loads[i].best;
      BatchingPolicy policy;
      policy.dynamic_batching = true;
      policy.max_batch_size = 8;
      Share share;
      share.weight = loads[i].weight;
      share.cores = loads[i].cores;
      entries[i] = dispatcher.add(i == 0 ? "slow" : "fast", policy, kLanes, nullptr, costs[i].get(), share);
    }
    std::array<Dispatcher::Assignment, kLanes> work;
    std::array<Nanos, kLanes> ends{kNever, kNever};
    for (Nanos now = 0; now < seconds * kSecond; now += kTick) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        if (ends[lane] > now) continue;
        const std::size_t model = work[lane].entry == entries[0] ? 0 : 1;
        count(dispatcher.settle(work[lane].entry, work[lane].tickets), now, outcomes[model]);
        dispatcher.release(static_cast<int>(lane), work[lane], now);
        ends[lane] = kNever;
      }
      for (std::size_t i = 0; i < loads.size(); ++i) {
        if (now % loads[i].every != 0) continue;
        tickets_.push_back(std::make_unique<Ticket>());
        Ticket* ticket = tickets_.back().get();
        ticket->rows = 1;
        ticket->deadline = now + loads[i].deadline;
        ++outcomes[i].sent;
        if (const Status status = dispatcher.submit(entries[i], ticket, now); !status.ok()) {
          ++outcomes[i].refused;
          expect_it_explains_itself(std::string(status.message()));
        }
      }
      TicketChain expired = dispatcher.expire(now);
      EXPECT_EQ(expired.first, nullptr) << "what was promised was kept";
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        if (ends[lane] != kNever) continue;
        dispatcher.take(static_cast<int>(lane), now, work[lane]);
        if (work[lane].entry == nullptr) continue;
        const std::size_t model = work[lane].entry == entries[0] ? 0 : 1;
        ends[lane] = now + loads[model].start + loads[model].run * work[lane].rows;
      }
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      if (ends[lane] == kNever) continue;
      dispatcher.settle(work[lane].entry, work[lane].tickets);
      dispatcher.release(static_cast<int>(lane), work[lane], seconds * kSecond);
    }
    for (Dispatcher::Entry* entry : entries) dispatcher.empty_queue(entry);
    for (std::size_t i = 0; i < loads.size(); ++i) {
      Ticket after;
      after.deadline = seconds * kSecond + loads[i].deadline;
      const Status status = dispatcher.submit(entries[i], &after, seconds * kSecond);
      EXPECT_TRUE(status.ok()) << "on an idle server: " << status.to_string();
      dispatcher.close(entries[i]);
    }
    return outcomes;
  }

  // Who is told when it would be answered is told of a time past its deadline.
  static void expect_it_explains_itself(const std::string& text) {
    const std::size_t answer = text.find("would answer in ");
    const std::size_t limit = text.find(" is in ");
    if (answer == std::string::npos || limit == std::string::npos) return;
    EXPECT_GE(std::stol(text.substr(answer + 16)), std::stol(text.substr(limit + 7))) << text;
  }

  static void count(const TicketChain& chain, Nanos now, Outcome& outcome) {
    for (const Ticket* ticket = chain.first; ticket != nullptr; ticket = static_cast<const Ticket*>(ticket->next)) {
      ++(now <= ticket->deadline ? outcome.good : outcome.late);
    }
  }

  std::vector<std::unique_ptr<Ticket>> tickets_;
};

TEST_F(PromisesFollowTest, ASlowModelWithFarTargetsDoesNotCrowdOutAFastOne) {
  // Four lanes' worth of runs of 40 ms that may take five seconds, beside a third of a lane's worth of short ones.
  const auto [slow, fast] = play({{{10 * kMillisecond, 40 * kMillisecond, 5 * kSecond},
                                   {30 * kMillisecond, 10 * kMillisecond, 150 * kMillisecond}}},
                                 20);
  std::printf("fast %d of %d, slow %d of %d\n", fast.good, fast.sent, slow.good, slow.sent);
  EXPECT_GE(fast.good, fast.sent * 85 / 100) << fast.refused << " refused";
  EXPECT_EQ(fast.late + slow.late, 0);
  // What is left is not wasted either: 1.6 lanes for 20 s make 800 runs.
  EXPECT_GE(slow.good, 640);
}

TEST_F(PromisesFollowTest, RunsAsLongAsOthersCanWaitLeaveThemALane) {
  const auto [slow, fast] = play({{{10 * kMillisecond, 45 * kMillisecond, 5 * kSecond},
                                   {30 * kMillisecond, 10 * kMillisecond, 50 * kMillisecond}}},
                                 20);
  EXPECT_GE(fast.good, fast.sent * 9 / 10) << fast.refused << " refused";
  EXPECT_GE(slow.good, 400) << "a lane of its own makes 444 runs";
}

TEST_F(PromisesFollowTest, RunsThatTakeAllCoresCountAsAllLanes) {
  // 1.6 times what two cores can do, by a model of which one run goes on at a time.
  const auto [slow, fast] = play({{{25 * kMillisecond, 40 * kMillisecond, 5 * kSecond, 1, 2},
                                   {30 * kMillisecond, 10 * kMillisecond, 150 * kMillisecond}}},
                                 20);
  // Not more: a short run beside which the other does not fit idles a lane too, which no share counts.
  EXPECT_GE(fast.good, fast.sent / 2) << fast.refused << " refused";
  EXPECT_GE(slow.good, 350);
}

TEST_F(PromisesFollowTest, ACrowdIsServedInBatchesThatPay) {
  // Nine times what two lanes can do in batches of 8, which take 140 ms.
  const auto [crowd, nobody] = play({{{kMillisecond, 10 * kMillisecond, 800 * kMillisecond, 1, 1, 60 * kMillisecond, 8},
                                      {100 * kSecond, kMillisecond, kSecond}}},
                                    10);
  EXPECT_GE(crowd.good, 900) << "of 1,142";
  EXPECT_EQ(crowd.late + nobody.late, 0);
}

TEST_F(PromisesFollowTest, TwoThatAskForTooMuchShareByWeight) {
  const auto [heavy, light] = play({{{10 * kMillisecond, 30 * kMillisecond, 2 * kSecond, 3},
                                     {10 * kMillisecond, 30 * kMillisecond, 2 * kSecond, 1}}},
                                   20);
  EXPECT_GE(heavy.good + light.good, 1200) << "of 1,333 that two lanes can do";
  EXPECT_NEAR(static_cast<double>(heavy.good) / light.good, 3, 0.6);
}

// A share of less than a run within the deadline: it is held to that while others want the lanes, and not afterwards.
TEST_F(PromisesFollowTest, NobodyIsHeldToAShareOfAnIdleServer) {
  const auto [light, heavy] = play({{{100 * kMillisecond, 90 * kMillisecond, 150 * kMillisecond, 0.1},
                                     {10 * kMillisecond, 18 * kMillisecond, 150 * kMillisecond, 1}}},
                                   2);
  EXPECT_GE(light.refused, light.sent / 2);
  EXPECT_GE(heavy.good, heavy.sent * 9 / 10);
}

TEST_F(PromisesFollowTest, WhoIsAloneMayPromiseAllThatItCanKeep) {
  // 1.6 lanes in a burst would be no reason to refuse anybody.
  const auto [only, nobody] =
      play({{{25 * kMillisecond, 40 * kMillisecond, 5 * kSecond}, {100 * kSecond, kMillisecond, kSecond}}}, 10);
  EXPECT_EQ(only.refused, 0);
  EXPECT_EQ(nobody.late, 0);
}

}  // namespace
}  // namespace headrace
