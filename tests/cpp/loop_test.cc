#include "front/loop.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "front/connection.h"
#include "front_fixture.h"

namespace headrace::testing {
namespace {

using LoopTest = FrontTest;

TEST_F(LoopTest, AConnectionIsNamedBySlotAndGeneration) {
  start();
  const std::uint64_t first = loop_->connect(1, "a");
  const std::uint64_t second = loop_->connect(2, "b");
  EXPECT_NE(first, second);
  EXPECT_EQ(loop_->connections(), 2U);
  ASSERT_NE(loop_->find(first), nullptr);
  EXPECT_EQ(loop_->find(first)->token(), 1U);
  loop_->disconnect(first);
  loop_->disconnect(first);  // it is gone: nothing happens
  EXPECT_EQ(loop_->connections(), 1U);
  EXPECT_EQ(loop_->find(first), nullptr);
  const std::uint64_t third = loop_->connect(3, "c");
  EXPECT_EQ(static_cast<std::uint32_t>(third), static_cast<std::uint32_t>(first)) << "the slot is used again";
  EXPECT_NE(third, first);
  EXPECT_EQ(loop_->find(first), nullptr);
  EXPECT_EQ(loop_->find(third)->token(), 3U);
  EXPECT_EQ(loop_->find(std::uint64_t{77}), nullptr);
}

TEST_F(LoopTest, AnAnswerForAConnectionThatIsGoneDoesNotReachTheNextInItsSlot) {
  start();
  auto peer = connect();
  trial_.hold();
  trial_.obey_interrupts(false);
  peer->client.call(kModelInferPath, InferText{}({1}));
  send(*peer);
  trial_.await_inside(1);
  loop_->disconnect(peer->id);
  auto next = connect();
  EXPECT_EQ(static_cast<std::uint32_t>(next->id), static_cast<std::uint32_t>(peer->id));
  const std::int32_t call = next->client.call(kModelInferPath, InferText{}({2}));
  trial_.let_go();
  EXPECT_EQ(infer_answer(*next, call).outputs[0], (Values{4}));
}

TEST_F(LoopTest, DrainTellsWhoHasOutput) {
  start();
  auto peer = connect();
  auto silent = connect();
  exchange(*peer);
  exchange(*silent);
  peer->client.call(kModelInferPath, InferText{}({1}));
  peer->client.call(kModelInferPath, InferText{}({2}));
  send(*peer);
  drain_until([&] { return model_->counters.read().success.count == 2 && !ready_.empty(); });
  for (const Ready& ready : ready_) {
    EXPECT_EQ(ready.token, 1U);
    EXPECT_NE(ready.bits & kHasOutput, 0U);
  }
}

TEST_F(LoopTest, AStepHandlesABoundedNumberOfCompletions) {
  loop_options_.measure_steps = true;
  loop_options_.grpc.max_concurrent_streams = 4096;
  start(4096, 1);
  auto peer = connect();
  exchange(*peer);
  trial_.hold();
  peer->client.call(kModelInferPath, InferText{}({0}));
  send(*peer);
  trial_.await_inside(1);
  static constexpr int kCalls = 1500;
  std::vector<std::int32_t> calls;
  for (std::int32_t i = 0; i < kCalls; ++i) calls.push_back(peer->client.call(kModelInferPath, InferText{}({i})));
  exchange(*peer);
  trial_.let_go();
  clock_.await_waiters(3);  // both runs are over, and delivered
  int steps = 0;
  drain_until([&] {
    ++steps;
    exchange(*peer);
    return peer->client.answer(calls.back()).closed;
  });
  EXPECT_GE(steps, kCalls / Loop::kCompletionsPerStep);
  for (const std::int32_t call : calls) EXPECT_EQ(peer->client.answer(call).grpc("grpc-status"), "0");
  EXPECT_GT(loop_->max_step(), 0);
}

TEST_F(LoopTest, AThousandTicketsInFlightWhileTheLoopCloses) {
  engine_options_.clock = nullptr;
  engine_options_.lanes = 3;
  start(16);
  for (int round = 0; round < 3; ++round) {
    std::vector<std::unique_ptr<Peer>> peers;
    for (int i = 0; i < 10; ++i) {
      peers.push_back(connect());
      for (std::int32_t call = 0; call < 100; ++call) {
        peers.back()->client.call(kModelInferPath, InferText{.typed = call % 9 == 0}({call}));
      }
      send(*peers.back());
    }
    if (round == 1) {  // some of them are through
      drain_until([&] { return model_->counters.read().success.count > 0; });
    }
    loop_->close();
    EXPECT_EQ(loop_->connections(), 0U);
    EXPECT_EQ(engine_->snapshot().tickets, 0U);
    loop_ = std::make_unique<Loop>(engine_, loop_options_);
  }
}

TEST_F(LoopTest, CloseDoesNotWaitForRunsThatGoOn) {
  start();
  auto peer = connect();
  trial_.hold();
  trial_.obey_interrupts(false);
  peer->client.call(kModelInferPath, InferText{}({1}));
  send(*peer);
  trial_.await_inside(1);
  loop_->close();
  loop_->close();
  loop_.reset();
  EXPECT_EQ(engine_->snapshot().lanes_busy, 1);
}

TEST_F(LoopTest, ACatalogThatWasReplacedLivesAsLongAsItsTickets) {
  start();
  auto peer = connect();
  trial_.hold();
  trial_.obey_interrupts(false);
  const std::int32_t call = peer->client.call(kModelInferPath, InferText{}({1}));
  send(*peer);
  trial_.await_inside(1);
  std::weak_ptr<Model> seen = model_;
  engine_->publish(std::make_shared<Catalog>());
  std::thread unloader([&] { engine_->unload(model_); });
  const std::int32_t after = peer->client.call(kModelInferPath, InferText{}({2}));
  EXPECT_EQ(status(*peer, after), "5 model 'm' is not in the model repository");
  trial_.let_go();
  unloader.join();
  model_.reset();
  EXPECT_FALSE(seen.expired()) << "the answer has its model's name";
  EXPECT_EQ(infer_answer(*peer, call).model, "m");
  // The next catalog in use lets the old ones go.
  engine_->publish(std::make_shared<Catalog>());
  status(*peer, peer->client.call(kModelInferPath, InferText{}({3})));
  EXPECT_TRUE(seen.expired());
}

TEST_F(LoopTest, IsSettledOnceNothingIsDecodedUnderAnOlderCatalog) {
  start(1 << 20);
  auto peer = connect();
  EXPECT_TRUE(loop_->settled());
  const std::int32_t call = peer->client.call(kModelInferPath, InferText{.typed = true}(Values(400000, 1)));
  exchange(*peer);  // to the worker; it comes back with the next drain
  EXPECT_TRUE(loop_->settled()) << "it is of the catalog of now";
  publish();
  EXPECT_FALSE(loop_->settled()) << "its ticket will be the old model's";
  drain_until([&] {
    exchange(*peer);
    return peer->client.answer(call).closed;
  });
  EXPECT_TRUE(loop_->settled());
}

TEST_F(LoopTest, TracesWhatTheSamplerTakes) {
  start();
  auto catalog = std::make_shared<Catalog>();
  catalog->add("m", "", model_);
  catalog->trace("", std::make_shared<TraceSampler>(9, 2, -1));
  engine_->publish(std::move(catalog));
  auto peer = connect();
  clock_.advance(5);
  trial_.on_run([&](const Values&) { clock_.advance(700); });
  for (int i = 0; i < 4; ++i) {
    infer_answer(*peer, peer->client.call(kModelInferPath, InferText{.id = "r" + std::to_string(i)}({1})));
  }
  auto [first, dropped] = loop_->take_traces(1);
  EXPECT_EQ(dropped, 0U);
  ASSERT_EQ(first.size(), 1U);
  EXPECT_EQ(first[0].sampler, 9U);
  EXPECT_EQ(first[0].model, "m");
  EXPECT_EQ(first[0].version, "3");
  EXPECT_EQ(first[0].request_id, "r1");
  EXPECT_EQ(first[0].time.infer_end - first[0].time.infer_start, 700);
  EXPECT_LE(first[0].time.received, first[0].time.queued);
  EXPECT_GE(first[0].ended, first[0].time.finished);
  const auto rest = loop_->take_traces(10).first;
  ASSERT_EQ(rest.size(), 1U);
  EXPECT_EQ(rest[0].request_id, "r3");
  EXPECT_TRUE(loop_->take_traces(10).first.empty());
}

TEST_F(LoopTest, TracesWithTensorsHoldTheirBeginnings) {
  start(1 << 20);
  auto catalog = std::make_shared<Catalog>();
  catalog->add("m", "", model_);
  catalog->trace("m", std::make_shared<TraceSampler>(1, 2, -1, TraceWants{.times = false, .tensors = true}));
  engine_->publish(std::move(catalog));
  auto peer = connect();
  const Values large(TracedTensors::kMostTensorBytes, 7);  // four times as many bytes
  for (const Values& values : {Values{1}, Values{5, 6}, Values{1}, large}) {
    infer_answer(*peer, peer->client.call(kModelInferPath, InferText{.outputs = {"y"}}(values)));
  }
  const auto traces = loop_->take_traces(10).first;
  ASSERT_EQ(traces.size(), 2U);
  EXPECT_FALSE(traces[0].times);
  ASSERT_TRUE(traces[0].tensors);
  const std::vector<TracedTensor>& small = traces[0].tensors->tensors;
  ASSERT_EQ(small.size(), 2U);
  EXPECT_EQ(small[0].name, "x");
  EXPECT_FALSE(small[0].output);
  EXPECT_EQ(small[0].dims, (std::vector<std::int64_t>{2, 1}));
  const Values doubled = {10, 12};
  EXPECT_EQ(small[1].name, "y");
  EXPECT_TRUE(small[1].output);
  EXPECT_EQ(small[1].bytes, std::string(reinterpret_cast<const char*>(doubled.data()), 8));
  EXPECT_EQ(traces[0].tensors->left_out, 0U);
  for (const TracedTensor& each : traces[1].tensors->tensors) {
    EXPECT_EQ(each.size, large.size() * 4);
    EXPECT_EQ(each.bytes.size(), TracedTensors::kMostTensorBytes);
  }
  EXPECT_TRUE(loop_->take_traces(10).first.empty());
}

TEST_F(LoopTest, TensorsThatWaitToBeWrittenHaveABound) {
  start(1 << 20);
  auto catalog = std::make_shared<Catalog>();
  catalog->add("m", "", model_);
  catalog->trace("", std::make_shared<TraceSampler>(1, 1, -1, TraceWants{.times = true, .tensors = true}));
  engine_->publish(std::move(catalog));
  auto peer = connect();
  const std::string large = InferText{.outputs = {"y"}}(Values(TracedTensors::kMostTensorBytes / 4, 7));
  const std::size_t count = Loop::kMaxTracedBytes / (2 * TracedTensors::kMostTensorBytes) + 10;
  for (std::size_t i = 0; i < count; ++i) infer_answer(*peer, peer->client.call(kModelInferPath, large));
  std::size_t bytes = 0;
  std::size_t left_out = 0;
  std::size_t traces = 0;
  for (;;) {
    const auto taken = loop_->take_traces(1000).first;
    if (taken.empty()) break;
    std::size_t at_once = 0;
    for (const TraceEntry& each : taken) {
      at_once += each.tensors->bytes;
      left_out += each.tensors->left_out;
    }
    EXPECT_LE(at_once, Loop::kTracedBytesPerTake + TracedTensors::kMostBytes);
    traces += taken.size();
    bytes += at_once;
  }
  EXPECT_EQ(traces, count);
  EXPECT_EQ(bytes, Loop::kMaxTracedBytes);
  EXPECT_EQ(left_out, 20U);
  infer_answer(*peer, peer->client.call(kModelInferPath, large));
  EXPECT_EQ(loop_->take_traces(1).first.at(0).tensors->left_out, 0U) << "there is room again";
}

TEST(TracedTensors, TextIsCutBehindAWholeElementAndPlacesOfOthersAreEmpty) {
  std::string text;
  const auto add = [&](std::size_t size) {
    const auto length = static_cast<std::uint32_t>(size);
    text.append(reinterpret_cast<const char*>(&length), sizeof(length));
    text.append(size, 'a');
  };
  add(10);
  add(TracedTensors::kMostTensorBytes - 100);
  add(100);
  add(1);
  Tensor strings;
  strings.dtype = DType::kBytes;
  strings.shape = {4};
  strings.data = reinterpret_cast<const std::byte*>(text.data());
  strings.size = text.size();
  Tensor elsewhere;  // in its client's shared memory
  elsewhere.dtype = DType::kInt8;
  elsewhere.shape = {100};
  elsewhere.size = 100;
  const std::vector<Tensor> given = {Tensor(), strings, elsewhere};
  TracedTensors traced;
  traced.add(given, false, 1 << 20);
  ASSERT_EQ(traced.tensors.size(), 2U);
  EXPECT_EQ(traced.tensors[0].place, 1U);
  EXPECT_EQ(traced.tensors[0].bytes, text.substr(0, 14 + TracedTensors::kMostTensorBytes - 96));
  EXPECT_EQ(traced.tensors[1].bytes, "");
  EXPECT_EQ(traced.tensors[1].size, 100U);
  for (int i = 0; i < 200; ++i) traced.add(given, true, 1 << 20);
  EXPECT_LE(traced.bytes, TracedTensors::kMostBytes);
  EXPECT_EQ(traced.tensors.size(), TracedTensors::kMostTensors);
  EXPECT_EQ(traced.left_out, 402U - TracedTensors::kMostTensors);
  TracedTensors none;
  none.add(given, false, 0);
  EXPECT_EQ(none.left_out, 2U);
}

TEST_F(LoopTest, ATraceOfARequestThatDidNotRunHasItsStartAndItsEnd) {
  start(1);
  auto catalog = std::make_shared<Catalog>();
  catalog->add("m", "", model_);
  catalog->trace("m", std::make_shared<TraceSampler>(1, 1, -1));
  engine_->publish(std::move(catalog));
  auto peer = connect();
  engine_->unload(model_);
  EXPECT_EQ(status(*peer, peer->client.call(kModelInferPath, InferText{}({1}))).substr(0, 3), "14 ");
  const auto traces = loop_->take_traces(10).first;
  ASSERT_EQ(traces.size(), 1U);
  EXPECT_EQ(traces[0].time.finished, 0);
  EXPECT_GE(traces[0].ended, traces[0].time.received);
}

TEST_F(LoopTest, AnIdleConnectionIsClosedWhenItsTimeHasCome) {
  start();
  auto idle = connect();
  exchange(*idle);
  EXPECT_LE(loop_->next_timeout(), clock_.now() + loop_options_.grpc.idle);
  clock_.advance(loop_options_.grpc.idle / 2);
  auto fresh = connect();
  exchange(*fresh);
  clock_.advance(loop_options_.grpc.idle / 2 + kSecond);
  loop_->on_timer(ready_);
  ASSERT_EQ(ready_.size(), 1U);
  EXPECT_EQ(ready_[0].token, 1U);
  deliver(*idle);
  EXPECT_NE(at(*idle).bits() & kWantsClose, 0U);
  EXPECT_EQ(at(*fresh).bits() & kWantsClose, 0U);
  EXPECT_GT(loop_->next_timeout(), clock_.now());
}

TEST_F(LoopTest, TimersOfConnectionsThatAreGoneDoNothing) {
  start();
  for (int i = 0; i < 100; ++i) {
    auto peer = connect();
    exchange(*peer);
    loop_->disconnect(peer->id);
  }
  clock_.advance(2 * loop_options_.grpc.idle);
  loop_->on_timer(ready_);
  EXPECT_TRUE(ready_.empty());
  EXPECT_EQ(loop_->next_timeout(), kNever);
}

TEST_F(LoopTest, ConnectionsThatComeAndGoDoNotPileUpTimers) {
  start();
  auto stays = connect();
  exchange(*stays);
  const Nanos first = loop_->next_timeout();
  loop_->disconnect(stays->id);
  clock_.advance(kSecond);
  auto lives = connect();
  exchange(*lives);
  for (int i = 0; i < 200; ++i) loop_->disconnect(connect()->id);
  EXPECT_GT(loop_->next_timeout(), first) << "the timer of the first is gone without its time having come";
  EXPECT_LE(loop_->next_timeout(), clock_.now() + loop_options_.grpc.idle) << "those of the living are not";
}

}  // namespace
}  // namespace headrace::testing
