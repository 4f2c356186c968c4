#include "front/connection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "deflated.h"
#include "front_fixture.h"

namespace headrace::testing {
namespace {

using ConnectionTest = FrontTest;

TEST_F(ConnectionTest, AnswersModelInfer) {
  start();
  auto peer = connect();
  const std::int32_t call = peer->client.call(kModelInferPath, InferText{.id = "request 7"}({1, 2, 3}));
  const InferAnswer answer = infer_answer(*peer, call);
  EXPECT_EQ(answer.model, "m");
  EXPECT_EQ(answer.version, "3");
  EXPECT_EQ(answer.id, "request 7");
  EXPECT_EQ(answer.names, (std::vector<std::string>{"y", "z"}));
  EXPECT_EQ(answer.outputs, (std::vector<Values>{{2, 4, 6}, {-1, -2, -3}}));
  EXPECT_TRUE(answer.parameters.empty()) << "request parameters do not come back, timing only when asked for";
  EXPECT_EQ(at(*peer).open_calls(), 0U);
  EXPECT_EQ(engine_->budget().charged(), 0U) << "a ticket that is kept for another use holds nobody's bytes";
}

TEST_F(ConnectionTest, TheOutputsAskedForAndTheTiming) {
  start();
  auto peer = connect();
  trial_.on_run([&](const Values&) { clock_.advance(700); });
  const std::int32_t call = peer->client.call(
      kModelInferPath, InferText{.version = "3", .outputs = {"z"}, .parameters = {{"headrace_timing", true}}}({5, 6}));
  const InferAnswer answer = infer_answer(*peer, call);
  EXPECT_EQ(answer.names, (std::vector<std::string>{"z"}));
  EXPECT_EQ(answer.outputs, (std::vector<Values>{{-5, -6}}));
  EXPECT_EQ(answer.parameters,
            (std::vector<std::pair<std::string, std::int64_t>>{
                {"headrace_batch_size", 2}, {"headrace_queue_ns", 0}, {"headrace_compute_ns", 700}}));
}

TEST_F(ConnectionTest, CallsOfOneReadShareABatch) {
  start();
  auto peer = connect();
  exchange(*peer);
  clock_.await_waiters(3);
  std::vector<std::int32_t> calls;
  for (std::int32_t i = 0; i < 16; ++i) calls.push_back(peer->client.call(kModelInferPath, InferText{}({i})));
  send(*peer);
  for (std::size_t i = 0; i < calls.size(); ++i) {
    EXPECT_EQ(infer_answer(*peer, calls[i]).outputs[0], (Values{2 * static_cast<std::int32_t>(i)}));
  }
  ASSERT_EQ(trial_.runs().size(), 1U);
  EXPECT_EQ(trial_.runs()[0].size(), 16U);
}

TEST_F(ConnectionTest, EveryRefusalHasItsStatusAndTheNextCallIsServed) {
  start(8);
  auto peer = connect();
  const auto call = [&](const std::string& message) { return peer->client.call(kModelInferPath, message); };
  EXPECT_EQ(status(*peer, call(InferText{.model = "n"}({1}))), "5 model 'n' is not in the model repository");
  EXPECT_EQ(status(*peer, call(InferText{.version = "4"}({1}))), "5 model 'm' has no version '4'; it serves: 3");
  EXPECT_EQ(status(*peer, call(InferText{.input = "w"}({1}))), "3 model 'm' has no input 'w'; its inputs are: 'x'");
  EXPECT_EQ(status(*peer, call(InferText{.datatype = "FP32"}({1}))), "3 input 'x' of model 'm' is INT32, not 'FP32'");
  EXPECT_EQ(status(*peer, call(InferText{.shape = {1}}({1}))),
            "3 input 'x' of model 'm' has shape [-1,1] (-1: any size), not [1]");
  EXPECT_EQ(status(*peer, call(InferText{.shape = {2, 1}}({1}))),
            "3 input 'x' of model 'm' has 4 bytes; shape [2,1] of INT32 takes 8");
  EXPECT_EQ(status(*peer, call(InferText{}(Values(9, 1)))),
            "3 input 'x' of model 'm' has a batch of 9 (dimension 0); the model takes 1 to 8 (max_batch_size)");
  EXPECT_EQ(status(*peer, call(InferText{.outputs = {"a"}}({1}))),
            "3 model 'm' has no output 'a'; its outputs are: 'y', 'z'");
  EXPECT_EQ(status(*peer, call(InferText{.input_parameter = "shared_memory_region"}({1}))).substr(0, 2), "3 ");
  EXPECT_EQ(status(*peer, call("\xff\xff\xff")).substr(0, 2), "3 ");
  EXPECT_EQ(status(*peer, peer->client.call("/inference.GRPCInferenceService/Nothing", "")),
            "12 method /inference.GRPCInferenceService/Nothing is not served here");
  EXPECT_EQ(model_->counters.read().reject.count, 7U) << "those that name a model";
  EXPECT_EQ(status(*peer, call(InferText{}({1}))), "0");
  EXPECT_EQ(trial_.runs().size(), 1U);
}

TEST_F(ConnectionTest, TypedAndCompressedAndLargeMessagesAreDecodedByTheWorker) {
  start(1 << 20);
  auto peer = connect();
  EXPECT_EQ(infer_answer(*peer, peer->client.call(kModelInferPath, InferText{.typed = true}({7, -8}))).outputs[0],
            (Values{14, -16}));
  Fields headers = H2Client::grpc_headers(kModelInferPath);
  headers.emplace_back("grpc-encoding", "gzip");
  const std::int32_t compressed = peer->client.request(headers, grpc_frame(gzip(InferText{.id = "z"}({9})), true));
  EXPECT_EQ(infer_answer(*peer, compressed).outputs[0], (Values{18}));
  const std::int32_t broken = peer->client.request(headers, grpc_frame("no gzip", true));
  EXPECT_EQ(status(*peer, broken).substr(0, 3), "13 ");
  Values many(400'000);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = static_cast<std::int32_t>(i) * 1000;
  const std::int32_t large = peer->client.call(kModelInferPath, InferText{.outputs = {"z"}, .typed = true}(many));
  const InferAnswer answer = infer_answer(*peer, large);
  ASSERT_EQ(answer.outputs[0].size(), many.size());
  EXPECT_EQ(answer.outputs[0].back(), -many.back());
  EXPECT_EQ(engine_->budget().charged(), 0U);
}

TEST_F(ConnectionTest, ADeadlineIsAnsweredWhileTheModelRuns) {
  start();
  auto peer = connect();
  trial_.hold();
  trial_.obey_interrupts(false);
  const std::int32_t call = peer->client.call(kModelInferPath, InferText{}({1}), {{"grpc-timeout", "100m"}});
  send(*peer);
  trial_.await_inside(1);
  clock_.await_waiters(2);
  clock_.advance(100 * kMillisecond);
  EXPECT_EQ(status(*peer, call), "4 the deadline passed while model 'm' ran the request, after 0 ms in its queue");
  EXPECT_EQ(model_->counters.read().fail.count, 1U);
}

TEST_F(ConnectionTest, AResetCancelsAndStopsTheRun) {
  start();
  auto peer = connect();
  trial_.hold();
  const std::int32_t call = peer->client.call(kModelInferPath, InferText{}({1}));
  send(*peer);
  trial_.await_inside(1);
  peer->client.reset(call);
  send(*peer);
  clock_.await_waiters(3);  // both lanes sleep again
  EXPECT_EQ(trial_.interrupted(), 1);
  drain_until([&] { return model_->counters.read().cancel.count == 1; });
  trial_.let_go();
  EXPECT_EQ(status(*peer, peer->client.call(kModelInferPath, InferText{}({2}))), "0");
}

TEST_F(ConnectionTest, ACallThatComesAndIsResetInOneReadIsCancelled) {
  start(64, 1);
  auto peer = connect();
  exchange(*peer);
  trial_.hold();
  peer->client.call(kModelInferPath, InferText{}({1}));
  send(*peer);
  trial_.await_inside(1);
  const std::int32_t call = peer->client.call(kModelInferPath, InferText{}({2}));
  std::string bytes = peer->client.take();
  peer->client.reset(call);
  bytes += peer->client.take();
  at(*peer).receive(as_bytes(bytes));
  EXPECT_EQ(engine_->snapshot().tickets, 1U);
  drain_until([&] { return model_->counters.read().cancel.count == 1; });
}

TEST_F(ConnectionTest, ALostConnectionCancelsWhatItHadAndItsAnswersFindNobody) {
  start(1, 1);
  auto peer = connect();
  auto other = connect();
  trial_.hold();
  trial_.obey_interrupts(false);
  for (std::int32_t i = 0; i < 10; ++i) peer->client.call(kModelInferPath, InferText{}({i}));
  send(*peer);
  trial_.await_inside(1);
  loop_->disconnect(peer->id);
  EXPECT_EQ(loop_->find(peer->id), nullptr);
  EXPECT_EQ(engine_->snapshot().tickets, 0U);
  drain_until([&] { return model_->counters.read().cancel.count == 10; });
  trial_.let_go();
  EXPECT_EQ(status(*other, other->client.call(kModelInferPath, InferText{}({50}))), "0");
  EXPECT_EQ(trial_.runs().size(), 2U) << "what waited was not run";
}

TEST_F(ConnectionTest, TheOwnersCallsGoOutAndComeBack) {
  start();
  auto peer = connect();
  const std::int32_t first = peer->client.call(kOwnerPath, "one", {{"x-key", "value"}});
  const std::int32_t second = peer->client.call(kOwnerPath, "two");
  send(*peer);
  EXPECT_NE(peer->bits & kHasCalls, 0U);
  const std::vector<OwnerCall> calls = at(*peer).take_calls();
  ASSERT_EQ(calls.size(), 2U);
  EXPECT_EQ(calls[0].path, kOwnerPath);
  EXPECT_EQ(calls[0].metadata, (wire::Metadata{{"x-key", "value"}}));
  EXPECT_TRUE(std::ranges::equal(calls[0].message.bytes, as_bytes("one")));
  EXPECT_EQ(at(*peer).bits() & kHasCalls, 0U);
  EXPECT_NE(at(*peer).reply(calls[0].id, as_bytes("answer")) & kHasOutput, 0U);
  at(*peer).fail(calls[1].id, {Code::kNotFound, "no such thing"}, {{"x-more", "1"}});
  EXPECT_EQ(status(*peer, first), "0");
  EXPECT_EQ(peer->client.answer(first).messages(), (std::vector<std::string>{"answer"}));
  EXPECT_EQ(status(*peer, second), "5 no such thing");
  EXPECT_EQ(peer->client.answer(second).grpc("x-more"), "1");
  at(*peer).reply(calls[0].id, as_bytes("again"));  // it is gone: nothing happens
  EXPECT_EQ(at(*peer).open_calls(), 0U);
}

TEST_F(ConnectionTest, TheOwnerHearsOfWhatWasCancelled) {
  start();
  auto peer = connect();
  const std::int32_t call = peer->client.call(kOwnerPath, "");
  send(*peer);
  ASSERT_EQ(at(*peer).take_calls().size(), 1U);
  peer->client.reset(call);
  send(*peer);
  EXPECT_NE(peer->bits & kHasCancelled, 0U);
  EXPECT_EQ(at(*peer).take_cancelled(), (std::vector<std::int32_t>{call}));
  EXPECT_EQ(at(*peer).bits() & kHasCancelled, 0U);
  at(*peer).reply(call, as_bytes("late"));
}

TEST_F(ConnectionTest, AMethodTakesExactlyOneMessage) {
  start();
  auto peer = connect();
  for (const char* path : {kModelInferPath, kOwnerPath}) {
    const std::int32_t none = peer->client.request(H2Client::grpc_headers(path), "");
    EXPECT_EQ(status(*peer, none), std::string("12 method ") + path + " takes one message; none came");
  }
  trial_.hold();
  const std::string one = grpc_frame(InferText{}({1}));
  const std::int32_t twice = peer->client.request(H2Client::grpc_headers(kModelInferPath), one + one);
  EXPECT_EQ(status(*peer, twice),
            std::string("12 method ") + kModelInferPath + " takes one message; a second one came");
  const std::int32_t owner = peer->client.request(H2Client::grpc_headers(kOwnerPath), grpc_frame("") + grpc_frame(""));
  EXPECT_EQ(status(*peer, owner).substr(0, 3), "12 ");
  EXPECT_EQ(at(*peer).take_cancelled(), (std::vector<std::int32_t>{owner}));
  clock_.await_waiters(3);  // the first message's run was stopped
}

// A stream's events so far, as "kind:bytes".
std::vector<std::string> events(Connection& connection) {
  static constexpr const char* kKinds[] = {"call", "open", "message", "end"};
  std::vector<std::string> seen;
  for (const OwnerCall& call : connection.take_calls()) {
    const auto* text = reinterpret_cast<const char*>(call.message.bytes.data());
    seen.push_back(std::string(kKinds[static_cast<int>(call.kind)]) + ":" +
                   std::string(text, call.message.bytes.size()));
  }
  return seen;
}

TEST_F(ConnectionTest, AStreamOfTheOwnersIsAnsweredMessageByMessage) {
  start();
  auto peer = connect();
  Fields headers = H2Client::grpc_headers(kStreamPath);
  const std::int32_t call = peer->client.request(headers, grpc_frame("one") + grpc_frame("two"), false);
  send(*peer);
  EXPECT_EQ(events(at(*peer)), (std::vector<std::string>{"open:", "message:one", "message:two"}));
  EXPECT_NE(at(*peer).send_part(call, as_bytes("1")) & kHasOutput, 0U);
  exchange(*peer);
  EXPECT_EQ(peer->client.answer(call).messages(), (std::vector<std::string>{"1"}));
  EXPECT_FALSE(peer->client.answer(call).closed);
  at(*peer).send_part(call, as_bytes("2"));
  peer->client.write(call, grpc_frame("three"), true);
  send(*peer);
  EXPECT_EQ(events(at(*peer)), (std::vector<std::string>{"message:three", "end:"}));
  at(*peer).send_part(call, as_bytes("3"));
  at(*peer).finish(call);
  EXPECT_EQ(status(*peer, call), "0");
  EXPECT_EQ(peer->client.answer(call).messages(), (std::vector<std::string>{"1", "2", "3"}));
  at(*peer).send_part(call, as_bytes("late"));  // it is gone: nothing happens
  at(*peer).release_message(call);
  EXPECT_EQ(at(*peer).open_calls(), 0U);
}

TEST_F(ConnectionTest, AStreamsMessagesKeepTheirOrderThoughSomeAreInflated) {
  start();
  auto peer = connect();
  Fields headers = H2Client::grpc_headers(kStreamPath);
  headers.emplace_back("grpc-encoding", "gzip");
  const std::string body =
      grpc_frame("a") + grpc_frame(gzip("b"), true) + grpc_frame("c") + grpc_frame(gzip("d"), true);
  const std::int32_t call = peer->client.request(headers, body);
  send(*peer);
  std::vector<std::string> seen = events(at(*peer));
  EXPECT_EQ(seen, (std::vector<std::string>{"open:", "message:a"}));
  drain_until([&] {
    for (const std::string& event : events(at(*peer))) seen.push_back(event);
    return seen.back() == "end:";
  });
  EXPECT_EQ(seen, (std::vector<std::string>{"open:", "message:a", "message:b", "message:c", "message:d", "end:"}));
  at(*peer).fail(call, {Code::kNotFound, "no"}, {});
  EXPECT_EQ(status(*peer, call), "5 no");

  const std::int32_t broken = peer->client.request(headers, grpc_frame("no gzip", true));
  EXPECT_EQ(status(*peer, broken).substr(0, 3), "13 ");
  EXPECT_EQ(at(*peer).take_cancelled(), (std::vector<std::int32_t>{broken}));
}

TEST_F(ConnectionTest, AStreamWhoseMessagesNobodyDealsWithIsRefused) {
  start();
  auto peer = connect();
  const std::int32_t call = peer->client.request(H2Client::grpc_headers(kStreamPath), "", false);
  for (std::size_t i = 0; i < OwnerStreams::kMaxWaiting; ++i) peer->client.write(call, grpc_frame("x"));
  send(*peer);
  EXPECT_EQ(events(at(*peer)).size(), 1 + OwnerStreams::kMaxWaiting);
  at(*peer).release_message(call);
  peer->client.write(call, grpc_frame("x"));
  send(*peer);
  EXPECT_EQ(events(at(*peer)).size(), 1U);
  peer->client.write(call, grpc_frame("x"));
  send(*peer);
  EXPECT_EQ(status(*peer, call), std::string("8 method ") + kStreamPath +
                                     ": more than 64 messages of one call wait to be answered; read the answers first");
  EXPECT_EQ(at(*peer).take_cancelled(), (std::vector<std::int32_t>{call}));
}

TEST_F(ConnectionTest, AStreamThatIsResetIsTheOwnersToEnd) {
  start();
  auto peer = connect();
  const std::int32_t call = peer->client.request(H2Client::grpc_headers(kStreamPath), grpc_frame("x"), false);
  send(*peer);
  EXPECT_EQ(events(at(*peer)).size(), 2U);
  peer->client.reset(call);
  send(*peer);
  EXPECT_EQ(at(*peer).take_cancelled(), (std::vector<std::int32_t>{call}));
  at(*peer).finish(call);
  EXPECT_EQ(at(*peer).output_waiting(), 0U);
}

TEST_F(ConnectionTest, AbortEndsAllOpenCallsWithAStatus) {
  start();
  auto peer = connect();
  trial_.hold();
  const std::int32_t infer = peer->client.call(kModelInferPath, InferText{}({1}));
  const std::int32_t owner = peer->client.call(kOwnerPath, "");
  const std::int32_t waiting = peer->client.open(kModelInferPath);
  send(*peer);
  trial_.await_inside(1);
  at(*peer).abort_calls({Code::kUnavailable, "the server is shutting down"});
  for (const std::int32_t call : {infer, owner, waiting}) {
    EXPECT_EQ(status(*peer, call), "14 the server is shutting down");
  }
  EXPECT_EQ(at(*peer).take_cancelled(), (std::vector<std::int32_t>{owner}));
  EXPECT_EQ(at(*peer).open_calls(), 0U);
}

TEST_F(ConnectionTest, AnEngineThatClosesAnswersWhatRuns) {
  start();
  auto peer = connect();
  trial_.hold();
  const std::int32_t call = peer->client.call(kModelInferPath, InferText{}({1}));
  send(*peer);
  trial_.await_inside(1);
  engine_->close();
  EXPECT_EQ(status(*peer, call), "14 the server stopped before the model had finished");
  EXPECT_EQ(status(*peer, peer->client.call(kModelInferPath, InferText{}({1}))), "14 the server is shutting down");
}

TEST_F(ConnectionTest, AModelThatIsUnloadedAnswersUnavailable) {
  start(1, 1);
  auto peer = connect();
  trial_.hold();
  const std::int32_t running = peer->client.call(kModelInferPath, InferText{}({1}));
  const std::int32_t queued = peer->client.call(kModelInferPath, InferText{}({2}));
  send(*peer);
  trial_.await_inside(1);
  std::thread unloader([&] { engine_->unload(model_); });
  EXPECT_EQ(status(*peer, queued), "14 model 'm' version 3 was unloaded");
  const std::int32_t stale = peer->client.call(kModelInferPath, InferText{}({3}));
  EXPECT_EQ(status(*peer, stale).substr(0, 3), "14 ");
  trial_.let_go();
  EXPECT_EQ(status(*peer, running), "0");
  unloader.join();
}

TEST_F(ConnectionTest, EveryCallIsOneLineInTheAccessLog) {
  loop_options_.access_log = true;
  start(8, 1);
  auto peer = connect();
  EXPECT_EQ(status(*peer, peer->client.call(kModelInferPath, InferText{.id = "good"}({1, 2}))), "0");
  status(*peer, peer->client.call(kModelInferPath, InferText{.model = "n"}({1})));
  trial_.hold();
  const std::int32_t reset = peer->client.call(kModelInferPath, InferText{.id = "reset"}({3}));
  send(*peer);
  trial_.await_inside(1);
  peer->client.reset(reset);
  send(*peer);
  trial_.let_go();
  const std::string one = grpc_frame(InferText{.id = "twice"}({1}));
  status(*peer, peer->client.request(H2Client::grpc_headers(kModelInferPath), one + one));
  peer->client.call(kOwnerPath, "");
  send(*peer);
  at(*peer).reply(at(*peer).take_calls().at(0).id, as_bytes("alive"));
  auto [entries, dropped] = loop_->take_access_log(2);
  EXPECT_EQ(dropped, 0U);
  ASSERT_EQ(entries.size(), 2U) << "no more than were asked for";
  for (AccessEntry& entry : loop_->take_access_log(100).first) entries.push_back(std::move(entry));
  ASSERT_EQ(entries.size(), 5U);
  EXPECT_EQ(entries[0].peer, "127.0.0.1:1");
  EXPECT_EQ(entries[0].path, kModelInferPath);
  EXPECT_EQ(entries[0].model, "m");
  EXPECT_EQ(entries[0].version, "3");
  EXPECT_EQ(entries[0].request_id, "good");
  EXPECT_EQ(entries[0].rows, 2);
  EXPECT_EQ(entries[0].batch_rows, 2);
  EXPECT_GT(entries[0].request_bytes, 0U);
  EXPECT_GT(entries[0].response_bytes, 0U);
  EXPECT_EQ(entries[1].code, Code::kNotFound);
  EXPECT_EQ(entries[1].model, "n");
  EXPECT_GT(entries[1].request_bytes, 0U);
  EXPECT_EQ(entries[2].code, Code::kCancelled);
  EXPECT_EQ(entries[2].request_id, "reset");
  EXPECT_EQ(entries[3].code, Code::kUnimplemented);
  EXPECT_EQ(entries[4].path, kOwnerPath);
  EXPECT_EQ(entries[4].response_bytes, 5U);
  EXPECT_TRUE(loop_->take_access_log(100).first.empty());
}

TEST_F(ConnectionTest, OutputThatMayNotBeWrittenIsNotOffered) {
  start();
  auto peer = connect();
  exchange(*peer);
  at(*peer).pause_writing();
  peer->client.call(kOwnerPath, "");
  send(*peer);
  const std::vector<OwnerCall> calls = at(*peer).take_calls();
  ASSERT_EQ(calls.size(), 1U);
  EXPECT_EQ(at(*peer).reply(calls[0].id, as_bytes("x")) & kHasOutput, 0U);
  EXPECT_NE(at(*peer).resume_writing() & kHasOutput, 0U);
  EXPECT_EQ(status(*peer, calls[0].id), "0");
}

TEST_F(ConnectionTest, HeadersBecomeParametersAndTheLogTellsThem) {
  loop_options_.access_log = true;
  loop_options_.grpc_headers = [](std::string_view name) { return name != "user-agent"; };
  start(1 << 20);
  auto peer = connect();
  const Fields fields{{"headrace_timing", "true"}, {"x-tenant", "acme"}, {"user-agent", "u"}};
  const auto timed = [&](std::int32_t call) { return infer_answer(*peer, call).parameters.size() == 3; };
  EXPECT_TRUE(timed(peer->client.call(kModelInferPath, InferText{}({1}), fields)));
  const Values many(300'000, 1);
  const std::string large = InferText{.outputs = {"z"}, .typed = true}(many);
  EXPECT_TRUE(timed(peer->client.call(kModelInferPath, large, fields))) << "decoded by the worker";
  EXPECT_FALSE(timed(peer->client.call(kModelInferPath, InferText{.parameters = {{"headrace_timing", false}}}({1}),
                                       {{"headrace_timing", "true"}})))
      << "what the request says counts";
  EXPECT_EQ(status(*peer, peer->client.call(kModelInferPath, InferText{}({1}), {{"priority", "high"}})).substr(0, 20),
            "3 header 'priority' ");
  EXPECT_EQ(status(*peer, peer->client.call(kModelInferPath, large, {{"priority", "high"}})).substr(0, 20),
            "3 header 'priority' ");
  const auto [entries, dropped] = loop_->take_access_log(10);
  ASSERT_EQ(entries.size(), 5U);
  EXPECT_EQ(entries[0].headers, (wire::Metadata{{"headrace_timing", "true"}, {"x-tenant", "acme"}}));
  EXPECT_EQ(entries[1].headers, entries[0].headers);
  EXPECT_EQ(entries[3].headers, (wire::Metadata{{"priority", "high"}}));
}

TEST_F(ConnectionTest, TooManyNewNamesInOneReadAreRefused) {
  loop_options_.grpc.max_header_bytes = 1 << 20;
  loop_options_.grpc_headers = [](std::string_view) { return false; };
  start(1 << 20);
  auto peer = connect();
  Fields fields;
  for (std::size_t i = 0; i <= HeaderForward::kMaxAsked; ++i) fields.emplace_back("x-" + std::to_string(i), "");
  const std::int32_t call = peer->client.call(kModelInferPath, InferText{}({1}), fields);
  EXPECT_EQ(status(*peer, call).substr(0, 8), "8 more t");
  Fields compressed = H2Client::grpc_headers(kModelInferPath);
  compressed.emplace_back("grpc-encoding", "gzip");
  for (auto& [name, value] : fields) compressed.emplace_back("y" + name, value);
  const std::int32_t job = peer->client.request(compressed, grpc_frame(gzip(InferText{}({1})), true));
  EXPECT_EQ(status(*peer, job).substr(0, 8), "8 more t") << "before the worker looks at it";
}

}  // namespace
}  // namespace headrace::testing
