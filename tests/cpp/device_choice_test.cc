#include "schedule/device_choice.h"

#include <gtest/gtest.h>

#include <array>

namespace headrace::testing {
namespace {

constexpr Nanos kNow = kSecond;

Offer answers_in(Nanos time, bool idle = false) { return {kNow + time, true, idle, kNow}; }

template <std::size_t N>
std::size_t choose(const std::array<Offer, N>& offers, bool waits = true, std::array<bool, N> tried = {}) {
  return choose_device(offers, tried, waits, kNow);
}

TEST(BacklogTest, AnIdleLaneAnswersAfterTheRun) { EXPECT_EQ((Backlog{0, 0, 0, 2, 7}.answered()), 7); }

TEST(BacklogTest, WithNothingQueuedTheFirstFreeLaneTakesIt) {
  EXPECT_EQ((Backlog{30, 10, 0, 2, 7}.answered()), 17) << "not the mean of both lanes";
}

TEST(BacklogTest, WhatIsQueuedIsSharedByTheLanes) {
  EXPECT_EQ((Backlog{30, 10, 70, 2, 7}.answered()), 50 + 7);
  EXPECT_EQ((Backlog{30, 25, 2, 2, 7}.answered()), 25 + 7) << "but not before one is free";
}

TEST(DeviceChoiceTest, TheFirstToAnswerGetsIt) {
  EXPECT_EQ(choose<3>({answers_in(9), answers_in(3), answers_in(5)}), 1U);
  EXPECT_EQ(choose<2>({answers_in(3), answers_in(3)}), 0U) << "of equals the preferred one";
}

TEST(DeviceChoiceTest, AnIdleSlowDeviceLeavesItToABusyFastOne) {
  const Offer fast{kNow + Backlog{4, 4, 0, 1, 1}.answered(), true, false, kNow};
  const Offer slow{kNow + Backlog{0, 0, 0, 4, 10}.answered(), true, true, kNow};
  EXPECT_EQ(choose<2>({slow, fast}), 1U);
  const Offer flooded{kNow + Backlog{4, 4, 20, 1, 1}.answered(), true, false, kNow};
  EXPECT_EQ(choose<2>({slow, flooded}), 0U) << "until its queue is longer than the slow one's run";
}

TEST(DeviceChoiceTest, OneThatHasRefusedIsOut) {
  const std::array<Offer, 2> offers{answers_in(1), answers_in(5)};
  EXPECT_EQ(choose<2>(offers, true, {true, false}), 1U);
  EXPECT_EQ(choose<2>(offers, true, {true, true}), 2U);
}

TEST(DeviceChoiceTest, WhatIsNotKnownIsFoundOutByOneRequestThatCanWait) {
  Offer unknown{kNow, false, true, 0};
  EXPECT_EQ(choose<2>({answers_in(5), unknown}), 1U);
  EXPECT_EQ(choose<2>({answers_in(5), unknown}, false), 0U) << "not by one with a target";
  unknown.idle = false;
  EXPECT_EQ(choose<2>({answers_in(5), unknown}), 0U) << "somebody is at it";
  EXPECT_EQ(choose<2>({unknown, unknown}, false), 0U) << "where nothing is known anywhere, the preferred one";
  EXPECT_EQ(choose<2>({answers_in(5), unknown}, true, {true, false}), 1U);
}

TEST(DeviceChoiceTest, WhatWasNotUsedForLongIsTriedAgain) {
  Offer old = answers_in(50, true);
  old.seen = kNow - kTryAgain - 1;
  EXPECT_EQ(choose<2>({answers_in(1), old}), 1U);
  EXPECT_EQ(choose<2>({answers_in(1), old}, false), 0U);
  old.idle = false;
  EXPECT_EQ(choose<2>({answers_in(1), old}), 0U);
  old.idle = true;
  old.seen = 0;
  EXPECT_EQ(choose<2>({answers_in(1), old}), 0U) << "a warm-up is all that it had: that is not old";
}

}  // namespace
}  // namespace headrace::testing
