// Lane time by weight, among models whose requests have no targets; and what those get where others have.
#include "schedule/fair_share.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "known_costs.h"
#include "schedule/dispatcher.h"

namespace headrace {
namespace {

TEST(FairShareTest, TheLeastTagGoesAndPaysByItsWeight) {
  FairShare fair;
  FairShare::Account heavy{2, 0, 0, false};
  FairShare::Account light{1, 0, 0, false};
  fair.ready(heavy);
  fair.ready(light);
  EXPECT_EQ(fair.take(heavy, 100), 100);
  EXPECT_EQ(fair.take(light, 100), 100);
  EXPECT_EQ(heavy.tag, 50);
  EXPECT_EQ(light.tag, 100);
}

TEST(FairShareTest, IdleTimeGivesNoCredit) {
  FairShare fair;
  FairShare::Account busy;
  FairShare::Account other;
  fair.ready(busy);
  for (int i = 0; i < 10; ++i) fair.take(busy, kSecond);
  fair.ready(other);
  EXPECT_EQ(other.tag, fair.now());
  FairShare::idle(other);
  for (int i = 0; i < 10; ++i) fair.take(busy, kSecond);
  fair.ready(other);
  EXPECT_EQ(other.tag, fair.now());
}

TEST(FairShareTest, WhoHadWorkAndCouldNotRunKeepsALittle) {
  FairShare fair;
  FairShare::Account busy;
  FairShare::Account kept;
  fair.ready(busy);
  fair.ready(kept);
  for (int i = 0; i < 10; ++i) fair.take(busy, kSecond);
  fair.ready(kept);
  EXPECT_EQ(kept.tag, fair.now() - FairShare::kMostBehind);
}

TEST(FairShareTest, WhatARunReallyTookIsPutRight) {
  FairShare fair;
  FairShare::Account account{0.5, 0, 0, false};
  fair.ready(account);
  const Nanos charge = fair.take(account, 100);
  EXPECT_EQ(account.tag, 200);
  FairShare::ended(account, charge, 130);
  EXPECT_EQ(account.tag, 260);
  EXPECT_EQ(fair.take(account, 0), 130) << "where nothing is predicted the last run is taken for it";
}

class FairDispatcherTest : public ::testing::Test {
 protected:
  struct Model {
    Dispatcher::Entry* entry;
    std::unique_ptr<KnownCosts> costs;
    Nanos run;
    Nanos got = 0;  // lane time
    Nanos longest_wait = 0;
    int served = 0;
  };

  void add(Nanos run, double weight, bool known = true, int max_lanes = 8, Nanos objective = kNever) {
    BatchingPolicy policy;
    policy.dynamic_batching = true;
    policy.max_batch_size = 1;
    policy.latency_objective = objective;
    Model model{nullptr, std::make_unique<KnownCosts>(run, 0), run};
    Share share;
    share.weight = weight;
    model.entry = dispatcher_->add("m" + std::to_string(models_.size()), policy, max_lanes, nullptr,
                                   known ? model.costs.get() : nullptr, share);
    models_.push_back(std::move(model));
  }
  void submit(std::size_t model, int count) {
    for (int i = 0; i < count; ++i) {
      tickets_.push_back(std::make_unique<Ticket>());
      Ticket* ticket = tickets_.back().get();
      ticket->time.received = now_;
      ticket->model = models_[model].entry;
      ASSERT_TRUE(dispatcher_->submit(models_[model].entry, ticket, now_).ok());
    }
  }
  // Lanes run what they get, until `until`; `refill` is called before each look for work.
  template <class Refill>
  void run(Nanos until, const Refill& refill) {
    std::vector<Nanos> ends(lanes_.size(), kNever);
    while (now_ < until) {
      refill();
      for (std::size_t i = 0; i < lanes_.size(); ++i) {
        if (lanes_[i].entry != nullptr) continue;
        dispatcher_->take(static_cast<int>(i), now_, lanes_[i]);
        Model* model = model_of(lanes_[i].entry);
        if (model == nullptr) continue;
        ends[i] = now_ + model->run;
        model->got += model->run;
        ++model->served;
        model->longest_wait = std::max(model->longest_wait, now_ - lanes_[i].tickets.front()->time.queued);
      }
      const auto next = std::min_element(ends.begin(), ends.end());
      ASSERT_NE(*next, kNever) << "a lane is idle though there is work";
      now_ = *next;
      finish(static_cast<std::size_t>(next - ends.begin()));
      *next = kNever;
    }
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      if (lanes_[i].entry != nullptr) finish(i);
    }
  }
  void finish(std::size_t lane) {
    dispatcher_->settle(lanes_[lane].entry, lanes_[lane].tickets);
    dispatcher_->release(static_cast<int>(lane), lanes_[lane], now_);
  }
  Model* model_of(const Dispatcher::Entry* entry) {
    for (Model& model : models_) {
      if (model.entry == entry) return &model;
    }
    return nullptr;
  }
  void start(int lanes) {
    dispatcher_ = std::make_unique<Dispatcher>(lanes);
    lanes_ = std::vector<Dispatcher::Assignment>(static_cast<std::size_t>(lanes));
  }
  void keep_queued(std::size_t model, std::size_t count) {
    while (dispatcher_->queued(models_[model].entry) < count) submit(model, 1);
  }
  void TearDown() override {
    for (const Model& model : models_) dispatcher_->close(model.entry);
  }

