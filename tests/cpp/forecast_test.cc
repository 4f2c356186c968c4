#include "schedule/forecast.h"

#include <gtest/gtest.h>

#include <deque>

#include "known_costs.h"

namespace headrace {
namespace {

class ForecastTest : public ::testing::Test {
 protected:
  ForecastTest() {
    BatchingPolicy policy;
    policy.dynamic_batching = true;
    policy.max_batch_size = 4;
    queue_ = std::make_unique<Queue>("digits", policy);
    queue_->set_costs(&costs_);
  }
  void TearDown() override { queue_->clear(); }
  Ticket* pushed(Nanos deadline = kNever) {
    Ticket& made = tickets_.emplace_back();
    made.deadline = deadline;
    EXPECT_TRUE(queue_->push(&made, 0, sequence_++).ok());
    return &made;
  }
  void begin(int lanes = 1, int max_lanes = 8, Nanos now = 0) {
    forecast_.begin(now);
    EXPECT_EQ(forecast_.add_model(&*queue_, 0, max_lanes), 0);
    for (int i = 0; i < lanes; ++i) forecast_.add_lane(0, -1, now, 0);
  }

  KnownCosts costs_{100, 10};
  std::unique_ptr<Queue> queue_;
  std::deque<Ticket> tickets_;
  std::uint64_t sequence_ = 0;
  Forecast forecast_;
};

TEST_F(ForecastTest, PlaysBatchesOnOneLaneInOrder) {
  for (int i = 0; i < 4; ++i) pushed(500);
  Ticket* fifth = pushed(501);
  begin();
  Forecast::Result result = forecast_.run(kNoSequence, fifth);
  EXPECT_EQ(result.asked_end, 140 + 110);
  EXPECT_EQ(result.late, 0U);
  begin(1, 8, 252);  // 252 + 140 and then 110
  result = forecast_.run(kNoSequence, fifth);
  EXPECT_EQ(result.late, 1U);
  EXPECT_TRUE(result.asked_late);
}

TEST_F(ForecastTest, AnEndAtTheTargetItselfIsTooLate) {
  pushed(110);
  begin();
  EXPECT_EQ(forecast_.run(kNoSequence).late, 1U);
}

TEST_F(ForecastTest, LanesShareTheWorkUpToTheModelsBound) {
  for (int i = 0; i < 8; ++i) pushed(200);
  begin(2);
  EXPECT_EQ(forecast_.run(kNoSequence).late, 0U);
  begin(2, 1);
  EXPECT_EQ(forecast_.run(kNoSequence).late, 4U);
}

TEST_F(ForecastTest, RunningBatchesEndFirst) {
  Ticket* a = pushed(1000);
  forecast_.begin(50);
  forecast_.add_model(&*queue_, 1, 1);
  forecast_.add_lane(0, 0, 300, 0);
  forecast_.add_lane(1, -1, 50, 0);
  // The idle lane may not run the model before the other has ended, and then the first is offered it first.
  EXPECT_EQ(forecast_.run(kNoSequence, a).asked_end, 410);
}

TEST_F(ForecastTest, AnOverrunIsOverNow) {
  Ticket* a = pushed(1000);
  forecast_.begin(500);
  forecast_.add_model(&*queue_, 1, 2);
  forecast_.add_lane(0, 0, 300, 0);
  EXPECT_EQ(forecast_.run(kNoSequence, a).asked_end, 610);
}

TEST_F(ForecastTest, DeviationsAddAsSquares) {
  costs_.deviation = 40;
  for (int i = 0; i < 4; ++i) pushed(1000);
  Ticket* fifth = pushed(1001);
  forecast_.begin(0);
  forecast_.add_model(&*queue_, 0, 1);
  forecast_.add_lane(0, -1, 0, 0);
  EXPECT_EQ(forecast_.run(kNoSequence, fifth).asked_end, 250 + 56);
}

TEST_F(ForecastTest, OfWhatIsNotSureTheTypicalTimeCounts) {
  costs_.sure = false;
  costs_.deviation = 40;
  Ticket* a = pushed(111);
  begin();
  const Forecast::Result result = forecast_.run(kNoSequence, a);
  EXPECT_EQ(result.late, 0U);
  EXPECT_EQ(result.asked_end, 110);
}

TEST_F(ForecastTest, ItEndsAfterSoManyTickets) {
  for (int i = 0; i < 12; ++i) pushed(1);
  begin();
  EXPECT_EQ(forecast_.run(kNoSequence, nullptr, 4).late, 8U);
  begin();
  EXPECT_EQ(forecast_.run(kNoSequence).late, 12U);
}

TEST_F(ForecastTest, AFirstMoveCanBeForcedAndCounts) {
  pushed(145);
  for (int i = 0; i < 3; ++i) pushed(150);
  std::vector<WaitingGroup> groups;
  queue_->append_groups(groups);
  const Slot* line = groups.front().slots.data();
  begin();
  forecast_.take_first(0, 0, line, 4);
  EXPECT_EQ(forecast_.run(kNoSequence).late, 0U);
  begin();
  forecast_.take_first(0, 0, line, 1);
  EXPECT_EQ(forecast_.run(kNoSequence).late, 3U);
  begin(1, 8, 10);
  forecast_.take_first(0, 0, line, 4);
  EXPECT_EQ(forecast_.run(kNoSequence).late, 4U);
}

TEST_F(ForecastTest, ALaneCanBeHeldUntilAnotherIsFree) {
  pushed(1000);
  forecast_.begin(0);
  forecast_.add_model(&*queue_, 1, 2);
  forecast_.add_lane(0, -1, 0, 0);
  forecast_.add_lane(0, 0, 70, 0);
  EXPECT_EQ(forecast_.hold(0), 70);
  begin();
  EXPECT_EQ(forecast_.hold(0), kNever) << "there is no other";
}

}  // namespace
}  // namespace headrace
