#include "front/stream_endpoint.h"

#include <limits>
#include <utility>

#include "front/decode_job.h"
#include "front/response_outputs.h"

namespace headrace {

Status StreamEndpoint::decode(const wire::Call& call, const wire::Message& message) {
  Status status = loop_.decoder_.decode(message, loop_.options().infer);
  HeaderForward& headers = loop_.grpc_headers_;
  if (!headers.on() || !status.ok()) return status;
  status = headers.choose(call.metadata, loop_.step_number_);
  return status.ok() ? loop_.decoder_.add_parameters(headers.chosen(), loop_.options().infer) : status;
}

std::unique_ptr<DecodeJob> StreamEndpoint::make_job(const wire::Call& call, wire::Message message, bool is_infer) {
  auto job = std::make_unique<DecodeJob>();
  job->endpoint_id = id_;
  job->call_id = call.stream_id;
  job->request_bytes = message.bytes.size();
  job->message = std::move(message);
  job->infer = is_infer;
  if (is_infer && loop_.grpc_headers_.on()) {
    job->status = loop_.grpc_headers_.choose(call.metadata, loop_.step_number_);
    job->headers = loop_.grpc_headers_.chosen();
  }
  job->engine = &loop_.engine();
  job->options = &loop_.options();
  job->hold = &loop_.catalog();
  return job;
}

bool StreamEndpoint::submit_job(std::unique_ptr<DecodeJob>& job) {
  if (!loop_.submit_job(job.get())) return false;
  ++job->hold->tickets;
  job.release();  // the ring brings it back
  return true;
}

Status StreamEndpoint::too_many_jobs() {
  return resource_exhausted("too many large requests wait to be decoded (limit 1024); try again later");
}

Status StreamEndpoint::decoupled_refusal(const Model& model) {
  return {Code::kUnimplemented, "model '" + model.name +
                                    "' answers a request any number of times (model_transaction_policy.decoupled), and "
                                    "this call has one answer: use ModelStreamInfer, or generate_stream over HTTP"};
}

Status StreamEndpoint::parts_refusal(const Model& model) {
  return {Code::kUnimplemented, "model '" + model.name +
                                    "' answers a request any number of times: its outputs are neither put into shared "
                                    "memory nor classified; ask for them as they are"};
}

wire::InferResponse StreamEndpoint::response_of(const Ticket& ticket) {
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

void StreamEndpoint::encode_stream_answer(const Ticket& ticket, bool final) {
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

// Of the ticket only what stays as it was submitted: a lane may be writing the rest.
void StreamEndpoint::encode_stream_part(const Ticket& ticket, const Part& part) {
  const auto& model = *static_cast<const Model*>(ticket.cookie_model);
  wire::InferResponse response;
  response.model_name = model.name;
  response.model_version = model.version_text;
  response.id = ticket.id;
  list_outputs(part.outputs, {}, model, loop_.response_outputs_);
  response.outputs = loop_.response_outputs_;
  loop_.response_parameters_.assign({{"triton_final_response", false}});
  response.parameters = loop_.response_parameters_;
  wire::encode_stream_infer_response("", response, loop_.out_);
}

void StreamEndpoint::encode_stream_error(const Status& status, wire::InferResponse response) {
  loop_.response_parameters_.assign({{"triton_final_response", true}});
  response.parameters = loop_.response_parameters_;
  // Without a text it would not be an error.
  wire::encode_stream_infer_response(status.message().empty() ? status.to_string() : status.message(), response,
                                     loop_.out_);
}

void StreamEndpoint::log(const wire::Call& call, Nanos received, Code code, const Ticket* ticket,
                         std::size_t request_bytes, std::size_t response_bytes, bool answered, const Asked* asked) {
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
