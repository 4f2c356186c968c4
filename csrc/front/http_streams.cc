// HttpConnection: its calls of many messages.
#include <algorithm>
#include <utility>

#include "front/http_connection.h"
#include "wire/grpc_web.h"

namespace headrace {

Status HttpConnection::infer_stream(std::uint32_t exchange, std::span<const std::byte> body, wire::Metadata headers) {
  const Loop::Step step(loop_);
  now_ = loop_.engine().clock().now();
  wire::BodyIntake whole;
  Status status = whole.begin(context_, body.size(), 0, wire::Encoding::kIdentity, body.size());
  if (status.ok()) status = whole.append(context_, body);
  if (!status.ok()) return status;
  WebStream& web = *streams_.emplace_back(std::make_unique<WebStream>(*this, exchange));
  web.body = whole.finish(web.charged);
  web.call.path = kModelStreamInferPath;
  web.call.metadata = std::move(headers);
  web.call.received = now_;
  if (!read_stream(web)) {
    web.read_on = true;
    ask_again();
  }
  loop_.flush();
  return {};
}

// Frames go to the stream until it wants no more, or until a step has done enough.
bool HttpConnection::read_stream(WebStream& web) {
  static constexpr std::size_t kSlice = std::size_t{64} << 10;
  std::span<const std::byte> left = web.body.bytes.subspan(web.read);
  while (!web.paused && !web.through) {
    if (left.empty()) {
      const bool partial = web.intake.partial();
      const std::size_t missing = web.intake.left();
      leave_body(web);
      if (partial) {
        web.stream.close(invalid_argument("the body ends in the middle of a gRPC-Web message: " +
                                          std::to_string(missing) + " bytes are missing, or its frame of 5 is short"));
      } else {
        web.stream.on_end();
      }
      return true;
    }
    wire::Message message;
    Status refusal = web.intake.partial() ? Status() : wire::check_web_flag(left.front());
    auto taken = wire::MessageIntake::Step::kRefused;
    if (refusal.ok()) {
      std::span<const std::byte> slice = left.first(std::min(left.size(), kSlice));
      const std::size_t size = slice.size();
      taken = web.intake.feed(context_, wire::Encoding::kIdentity, slice, message, refusal);
      web.read += size - slice.size();
      left = left.subspan(size - slice.size());
    }
    if (taken == wire::MessageIntake::Step::kRefused) {
      leave_body(web);
      web.stream.close(refusal);
      return true;
    }
    if (taken == wire::MessageIntake::Step::kMessage) web.stream.on_message(std::move(message));
    if (!web.paused && loop_.engine().clock().now() - now_ >= Loop::kStepTime) return false;
  }
  return true;
}

void HttpConnection::leave_body(WebStream& web) {
  web.through = true;
  web.intake.reset(context_);
  web.body = wire::Message();
  web.read = 0;
  context_.inflight_bytes -= std::exchange(web.charged, 0);
}

bool HttpConnection::resume_messages(wire::Call& call) {
  web(call).paused = false;
  return read_stream(web(call));
}

void HttpConnection::send(wire::Call& call, wire::OutMessage& message) {
  wire::frame_web_message(message);
  web(call).pieces.add(message);
}

void HttpConnection::end_stream(wire::Call& call, const Status& status) {
  if (!status.ok()) log(call, call.received, status.code(), nullptr, 0, 0);
  WebStream& ended = web(call);
  leave_body(ended);
  ended.status = status;
  ended.pieces.finish();
}

bool HttpConnection::take_pieces(std::uint32_t exchange, std::size_t most, std::vector<AnswerPiece>& pieces,
                                 Status& status) {
  const Loop::Step step(loop_);
  WebStream* web = find_stream(exchange);
  if (web == nullptr) return take_events(exchange, most, pieces);
  pieces = web->pieces.take(most);
  web->stream.go_on();
  loop_.flush();
  const bool end = web->pieces.take_end();
  if (end) status = web->status;
  end_step();
  return end;
}

unsigned HttpConnection::cancel_stream(std::uint32_t exchange, const Status& status) {
  const Loop::Step step(loop_);
  if (WebStream* web = find_stream(exchange); web != nullptr && !web->pieces.finished()) cancel_stream(*web, status);
  if (Exchange* found = find(exchange); found != nullptr && found->events) cancel_events(*found, status);
  return bits();
}

void HttpConnection::cancel_stream(WebStream& web, const Status& status) {
  log(web.call, web.call.received, status.code(), nullptr, 0, 0);
  web.stream.on_cancelled(status.code());
  leave_body(web);
  web.status = status;
  web.pieces.finish();
}

void HttpConnection::next_step() {
  for (std::size_t i = 0; i < streams_.size(); ++i) {
    WebStream& web = *streams_[i];
    now_ = loop_.engine().clock().now();
    if (std::exchange(web.read_on, false) && !read_stream(web)) {
      web.read_on = true;
      ask_again();
    }
    web.stream.next_step();
  }
}

void HttpConnection::end_step() {
  std::erase_if(streams_, [](const auto& web) { return web->over(); });
}

WebStream* HttpConnection::find_stream(std::uint32_t exchange) {
  const auto found =
      std::find_if(streams_.begin(), streams_.end(), [exchange](const auto& web) { return web->exchange == exchange; });
  return found == streams_.end() ? nullptr : found->get();
}

bool HttpConnection::pieces_have_news() const {
  if (in_pieces_ != 0 && std::any_of(exchanges_.begin(), exchanges_.end(), [](const Exchange& exchange) {
        return exchange.events && exchange.events->begun && exchange.events->pieces.has_news();
      })) {
    return true;
  }
  return std::any_of(streams_.begin(), streams_.end(), [](const auto& web) { return web->pieces.has_news(); });
}

std::size_t HttpConnection::output_waiting() const {
  std::size_t waiting = 0;
  for (const auto& web : streams_) waiting += web->pieces.waiting();
  if (in_pieces_ == 0) return waiting;
  for (const Exchange& exchange : exchanges_) waiting += exchange.events ? exchange.events->pieces.waiting() : 0;
  return waiting;
}

}  // namespace headrace
