// One gRPC connection: the wire codec, the catalog and the engine meet here and nowhere else. ModelInfer and
// ModelStreamInfer (InferStream) are answered natively; calls of the owner's methods come out of take_calls and go back
// in through reply and fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "front/infer_stream.h"
#include "front/loop.h"
#include "front/owner_streams.h"
#include "front/stream_endpoint.h"
#include "wire/grpc.h"
#include "wire/infer_codec.h"

namespace headrace {

// Something for the owner to answer: a unary call with its message; or of a call of many messages its start, one of
// them, or that the client has sent its last.
enum class OwnerKind : std::uint8_t { kCall, kOpen, kMessage, kEnd };
struct OwnerCall {
  std::int32_t id = 0;
  OwnerKind kind = OwnerKind::kCall;
  std::string path;
  wire::Metadata metadata;
  wire::Message message;
};

class Connection final : public StreamEndpoint, private wire::CallHandler {
 public:
  Connection(Loop& loop, std::uint64_t id, std::uint64_t token, std::string peer);
  ~Connection() override;

  // All of these return ReadyBits.
  unsigned receive(std::span<const std::byte> bytes);
  unsigned receive_eof();
  unsigned resume_writing();
  unsigned reply(std::int32_t call_id, std::span<const std::byte> message);
  unsigned fail(std::int32_t call_id, const Status& status, const wire::Metadata& trailers);
  // Of a call of many messages: one more answer, its end with OK, and that the owner is done with the oldest message.
  unsigned send_part(std::int32_t call_id, std::span<const std::byte> message);
  unsigned finish(std::int32_t call_id);
  unsigned release_message(std::int32_t call_id);
  unsigned shutdown_notice();
  unsigned shutdown_final();
  unsigned abort_calls(const Status& status);
  unsigned bits() const override;

  void pause_writing();
  // Chunks to be written now; views stay valid as long as their block, other bytes until the next call of any method.
  void take_output(std::vector<wire::OutputChunk>& chunks);
  // In order, as many as a step is good for; bits() say so when there are more.
  std::vector<OwnerCall> take_calls();
  std::vector<std::int32_t> take_cancelled();

  std::size_t open_calls() const { return codec_.open_calls(); }
  std::size_t output_waiting() const override { return codec_.output_waiting(); }

 private:
  enum class Stage : std::uint64_t {
    kInferWaiting,
    kInferJob,
    kInferRunning,
    kOwnerWaiting,
    kOwnerJob,
    kOwnerRunning,
    kStream,
    kOwnerStream
  };
  static constexpr std::size_t kOutputStep = std::size_t{1} << 20;
  // What was read is looked at in slices, until a step has done enough: header fields, small calls and resets cost far
  // more by the byte than the bodies that reads are made large for.
  static constexpr std::size_t kSlice = std::size_t{16} << 10;
  static constexpr std::size_t kOwnerCalls = 128;  // that the owner gets in a step

  void on_call(wire::Call& call) override;
  void on_message(wire::Call& call, wire::Message message) override;
  void on_end(wire::Call& call) override;
  void on_cancelled(wire::Call& call, Code reason) override;

  static Stage stage(const wire::Call& call) { return static_cast<Stage>(call.user_id); }
  static void set_stage(wire::Call& call, Stage stage) { call.user_id = static_cast<std::uint64_t>(stage); }
  static InferStream& stream(const wire::Call& call) { return *static_cast<InferStream*>(call.user); }
  void infer(wire::Call& call, wire::Message message);
  void start_job(wire::Call& call, wire::Message message, bool infer);
  void run_ticket(wire::Call& call, Ticket* ticket, CatalogHold& hold, Model& model, std::size_t request_bytes);
  void refuse(wire::Call& call, const Status& status, Model* model, const Asked& asked = {});
  void finish_ticket(Ticket& ticket) override;
  void take_part(Part& part) override;
  void finish_job(LoopJob& finished) override;
  Nanos next_timeout() const override { return codec_.next_timeout(); }
  void on_timer(Nanos now) override { codec_.on_timer(now); }
  void next_step() override;
  void end_step() override;
  std::size_t read(std::span<const std::byte> bytes);
  void keep_unread(std::span<const std::byte> bytes);
  void read_on();
  // The end of a step of this connection alone: what it has staged is submitted, its timer set. Returns bits().
  unsigned settle();
  void hand_to_owner(wire::Call& call, wire::Message message);
  void pump_stream(wire::Call& call);
  wire::Call* owner_call(std::int32_t call_id);
  void respond(wire::Call& call, Ticket& ticket);
  // The call's ticket or task goes its way; what comes back of it finds nobody.
  void abandon(wire::Call& call);
  // Of a stream's call: the codec's.
  void send(wire::Call& call, wire::OutMessage& message) override { codec_.send(call, message); }
  void release_bytes(wire::Call& call, std::size_t bytes) override { codec_.release_bytes(call, bytes); }
  void pause_messages(wire::Call& call) override { codec_.pause_messages(call); }
  bool resume_messages(wire::Call& call) override { return codec_.resume_messages(call, now_); }
  std::size_t output_waiting(const wire::Call& call) const override { return codec_.output_waiting(call); }
  std::size_t hold_slot(wire::Call& call) override { return codec_.hold_slot(call); }
  void release_slot(std::size_t held) override { codec_.release_slot(held); }
  void end_stream(wire::Call& call, const Status& status) override;

  bool paused_ = false;
  bool ended_ = false;             // the peer, behind what is unread
  std::vector<std::byte> unread_;  // of the last read, for the steps that follow
  std::size_t read_ = 0;           // of it
  bool read_on_ = false;           // it is through, and the next read has not come
  std::vector<std::unique_ptr<InferStream>> streams_;
  std::vector<OwnerCall> calls_;
  std::vector<std::int32_t> cancelled_;
  OwnerStreams owner_streams_;
  wire::GrpcConnection codec_;  // last: its end calls on_cancelled
};

}  // namespace headrace
