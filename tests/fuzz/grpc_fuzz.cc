// A whole conversation from the input: bytes of the peer in pieces of any size, and between them what the owner of a
// connection does (answers, output, timers, shutdown). Whatever comes, each call ends once and all memory comes back.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "wire/grpc.h"

namespace headrace::wire {
namespace {

constexpr std::string_view kGreeting("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);
constexpr std::size_t kMaxMessage = std::size_t{200} << 10;

GrpcLimits limits() {
  GrpcLimits out;
  out.max_message_bytes = kMaxMessage;
  out.max_concurrent_streams = 20;
  out.max_inflight_bytes = std::size_t{600} << 10;
  out.max_output_bytes = std::size_t{100} << 10;
  return out;
}

// The owner's part of the conversation.
class Owner final : public CallHandler {
 public:
  explicit Owner(unsigned mode) : mode_(mode) {}
  ~Owner() { HEADRACE_CHECK(calls_.empty()); }
  GrpcConnection* connection = nullptr;

  void on_call(Call& call) override {
    HEADRACE_CHECK(calls_.emplace(call.stream_id, &call).second);
    call.awaits_message = (mode_ & 1) != 0;
    if ((mode_ & 2) != 0 && call.path.size() % 3 == 0) finish(call, Code::kUnimplemented);
  }
  void on_message(Call& call, Message message) override {
    HEADRACE_CHECK(calls_.at(call.stream_id) == &call && message.bytes.size() <= kMaxMessage);
    for (const std::byte byte : message.bytes) sum_ += std::to_integer<unsigned>(byte);
    if ((mode_ & 4) != 0) connection->release_bytes(call, message.bytes.size());
    if ((mode_ & 8) != 0) kept_.push_back(std::move(message));
    if ((mode_ & 16) != 0) finish(call, Code::kOk);
  }
  void on_end(Call& call) override {
    HEADRACE_CHECK(calls_.at(call.stream_id) == &call);
    if ((mode_ & 32) == 0) return;
    send(call, 100);
    finish(call, Code::kOk);
  }
  void on_cancelled(Call& call, Code) override {
    HEADRACE_CHECK(calls_.erase(call.stream_id) == 1);
    HEADRACE_CHECK(connection->find(call.stream_id) == nullptr);
    if ((mode_ & 64) != 0) held_.push_back(connection->hold_slot(call));
  }

  Call* oldest() { return calls_.empty() ? nullptr : calls_.begin()->second; }
  void send(Call& call, std::size_t size) {
    OutMessage out;
    out.own.assign(size, 'x');
    connection->send(call, out);
  }
  void finish(Call& call, Code code) {
    HEADRACE_CHECK(calls_.erase(call.stream_id) == 1);
    connection->finish(call, Status(code, code == Code::kOk ? "" : "no\n"), {{"a-bin", "\1"}});
  }
  void release() {
    kept_.clear();
    for (const std::size_t held : held_) connection->release_slot(held);
    held_.clear();
  }
  bool idle() const { return calls_.empty() && held_.empty(); }

 private:
  const unsigned mode_;
  std::map<std::int32_t, Call*> calls_;
  std::vector<Message> kept_;
  std::vector<std::size_t> held_;
  unsigned sum_ = 0;  // so that each byte is read
};

void converse(std::span<const std::byte> input, Pool& pool, InflightBudget& budget) {
  const auto next = [&input] {
    const auto byte = input.empty() ? 0U : std::to_integer<unsigned>(input.front());
    if (!input.empty()) input = input.subspan(1);
    return byte;
  };
  const unsigned mode = next();
  Owner owner(mode);
  Nanos now = kSecond;
  GrpcConnection connection(limits(), pool, budget, owner, now);
  owner.connection = &connection;
  if ((mode & 128) == 0) {
    connection.receive({reinterpret_cast<const std::byte*>(kGreeting.data()), kGreeting.size()}, now);
  }
  std::vector<OutputChunk> chunks;
  while (!input.empty()) {
    const unsigned step = next();
    Call* const call = owner.oldest();
    switch (step) {
      case 0xf0:
      case 0xf1:
        chunks.clear();
        connection.take_output(chunks, step == 0xf0 ? 100 : 1 << 20, now);
        break;
      case 0xf2:
        now += next() * kSecond;
        break;
      case 0xf3:
        if (connection.next_timeout() <= now) connection.on_timer(now);
        break;
      case 0xf4:
        if (call != nullptr) owner.send(*call, std::size_t{next()} << 10);
        break;
      case 0xf5:
        if (call != nullptr) owner.finish(*call, static_cast<Code>(next() % 17));
        break;
      case 0xf6:
        connection.output_blocked(next() % 2 == 0, now);
        break;
      case 0xf7:
        connection.shutdown_notice();
        break;
      case 0xf8:
        connection.shutdown_final();
        break;
      case 0xf9:
        owner.release();
        break;
      case 0xfa:
        if (call != nullptr) call->deadline_handed_over = true;
        break;
      case 0xfb:
        connection.receive_eof(now);
        break;
      default: {  // a piece of the peer's bytes
        std::size_t size = step + 1;
        if (step >= 0xe0) size = 256 * (step - 0xdf) + next();
        size = std::min(size, input.size());
        connection.receive(input.first(size), now);
        input = input.subspan(size);
      }
    }
    if (owner.idle()) HEADRACE_CHECK(connection.inflight_bytes() == 0);
  }
  owner.release();
}

}  // namespace
}  // namespace headrace::wire

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  headrace::PoolOptions options;
  options.cap = std::size_t{8} << 20;
  headrace::Pool pool(options);
  headrace::InflightBudget budget(std::size_t{8} << 20, headrace::wire::kMaxMessage);
  headrace::wire::converse({reinterpret_cast<const std::byte*>(data), size}, pool, budget);
  HEADRACE_CHECK(pool.stats().bytes_in_use == 0 && pool.stats().blocks_in_use == 0);
  HEADRACE_CHECK(budget.charged() == 0);
  return 0;
}
