// Streams to models that answer a request any number of times.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "parts_fixture.h"

namespace headrace::testing {
namespace {

const Parameters kMore = {{"triton_final_response", 0}};

class InferStreamPartsTest : public PartsTest {
 protected:
  static std::string ask_for(const Values& values, const std::string& id = {}, bool empty_final = false) {
    InferText text{.id = id, .outputs = {"y"}};
    if (empty_final) text.parameters = {{"triton_enable_empty_final_response", true}};
    return text(values);
  }
};

TEST_F(InferStreamPartsTest, EachRowIsAnAnswerAndTheEndIsToldWhereItIsAskedFor) {
  start_parts();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  ask(*peer, call, ask_for({5, 6, 7}));
  std::vector<StreamAnswer> all = await_answers(*peer, call, 3);
  EXPECT_EQ(firsts(all), (Values{5, 6, 7}));
  for (const StreamAnswer& each : all) EXPECT_EQ(each.response.parameters, kMore);
  ask(*peer, call, ask_for({8}, "id", true));
  all = await_answers(*peer, call, 5);
  EXPECT_EQ(all[3].response.outputs, std::vector<Values>{{8}});
  EXPECT_EQ(all[3].response.parameters, kMore);
  EXPECT_TRUE(all[4].response.outputs.empty());
  EXPECT_EQ(all[4].response.parameters, kFinal);
  EXPECT_EQ(all[4].response.id, "id");
  EXPECT_EQ(all[4].error, "");
  half_close(*peer, call);
  EXPECT_EQ(status(*peer, call), "0");
  EXPECT_EQ(peer->client.answer(call).messages().size(), 5U);
  const ModelStats stats = model_->counters.read();
  EXPECT_EQ(stats.success.count, 2U);
  ASSERT_EQ(stats.responses.size(), 4U);
  EXPECT_EQ(stats.responses[0].success.count, 2U);
  EXPECT_EQ(stats.responses[1].success.count, 1U);
  EXPECT_EQ(stats.responses[1].empty_response.count, 1U) << "the end of the second request";
  EXPECT_EQ(stats.responses[3].empty_response.count, 1U);
}

TEST_F(InferStreamPartsTest, TheLastAnswerMayBeTheEnd) {
  start_parts("answers rows last");
  auto peer = connect();
  const std::int32_t call = open(*peer);
  ask(*peer, call, ask_for({5, 6}, "a", true));
  half_close(*peer, call);
  EXPECT_EQ(status(*peer, call), "0");
  const std::vector<StreamAnswer> all = answers(*peer, call);
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].response.parameters, kMore);
  EXPECT_EQ(all[1].response.parameters, kFinal);
  EXPECT_EQ(firsts(all), (Values{5, 6}));
  const ModelStats stats = model_->counters.read();
  ASSERT_EQ(stats.responses.size(), 2U);
  EXPECT_EQ(stats.responses[1].success.count, 1U);
  EXPECT_EQ(stats.responses[1].empty_response.count, 0U);
}

TEST_F(InferStreamPartsTest, ACallOfOneAnswerIsRefused) {
  start_parts();
  auto peer = connect();
  const std::int32_t call = peer->client.open(kModelInferPath);
  peer->client.write(call, grpc_frame(ask_for({5})), true);
  EXPECT_EQ(status(*peer, call).substr(0, 11), "12 model 'm");
}

TEST_F(InferStreamPartsTest, ModelAndConfigurationMustAgree) {
  start_parts();
  EXPECT_EQ(load("answers rows", false).status().code(), Code::kFailedPrecondition);
  EXPECT_EQ(load("", true).status().code(), Code::kFailedPrecondition);
}

// One lane, and a request of many parts: it goes on in turns.
TEST_F(InferStreamPartsTest, AShortRequestDoesNotWaitForTheEndOfALongOne) {
  start_parts();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  ask(*peer, call, ask_for(count(5000), "long"));
  ask(*peer, call, ask_for({-7}, "short"));
  half_close(*peer, call);
  EXPECT_EQ(status(*peer, call), "0");
  const std::vector<StreamAnswer> all = answers(*peer, call);
  ASSERT_EQ(all.size(), 5001U);
  EXPECT_EQ(all.back().response.id, "long");
  Values of_long;
  for (const StreamAnswer& each : all) {
    if (each.response.id == "long") of_long.push_back(each.response.outputs.at(0).at(0));
  }
  EXPECT_EQ(of_long, count(5000)) << "each once, in order";
}

