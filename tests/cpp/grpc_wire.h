// A GrpcConnection with a client in memory at its other end, and a handler that keeps what it was told.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "h2_client.h"
#include "wire/grpc.h"

namespace headrace::testing {

inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// Answers each message with itself and finishes at the end, unless `on_*` say otherwise.
class EchoHandler final : public wire::CallHandler {
 public:
  struct Seen {
    std::string path;
    wire::Metadata metadata;
    std::vector<std::string> messages;
    bool ended = false;
    bool cancelled = false;
    Code reason = Code::kOk;
    Nanos deadline = kNever;
    bool operator==(const Seen&) const = default;
  };
  wire::GrpcConnection* connection = nullptr;
  std::map<std::int32_t, Seen> calls;
  std::vector<std::string> order;  // one line an event
  bool answers = true;
  std::function<void(wire::Call&)> when_called;
  std::function<void(wire::Call&, wire::Message&)> when_message;
  std::function<void(wire::Call&)> when_ended;
  std::function<void(wire::Call&, Code)> when_cancelled;

  void on_call(wire::Call& call) override {
    Seen& seen = calls[call.stream_id];
    seen.path = call.path;
    seen.metadata = call.metadata;
    seen.deadline = call.deadline;
    if (when_called) when_called(call);
  }
  void on_message(wire::Call& call, wire::Message message) override {
    Seen& seen = calls[call.stream_id];
    seen.messages.push_back(text_of(message.bytes));
    if (when_message) return when_message(call, message);
    if (!answers) return;
    out_.own = seen.messages.back();
    connection->send(call, out_);
    EXPECT_EQ(out_.size(), 0u);
  }
  void on_end(wire::Call& call) override {
    calls[call.stream_id].ended = true;
    if (when_ended) return when_ended(call);
    if (answers) connection->finish(call, Status());
  }
  void on_cancelled(wire::Call& call, Code reason) override {
    Seen& seen = calls[call.stream_id];
    EXPECT_FALSE(seen.cancelled);
    seen.cancelled = true;
    seen.reason = reason;
    if (when_cancelled) when_cancelled(call, reason);
  }

 private:
  wire::OutMessage out_;
};

class GrpcWire {
 public:
  explicit GrpcWire(const wire::GrpcLimits& limits = {}, H2Client::Options options = {},
                    std::size_t budget_cap = std::size_t{1} << 30)
      : pool(PoolOptions{}), budget(budget_cap, limits.max_message_bytes), client(options) {
    connection = std::make_unique<wire::GrpcConnection>(limits, pool, budget, handler, now);
    handler.connection = connection.get();
  }
  ~GrpcWire() {
    connection.reset();
    const PoolStats stats = pool.stats();
    EXPECT_EQ(stats.bytes_in_use, 0u);
    EXPECT_EQ(stats.blocks_in_use, 0u);
    EXPECT_EQ(budget.charged(), 0u);
  }

  void receive(std::string_view bytes) { connection->receive(bytes_of(bytes), now); }
  // All that the connection has to say now, in one string.
  std::string output(std::size_t budget_bytes = std::size_t{1} << 20) {
    std::string out;
    for (;;) {
      std::vector<wire::OutputChunk> chunks;
      connection->take_output(chunks, budget_bytes, now);
      if (chunks.empty()) return out;
      for (const wire::OutputChunk& chunk : chunks) out += text_of(chunk.bytes);
    }
  }
  // Carries bytes both ways until both are silent.
  void exchange() {
    for (;;) {
      const std::string up = client.take();
      if (!up.empty()) receive(up);
      const std::string down = output();
      if (!down.empty()) {
        EXPECT_TRUE(client.feed(down));
      }
      if (up.empty() && down.empty()) return;
    }
  }
  const H2Client::Answer& answer(std::int32_t id) { return client.answer(id); }
  // The answer's gRPC status, and its message after it: "8 the message of ...".
  std::string status(std::int32_t id) {
    const H2Client::Answer& found = answer(id);
    const std::string message = found.grpc("grpc-message");
    return found.grpc("grpc-status") + (message.empty() ? "" : " " + message);
  }

  Nanos now = 1'000 * kSecond;
  Pool pool;
  InflightBudget budget;
  EchoHandler handler;
  H2Client client;
  std::unique_ptr<wire::GrpcConnection> connection;
};

}  // namespace headrace::testing
