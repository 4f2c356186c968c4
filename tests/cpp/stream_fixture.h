// What tests of streams share: messages on one call, their answers, and runs that wait.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "deflated.h"
#include "front/infer_stream.h"
#include "front_fixture.h"

namespace headrace::testing {

using Parameters = std::vector<std::pair<std::string, std::int64_t>>;
inline const Parameters kFinal = {{"triton_final_response", 1}};

// What a ModelStreamInferResponse says.
struct StreamAnswer {
  std::string error;
  InferAnswer response{""};

  explicit StreamAnswer(const std::string& message) {
    protozero::pbf_reader reader(message);
    while (reader.next()) {
      if (reader.tag() == 1) {
        error = reader.get_string();
      } else {
        response = InferAnswer(reader.get_bytes());
      }
    }
  }
};

// Runs with such a value wait here until it is opened.
class Gate {
 public:
  void pass() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return open_; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

class InferStreamTest : public FrontTest {
 protected:
  static std::int32_t open(Peer& peer, const Fields& extra = {}) {
    return peer.client.open(kModelStreamInferPath, extra);
  }
  static void ask(Peer& peer, std::int32_t call, const std::string& message) {
    peer.client.write(call, grpc_frame(message));
  }
  static void half_close(Peer& peer, std::int32_t call) { peer.client.write(call, "", true); }
  static std::vector<StreamAnswer> answers(Peer& peer, std::int32_t call) {
    std::vector<StreamAnswer> out;
    for (const std::string& message : peer.client.answer(call).messages()) out.emplace_back(message);
    return out;
  }
  std::vector<StreamAnswer> await_answers(Peer& peer, std::int32_t call, std::size_t count) {
    exchange(peer);
    drain_until([&] {
      exchange(peer);
      return peer.client.answer(call).messages().size() >= count || peer.client.answer(call).closed;
    });
    EXPECT_EQ(peer.client.answer(call).messages().size(), count);
    return answers(peer, call);
  }
  static std::vector<std::string> ids(const std::vector<StreamAnswer>& all) {
    std::vector<std::string> out;
    for (const StreamAnswer& each : all) out.push_back(each.response.id);
    return out;
  }
  static Values firsts(const std::vector<StreamAnswer>& all) {
    Values out;
    for (const StreamAnswer& each : all) {
      out.push_back(each.response.outputs.empty() ? 0 : each.response.outputs[0].at(0));
    }
    return out;
  }
  std::size_t tickets() { return engine_->snapshot().tickets; }
  // A run with 1 in it stays inside until the gate opens; all others pass.
  void hold_ones() {
    trial_.on_run([this](const Values& values) {
      if (std::ranges::find(values, 1) != values.end()) gate_.pass();
    });
  }

  Gate gate_;
};

}  // namespace headrace::testing