TEST_F(InferStreamPartsTest, RequestsWithoutIdsKeepTheirOrder) {
  start_parts();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  for (std::int32_t i = 0; i < 20; ++i) ask(*peer, call, ask_for(count(100, 100 * i)));
  half_close(*peer, call);
  EXPECT_EQ(status(*peer, call), "0");
  EXPECT_EQ(firsts(answers(*peer, call)), count(2000));
}

TEST_F(InferStreamPartsTest, AnErrorInTheMiddleIsTheLastAnswer) {
  start_parts();
  auto peer = connect();
  const std::int32_t call = open(*peer);
  ask(*peer, call, ask_for({5, 6, -1, 7}, "a"));
  const std::vector<StreamAnswer> all = await_answers(*peer, call, 3);
  EXPECT_EQ(all[1].response.outputs, std::vector<Values>{{6}});
  EXPECT_NE(all[2].error, "");
  EXPECT_EQ(all[2].response.parameters, kFinal);
  EXPECT_EQ(all[2].response.id, "a");
  const ModelStats stats = model_->counters.read();
  ASSERT_EQ(stats.responses.size(), 3U);
  EXPECT_EQ(stats.responses[2].fail.count, 1U);
}

// The reader takes nothing: the lane goes to others, and what waits has a bound.
TEST_F(InferStreamPartsTest, NoLaneWaitsForAReader) {
  loop_options_.grpc.max_output_bytes = 16 << 10;
  start_parts();
  auto idle = connect();
  const std::int32_t call = open(*idle);
  ask(*idle, call, ask_for(count(20000), "a"));
  exchange(*idle);
  const std::size_t share = loop_options_.grpc.max_output_bytes / InferStream::kOutputShare;
  drain_until([&] { return at(*idle).output_waiting() > share && engine_->snapshot().lanes_busy == 0; });
  EXPECT_LE(at(*idle).output_waiting(), share + 2 * kPartCredit * 200);
  auto other = connect();
  const std::int32_t quick = open(*other);
  ask(*other, quick, ask_for({3}));
  EXPECT_EQ(firsts(await_answers(*other, quick, 1)), (Values{3}));
  EXPECT_LE(at(*idle).output_waiting(), share + 2 * kPartCredit * 200);
  half_close(*idle, call);
  EXPECT_EQ(status(*idle, call), "0");
  EXPECT_EQ(firsts(answers(*idle, call)), count(20000));
}

TEST_F(InferStreamPartsTest, WhatIsPausedOrRunsCanBeCancelledAndUnloaded) {
  loop_options_.grpc.max_output_bytes = 16 << 10;
  start_parts();
  const std::size_t share = loop_options_.grpc.max_output_bytes / InferStream::kOutputShare;
  for (const bool by_reset : {true, false}) {
    auto peer = connect();
    const std::int32_t call = open(*peer);
    ask(*peer, call, ask_for(count(20000), "a"));
    exchange(*peer);
    drain_until([&] { return at(*peer).output_waiting() > share && engine_->snapshot().lanes_busy == 0; });
    if (by_reset) {
      peer->client.reset(call);
      send(*peer);
    } else {
      loop_->disconnect(peer->id);
    }
    drain_until([&] { return engine_->snapshot().tickets == 0; });
  }
  auto peer = connect();
  const std::int32_t held = open(*peer);
  ask(*peer, held, ask_for({1, -2, 3}, "held"));
  EXPECT_EQ(await_answers(*peer, held, 1)[0].response.outputs, std::vector<Values>{{1}});
  peer->client.reset(held);
  send(*peer);
  drain_until([&] { return engine_->snapshot().tickets == 0 && engine_->snapshot().lanes_busy == 0; });

  const std::int32_t call = open(*peer);
  ask(*peer, call, ask_for(count(20000), "b"));
  send(*peer);
  drain_until([&] { return at(*peer).output_waiting() > share && engine_->snapshot().lanes_busy == 0; });
  engine_->unload(model_);
  half_close(*peer, call);
  EXPECT_EQ(status(*peer, call), "0");
  const std::vector<StreamAnswer> all = answers(*peer, call);
  EXPECT_NE(all.back().error.find("unloaded"), std::string::npos) << all.back().error;
  EXPECT_LT(all.size(), 20000U);
}

}  // namespace
}  // namespace headrace::testing
