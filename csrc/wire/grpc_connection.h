// The inside of GrpcConnection, shared by grpc.cc (requests, time) and grpc_answers.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "wire/call_timers.h"
#include "wire/grpc.h"
#include "wire/http2.h"
#include "wire/request_head.h"

namespace headrace::wire {

// One stream and its call, used again and again.
struct CallStream final : Http2Stream, Call {
  RequestHead head;
  MessageIntake intake;
  bool open = false;       // the handler knows the call, and may use it
  bool responded = false;  // the first header block of the answer is on its way
  bool any_message = false;
  bool paused = false;    // the handler wants no message now
  bool end_held = false;  // END_STREAM came meanwhile
  std::string held;       // the body's bytes that came meanwhile; those before held_at are read
  std::size_t held_at = 0;
  std::size_t held_charged = 0;  // to the connection
  InflightBudget::Charge held_charge;
  std::size_t charged = 0;      // whole messages, to the connection
  TimedNode<CallStream> stall;  // half a message
  TimedNode<CallStream> whole;
  // What on_output_sent sends.
  Status status;
  Metadata trailers;
};

class GrpcConnection::Impl final : public Http2Events {
 public:
  Impl(const GrpcLimits& limits, Pool& pool, InflightBudget& budget, CallHandler& handler, Nanos now)
      : limits_(limits),
        handler_(handler),
        context_{pool, budget, limits.max_message_bytes, limits.max_inflight_bytes},
        session_({limits.max_header_bytes, limits.max_concurrent_streams}, *this, now),
        now_(now),
        last_byte_(now) {}
  ~Impl() { end_all(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void receive(std::span<const std::byte> bytes, Nanos now);
  void receive_eof(Nanos now);
  void send(CallStream& stream, OutMessage& message);
  void finish(CallStream& stream, const Status& status, const Metadata& trailers);
  Call* find(std::int32_t id);
  void release_bytes(CallStream& stream, std::size_t bytes);
  std::size_t hold_slot(CallStream& stream);
  void release_slot(std::size_t held);
  void pause_messages(CallStream& stream);
  bool resume_messages(CallStream& stream, Nanos now);
  void take_output(std::vector<OutputChunk>& chunks, std::size_t budget_bytes, Nanos now);
  void output_progress(Nanos now) { last_moved_ = now_ = now; }
  void output_blocked(bool blocked, Nanos now);
  Nanos next_timeout() const;
  void on_timer(Nanos now);

  // Http2Events
  Http2Stream* on_open(std::int32_t id) override;
  void on_header(Http2Stream& stream, std::string_view name, std::string_view value) override;
  void on_headers(Http2Stream& stream) override;
  void on_data(Http2Stream& stream, std::span<const std::byte> data) override;
  void on_end(Http2Stream& stream) override;
  void on_output_sent(Http2Stream& stream) override;
  void on_close(Http2Stream& stream, bool reset) override;

  Http2Session& session() { return session_; }
  bool wants_close() const { return dead_ || session_.wants_close(); }
  bool has_output() const { return !dead_ && session_.wants_write(); }
  std::size_t open_calls() const { return open_calls_; }
  std::vector<std::int32_t> open_streams() const;
  std::size_t output_waiting() const { return session_.output_waiting(); }
  std::size_t inflight_bytes() const { return context_.inflight_bytes; }
  const GrpcCounters& counters() {
    counters_.resets_received = session_.resets_received();
    return counters_;
  }

 private:
  // Hands out the messages in `data` until it is used up, the call has ended or the handler has paused it.
  void read_messages(CallStream& stream, std::span<const std::byte>& data);
  void hold(CallStream& stream, std::span<const std::byte> data);
  void release_held(CallStream& stream);
  void end_of_request(CallStream& stream);
  void close_call(CallStream& stream);
  void tell_cancelled(CallStream& stream, Code reason);
  void end_call(CallStream& stream, const Status& status);
  void end_all();
  void answer(CallStream& stream, const Status& status, const Metadata& trailers);
  void refuse(CallStream& stream, const RequestHead::Refusal& refusal);
  void recycle(CallStream& stream);
  void note_message_time(CallStream& stream);
  void enter_fresh();
  void sweep_deadlines();
  Nanos output_due() const;
  Nanos connection_due() const;

  const GrpcLimits limits_;
  CallHandler& handler_;
  IntakeContext context_;
  Http2Session session_;
  GrpcCounters counters_;

  std::vector<std::unique_ptr<CallStream>> streams_;  // all that there are, used or free
  std::vector<CallStream*> free_;
  std::size_t open_calls_ = 0;
  std::size_t held_ = 0;  // slots of calls that are gone

  struct Fresh {
    CallStream* stream;
    std::int32_t id;
  };
  std::vector<Fresh> fresh_;  // calls opened by this receive
  TimedList<CallStream> stalls_;
  TimedList<CallStream> wholes_;
  DeadlineHeap<CallStream> deadlines_;

  std::vector<HeaderField> fields_;  // of the answer being made
  Nanos now_;                        // of the last call of a method that knows it
  Nanos last_byte_;
  Nanos last_moved_ = 0;      // output
  bool blocked_ = false;      // the transport takes nothing
  bool wait_begins_ = false;  // output began to wait after last_moved_; since when, take_output will know
  bool dead_ = false;         // nothing is read or written any more
};

}  // namespace headrace::wire
