// What tests of the front share: an engine with a trial model, a loop on it, clients in memory, and ModelInfer's
// messages.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <chrono>
#include <functional>
#include <memory>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "front/connection.h"
#include "front/loop.h"
#include "h2_client.h"
#include "trial_session.h"

namespace headrace::testing {

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// A ModelInferRequest for a trial model, field by field.
struct InferText {
  std::string model = "m";
  std::string version = {};
  std::string id = {};
  std::string input = "x";
  std::string datatype = "INT32";
  std::vector<std::int64_t> shape = {};  // empty: [values, 1]
  std::vector<std::string> outputs = {};
  std::vector<std::pair<std::string, bool>> parameters = {};
  std::string input_parameter = {};  // its name, set to true
  bool typed = false;                // values in int_contents instead of raw_input_contents

  std::string operator()(const Values& values) const {
    std::string data;
    protozero::pbf_writer writer(data);
    writer.add_string(1, model);
    if (!version.empty()) writer.add_string(2, version);
    if (!id.empty()) writer.add_string(3, id);
    for (const auto& [key, value] : parameters) {
      protozero::pbf_writer entry(writer, 4);
      add_parameter(entry, key, value);
    }
    {
      protozero::pbf_writer tensor(writer, 5);
      tensor.add_string(1, input);
      tensor.add_string(2, datatype);
      std::vector<std::int64_t> dims = shape;
      if (dims.empty()) dims = {static_cast<std::int64_t>(values.size()), 1};
      tensor.add_packed_int64(3, dims.begin(), dims.end());
      if (!input_parameter.empty()) {
        protozero::pbf_writer entry(tensor, 4);
        add_parameter(entry, input_parameter, true);
      }
      if (typed) {
        protozero::pbf_writer contents(tensor, 5);
        contents.add_packed_int32(2, values.begin(), values.end());
      }
    }
    for (const std::string& name : outputs) {
      protozero::pbf_writer output(writer, 6);
      output.add_string(1, name);
    }
    if (!typed) {
      writer.add_bytes(7, reinterpret_cast<const char*>(values.data()), values.size() * sizeof(std::int32_t));
    }
    return data;
  }

 private:
  static void add_parameter(protozero::pbf_writer& entry, const std::string& key, bool value) {
    entry.add_string(1, key);
    protozero::pbf_writer choice(entry, 2);
    choice.add_bool(1, value);
  }
};

// What a ModelInferResponse says.
struct InferAnswer {
  std::string model;
  std::string version;
  std::string id;
  std::vector<std::pair<std::string, std::int64_t>> parameters;
  std::vector<std::string> names;
  std::vector<Values> outputs;

  explicit InferAnswer(const std::string& message) {
    protozero::pbf_reader reader(message);
    while (reader.next()) {
      switch (reader.tag()) {
        case 1:
          model = reader.get_string();
          break;
        case 2:
          version = reader.get_string();
          break;
        case 3:
          id = reader.get_string();
          break;
        case 4: {
          protozero::pbf_reader entry(reader.get_message());
          std::string key;
          std::int64_t value = 0;
          while (entry.next()) {
            if (entry.tag() == 1) {
              key = entry.get_string();
            } else {
              protozero::pbf_reader choice(entry.get_message());
              while (choice.next()) value = choice.get_int64();
            }
          }
          parameters.emplace_back(key, value);
          break;
        }
        case 5: {
          protozero::pbf_reader output(reader.get_message());
          while (output.next()) {
            if (output.tag() == 1) {
              names.push_back(output.get_string());
            } else {
              output.skip();
            }
          }
          break;
        }
        case 6: {
          const auto view = reader.get_view();
          Values values(view.size() / sizeof(std::int32_t));
          if (!values.empty()) std::memcpy(values.data(), view.data(), view.size());
          outputs.push_back(std::move(values));
          break;
        }
        default:
          ADD_FAILURE() << "field " << reader.tag();
          reader.skip();
      }
    }
  }
};

class FrontTest : public ::testing::Test {
 protected:
  static constexpr const char* kOwnerPath = "/inference.GRPCInferenceService/ServerLive";

  static constexpr const char* kStreamPath = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

  // A client and its end of the loop.
  struct Peer {
    explicit Peer(H2Client::Options options = {}) : client(options) {}
    H2Client client;
    std::uint64_t id = 0;
    unsigned bits = 0;  // of the last exchange
  };

