// Models with places on several devices: what the engine makes of them, and what becomes of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine_fixture.h"

namespace headrace::testing {
namespace {

class EnginePlacesTest : public EngineTest {
 protected:
  static DeviceSpec gpu(int number, int lanes = 0, const std::string& provider = "cuda") {
    return {{{provider, {{"device_id", std::to_string(number)}}, true}}, lanes};
  }
  static ModelSpec on(std::vector<DeviceSpec> devices) {
    ModelSpec made = spec("m");
    made.devices = std::move(devices);
    return made;
  }
  Ticket* send(Model& model, const Values& rows) {
    Ticket* ticket = tickets_->make(rows, nullptr, clock_.now());
    model.address(*ticket);
    engine_->submit(ticket);
    return ticket;
  }
  std::set<std::string> devices_of(const Model& model) const {
    std::set<std::string> names;
    model.for_each_place([&](const Model& place) { names.insert(engine_->devices().name(place.device)); });
    return names;
  }
};

TEST_F(EnginePlacesTest, ASessionOnEachDeviceWithCostsAndLanesOfItsOwn) {
  start();
  const auto model = load(on({{{}, 1}, gpu(0), gpu(1, 3)}));
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(trial_.sessions(), 3);
  EXPECT_EQ(devices_of(*model), (std::set<std::string>{"cpu", "gpu 0", "gpu 1"}));
  ASSERT_EQ(model->twins.size(), 2U);
  EXPECT_EQ(model->places.size(), 3U);
  EXPECT_EQ(model->threads.plan.lanes, 1);
  EXPECT_EQ(model->twins[0]->threads.plan.lanes, 2) << "where nobody says";
  EXPECT_EQ(model->twins[1]->threads.plan.lanes, 3);
  EXPECT_EQ(model->share.cores, 1U);
  EXPECT_EQ(model->twins[0]->share.cores, 0U) << "a lane that waits for a GPU keeps no core busy";
  EXPECT_NE(model->costs.get(), model->twins[0]->costs.get());
  EXPECT_EQ(engine_->snapshot().lanes, 2 + 4 + 4);
  for (std::int32_t value = 0; value < 20; ++value) send(*model, {value});
  answers_.await(20);
  for (const Answer& answer : answers_.all()) EXPECT_TRUE(answer.status.ok()) << answer.status.to_string();
  EXPECT_EQ(row("m").stats.success.count, 20U) << "counted as one model";
  engine_->unload(model);
  EXPECT_EQ(trial_.sessions(), 0);
}

TEST_F(EnginePlacesTest, AGpuAloneHasItsOwnLanes) {
  start();
  const auto model = load(on({gpu(2)}));
  ASSERT_NE(model, nullptr);
  EXPECT_TRUE(model->places.empty()) << "there is nothing to choose";
  EXPECT_EQ(devices_of(*model), (std::set<std::string>{"gpu 2"}));
  trial_.hold();
  send(*model, {1});
  trial_.await_inside(1);
  EXPECT_EQ(engine_->snapshot().lanes_busy, 1);
  EXPECT_EQ(engine_->devices().cpu().busy_lanes(), 0);
  EXPECT_EQ(row("m").depth.running, 1U);
  trial_.let_go();
  answers_.await(1);
  engine_->unload(model);
}

TEST_F(EnginePlacesTest, WhatFallsBackToADeviceThatItHasIsOnePlaceWithTheReason) {
  start();
  const auto model = load(on({{{}, 1}, gpu(0, 1, "absent")}));
  ASSERT_NE(model, nullptr);
  EXPECT_TRUE(model->twins.empty());
  EXPECT_EQ(model->placement, (Placement{"cpu", "there is no such device"}));
  EXPECT_EQ(engine_->devices().count(), 1U);
  EXPECT_EQ(trial_.sessions(), 1);
  Ticket* ticket = send(*model, {3});
  answers_.await(1);
  EXPECT_TRUE(of(ticket).status.ok());
  engine_->unload(model);
}

TEST_F(EnginePlacesTest, WhatTheWholeServerHasOnceIsCountedInOnePlace) {
  start();
  ModelSpec shares = on({gpu(0)});
  shares.resources.push_back({"licence", kEverywhere, 1});
  const auto model = load(shares);
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(devices_of(*model), (std::set<std::string>{"cpu"}));
  engine_->unload(model);
}

TEST_F(EnginePlacesTest, AFaultOnOneDeviceIsAFaultOfTheLoad) {
  start();
  ModelSpec broken = on({{{}, 1}, gpu(0)});
  broken.model_file = "broken";
  EXPECT_FALSE(engine_->load(broken).ok());
  EXPECT_EQ(trial_.sessions(), 0);
}

}  // namespace
}  // namespace headrace::testing
