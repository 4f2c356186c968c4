// One HTTP/1.1 connection, as far as inference goes: bodies in, answers out. Its owner parses HTTP, keeps the order of
// answers and speaks for everything else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "front/endpoint.h"
#include "front/event_answer.h"
#include "front/http_answer.h"
#include "front/http_decoder.h"
#include "front/http_job.h"
#include "front/loop.h"
#include "front/stream_endpoint.h"
#include "front/web_stream.h"
#include "wire/body_intake.h"
#include "wire/http_head.h"

namespace headrace {

// An inference, without its body.
struct HttpInfer {
  std::uint32_t exchange = 0;  // the owner's number for it; unique among those that are open
  std::string model;
  std::string version;
  std::size_t json_bytes = HttpDecoder::kAllJson;      // Inference-Header-Content-Length
  Nanos timeout = kNever;                              // from now
  wire::Encoding accepts = wire::Encoding::kIdentity;  // how the answer may be compressed
  std::string headers;                                 // for the answer, "Name: value\r\n" each
  HttpForm form = HttpForm::kInfer;
  wire::Metadata request_headers;  // infer() keeps those that become parameters
};

class HttpConnection final : public StreamEndpoint {
 public:
  HttpConnection(Loop& loop, std::uint64_t id, std::uint64_t token, std::string peer);
  ~HttpConnection() override;

  // What became of bytes that were read. `left`: of them, at the end, what is not an inference of the plain kind; the
  // owner's parser judges it, and its answers come in between by number.
  struct Received {
    std::size_t started;  // exchanges, with the numbers that were given
    std::size_t left;
  };
  // Bytes from where no request is open, or from where receive() left one. Takes plain inferences only, at most `room`
  // of them, numbered from `next`. They are submitted by the next Loop::flush().
  Received receive(std::span<const std::byte> bytes, std::uint32_t next, std::size_t room);
  // When the inference began whose body receive() has not seen the end of; kNever: there is none.
  Nanos receiving_since() const { return left_ == 0 ? kNever : receiving_since_; }

  // The body of the request that is being read: at most one. A refusal drops it.
  Status begin_body(std::size_t size, std::size_t align_at, wire::Encoding encoding, std::size_t here);
  Status append_body(std::span<const std::byte> bytes);
  void drop_body();
  // The body, for the owner: it is copied, and counts no longer.
  std::string take_body();

  // The body is whole: infer with it. Returns bits(); the answer is among take_answers() now or later.
  unsigned infer(HttpInfer asked);
  // The same with a body that is whole at first sight; the one that is being read is left alone.
  unsigned infer(HttpInfer asked, std::span<const std::byte> body);
  std::vector<HttpAnswer> take_answers();
  // The same into an empty vector, whose memory the next ones will use.
  void take_answers(std::vector<HttpAnswer>& answers) { answers.swap(answers_); }

  // A ModelStreamInfer whose requests are the frames of `body`, numbered as exchanges are; its headers may become
  // parameters of each. A refusal: there is no room for the body. Answers come from take_pieces(), by number.
  Status infer_stream(std::uint32_t exchange, std::span<const std::byte> body, wire::Metadata headers);
  // Frames of answers, about `most` bytes of them; true when that was all, with how it ended. bits() say when there is
  // something. To be called only when they can be sent: what waits is held against the stream.
  // The same of an inference that is answered in pieces: one each.
  bool take_pieces(std::uint32_t exchange, std::size_t most, std::vector<AnswerPiece>& pieces, Status& status);
  // Cancels what is open of an answer in pieces; it ends with `status`, behind the answers that are there.
  unsigned cancel_stream(std::uint32_t exchange, const Status& status);

  // Answers every open exchange with this status.
  unsigned abort_calls(const Status& status);
  unsigned bits() const override { return answers_.empty() && !pieces_have_news() ? 0U : unsigned{kHasOutput}; }
  std::size_t output_waiting() const override;  // in pieces
  std::size_t open_calls() const { return exchanges_.size() + streams_.size(); }

 private:
  struct Exchange {
    HttpInfer asked;
    std::vector<wire::OutputForm> forms;
    wire::PredictForm predict_form = wire::PredictForm::kRows;
    Ticket* ticket = nullptr;  // that is out
    Nanos received = 0;
    std::size_t request_bytes = 0;
    std::size_t charged = 0;
    std::unique_ptr<EventAnswer> events;  // where the model answers any number of times
  };

