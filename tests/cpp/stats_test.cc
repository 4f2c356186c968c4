#include "engine/stats.h"

#include <gtest/gtest.h>

namespace headrace {
namespace {

RunRecord record(std::int64_t rows, std::size_t tickets) {
  RunRecord made;
  made.ok = true;
  made.rows = rows;
  made.tickets = tickets;
  made.queue_ns = 1000;
  made.total_ns = 5000;
  made.started = 100;
  made.infer_start = 110;
  made.infer_end = 160;
  made.finished = 190;
  return made;
}

void expect_duration(const DurationStats& stats, std::uint64_t count, std::uint64_t ns) {
  EXPECT_EQ(stats.count, count);
  EXPECT_EQ(stats.ns, ns);
}

TEST(Stats, AGoodRunCountsItsRowsItsRequestsAndItsTimes) {
  ModelCounters counters;
  counters.ran(record(4, 3));
  const ModelStats stats = counters.read();
  EXPECT_EQ(stats.inference_count, 4U);
  EXPECT_EQ(stats.execution_count, 1U);
  EXPECT_EQ(stats.last_inference, 190);
  expect_duration(stats.success, 3, 5000);
  expect_duration(stats.queue, 3, 1000);
  expect_duration(stats.compute_input, 3, 3 * 10);
  expect_duration(stats.compute_infer, 3, 3 * 50);
  expect_duration(stats.compute_output, 3, 3 * 30);
  expect_duration(stats.fail, 0, 0);
  ASSERT_EQ(stats.batches.size(), 1U);
  expect_duration(stats.batches.at(4).compute_input, 1, 10);
  expect_duration(stats.batches.at(4).compute_infer, 1, 50);
  expect_duration(stats.batches.at(4).compute_output, 1, 30);
}

TEST(Stats, RunsAddUpBatchSizeByBatchSize) {
  ModelCounters counters;
  counters.ran(record(4, 3));
  counters.ran(record(1, 1));
  counters.ran(record(4, 4));
  const ModelStats stats = counters.read();
  EXPECT_EQ(stats.inference_count, 9U);
  EXPECT_EQ(stats.execution_count, 3U);
  expect_duration(stats.success, 8, 15'000);
  ASSERT_EQ(stats.batches.size(), 2U);
  expect_duration(stats.batches.at(4).compute_infer, 2, 100);
  expect_duration(stats.batches.at(1).compute_infer, 1, 50);
}

TEST(Stats, AnswersOfOneRequestCountByTheirNumber) {
  ModelCounters counters;
  counters.answered({0, ResponseKind::kSuccess, 10, 3});
  counters.answered({1, ResponseKind::kFail, 20, 3});
  counters.answered({0, ResponseKind::kSuccess, 10, 3});
  counters.answered({1, ResponseKind::kEmpty, 1, 1});
  counters.answered({1, ResponseKind::kCancel, 2, 2});
  std::vector<ResponseStats> responses = counters.read().responses;
  ASSERT_EQ(responses.size(), 2U);
  expect_duration(responses[0].success, 2, 26);
  expect_duration(responses[0].compute_infer, 2, 20);
  expect_duration(responses[0].compute_output, 2, 6);
  expect_duration(responses[1].success, 0, 0);
  expect_duration(responses[1].fail, 1, 23);
  expect_duration(responses[1].empty_response, 1, 2);
  expect_duration(responses[1].cancel, 1, 4);
  for (std::size_t number = 2; number < 1000; ++number) counters.answered({number, ResponseKind::kSuccess, 1, 1});
  responses = counters.read().responses;
  ASSERT_EQ(responses.size(), ModelStats::kMostResponses);
  EXPECT_EQ(responses[98].success.count, 1U);
  EXPECT_EQ(responses[99].success.count, 1000U - 99U) << "the last has all that follow";
}

TEST(Stats, AFailedRunCountsOnlyAsFailureOfThoseItAnswered) {
  ModelCounters counters;
  RunRecord failed = record(4, 1);
  failed.ok = false;
  counters.ran(failed);
  failed.tickets = 0;  // its parts were run again
  failed.total_ns = 0;
  counters.ran(failed);
  const ModelStats stats = counters.read();
  EXPECT_EQ(stats.inference_count, 0U);
  EXPECT_EQ(stats.execution_count, 0U);
  EXPECT_EQ(stats.last_inference, 0);
  expect_duration(stats.fail, 1, 5000);
  expect_duration(stats.success, 0, 0);
  EXPECT_TRUE(stats.batches.empty());
}

TEST(Stats, WhatNoRunAnsweredIsCancelledFailedOrRejected) {
  ModelCounters counters;
  counters.unserved(Code::kCancelled, true, 10);
  counters.unserved(Code::kCancelled, false, 20);
  counters.unserved(Code::kDeadlineExceeded, true, 300);
  counters.unserved(Code::kResourceExhausted, false, 4000);
  const ModelStats stats = counters.read();
  expect_duration(stats.cancel, 2, 30);
  expect_duration(stats.fail, 1, 300);
  expect_duration(stats.reject, 1, 4000);
  EXPECT_EQ(stats.inference_count, 0U);
}

TEST(Stats, ATimeThatRanBackwardsAddsNothing) {
  ModelCounters counters;
  counters.unserved(Code::kCancelled, true, -5);
  expect_duration(counters.read().cancel, 1, 0);
}

}  // namespace
}  // namespace headrace