  void SetUp() override {
    engine_options_.lanes = 2;
    engine_options_.clock = &clock_;
    engine_options_.backends["trial"] = std::make_shared<TrialBackend>(trial_);
    loop_options_.methods = {kOwnerPath};
    loop_options_.streams = {kStreamPath};
  }
  void start(std::int64_t max_batch_size = 64, int max_lanes = 0) {
    engine_ = std::make_shared<Engine>(engine_options_);
    loop_ = std::make_unique<Loop>(engine_, loop_options_);
    ModelSpec spec;
    spec.name = "m";
    spec.version = 3;
    spec.backend = "trial";
    spec.batching_decided = true;
    spec.batching = batching_;
    spec.batching.max_batch_size = max_batch_size;
    spec.batching.dynamic_batching = true;
    spec.max_lanes = max_lanes;
    model_ = *engine_->load(spec);
    publish();
  }
  void publish() {
    auto catalog = std::make_shared<Catalog>();
    catalog->add("m", "", model_);
    catalog->add("m", "3", model_);
    engine_->publish(std::move(catalog));
  }
  void TearDown() override {
    if (engine_ == nullptr) return;
    trial_.let_go();
    if (loop_ != nullptr) loop_->close();
    loop_.reset();
    engine_->close();
    EXPECT_EQ(engine_->snapshot().tickets, 0U);
    EXPECT_EQ(engine_->pool().stats().bytes_in_use, 0U);
    EXPECT_EQ(engine_->pool().stats().blocks_in_use, 0U);
    EXPECT_EQ(engine_->budget().charged(), 0U);
    model_.reset();
    engine_.reset();
  }

  std::unique_ptr<Peer> connect(H2Client::Options options = {}) {
    auto peer = std::make_unique<Peer>(options);
    ++tokens_;
    peer->id = loop_->connect(tokens_, "127.0.0.1:" + std::to_string(tokens_));
    return peer;
  }
  Connection& at(const Peer& peer) {
    Connection* found = loop_->find(peer.id);
    HEADRACE_CHECK(found != nullptr);
    return *found;
  }
  // What the client has to say, as one read.
  void send(Peer& peer) {
    const std::string up = peer.client.take();
    if (!up.empty()) peer.bits = at(peer).receive(as_bytes(up));
  }
  void deliver(Peer& peer) {
    for (;;) {
      std::vector<wire::OutputChunk> chunks;
      at(peer).take_output(chunks);
      if (chunks.empty()) break;
      for (const wire::OutputChunk& chunk : chunks) {
        const auto* text = reinterpret_cast<const char*>(chunk.bytes.data());
        EXPECT_TRUE(peer.client.feed({text, chunk.bytes.size()}));
      }
    }
    peer.bits = at(peer).bits();
  }
  // Both ways until both are silent.
  void exchange(Peer& peer) {
    for (;;) {
      const std::string up = peer.client.take();
      if (!up.empty()) at(peer).receive(as_bytes(up));
      deliver(peer);
      if (up.empty()) return;
    }
  }
  // What an event loop does when the descriptor is readable, until `done` says so.
  template <class Done>
  void drain_until(Done done) {
    const auto limit = patience();
    while (!done()) {
      ASSERT_LT(std::chrono::steady_clock::now(), limit);
      pollfd entry{loop_->fileno(), POLLIN, 0};
      ::poll(&entry, 1, 1000);
      loop_->drain(ready_);
    }
  }
  const H2Client::Answer& await(Peer& peer, std::int32_t call) {
    exchange(peer);
    drain_until([&] {
      exchange(peer);
      return peer.client.answer(call).closed;
    });
    return peer.client.answer(call);
  }
  // "8 the message of ...".
  std::string status(Peer& peer, std::int32_t call) {
    const H2Client::Answer& answer = await(peer, call);
    const std::string message = answer.grpc("grpc-message");
    return answer.grpc("grpc-status") + (message.empty() ? "" : " " + message);
  }
  InferAnswer infer_answer(Peer& peer, std::int32_t call) {
    const std::vector<std::string> messages = await(peer, call).messages();
    EXPECT_EQ(peer.client.answer(call).grpc("grpc-status"), "0");
    EXPECT_EQ(messages.size(), 1U);
    return InferAnswer(messages.empty() ? "" : messages.front());
  }

  ManualClock clock_{1000 * kSecond};
  Trial trial_;
  EngineOptions engine_options_;
  LoopOptions loop_options_;
  BatchingPolicy batching_;
  std::shared_ptr<Engine> engine_;
  std::unique_ptr<Loop> loop_;
  std::shared_ptr<Model> model_;
  std::vector<Ready> ready_;
  std::uint64_t tokens_ = 0;
};

}  // namespace headrace::testing
