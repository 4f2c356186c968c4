#include "front/infer_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "stream_fixture.h"

namespace headrace::testing {
namespace {

TEST_F(InferStreamTest, AnswersEachMessageAndEndsWithTheLast) {
  start();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  for (std::int32_t i = 0; i < 3; ++i) {
    ask(*peer, call, InferText{.id = "request " + std::to_string(i), .outputs = {"y"}}({10 + i}));
    const std::vector<StreamAnswer> all = await_answers(*peer, call, static_cast<std::size_t>(i) + 1);
    EXPECT_EQ(all.back().error, "");
    EXPECT_EQ(all.back().response.model, "m");
    EXPECT_EQ(all.back().response.version, "3");
    EXPECT_EQ(all.back().response.id, "request " + std::to_string(i));
    EXPECT_EQ(all.back().response.names, (std::vector<std::string>{"y"}));
    EXPECT_EQ(all.back().response.outputs, (std::vector<Values>{{20 + 2 * i}}));
    EXPECT_EQ(all.back().response.parameters, kFinal);
  }
  EXPECT_FALSE(peer->client.answer(call).closed);
  half_close(*peer, call);
  EXPECT_EQ(status(*peer, call), "0");
  EXPECT_EQ(at(*peer).open_calls(), 0U);
  EXPECT_EQ(engine_->budget().charged(), 0U);
}

TEST_F(InferStreamTest, AStreamOfNoMessagesIsFine) {
  start();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  half_close(*peer, call);
  EXPECT_EQ(status(*peer, call), "0");
  EXPECT_TRUE(peer->client.answer(call).messages().empty());
}

TEST_F(InferStreamTest, ByteAfterByte) {
  start();
  auto peer = connect();
  exchange(*peer);
  const std::int32_t call = open(*peer);
  std::string up = peer->client.take();
  for (std::int32_t i = 0; i < 5; ++i) ask(*peer, call, InferText{}({i + 1}));
  half_close(*peer, call);
  up += peer->client.take();
  for (const char& byte : up) at(*peer).receive(as_bytes({&byte, 1}));
  EXPECT_EQ(status(*peer, call), "0");
  EXPECT_EQ(firsts(answers(*peer, call)), (Values{2, 4, 6, 8, 10}));
}

TEST_F(InferStreamTest, MessagesOfOneReadShareABatch) {
  start();
  auto peer = connect();
  exchange(*peer);
  clock_.await_waiters(3);
  const std::int32_t call = open(*peer);
  for (std::int32_t i = 1; i <= 16; ++i) ask(*peer, call, InferText{.id = "x"}({i}));
  send(*peer);
  EXPECT_EQ(await_answers(*peer, call, 16).back().response.outputs[0], (Values{32}));
  ASSERT_EQ(trial_.runs().size(), 1U);
  EXPECT_EQ(trial_.runs()[0].size(), 16U);
}

TEST_F(InferStreamTest, TheTimingIsToldBesideTheFinalMark) {
  start();
  auto peer = connect();
  trial_.on_run([&](const Values&) { clock_.advance(700); });
  const std::int32_t call = open(*peer);
  ask(*peer, call,
      InferText{.parameters = {{"headrace_timing", true}, {"triton_enable_empty_final_response", true}}}({5, 6}));
  EXPECT_EQ(await_answers(*peer, call, 1)[0].response.parameters, (Parameters{{"headrace_batch_size", 2},
                                                                              {"headrace_queue_ns", 0},
                                                                              {"headrace_compute_ns", 700},
                                                                              {"triton_final_response", 1}}));
}

// ---- order

TEST_F(InferStreamTest, AnswersWithAnIdComeAsTheyAreReady) {
  start(1);
  hold_ones();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  for (std::int32_t i = 1; i <= 3; ++i) ask(*peer, call, InferText{.id = std::to_string(i)}({i}));
  EXPECT_EQ(ids(await_answers(*peer, call, 2)), (std::vector<std::string>{"2", "3"}));
  gate_.open();
  EXPECT_EQ(ids(await_answers(*peer, call, 3)), (std::vector<std::string>{"2", "3", "1"}));
}

TEST_F(InferStreamTest, AnswersWithoutAnIdKeepTheirOrder) {
  start(1);
  hold_ones();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  for (const std::int32_t value : {1, 2}) ask(*peer, call, InferText{}({value}));
  ask(*peer, call, InferText{.model = "nobody"}({3}));
  for (const std::int32_t value : {4, 5}) ask(*peer, call, InferText{}({value}));
  ask(*peer, call, InferText{.id = "a"}({6}));
  EXPECT_EQ(ids(await_answers(*peer, call, 1)), (std::vector<std::string>{"a"})) << "it waits for nobody";
  drain_until([&] { return tickets() == 1; });
  half_close(*peer, call);
  exchange(*peer);
  EXPECT_EQ(peer->client.answer(call).messages().size(), 1U);
  gate_.open();
  EXPECT_EQ(status(*peer, call), "0");
  EXPECT_EQ(firsts(answers(*peer, call)), (Values{12, 2, 4, 0, 8, 10}));
  EXPECT_EQ(answers(*peer, call)[3].error, "model 'nobody' is not in the model repository");
}

TEST_F(InferStreamTest, AModelThatPreservesOrderingAndASequenceKeepTheirs) {
  batching_.preserve_ordering = true;
  start(1);
  hold_ones();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  for (std::int32_t i = 1; i <= 3; ++i) ask(*peer, call, InferText{.id = std::to_string(i)}({i}));
  ask(*peer, call, InferText{.id = "4", .input = "w"}({4}));
  send(*peer);
  drain_until([&] { return trial_.runs().size() == 3 && tickets() == 1; });
  exchange(*peer);
  EXPECT_TRUE(answers(*peer, call).empty());
  gate_.open();
  EXPECT_EQ(ids(await_answers(*peer, call, 4)), (std::vector<std::string>{"1", "2", "3", "4"}));
}

TEST_F(InferStreamTest, ASequenceKeepsItsOrder) {
  start(1);
  hold_ones();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  for (std::int32_t i = 1; i <= 2; ++i) {
    std::string text = InferText{.id = std::to_string(i)}({i});
    protozero::pbf_writer writer(text);
    protozero::pbf_writer entry(writer, 4);
    entry.add_string(1, "sequence_id");
    protozero::pbf_writer choice(entry, 2);
    choice.add_int64(2, 42);
    choice.commit();
    entry.commit();
    ask(*peer, call, text);
  }
  ask(*peer, call, InferText{.id = "other"}({3}));
  EXPECT_EQ(ids(await_answers(*peer, call, 1)), (std::vector<std::string>{"other"}));
  gate_.open();
  EXPECT_EQ(ids(await_answers(*peer, call, 3)), (std::vector<std::string>{"other", "1", "2"}));
}

TEST_F(InferStreamTest, WhatAWorkerDecodesKeepsItsPlace) {
  start(1 << 20, 1);
  auto peer = connect();
  const std::int32_t call = open(*peer, {{"grpc-encoding", "gzip"}});
  Values many(400'000, 3);
  ask(*peer, call, InferText{}({1}));
  peer->client.write(call, grpc_frame(gzip(InferText{}({2})), true));
  ask(*peer, call, InferText{.outputs = {"y"}, .typed = true}(many));
  peer->client.write(call, grpc_frame("no gzip", true));
  peer->client.write(call, grpc_frame(gzip(InferText{.input = "w"}({2})), true));
  ask(*peer, call, InferText{}({4}));
  half_close(*peer, call);
  EXPECT_EQ(status(*peer, call), "0");
  const std::vector<StreamAnswer> all = answers(*peer, call);
  EXPECT_EQ(firsts(all), (Values{2, 4, 6, 0, 0, 8}));
  EXPECT_NE(all.at(3).error, "");
  EXPECT_EQ(all.at(4).error, "model 'm' has no input 'w'; its inputs are: 'x'");
  EXPECT_EQ(all.at(2).response.outputs.at(0).size(), many.size());
}

// ---- errors

TEST_F(InferStreamTest, AnErrorAnswersItsMessageAndNothingElse) {
  start(8);
  trial_.fail_on(13);
  auto peer = connect();
  const std::int32_t call = open(*peer);
  ask(*peer, call, "\xff\xff\xff");
  ask(*peer, call, InferText{.model = "n", .id = "b"}({1}));
  ask(*peer, call, InferText{.id = "c", .datatype = "FP32"}({1}));
  ask(*peer, call, InferText{.id = "d", .parameters = {{"triton_other", true}}}({1}));
  std::vector<StreamAnswer> all = await_answers(*peer, call, 4);
  EXPECT_NE(all[0].error.find("not a valid protobuf message"), std::string::npos) << all[0].error;
  EXPECT_EQ(all[1].error, "model 'n' is not in the model repository");
  EXPECT_EQ(all[1].response.id, "b");
  EXPECT_EQ(all[1].response.model, "n");
  EXPECT_EQ(all[2].error, "input 'x' of model 'm' is INT32, not 'FP32'");
  EXPECT_EQ(all[2].response.id, "c");
  EXPECT_EQ(all[2].response.parameters, kFinal);
  EXPECT_EQ(all[3].response.id, "d");
  ask(*peer, call, InferText{.id = "e"}({13}));
  all = await_answers(*peer, call, 5);
  EXPECT_EQ(all[4].error, "a bad row");
  EXPECT_EQ(all[4].response.id, "e");
  EXPECT_EQ(all[4].response.model, "m");
  EXPECT_EQ(all[4].response.parameters, kFinal);
  EXPECT_TRUE(all[4].response.outputs.empty());
  ask(*peer, call, InferText{.id = "f"}({14}));
  EXPECT_EQ(await_answers(*peer, call, 6)[5].response.outputs[0], (Values{28}));
  half_close(*peer, call);
  EXPECT_EQ(status(*peer, call), "0");
  EXPECT_EQ(model_->counters.read().reject.count, 2U) << "those that name a model";
}

TEST_F(InferStreamTest, AMessageThatIsNoMessageEndsTheStream) {
  loop_options_.grpc.max_message_bytes = 1000;
  start();
  trial_.hold();
  auto peer = connect();
  const std::int32_t broken = open(*peer);
  ask(*peer, broken, InferText{}({1}));
  peer->client.write(broken, std::string("\x02\0\0\0\0", 5));
  EXPECT_EQ(status(*peer, broken), "13 a message's compressed flag is 2, not 0 or 1");
  const std::int32_t large = open(*peer);
  ask(*peer, large, std::string(2000, 'x'));
  EXPECT_EQ(status(*peer, large).substr(0, 2), "8 ");
  const std::int32_t half = open(*peer);
  ask(*peer, half, InferText{}({1}));
  peer->client.write(half, grpc_frame("half").substr(0, 7), true);
  EXPECT_EQ(status(*peer, half), "13 the request ended in the middle of a message");
  drain_until([&] { return tickets() == 0; });
}

TEST_F(InferStreamTest, ATimeoutOfItsOwnIsAnsweredAsAnError) {
  batching_.allow_timeout_override = true;
  start(1, 1);
  trial_.hold();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  ask(*peer, call, InferText{.id = "runs"}({1}));
  send(*peer);
  trial_.await_inside(1);
  std::string text = InferText{.id = "late"}({2});
  protozero::pbf_writer writer(text);
  {
    protozero::pbf_writer entry(writer, 4);
    entry.add_string(1, "timeout");
    protozero::pbf_writer choice(entry, 2);
    choice.add_int64(2, 5000);
  }
  ask(*peer, call, text);
  send(*peer);
  clock_.await_waiters(2);
  clock_.advance(5 * kMillisecond);
  const std::vector<StreamAnswer> all = await_answers(*peer, call, 1);
  EXPECT_EQ(all[0].response.id, "late");
  EXPECT_EQ(all[0].error, "the deadline passed in the queue of model 'm', after 5 ms there");
  trial_.let_go();
  EXPECT_EQ(ids(await_answers(*peer, call, 2)), (std::vector<std::string>{"late", "runs"}));
}

TEST_F(InferStreamTest, TheAccessLogHasALineForEachMessage) {
  loop_options_.access_log = true;
  start(1, 1);
  auto peer = connect();
  const std::int32_t call = open(*peer);
  ask(*peer, call, InferText{.id = "good"}({1, 2}));
  await_answers(*peer, call, 1);
  ask(*peer, call, InferText{.id = "alone"}({1}));
  await_answers(*peer, call, 2);
  ask(*peer, call, InferText{.model = "n", .id = "bad"}({1}));
  await_answers(*peer, call, 3);
  trial_.hold();
  ask(*peer, call, InferText{.id = "gone"}({1}));
  send(*peer);
  trial_.await_inside(1);
  peer->client.reset(call);
  send(*peer);
  const auto [entries, dropped] = loop_->take_access_log(100);
  ASSERT_EQ(entries.size(), 5U);
  EXPECT_EQ(entries[0].request_id, "good");
  EXPECT_EQ(entries[0].code, Code::kInvalidArgument) << "two rows, and the model takes one";
  EXPECT_EQ(entries[1].request_id, "alone");
  EXPECT_EQ(entries[1].code, Code::kOk);
  EXPECT_EQ(entries[1].path, kModelStreamInferPath);
  EXPECT_GT(entries[1].request_bytes, 0U);
  EXPECT_GT(entries[1].response_bytes, 0U);
  EXPECT_EQ(entries[2].code, Code::kNotFound);
  EXPECT_EQ(entries[2].model, "n");
  EXPECT_EQ(entries[3].code, Code::kCancelled) << "the stream";
  EXPECT_EQ(entries[4].code, Code::kCancelled) << "and what it had in flight";
  EXPECT_EQ(entries[4].request_id, "gone");
}

TEST_F(InferStreamTest, TheHeadersOfTheCallAreParametersOfEachMessage) {
  loop_options_.access_log = true;
  loop_options_.grpc_headers = [](std::string_view name) { return name == "headrace_timing" || name == "x-tenant"; };
  start();
  auto peer = connect();
  const std::int32_t call = open(*peer, {{"headrace_timing", "true"}, {"x-tenant", "acme"}});
  for (const char* id : {"a", "b"}) ask(*peer, call, InferText{.id = id}({1}));
  ask(*peer, call, InferText{.id = "c", .parameters = {{"headrace_timing", false}}}({1}));
  half_close(*peer, call);
  std::size_t timings = 0;
  for (const StreamAnswer& answer : await_answers(*peer, call, 3)) {
    EXPECT_EQ(answer.error, "");
    if (answer.response.parameters.size() == 4) ++timings;
  }
  EXPECT_EQ(timings, 2U);
  EXPECT_EQ(status(*peer, call), "0");
  const auto [entries, dropped] = loop_->take_access_log(10);
  ASSERT_GE(entries.size(), 3U);
  for (const AccessEntry& entry : entries) {
    EXPECT_EQ(entry.headers, (wire::Metadata{{"headrace_timing", "true"}, {"x-tenant", "acme"}}));
  }
}

TEST_F(InferStreamTest, AHeaderThatIsWrongAnswersEachMessage) {
  loop_options_.grpc_headers = [](std::string_view name) { return name == "timeout"; };
  start();
  auto peer = connect();
  const std::int32_t call = open(*peer, {{"timeout", "soon"}});
  for (int i = 0; i < 2; ++i) ask(*peer, call, InferText{.id = "a"}({1}));
  half_close(*peer, call);
  for (const StreamAnswer& answer : await_answers(*peer, call, 2)) {
    EXPECT_NE(answer.error.find("header 'timeout'"), std::string::npos) << answer.error;
    EXPECT_EQ(answer.response.id, "a");
  }
  EXPECT_EQ(status(*peer, call), "0");
}

}  // namespace
}  // namespace headrace::testing