  void finish_ticket(Ticket& ticket) override;
  void take_part(Part& part) override;
  void finish_job(LoopJob& finished) override;
  Nanos next_timeout() const override { return kNever; }
  void on_timer(Nanos /*now*/) override {}
  void next_step() override;
  void end_step() override;

  // Streams: http_streams.cc.
  static WebStream& web(const wire::Call& call) { return *static_cast<WebStream*>(call.user); }
  WebStream* find_stream(std::uint32_t exchange);
  bool pieces_have_news() const;
  bool read_stream(WebStream& web);  // false: it has more than a step should read
  void leave_body(WebStream& web);
  void cancel_stream(WebStream& web, const Status& status);
  void send(wire::Call& call, wire::OutMessage& message) override;
  void release_bytes(wire::Call& /*call*/, std::size_t bytes) override { context_.inflight_bytes -= bytes; }
  void pause_messages(wire::Call& call) override { web(call).paused = true; }
  bool resume_messages(wire::Call& call) override;
  std::size_t output_waiting(const wire::Call& call) const override { return web(call).pieces.waiting(); }
  std::size_t hold_slot(wire::Call& /*call*/) override { return 0; }  // a connection has no more streams than requests
  void release_slot(std::size_t /*held*/) override {}
  void end_stream(wire::Call& call, const Status& status) override;

  // Models that answer any number of times: http_events.cc. Those that end it leave no `exchange` where nothing had
  // gone out.
  Status expect_parts(Exchange& exchange, const Ticket& ticket, Model& model);
  void take_part(Exchange& exchange, Part& part);
  void finish_parts(Exchange& exchange, Ticket& ticket);
  void write_events(Exchange& exchange);
  void finish_event(Exchange& exchange, HttpEncodeJob& job);
  void add_event(Exchange& exchange, HttpAnswer& event);
  void end_events(Exchange& exchange);
  void cancel_events(Exchange& exchange, const Status& status);
  void give_credit(Exchange& exchange);
  bool take_events(std::uint32_t number, std::size_t most, std::vector<AnswerPiece>& pieces);

  Exchange* find(std::uint32_t exchange);
  // Leaves the request's headers that become parameters.
  Status choose_headers(HttpInfer& asked);
  Status choose_headers(HttpInfer& asked, std::string_view head);
  void start(HttpInfer asked, wire::Message body, std::size_t charged);
  void start_whole(HttpInfer asked, std::span<const std::byte> body);
  void refuse_body(HttpInfer asked, std::size_t bytes, const Status& status);
  std::size_t receive_body(std::span<const std::byte> bytes);
  // As wire::read_plain_infer; a head that is the last one again is compared instead of read.
  bool read_head(std::string_view bytes, wire::PlainInfer& head);
  void start_decoding(Exchange& exchange, wire::Message body);
  void run_ticket(Exchange& exchange, Ticket* ticket, CatalogHold& hold, Model& model);
  void respond(Exchange& exchange, Ticket& ticket);
  void refuse(Exchange& exchange, const Status& status, int http, Model* model, std::string_view request_id);
  void end_ticket(Exchange& exchange, const Status& status);
  // The exchange is over.
  void answer(Exchange& exchange, HttpAnswer answer);
  void forget(Exchange& exchange);
  // What the access log says of it so far; with a ticket that is back (`answered`) or still out.
  AccessEntry entry(const Exchange& exchange, Code code, const Ticket* ticket, bool answered) const;
  using StreamEndpoint::log;
  void log(AccessEntry&& entry);

  wire::IntakeContext context_;
  wire::BodyIntake intake_;
  std::vector<Exchange> exchanges_;
  std::vector<HttpAnswer> answers_;
  std::size_t in_pieces_ = 0;  // exchanges whose answers have begun so
  std::vector<std::unique_ptr<WebStream>> streams_;
  static constexpr std::size_t kMostKnownBytes = 1024;
  std::string known_;            // the last plain head; "": none, or a long one
  wire::PlainInfer known_head_;  // what it says, in views of it
  // The inference whose body receive() is in.
  HttpInfer receiving_;
  std::size_t left_ = 0;   // of its body
  bool dropping_ = false;  // it was refused already
  Nanos receiving_since_ = 0;
};

}  // namespace headrace
