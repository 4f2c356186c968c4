#include "schedule/execution.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "shared_object.h"
#include "trial_session.h"

namespace headrace {
namespace {

using testing::Answer;
using testing::Answers;
using testing::Tickets;
using testing::Trial;
using testing::TrialSession;
using testing::Values;

// One lane without a thread: the test takes a batch from the dispatcher and has it run.
class ExecutionTest : public ::testing::Test, protected Ledger, private RunObserver {
 protected:
  ExecutionTest() {
    BatchingPolicy policy;
    policy.dynamic_batching = true;
    policy.max_batch_size = 64;
    entry_ = dispatcher_.add("m", policy, 1, nullptr);
  }
  void TearDown() override {
    EXPECT_TRUE(dispatcher_.idle(entry_));
    dispatcher_.erase(entry_);
    tickets_.finish(answers_);
    EXPECT_EQ(pool_.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
  }

  Ticket* submit(const Values& rows, Nanos deadline = kNever) {
    Ticket* made = tickets_.make(rows, entry_, clock_.now() - 5, deadline);
    EXPECT_TRUE(dispatcher_.submit(entry_, made, clock_.now()).ok());
    return made;
  }
  // All that is there, as one batch.
  void run() {
    Dispatcher::Assignment assignment;
    dispatcher_.take(0, clock_.now(), assignment);
    ASSERT_EQ(assignment.entry, entry_);
    execution_.run(assignment, runnable_, *this);
    dispatcher_.release(0, assignment);
  }
  void cancel(Ticket* ticket) {
    ASSERT_TRUE(dispatcher_.cancel(ticket, {Code::kCancelled, "gone"}));
    answers_.deliver(ticket, ticket);
  }
  Answer of(const Ticket* ticket) const { return answers_.of(ticket->cookie_call); }

  ManualClock clock_{1000};
  Pool pool_{PoolOptions{}};
  Trial trial_;
  TrialSession session_{trial_};
  Runnable runnable_{&session_, true, {"y", "z"}, this, {}};
  Dispatcher dispatcher_{1};
  Dispatcher::Entry* entry_ = nullptr;
  Execution execution_{0, pool_, clock_};
  Answers answers_;
  Tickets tickets_{pool_, answers_};
  std::vector<RunRecord> records_;

 private:
  void still_running(std::span<Ticket* const> tickets, std::vector<Ticket*>& out) override {
    dispatcher_.still_running(tickets, out);
  }
  TicketChain settle(Dispatcher::Entry* entry, std::span<Ticket* const> tickets) override {
    return dispatcher_.settle(entry, tickets);
  }
  void answer(TicketChain chain) override { answers_.deliver(chain.first, chain.last); }
  void ran(const RunRecord& record) noexcept override { records_.push_back(record); }
};

TEST_F(ExecutionTest, RowsGoBackToTheirRequests) {
  Ticket* a = submit({1});
  Ticket* b = submit({2, 3});
  Ticket* c = submit({4});
  run();
  EXPECT_EQ(of(a).outputs, (std::vector<Values>{{2}, {-1}}));
  EXPECT_EQ(of(b).outputs, (std::vector<Values>{{4, 6}, {-2, -3}}));
  EXPECT_EQ(of(c).outputs, (std::vector<Values>{{8}, {-4}}));
  EXPECT_EQ(of(b).batch_rows, 4);
  EXPECT_EQ(answers_.deliveries(), 1) << "a batch is one chain";
  EXPECT_EQ(trial_.runs(), (std::vector<Values>{{1, 2, 3, 4}}));
}

TEST_F(ExecutionTest, EachGetsTheOutputsItWantsAndTheRuntimeMakesNoOthers) {
  Ticket* a = submit({1});
  Ticket* b = submit({2});
  a->wanted = {1, 0};
  b->wanted = {1, 0};
  run();
  EXPECT_EQ(of(a).outputs, (std::vector<Values>{{2}, {}}));
  a = submit({1});
  b = submit({2});
  a->wanted = {1, 0};
  b->wanted = {0, 1};
  run();
  EXPECT_EQ(of(a).outputs, (std::vector<Values>{{2}, {}}));
  EXPECT_EQ(of(b).outputs, (std::vector<Values>{{}, {-2}}));
}

TEST_F(ExecutionTest, ItsRecordSaysWhenAndForWhom) {
  Ticket* a = submit({1});
  clock_.advance(10);
  Ticket* b = submit({2, 3});
  clock_.advance(20);
  trial_.on_run([&](const Values&) { clock_.advance(300); });
  run();
  ASSERT_EQ(records_.size(), 1U);
  const RunRecord& record = records_[0];
  EXPECT_TRUE(record.ok);
  EXPECT_EQ(record.rows, 3);
  EXPECT_EQ(record.tickets, 2U);
  EXPECT_EQ(record.started, 1030);
  EXPECT_EQ(record.infer_start, 1030);
  EXPECT_EQ(record.infer_end, 1330);
  EXPECT_EQ(record.finished, 1330);
  EXPECT_EQ(record.queue_ns, 30 + 20);
  EXPECT_EQ(record.total_ns, (1330 - 995) + (1330 - 1005));
  EXPECT_EQ(of(a).time.queued, 1000);
  EXPECT_EQ(of(a).time.started, 1030);
  EXPECT_EQ(of(b).time.infer_start, 1030);
  EXPECT_EQ(of(b).time.infer_end, 1330);
  EXPECT_EQ(of(b).time.finished, 1330);
}

TEST_F(ExecutionTest, AFailedBatchIsRunAgainByHalvesAndEachRunIsOnRecord) {
  trial_.fail_on(3);
  trial_.on_run([&](const Values&) { clock_.advance(100); });
  std::vector<Ticket*> batch;
  for (const std::int32_t value : {1, 2, 3, 4, 5}) batch.push_back(submit({value}));
  run();
  EXPECT_EQ(trial_.runs(), (std::vector<Values>{{1, 2, 3, 4, 5}, {1, 2, 3}, {1, 2}, {3}, {4, 5}}));
  for (std::size_t i = 0; i < batch.size(); ++i) EXPECT_EQ(of(batch[i]).status.ok(), i != 2) << i;
  EXPECT_EQ(of(batch[2]).status.to_string(), "INTERNAL: a bad row");
  EXPECT_TRUE(of(batch[2]).outputs.empty());
  EXPECT_EQ(of(batch[0]).batch_rows, 2);
  EXPECT_EQ(of(batch[4]).batch_rows, 2);
  ASSERT_EQ(records_.size(), 5U);
  const std::vector<bool> ok = {false, false, true, false, true};
  const std::vector<std::size_t> tickets = {0, 0, 2, 1, 2};
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(records_[i].ok, ok[i]) << i;
    EXPECT_EQ(records_[i].tickets, tickets[i]) << i;
  }
  EXPECT_EQ(of(batch[4]).time.started, 1400) << "queue time ends where the run began that answered it";
}

TEST_F(ExecutionTest, TwoGuiltyRequestsGetTheirOwnErrors) {
  trial_.fail_on(1, invalid_argument("one is not an input"));
  trial_.fail_on(4, internal_error("four is too many"));
  std::vector<Ticket*> batch;
  for (const std::int32_t value : {1, 2, 3, 4}) batch.push_back(submit({value}));
  run();
  EXPECT_EQ(of(batch[0]).status.to_string(), "INVALID_ARGUMENT: one is not an input");
  EXPECT_TRUE(of(batch[1]).status.ok());
  EXPECT_TRUE(of(batch[2]).status.ok());
  EXPECT_EQ(of(batch[3]).status.to_string(), "INTERNAL: four is too many");
}

TEST_F(ExecutionTest, WhoWasAnsweredMeanwhileIsLeftOutOfTheRerun) {
  trial_.fail_on(0);
  std::vector<Ticket*> batch;
  for (const std::int32_t value : {0, 1, 2, 3}) batch.push_back(submit({value}));
  int run_number = 0;
  trial_.on_run([&](const Values&) {
    ++run_number;
    if (run_number == 1) cancel(batch[1]);  // while the whole batch runs
    if (run_number == 2) cancel(batch[3]);  // while its first half runs again
  });
  run();
  EXPECT_EQ(trial_.runs(), (std::vector<Values>{{0, 1, 2, 3}, {0}, {2}}));
  EXPECT_EQ(of(batch[1]).status.code(), Code::kCancelled);
  EXPECT_EQ(of(batch[2]).outputs[0], (Values{4}));
  EXPECT_EQ(of(batch[3]).status.code(), Code::kCancelled);
}

TEST_F(ExecutionTest, AHalfOfWhichNobodyIsLeftIsNotRun) {
  trial_.fail_on(0);
  std::vector<Ticket*> batch;
  for (const std::int32_t value : {0, 1, 2, 3}) batch.push_back(submit({value}));
  int run_number = 0;
  trial_.on_run([&](const Values&) {
    if (++run_number != 1) return;
    cancel(batch[2]);
    cancel(batch[3]);
  });
  run();
  EXPECT_EQ(trial_.runs(), (std::vector<Values>{{0, 1, 2, 3}, {0, 1}, {0}, {1}}));
}

TEST_F(ExecutionTest, WhoLeftWhileItRanIsNotWrittenTo) {
  Ticket* a = submit({1});
  Ticket* b = submit({2});
  trial_.on_run([&](const Values&) { cancel(a); });
  run();
  EXPECT_EQ(of(a).status.code(), Code::kCancelled);
  EXPECT_EQ(of(a).time.finished, 0);
  EXPECT_TRUE(a->outputs.empty());
  EXPECT_EQ(a->batch_rows, 0);
  EXPECT_EQ(of(b).outputs[0], (Values{4})) << "its own rows, not those of the one before it";
  ASSERT_EQ(records_.size(), 1U);
  EXPECT_EQ(records_[0].tickets, 1U);
  EXPECT_EQ(records_[0].rows, 2);
}

TEST_F(ExecutionTest, ABatchThatNobodyWaitsForIsNotRunAgain) {
  Ticket* a = submit({1});
  Ticket* b = submit({2});
  trial_.fail_on(1);
  trial_.on_run([&](const Values&) {
    cancel(a);
    cancel(b);
  });
  run();
  EXPECT_EQ(trial_.runs().size(), 1U);
  EXPECT_EQ(answers_.size(), 2U);
}

TEST_F(ExecutionTest, WithoutMemoryForABatchItsPartsAreTried) {
  PoolOptions small;
  small.cap = 64 << 10;
  Pool tight(small);
  Execution execution(0, tight, clock_);
  std::vector<Block> filler;
  while (auto block = tight.allocate(1)) filler.push_back(std::move(*block));
  // Two are free: enough for the outputs of one request, which is bound as it lies. Two requests need a third block.
  filler.pop_back();
  filler.pop_back();
  std::vector<Ticket*> batch;
  for (std::int32_t value = 0; value < 5; ++value) batch.push_back(submit({value}));
  Dispatcher::Assignment assignment;
  dispatcher_.take(0, clock_.now(), assignment);
  execution.run(assignment, runnable_, *this);
  dispatcher_.release(0, assignment);
  for (const Ticket* each : batch) EXPECT_TRUE(of(each).status.ok()) << of(each).status.to_string();
  EXPECT_EQ(trial_.runs(), (std::vector<Values>{{0, 1, 2, 3, 4}, {0, 1, 2}, {0, 1}, {0}, {1}, {2}, {3, 4}, {3}, {4}}));

  filler.push_back(std::move(*tight.allocate(1)));
  Ticket* without = submit({5});
  dispatcher_.take(0, clock_.now(), assignment);
  execution.run(assignment, runnable_, *this);
  dispatcher_.release(0, assignment);
  EXPECT_EQ(of(without).status.code(), Code::kResourceExhausted);
  filler.clear();
  EXPECT_EQ(tight.stats().bytes_in_use, 0U);
  EXPECT_EQ(tight.stats().blocks_in_use, 0U);
}

TEST_F(ExecutionTest, OutputsWithoutARowForEachRequestAreAnErrorThatNamesThem) {
  trial_.lose_a_row(true);
  Ticket* a = submit({1, 2});
  run();
  EXPECT_EQ(of(a).status.code(), Code::kInternal);
  EXPECT_NE(of(a).status.message().find("output 'y' has shape [1,1] for a batch of 2 rows"), std::string::npos)
      << of(a).status.message();
}

TEST_F(ExecutionTest, AModelThatIsNotBatchedGivesItsOutputsWhole) {
  runnable_.batched = false;
  trial_.lose_a_row(true);
  Ticket* a = submit({1, 2, 3});
  run();
  EXPECT_TRUE(of(a).status.ok());
  EXPECT_EQ(of(a).outputs, (std::vector<Values>{{2, 4}, {-1, -2}}));
}

// The lane does what requests ask of their outputs; one that cannot have it leaves the others' answers alone.
TEST_F(ExecutionTest, OutputsAreBroughtToWhatWasAskedOfThem) {
  const testing::SharedObject object(100);
  const auto region = *SharedRegion::open("r", object.key(), 0, 100);
  Ticket* plain = submit({1});
  Ticket* shared = submit({2, 3});
  Ticket* classes = submit({4});
  Ticket* cramped = submit({5, 6});
  shared->output_requests.push_back({.output = 0, .region = region, .offset = 8, .bytes = 8});
  classes->output_requests.push_back({.output = 1, .classes = 1, .region = nullptr});
  cramped->output_requests.push_back({.output = 0, .region = region, .offset = 50, .bytes = 7});
  for (Ticket* each : {shared, classes, cramped}) each->asks_more = true;
  runnable_.output_labels = {{}, {"the_one"}};
  const std::int64_t unfinished = cramped->time.finished;
  run();
  EXPECT_EQ(of(plain).outputs, (std::vector<Values>{{2}, {-1}}));
  EXPECT_EQ(object.values<std::int32_t>(8, 2), (Values{4, 6}));
  EXPECT_EQ(shared->output_requests[0].written, 8U);
  EXPECT_EQ(of(shared).outputs, (std::vector<Values>{{}, {-2, -3}}));
  const Values strings = of(classes).outputs[1];
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(strings.data()), strings.size() * sizeof(strings[0])),
            std::string("\14\0\0\0-4:0:the_one", 16));
  EXPECT_EQ(of(cramped).status.code(), Code::kInvalidArgument);
  EXPECT_NE(of(cramped).status.message().find("output 'y' takes 8 bytes"), std::string::npos);
  EXPECT_EQ(cramped->time.finished, unfinished) << "it was not served";
  ASSERT_EQ(records_.size(), 1U);
  EXPECT_TRUE(records_[0].ok);
  EXPECT_EQ(records_[0].tickets, 3U);
}

}  // namespace
}  // namespace headrace
