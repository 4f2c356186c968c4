#include "schedule/devices.h"

#include <gtest/gtest.h>

#include <vector>

#include "batching/shape_groups.h"
#include "scheduler_fixture.h"

namespace headrace::testing {
namespace {

// A model with a place on the CPU's lanes and one on a GPU's, which is ten times as fast.
class DevicesTest : public ::testing::Test {
 protected:
  struct Placed {
    Placed() { runnable.costs = &costs; }
    Trial trial;
    TrialSession session{trial};
    CostModel costs{4};
    Runnable runnable{&session, true, {"y", "z"}, nullptr, {}, {}};
    Place place;
  };

  void SetUp() override {
    gpu_ = *devices_.lanes_of("gpu 0", 1);
    add(slow_, kCpuLanes, 100 * kMillisecond);
    add(fast_, gpu_, 10 * kMillisecond);
    places_ = {slow_.place, fast_.place};
    clock_.await_waiters(4);  // two lanes and two timers
  }
  void TearDown() override {
    slow_.trial.let_go();
    fast_.trial.let_go();
    devices_.stop(kStopped);
    EXPECT_EQ(devices_.in_flight(), 0U);
    EXPECT_EQ(devices_.busy_lanes(), 0);
    for (const Place& place : places_) {
      devices_.on(place.device).close_entry(place.entry, kUnloaded);
      devices_.on(place.device).erase(place.entry);
    }
    tickets_.finish(answers_);
    EXPECT_EQ(pool_.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
  }
  void add(Placed& placed, std::uint8_t device, Nanos run) {
    // Of the shape that the tests' tickets have.
    Ticket* sample = tickets_.make({1}, nullptr, 0);
    for (int rows = 1; rows <= 4; ++rows) placed.costs.record_warmup({0, shape_hash(sample->inputs)}, rows, run);
    answers_.deliver(sample, sample);
    ++made_up_;
    placed.place = {device, devices_.on(device).add("m", dynamic(4), 8, &placed.runnable)};
  }
  Ticket* ticket(std::int32_t value, Nanos deadline = kNever) {
    Ticket* made = tickets_.make({value}, &places_, clock_.now(), deadline);
    made->device = kAnyDevice;
    return made;
  }
  Ticket* submit(std::int32_t value, Nanos deadline = kNever) {
    Ticket* made = ticket(value, deadline);
    devices_.submit(made);
    return made;
  }
  void await(std::size_t count) { answers_.await(count + made_up_); }
  Status status_of(const Ticket* ticket) const { return answers_.of(ticket->cookie_call).status; }

  ManualClock clock_{kSecond};
  Pool pool_{PoolOptions{}};
  Answers answers_;
  Tickets tickets_{pool_, answers_};
  std::size_t made_up_ = 0;
  Placed slow_;
  Placed fast_;
  Places places_;
  std::uint8_t gpu_ = 0;
  Devices devices_{SchedulerOptions{1, &clock_, {}, nullptr}, pool_};
};

TEST_F(DevicesTest, LanesOfADeviceBeginOnce) {
  EXPECT_EQ(devices_.count(), 2U);
  EXPECT_EQ(*devices_.lanes_of("gpu 0", 7), gpu_);
  EXPECT_EQ(devices_.count(), 2U);
  EXPECT_EQ(devices_.name(kCpuLanes), "cpu");
  EXPECT_EQ(devices_.name(gpu_), "gpu 0");
  EXPECT_EQ(devices_.lanes(), 2);
  for (std::size_t i = devices_.count(); i < Devices::kMost; ++i)
    EXPECT_TRUE(devices_.lanes_of("gpu " + std::to_string(i), 1).ok());
  const Result<std::uint8_t> more = devices_.lanes_of("gpu 99", 1);
  EXPECT_EQ(more.status().code(), Code::kResourceExhausted);
  EXPECT_NE(more.status().message().find("instance_group.gpus"), std::string::npos);
}

TEST_F(DevicesTest, ARequestGoesWhereItIsAnsweredFirst) {
  fast_.trial.hold();
  slow_.trial.hold();
  submit(1);
  fast_.trial.await_inside(1);
  std::int32_t sent = 1;
  while (sent < 100 && devices_.cpu().in_flight() == 0) submit(++sent);
  // The slow lane gets the first that both would answer in 100 ms: the fast one has a run and eight batches before it.
  EXPECT_EQ(sent, 1 + 8 * 4 + 1);
  EXPECT_EQ(devices_.on(gpu_).depth(fast_.place.entry).queued, 32U);
  slow_.trial.await_inside(1);
  fast_.trial.let_go();
  slow_.trial.let_go();
  await(static_cast<std::size_t>(sent));
}

TEST_F(DevicesTest, WhatNoDeviceHasInTimeIsToldByTheFirstChoice) {
  fast_.trial.hold();
  submit(1, clock_.now() + 20 * kMillisecond);
  fast_.trial.await_inside(1);
  // No device has it in time: the first choice's reason is told.
  Ticket* late = submit(2, clock_.now() + 5 * kMillisecond);
  EXPECT_EQ(status_of(late).code(), Code::kDeadlineExceeded);
  fast_.trial.let_go();
  await(2);
}

TEST_F(DevicesTest, WhatTheBestHasNoRoomForGoesToTheNext) {
  BatchingPolicy narrow = dynamic(4);
  narrow.max_queue_size = 1;
  Placed tight;
  tight.costs.record_warmup({0, 0}, 1, kMillisecond);
  tight.place = {gpu_, devices_.on(gpu_).add("tight", narrow, 1, &tight.runnable)};
  Places places{tight.place, slow_.place};
  tight.trial.hold();
  std::vector<Ticket*> sent;
  for (std::int32_t value = 1; value <= 3; ++value) {
    sent.push_back(tickets_.make({value}, &places, clock_.now()));
    sent.back()->device = kAnyDevice;
    devices_.submit(sent.back());
    if (value == 1) tight.trial.await_inside(1);
  }
  EXPECT_EQ(sent[2]->device, kCpuLanes) << "one runs and one waits on the GPU, and no more may";
  tight.trial.let_go();
  await(3);
  for (const Ticket* each : sent) EXPECT_TRUE(status_of(each).ok());
  devices_.on(gpu_).close_entry(tight.place.entry, kUnloaded);
  devices_.on(gpu_).erase(tight.place.entry);
}

TEST_F(DevicesTest, TicketsOfOnePlaceAndOfAnyGoInOneChain) {
  std::vector<Ticket*> chain;
  chain.push_back(tickets_.make({1}, slow_.place.entry, clock_.now()));
  chain.push_back(ticket(2));
  chain.push_back(tickets_.make({3}, fast_.place.entry, clock_.now()));
  chain.back()->device = gpu_;
  chain.push_back(tickets_.make({4}, slow_.place.entry, clock_.now()));
  devices_.submit(Tickets::chain(chain));
  await(4);
  for (const Ticket* each : chain) EXPECT_TRUE(status_of(each).ok());
  Values slow;
  for (const Values& run : slow_.trial.runs()) slow.insert(slow.end(), run.begin(), run.end());
  std::sort(slow.begin(), slow.end());
  EXPECT_EQ(slow, (Values{1, 4})) << "what has one place stays there";
}

TEST_F(DevicesTest, CancelReachesTheDeviceThatHasIt) {
  fast_.trial.hold();
  submit(1);
  fast_.trial.await_inside(1);
  Ticket* waits = submit(2);
  EXPECT_EQ(waits->device, gpu_);
  devices_.cancel(waits, kCallerLeft);
  EXPECT_EQ(status_of(waits).code(), Code::kCancelled);
  fast_.trial.let_go();
  await(2);
  EXPECT_TRUE(devices_.wait_idle(clock_.now() + kSecond));
}

TEST_F(DevicesTest, AfterAStopEveryDeviceRefuses) {
  devices_.stop(kStopped);
  Ticket* late = submit(1);
  EXPECT_EQ(status_of(late).code(), Code::kUnavailable);
  const std::uint8_t other = *devices_.lanes_of("gpu 1", 1);
  Ticket* later = tickets_.make({1}, fast_.place.entry, clock_.now());
  later->device = other;
  devices_.submit(later);
  EXPECT_EQ(status_of(later).code(), Code::kUnavailable) << "lanes that come later are stopped too";
}

}  // namespace
}  // namespace headrace::testing
