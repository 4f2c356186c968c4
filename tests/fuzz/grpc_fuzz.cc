// A whole conversation from the input: bytes of the peer in pieces of any size, frames made from a few bytes of it, and
// between them what the owner of a connection does (answers, pauses, output, timers, shutdown). Whatever comes, each
// call ends once, a call that is paused hears nothing, and all memory comes back.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "h2_frames.h"
#include "wire/grpc.h"

namespace headrace::wire {
namespace {

constexpr std::string_view kGreeting("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);
constexpr std::size_t kMaxMessage = std::size_t{200} << 10;

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

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
  Owner(unsigned mode, Pool& pool, InflightBudget& budget) : mode_(mode), pool_(pool), budget_(budget) {}
  ~Owner() { HEADRACE_CHECK(calls_.empty()); }
  GrpcConnection* connection = nullptr;
  unsigned stream_mode = 0;

  void on_call(Call& call) override {
    HEADRACE_CHECK(calls_.emplace(call.stream_id, &call).second);
    call.awaits_message = (mode_ & 1) != 0;
    if ((mode_ & 2) != 0 && call.path.size() % 3 == 0) finish(call, Code::kUnimplemented);
  }
  void on_message(Call& call, Message message) override {
    HEADRACE_CHECK(calls_.at(call.stream_id) == &call && message.bytes.size() <= kMaxMessage);
    HEADRACE_CHECK(!paused_.contains(call.stream_id));
    read(message);
    if (message.encoding != Encoding::kIdentity && (stream_mode & 1) != 0) {
      Result<Message> whole = inflate(message, kMaxMessage, pool_, budget_);
      if (whole.ok()) {
        HEADRACE_CHECK(whole->bytes.size() <= kMaxMessage);
        read(*whole);
        if ((stream_mode & 2) != 0) kept_.push_back(std::move(*whole));
      }
    }
    if ((mode_ & 4) != 0) connection->release_bytes(call, message.bytes.size());
    if ((mode_ & 8) != 0) kept_.push_back(std::move(message));
    if ((stream_mode & 4) != 0) send(call, 10);
    if ((stream_mode & 8) != 0) pause(call);
    if ((mode_ & 16) != 0) finish(call, Code::kOk);
  }
  void on_end(Call& call) override {
    HEADRACE_CHECK(calls_.at(call.stream_id) == &call && !paused_.contains(call.stream_id));
    if ((mode_ & 32) == 0) return;
    send(call, 100);
    finish(call, Code::kOk);
  }
  void on_cancelled(Call& call, Code) override {
    HEADRACE_CHECK(calls_.erase(call.stream_id) == 1);
    paused_.erase(call.stream_id);
    HEADRACE_CHECK(connection->find(call.stream_id) == nullptr);
    if ((mode_ & 64) != 0) held_.push_back(connection->hold_slot(call));
  }

  Call* oldest() { return calls_.empty() ? nullptr : calls_.begin()->second; }
  Call* any(unsigned which) {
    return calls_.empty() ? nullptr : std::next(calls_.begin(), static_cast<int>(which % calls_.size()))->second;
  }
  void pause(Call& call) {
    connection->pause_messages(call);
    paused_.insert(call.stream_id);
  }
  // In steps, as an owner does; a step that leaves bytes is followed by another.
  void resume(Call& call, Nanos now) {
    const std::int32_t id = call.stream_id;
    for (int steps = 0; steps < 8; ++steps) {
      paused_.erase(id);
      Call* const open = connection->find(id);
      if (open == nullptr || connection->resume_messages(*open, now)) return;
    }
  }
  void send(Call& call, std::size_t size) {
    OutMessage out;
    out.own.assign(size, 'x');
    connection->send(call, out);
  }
  void finish(Call& call, Code code) {
    HEADRACE_CHECK(calls_.erase(call.stream_id) == 1);
    paused_.erase(call.stream_id);
    if ((stream_mode & 16) != 0) held_.push_back(connection->hold_slot(call));
    connection->finish(call, Status(code, code == Code::kOk ? "" : "no\n"), {{"a-bin", "\1"}});
  }
  void release() {
    kept_.clear();
    for (const std::size_t held : held_) connection->release_slot(held);
    held_.clear();
  }
  std::size_t open_calls() const { return calls_.size(); }
  bool idle() const { return calls_.empty() && held_.empty(); }

 private:
  void read(const Message& message) {
    for (const std::byte byte : message.bytes) sum_ += std::to_integer<unsigned>(byte);
  }

  const unsigned mode_;
  Pool& pool_;
  InflightBudget& budget_;
  std::set<std::int32_t> paused_;
  std::map<std::int32_t, Call*> calls_;
  std::vector<Message> kept_;
  std::vector<std::size_t> held_;
  unsigned sum_ = 0;  // so that each byte is read
};

void converse(FuzzInput input, Pool& pool, InflightBudget& budget) {
  const unsigned mode = input.next();
  Owner owner(mode, pool, budget);
  H2Frames frames;
  Nanos now = kSecond;
  GrpcConnection connection(limits(), pool, budget, owner, now);
  owner.connection = &connection;
  if ((mode & 128) == 0) {
    connection.receive(bytes_of(kGreeting), now);
  }
  std::string made;  // frames that are not sent yet
  std::size_t made_bytes = 0;
  std::vector<OutputChunk> chunks;
  while (!input.empty()) {
    const unsigned step = input.next();
    Call* const call = owner.oldest();
    switch (step) {
      case 0xf0:
      case 0xf1:
        chunks.clear();
        connection.take_output(chunks, step == 0xf0 ? 100 : 1 << 20, now);
        break;
      case 0xf2:
        now += input.next() * kSecond;
        break;
      case 0xf3:
        if (connection.next_timeout() <= now) connection.on_timer(now);
        break;
      case 0xf4:
        if (call != nullptr) owner.send(*call, std::size_t{input.next()} << 10);
        break;
      case 0xf5:
        if (call != nullptr) owner.finish(*call, static_cast<Code>(input.next() % 17));
        break;
      case 0xf6:
        connection.output_blocked(input.next() % 2 == 0, now);
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
      case 0xfc:
        owner.stream_mode = input.next();
        break;
      case 0xfd:
        if (Call* const one = owner.any(input.next())) owner.resume(*one, now);
        break;
      case 0xfe:
        if (Call* const one = owner.any(input.next())) owner.pause(*one);
        break;
      case 0xff: {  // the frames that wait, in two pieces
        const std::size_t first = std::min<std::size_t>(made.size(), input.next());
        connection.receive(bytes_of(made).first(first), now);
        connection.receive(bytes_of(made).subspan(first), now);
        made.clear();
        break;
      }
      case 0xe8:
      case 0xe9:
      case 0xea:
      case 0xeb:
      case 0xec:
      case 0xed:
      case 0xee:
      case 0xef:
        // Enough for what a limit is about, and an input is not a long one.
        if (made_bytes < std::size_t{4} << 20) made += frames.make(static_cast<H2Frames::Kind>(step - 0xe8), input);
        made_bytes += made.size();
        break;
      default: {  // a piece of the peer's bytes
        std::size_t size = step + 1;
        if (step >= 0xe0) size = 256 * (step - 0xdf) + input.next();
        connection.receive(input.take(size), now);
      }
    }
    HEADRACE_CHECK(connection.open_calls() == owner.open_calls());
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
  headrace::wire::converse(headrace::wire::FuzzInput({reinterpret_cast<const std::byte*>(data), size}), pool, budget);
  HEADRACE_CHECK(pool.stats().bytes_in_use == 0 && pool.stats().blocks_in_use == 0);
  HEADRACE_CHECK(budget.charged() == 0);
  return 0;
}
