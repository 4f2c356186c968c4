// gRPC over HTTP/2, server side, sans I/O: bytes in, calls out; answers in, bytes out. No socket, no thread, no clock
// (time is a parameter). One object per connection, used by one thread at a time.
//
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, RFC 9113 through nghttp2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "memory/budget.h"
#include "memory/pool.h"

namespace headrace::wire {

// Defaults are for tests of this folder; the server's stand in python/headrace/config.py and come in from there.
struct GrpcLimits {
  std::size_t max_message_bytes = std::size_t{64} << 20;  // each way of arriving: as sent, and after inflating
  std::size_t max_header_bytes = std::size_t{64} << 10;
  std::uint32_t max_concurrent_streams = 1024;
  std::size_t max_inflight_bytes = std::size_t{256} << 20;  // request bytes of this connection
  std::size_t max_output_bytes = std::size_t{64} << 20;     // response bytes waiting on this connection
  Nanos write_stall = 30 * kSecond;                         // output waits and none of it moves
  Nanos message_stall = 30 * kSecond;   // half a message (or half a preface, header block) and no byte
  Nanos message_whole = 300 * kSecond;  // from a message's first byte to its last
  Nanos idle = 600 * kSecond;           // no call open and no byte
};

enum class Encoding : std::uint8_t { kIdentity, kGzip, kDeflate };

// A request message, whole. Its bytes lie in one pooled block; where it is possible the first large field's payload is
// aligned to 64 bytes. Keep `block` (and `charge`) for as long as the bytes are used.
struct Message {
  Block block;
  std::span<const std::byte> bytes;
  InflightBudget::Charge charge;            // empty for messages that are too small to be worth one
  Encoding encoding = Encoding::kIdentity;  // not identity: `bytes` are compressed (the 5-byte prefix's flag was set)
};

// One response message: bytes of its own, with views of pooled blocks cut in at given offsets.
struct OutMessage {
  struct View {
    std::size_t offset;  // stands before own[offset]
    std::span<const std::byte> bytes;
    Block block;
  };
  std::string own;
  std::vector<View> views;  // ascending offset
  std::size_t size() const {
    std::size_t total = own.size();
    for (const View& view : views) total += view.bytes.size();
    return total;
  }
  void clear() {
    own.clear();
    views.clear();
  }
};

using Metadata = std::vector<std::pair<std::string, std::string>>;

// A call that is open. The address is stable from on_call to on_cancelled or finish; then it is gone.
struct Call {
  std::int32_t stream_id = 0;
  std::string path;                   // "/inference.GRPCInferenceService/ModelInfer"
  Metadata metadata;                  // all but pseudo and protocol headers; "-bin" values decoded
  Nanos received = 0;                 // when its header block was whole
  Nanos deadline = kNever;            // from grpc-timeout
  bool deadline_handed_over = false;  // set by the handler: somebody else ends it on time
  bool refused = false;               // answered already; what still comes is dropped
  void* user = nullptr;               // the handler's own
  std::uint64_t user_id = 0;          // the handler's own
};

// Called from inside receive() and on_timer(). May call send/finish for any open call.
class CallHandler {
 public:
  // The header block is whole and well-formed gRPC. Answer UNIMPLEMENTED here for an unknown path.
  virtual void on_call(Call& call) = 0;
  virtual void on_message(Call& call, Message message) = 0;
  // The client has half-closed; no message follows.
  virtual void on_end(Call& call) = 0;
  // The peer reset the call, the connection ended, or its deadline passed while it was not handed over (the codec has
  // answered DEADLINE_EXCEEDED then). Not called after finish. The call is gone when this returns.
  virtual void on_cancelled(Call& call, Code reason) = 0;

 protected:
  ~CallHandler() = default;
};

struct OutputChunk {
  std::span<const std::byte> bytes;
  Block block;  // set: bytes are a view of it. Not set: bytes lie in the connection's buffer until the next call of a
                // method
};

struct GrpcCounters {
  std::uint64_t bytes_received = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t calls = 0;
  std::uint64_t messages = 0;
  std::uint64_t resets_received = 0;
};

class GrpcConnection {
 public:
  // `pool` and `budget` outlive all messages handed out; `handler` outlives the connection.
  GrpcConnection(const GrpcLimits& limits, Pool& pool, InflightBudget& budget, CallHandler& handler, Nanos now);
  ~GrpcConnection();  // opens calls end with on_cancelled(kCancelled)
  GrpcConnection(const GrpcConnection&) = delete;
  GrpcConnection& operator=(const GrpcConnection&) = delete;

  void receive(std::span<const std::byte> bytes, Nanos now);
  void receive_eof(Nanos now);  // the peer shut its sending side

  // Answers. send() may be called several times (streams); finish() ends the call and invalidates it. A status that is
  // not OK before any send gives Trailers-Only. `trailers` are added to grpc-status and grpc-message (percent-encoded).
  // send() moves out of `message` (leaving it cleared, with memory that may be reused).
  void send(Call& call, OutMessage& message);
  void finish(Call& call, const Status& status, const Metadata& trailers = {});
  Call* find(std::int32_t stream_id);  // null when it is gone

  // take_output would give something.
  bool has_output() const;
  // What is to be written now, at most about `budget_bytes`; appends chunks. Empty when there is nothing (or nothing
  // that flow control lets go). The owner calls it until it appends nothing, or until its transport says stop.
  void take_output(std::vector<OutputChunk>& chunks, std::size_t budget_bytes, Nanos now);
  // The transport has accepted/moved bytes again (resume_writing): resets the write-stall timer.
  void output_progress(Nanos now);
  void output_blocked(bool blocked, Nanos now);  // pause_writing / resume_writing

  // The time on_timer is due (kNever: not); call it then, or later.
  Nanos next_timeout() const;
  void on_timer(Nanos now);

  // GOAWAY with the maximal id (calls that are on their way are still served), then, at the second call, with the final
  // one.
  void shutdown_notice();
  void shutdown_final();

  bool wants_close() const;  // nothing more will come of this connection: close it once its output is written
  std::size_t open_calls() const;
  std::vector<std::int32_t> open_streams() const;  // of the open calls, for find()
  std::size_t output_waiting() const;              // response bytes accepted by send() and not yet taken
  std::size_t inflight_bytes() const;              // request bytes charged to this connection
  const GrpcCounters& counters() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Inflates a compressed message into one pooled block, never past `max_bytes` (RESOURCE_EXHAUSTED names the limit);
// broken data is INVALID_ARGUMENT... as gRPC says: INTERNAL. Runs on a worker, not on a loop.
Result<Message> inflate(const Message& message, std::size_t max_bytes, Pool& pool, InflightBudget& budget);

}  // namespace headrace::wire
