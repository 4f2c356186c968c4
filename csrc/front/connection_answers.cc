// What calls are answered, and what the access log says of them. The calls themselves: connection.cc.
#include <limits>
#include <utility>

#include "front/connection.h"
#include "front/response_outputs.h"

namespace headrace {

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

wire::InferResponse Connection::response_of(const Ticket& ticket) {
  const auto& model = *static_cast<const Model*>(ticket.cookie_model);
  wire::InferResponse response;
  response.model_name = model.name;
  response.model_version = model.version_text;
  response.id = ticket.id;
  std::vector<wire::ResponseParameter>& parameters = loop_.response_parameters_;
  parameters.clear();
  if (ticket.timing && ticket.status.ok()) {
    parameters.push_back({"headrace_batch_size", ticket.batch_rows});
    parameters.push_back({"headrace_queue_ns", ticket.time.started - ticket.time.queued});
    parameters.push_back({"headrace_compute_ns", ticket.time.finished - ticket.time.started});
  }
  response.parameters = parameters;
  std::vector<wire::ResponseOutput>& outputs = loop_.response_outputs_;
  list_outputs(ticket, model, outputs);
  response.outputs = outputs;
  return response;
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

void Connection::encode_stream_answer(const Ticket& ticket, bool final) {
  wire::InferResponse response = response_of(ticket);
  if (!ticket.status.ok()) {
    response.outputs = {};
    encode_stream_error(ticket.status, response);
    return;
  }
  // Said of each answer, asked for or not: Triton's clients read it where it is.
  loop_.response_parameters_.push_back({"triton_final_response", final});
  response.parameters = loop_.response_parameters_;
  wire::encode_stream_infer_response("", response, loop_.out_);
  constexpr std::size_t kMostBytes = std::numeric_limits<std::uint32_t>::max();
  if (loop_.out_.size() <= kMostBytes) return;
  response.outputs = {};
  encode_stream_error(internal_error("the answer has " + std::to_string(loop_.out_.size()) +
                                     " bytes; a gRPC message has at most 4 GiB: ask for less at once"),
                      response);
}

void Connection::encode_stream_error(const Status& status, wire::InferResponse response) {
  loop_.response_parameters_.assign({{"triton_final_response", true}});
  response.parameters = loop_.response_parameters_;
  // Without a text it would not be an error.
  wire::encode_stream_infer_response(status.message().empty() ? status.to_string() : status.message(), response,
                                     loop_.out_);
}

void Connection::end_stream(wire::Call& call, const Status& status) {
  if (!status.ok()) log(call, call.received, status.code(), nullptr, 0, 0);
  codec_.finish(call, status);
}

void Connection::log(const wire::Call& call, Nanos received, Code code, const Ticket* ticket, std::size_t request_bytes,
                     std::size_t response_bytes, bool answered, const Asked* asked) {
  if (!loop_.options().access_log) return;
  AccessEntry entry;
  entry.peer = peer_;
  entry.path = call.path;
  entry.code = code;
  entry.request_bytes = request_bytes;
  entry.response_bytes = response_bytes;
  entry.total_ns = loop_.engine().clock().now() - received;
  if (asked != nullptr) {
    entry.model = asked->model;
    entry.version = asked->version;
    entry.request_id = asked->request_id;
  }
  if (ticket != nullptr) entry.set_ticket(*ticket, answered);
  HeaderForward& headers = loop_.grpc_headers_;
  if (headers.on() && (call.path == kModelInferPath || call.path == kModelStreamInferPath)) {
    // Those that are too many to be looked at are refused, and that is what the line says.
    if (headers.choose(call.metadata, loop_.step_number_).ok()) entry.set_headers(headers.chosen());
  }
  loop_.log_access(std::move(entry));
}

}  // namespace headrace
