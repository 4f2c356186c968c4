// One ModelStreamInfer call: many requests in flight, each answered with one message (or more, where a model answers
// more than once), errors included, so that a bad request does not end the stream. Owned by its endpoint, and there
// until the last of its tickets and jobs has come back.
//
// Answers go out as they are ready. Those of a model that preserves ordering, of a sequence, and of requests without an
// id (whose callers have nothing else to tell answers by) keep the order of their requests.
//
// Bounded: so many messages in flight, and so many bytes of answers waiting or to be expected; a stream at a bound is
// not read until it is at half of it, so it holds back its caller and nobody else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "engine/engine.h"
#include "front/answer_order.h"
#include "wire/grpc.h"

namespace headrace {

class StreamEndpoint;
class InferStream;
struct Asked;
struct CatalogHold;
struct DecodeJob;

// A message of a stream on its way.
struct StreamMessage final : AnswerOrder::Place {
  InferStream* stream = nullptr;
  Ticket* ticket = nullptr;       // that the engine has, or is about to get
  std::size_t request_bytes = 0;  // charged to the connection until the answer is made
  std::size_t index = 0;          // in the stream's list of those in flight
  std::uint64_t number = 0;       // in the order of arrival
};

class InferStream {
 public:
  static constexpr std::size_t kMaxInFlight = 256;
  static constexpr std::size_t kOutputShare = 4;  // of --max-output-bytes, a stream may have one part in so many

  InferStream(StreamEndpoint& endpoint, wire::Call& call) : endpoint_(endpoint), call_(&call) {}
  InferStream(const InferStream&) = delete;
  InferStream& operator=(const InferStream&) = delete;

  void on_message(wire::Message message);
  void on_end();                   // of the requests: the stream ends with the last answer
  void on_cancelled(Code reason);  // the call is gone, or about to be: its tickets are cancelled
  void take_part(Part& part);
  void finish_ticket(Ticket& ticket);
  void finish_job(DecodeJob& job, StreamMessage& message);
  // No message is read any more; what is in flight is answered, and then the stream ends with `status`.
  void close(const Status& status);
  // Answers have gone out, which may have made room.
  void go_on();
  // What the last step left unread.
  void next_step();

  // The call has ended and nothing of it is out: the endpoint lets go of it.
  bool over() const { return call_ == nullptr && in_flight_.empty(); }

 private:
  StreamMessage& enter(std::size_t request_bytes);
  void leave(StreamMessage& message);
  void decode(StreamMessage& place, wire::Message message);
  void start_job(StreamMessage& place, wire::Message message);
  void run(StreamMessage& place, Ticket* ticket, CatalogHold& hold, Model& model);
  void refuse(StreamMessage& place, const Status& status, Model* model, const Asked& asked);
  void answer(StreamMessage& place, bool final);  // with what the loop's `out_` holds
  void leave_dead(StreamMessage& place);
  void pause_if_full();
  void read_on();
  void finish_if_done();
  // Where there is room again for what it answers, its lane may go on.
  void give_credit(StreamMessage& place);
  std::size_t output_expected() const;
  bool at_bound(std::size_t part) const;

  StreamEndpoint& endpoint_;
  wire::Call* call_;  // null: it has ended
  AnswerOrder order_;
  std::vector<StreamMessage*> in_flight_;
  std::vector<std::unique_ptr<StreamMessage>> messages_;  // all that there are, used or free
  std::vector<StreamMessage*> free_;
  std::uint64_t next_number_ = 0;
  std::size_t largest_answer_ = 0;  // bytes; until the first is there, what the largest request has
  bool answered_ = false;
  bool credit_kept_ = false;  // of some message: for want of room
  bool paused_ = false;       // the codec brings no message
  bool job_out_ = false;      // a worker decodes one: what follows waits, so that the order stays
  bool next_step_ = false;    // there is more to read, in the loop's next step
  bool ended_ = false;        // no message follows
  bool closing_ = false;
  Status closing_status_;
  std::size_t held_ = 0;  // what hold_slot gave, for the last that comes back
  bool slot_held_ = false;
};

}  // namespace headrace
