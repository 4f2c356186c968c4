// gRPC over HTTP/2, server side, sans I/O: bytes in, calls out; answers in, bytes out. No socket, no thread, no clock
// (time is a parameter). One object per connection, used by one thread at a time.
//
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, RFC 9113 through nghttp2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "memory/budget.h"
#include "memory/pool.h"
#include "wire/intake.h"
#include "wire/metadata.h"
#include "wire/output.h"

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

// A call that is open. The address is stable from on_call to on_cancelled or finish; then it is gone.
struct Call {
  std::int32_t stream_id = 0;
  std::string path;                   // "/inference.GRPCInferenceService/ModelInfer"
  Metadata metadata;                  // all but pseudo and protocol headers; "-bin" values decoded
  Nanos received = 0;                 // when its header block was whole
  Nanos deadline = kNever;            // from grpc-timeout
  bool deadline_handed_over = false;  // set by the handler: somebody else ends it on time
  bool awaits_message = false;        // set by the handler in on_call (a unary call): the first message is overdue
                                      // after message_stall even if none of it has come
  void* user = nullptr;               // the handler's own
  std::uint64_t user_id = 0;          // the handler's own
};

// Called from inside receive(), receive_eof(), on_timer(), take_output() and the destructor. May call send, finish,
// hold_slot and release_bytes for any open call.
class CallHandler {
 public:
  // The header block is whole and well-formed gRPC. Answer UNIMPLEMENTED here for an unknown path.
  virtual void on_call(Call& call) = 0;
  virtual void on_message(Call& call, Message message) = 0;
  // The client has half-closed; no message follows.
  virtual void on_end(Call& call) = 0;
  // The call has ended and not by finish: the peer reset it or the connection ended (kCancelled), or the codec has
  // answered it: kDeadlineExceeded (its deadline passed while not handed over, or its message did not come in time),
  // kResourceExhausted (a message was refused), kInternal (a malformed message). The call is gone when this returns;
  // only hold_slot may be called for it.
  virtual void on_cancelled(Call& call, Code reason) = 0;

 protected:
  ~CallHandler() = default;
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
  ~GrpcConnection();  // open calls end with on_cancelled(kCancelled)
  GrpcConnection(const GrpcConnection&) = delete;
  GrpcConnection& operator=(const GrpcConnection&) = delete;

  void receive(std::span<const std::byte> bytes, Nanos now);
  void receive_eof(Nanos now);  // the peer shut its sending side: as in every gRPC server, the connection is over

  // Answers. send() may be called several times (streams); finish() ends the call and invalidates it. A status that is
  // not OK before any send gives Trailers-Only. `trailers` are added to grpc-status and grpc-message (percent-encoded).
  // send() moves out of `message` (leaving it cleared, with memory that may be reused).
  void send(Call& call, OutMessage& message);
  void finish(Call& call, const Status& status, const Metadata& trailers = {});
  Call* find(std::int32_t stream_id);  // null when it is gone

  // A call's messages count against max_inflight_bytes until it ends. A stream gives back earlier what it has dealt
  // with.
  void release_bytes(Call& call, std::size_t bytes);
  // In on_cancelled, or right before finish: work for the call is still going on, so its place among the concurrent
  // streams, and its bytes, stay taken until release_slot is called with what this returns.
  std::size_t hold_slot(Call& call);
  void release_slot(std::size_t held);

  // No on_message and no on_end for this call until resume_messages: what still comes is held, charged to the
  // connection and to the process (no room for it ends the call), and the peer gets no more window for it. May be
  // called from within on_message.
  void pause_messages(Call& call);
  // Goes on with what is held; on_message and on_end come from within. False: bytes are left although nobody has paused
  // again, because a step is short; call it once more in a later step. The call may be gone when this returns, and then
  // the answer is true. Not to be called from within on_message.
  [[nodiscard]] bool resume_messages(Call& call, Nanos now);

  bool has_output() const;  // take_output is worth a call
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
  std::vector<std::int32_t> open_streams() const;      // of the open calls, for find(); the newest first
  std::size_t output_waiting() const;                  // response bytes accepted by send() and not yet taken
  std::size_t output_waiting(const Call& call) const;  // of them, this call's
  std::size_t inflight_bytes() const;                  // request bytes charged to this connection
  const GrpcCounters& counters() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// What a call gets that comes while `waiting` bytes of answers wait on its connection, over max_output_bytes.
Status output_refusal(std::size_t waiting, std::size_t max_output_bytes);

// What a door's callers get for a message that is too large or broken once inflated. The defaults are gRPC's.
struct InflateCodes {
  Code over = Code::kResourceExhausted;
  Code broken = Code::kInternal;
};

// Inflates a compressed message into one pooled block, never past `max_bytes` (the refusal names the limit). Runs on a
// worker, not on a loop.
Result<Message> inflate(const Message& message, std::size_t max_bytes, Pool& pool, InflightBudget& budget,
                        InflateCodes codes = {});

}  // namespace headrace::wire