  Nanos now_ = 1;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::vector<Dispatcher::Assignment> lanes_;
  std::vector<Model> models_;
  std::vector<std::unique_ptr<Ticket>> tickets_;
};

TEST_F(FairDispatcherTest, LaneTimeGoesByWeightWhateverARunCosts) {
  for (const bool known : {true, false}) {
    models_.clear();
    start(2);
    add(10 * kMillisecond, 1, known);
    add(1 * kMillisecond, 1, known);
    add(3 * kMillisecond, 2, known);
    run(now_ + 4 * kSecond, [this] {
      for (std::size_t i = 0; i < 3; ++i) keep_queued(i, 5);
    });
    const auto part = [this](std::size_t i) {
      return static_cast<double>(models_[i].got) /
             static_cast<double>(models_[0].got + models_[1].got + models_[2].got);
    };
    EXPECT_NEAR(part(0), 0.25, 0.01);
    EXPECT_NEAR(part(1), 0.25, 0.01);
    EXPECT_NEAR(part(2), 0.5, 0.01);
    for (const Model& model : models_) dispatcher_->close(model.entry);
  }
}

TEST_F(FairDispatcherTest, ASlowModelThatIsFloodedHardlyDelaysAFastOne) {
  start(1);
  add(20 * kMillisecond, 1);
  add(kMillisecond / 2, 1);
  submit(0, 1000);
  run(now_ + 3 * kSecond, [this] { keep_queued(1, 1); });
  // One run of the slow model at most, and its own last one. In order of arrival it would be 20 s.
  EXPECT_LE(models_[1].longest_wait, 21 * kMillisecond);
  EXPECT_GT(models_[1].served, 2500) << "half of the time";
}

TEST_F(FairDispatcherTest, WhoComesBackTakesNoMoreThanItsShare) {
  start(1);
  add(kMillisecond, 1);
  add(kMillisecond, 1);
  run(now_ + 2 * kSecond, [this] { keep_queued(0, 5); });
  models_[0].got = models_[1].got = 0;
  run(now_ + kSecond, [this] {
    keep_queued(0, 5);
    keep_queued(1, 5);
  });
  EXPECT_NEAR(static_cast<double>(models_[1].got) / static_cast<double>(models_[0].got), 1, 0.01);
}

TEST_F(FairDispatcherTest, NobodyWaitsBesideAnIdleLane) {
  start(2);
  add(kMillisecond, 0.01);
  run(now_ + kSecond, [this] { keep_queued(0, 3); });
  EXPECT_GE(models_[0].got, 2 * kSecond - 2 * kMillisecond) << "alone it has all, whatever its weight";
}

TEST_F(FairDispatcherTest, TargetsGoFirstButForAPart) {
  start(1);
  add(2 * kMillisecond, 1, false);
  add(kMillisecond, 1, false, 8, 10 * kSecond);
  submit(0, 1000);
  run(now_ + 8 * kSecond, [this] { keep_queued(1, 4); });
  // It has waited a second for its patience to end. From then on it gets one part in sixteen.
  EXPECT_NEAR(static_cast<double>(models_[0].got), 7e9 / 16, 0.02e9);
}

TEST_F(FairDispatcherTest, ThePartDoesNotBreakPromises) {
  start(1);
  add(40 * kMillisecond, 1);
  add(kMillisecond, 1, true, 8, 30 * kMillisecond);
  submit(0, 100);
  int refused = 0;
  const auto flood = [this, &refused] {
    for (int i = 0; i < 4; ++i) {
      tickets_.push_back(std::make_unique<Ticket>());
      tickets_.back()->time.received = now_;
      tickets_.back()->model = models_[1].entry;
      if (!dispatcher_->submit(models_[1].entry, tickets_.back().get(), now_).ok()) ++refused;
    }
  };
  run(now_ + 6 * kSecond, flood);
  EXPECT_LE(models_[1].longest_wait, 29 * kMillisecond) << "each answer is in time";
  EXPECT_GT(models_[1].served, 4000);
  EXPECT_GT(refused, 1000) << "it is not put to the test";
  EXPECT_GE(models_[0].served, 5) << "and the slow one is not forgotten";
}

TEST_F(FairDispatcherTest, ThousandsOfModelsEachGetTheirTurn) {
  start(2);
  for (int i = 0; i < 3000; ++i) add(kMillisecond, 1);
  for (std::size_t i = 0; i < models_.size(); ++i) submit(i, 3);
  run(now_ + 3 * kSecond, [] {});
  for (const Model& model : models_) EXPECT_EQ(model.served, 2);
}

}  // namespace
}  // namespace headrace
