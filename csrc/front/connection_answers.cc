// What calls are answered, and what the access log says of them. The calls themselves: connection.cc.
#include <utility>

#include "front/connection.h"

namespace headrace {

void Connection::take_part(Part& part) {
  // A unary call has none: models that answer in parts are refused to it.
  static_cast<StreamMessage*>(part.ticket->cookie_message)->stream->take_part(part);
}

void Connection::finish_ticket(Ticket& ticket) {
  if (ticket.cookie_message != nullptr) {
    static_cast<StreamMessage*>(ticket.cookie_message)->stream->finish_ticket(ticket);
    return;
  }
  wire::Call* call = codec_.find(static_cast<std::int32_t>(ticket.cookie_call));
  if (ticket.cookie_held >= 0) codec_.release_slot(static_cast<std::size_t>(ticket.cookie_held));
  if (call == nullptr || call->user != &ticket) return;
  if (ticket.status.ok()) {
    respond(*call, ticket);
    return;
  }
  log(*call, call->received, ticket.status.code(), &ticket, ticket.cookie_bytes, 0);
  codec_.finish(*call, ticket.status);
}

void Connection::respond(wire::Call& call, Ticket& ticket) {
  loop_.out_.clear();
  wire::encode_infer_response(response_of(ticket), loop_.out_);
  if (loop_.options().access_log) {
    log(call, call.received, Code::kOk, &ticket, ticket.cookie_bytes, loop_.out_.size());
  }
  codec_.send(call, loop_.out_);
  codec_.finish(call, Status());
}

void Connection::end_stream(wire::Call& call, const Status& status) {
  if (!status.ok()) log(call, call.received, status.code(), nullptr, 0, 0);
  codec_.finish(call, status);
}

}  // namespace headrace
