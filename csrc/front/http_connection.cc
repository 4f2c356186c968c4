#include "front/http_connection.h"

#include <algorithm>
#include <utility>

#include "front/decode_job.h"

namespace headrace {

HttpConnection::HttpConnection(Loop& loop, std::uint64_t id, std::uint64_t token, std::string peer)
    : StreamEndpoint(loop, id, token, std::move(peer)),
      context_{loop.engine().pool(), loop.engine().budget(), loop.options().grpc.max_message_bytes,
               loop.options().grpc.max_inflight_bytes} {}

HttpConnection::~HttpConnection() {
  for (const auto& stream : streams_) {
    if (!stream->pieces.finished()) cancel_stream(*stream, {Code::kCancelled, "the caller closed the connection"});
  }
  for (Exchange& exchange : exchanges_) {
    if (exchange.events && exchange.events->pieces.finished()) continue;
    end_ticket(exchange, {Code::kCancelled, "the caller closed the connection"});
  }
  intake_.reset(context_);
}

Status HttpConnection::begin_body(std::size_t size, std::size_t align_at, wire::Encoding encoding, std::size_t here) {
  return intake_.begin(context_, size, align_at, encoding, here);
}

Status HttpConnection::append_body(std::span<const std::byte> bytes) {
  const Loop::Step step(loop_);
  return intake_.append(context_, bytes);
}

void HttpConnection::drop_body() { intake_.reset(context_); }

std::string HttpConnection::take_body() {
  std::size_t charged = 0;
  const wire::Message body = intake_.finish(charged);
  context_.inflight_bytes -= charged;
  return {reinterpret_cast<const char*>(body.bytes.data()), body.bytes.size()};
}

HttpConnection::Received HttpConnection::receive(std::span<const std::byte> bytes, std::uint32_t next,
                                                 std::size_t room) {
  const Loop::Step step(loop_);
  std::size_t started = 0;
  while (!bytes.empty()) {
    if (left_ != 0) {
      bytes = bytes.subspan(receive_body(bytes));
      continue;
    }
    wire::PlainInfer head;
    if (started == room || !read_head({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, head)) break;
    if (head.body_bytes > context_.max_message_bytes) break;
    HttpInfer asked;
    asked.exchange = next + static_cast<std::uint32_t>(started);
    asked.model = head.model;
    asked.version = head.version;
    if (head.json_bytes != wire::PlainInfer::kNone) asked.json_bytes = head.json_bytes;
    asked.accepts = head.accepts;
    if (loop_.http_headers_.on() &&
        !choose_headers(asked, {reinterpret_cast<const char*>(bytes.data()), head.head_bytes}).ok()) {
      break;  // the owner brings them again, for infer() to refuse
    }
    ++started;
    bytes = bytes.subspan(head.head_bytes);
    if (head.body_bytes <= bytes.size()) {
      start_whole(std::move(asked), bytes.first(head.body_bytes));
      bytes = bytes.subspan(head.body_bytes);
      continue;
    }
    receiving_ = std::move(asked);
    receiving_since_ = loop_.engine().clock().now();
    left_ = head.body_bytes;
    const Status status =
        intake_.begin(context_, left_, receiving_.json_bytes, wire::Encoding::kIdentity, bytes.size());
    dropping_ = !status.ok();
    if (dropping_) refuse_body(std::move(receiving_), left_, status);
  }
  return {started, bytes.size()};
}

bool HttpConnection::read_head(std::string_view bytes, wire::PlainInfer& head) {
  if (!known_.empty() && bytes.starts_with(known_)) {
    head = known_head_;
    return true;
  }
  if (!wire::read_plain_infer(bytes, loop_.options().grpc.max_header_bytes, head)) return false;
  known_.clear();
  if (head.head_bytes > kMostKnownBytes) return true;
  known_ = bytes.substr(0, head.head_bytes);
  known_head_ = head;
  const auto moved = [&](std::string_view part) {
    return part.empty() ? part : std::string_view(known_.data() + (part.data() - bytes.data()), part.size());
  };
  known_head_.model = moved(head.model);
  known_head_.version = moved(head.version);
  return true;
}

std::size_t HttpConnection::receive_body(std::span<const std::byte> bytes) {
  const std::size_t taken = std::min(left_, bytes.size());
  if (!dropping_) {
    const Status status = intake_.append(context_, bytes.first(taken));
    dropping_ = !status.ok();
    if (dropping_) refuse_body(std::move(receiving_), left_, status);
  }
  left_ -= taken;
  if (left_ == 0 && !dropping_) {
    std::size_t charged = 0;
    wire::Message body = intake_.finish(charged);
    start(std::move(receiving_), std::move(body), charged);
  }
  return taken;
}

unsigned HttpConnection::infer(HttpInfer asked) {
  const Loop::Step step(loop_);
  std::size_t charged = 0;
  wire::Message body = intake_.finish(charged);
  if (const Status status = choose_headers(asked); status.ok()) {
    start(std::move(asked), std::move(body), charged);
  } else {
    context_.inflight_bytes -= charged;
    refuse_body(std::move(asked), body.bytes.size(), status);
  }
  loop_.flush();
  return bits();
}

unsigned HttpConnection::infer(HttpInfer asked, std::span<const std::byte> body) {
  const Loop::Step step(loop_);
  if (const Status status = choose_headers(asked); status.ok()) {
    start_whole(std::move(asked), body);
  } else {
    refuse_body(std::move(asked), body.size(), status);
  }
  loop_.flush();
  return bits();
}

Status HttpConnection::choose_headers(HttpInfer& asked) {
  if (asked.request_headers.empty()) return {};
  HeaderForward& headers = is_web(asked.form) ? loop_.grpc_headers_ : loop_.http_headers_;
  const wire::Metadata all = std::exchange(asked.request_headers, {});
  if (!headers.on()) return {};
  Status status = headers.choose(all, loop_.step_number_);
  if (status.ok()) asked.request_headers = headers.chosen();
  return status;
}

Status HttpConnection::choose_headers(HttpInfer& asked, std::string_view head) {
  HeaderForward& headers = loop_.http_headers_;
  headers.begin(loop_.step_number_);
  wire::HeadFields fields(head);
  while (fields.next()) {
    if (Status status = headers.add(fields.name(), fields.value()); !status.ok()) return status;
  }
  asked.request_headers = headers.chosen();
  return {};
}

void HttpConnection::start_whole(HttpInfer asked, std::span<const std::byte> body) {
  wire::BodyIntake whole;
  Status status = whole.begin(context_, body.size(), asked.json_bytes, wire::Encoding::kIdentity, body.size());
  if (status.ok()) status = whole.append(context_, body);
  if (!status.ok()) {
    refuse_body(std::move(asked), body.size(), status);
    return;
  }
  std::size_t charged = 0;
  wire::Message message = whole.finish(charged);
  start(std::move(asked), std::move(message), charged);
}

void HttpConnection::refuse_body(HttpInfer asked, std::size_t bytes, const Status& status) {
  Exchange& exchange = exchanges_.emplace_back();
  exchange.received = loop_.engine().clock().now();
  exchange.request_bytes = bytes;
  exchange.asked = std::move(asked);
  refuse(exchange, status, 0, nullptr, {});
}

void HttpConnection::start(HttpInfer asked, wire::Message body, std::size_t charged) {
  now_ = loop_.engine().clock().now();
  Exchange& exchange = exchanges_.emplace_back();
  exchange.asked = std::move(asked);
  exchange.received = now_;
  exchange.charged = charged;
  exchange.request_bytes = body.bytes.size();
  const std::size_t json_bytes = std::min(exchange.asked.json_bytes, body.bytes.size());
  const bool json = !is_web(exchange.asked.form);
  if (body.encoding != wire::Encoding::kIdentity || (json && json_bytes > StepWork::kEachBytes)) {
    start_decoding(exchange, std::move(body));
    return;
  }
  HttpDecoder& decoder = loop_.http_decoder_;
  CatalogHold& hold = loop_.catalog();
  const HttpInfer& ask = exchange.asked;
  Status status = ask.form == HttpForm::kPredict ? decoder.decode_predict(*hold.catalog, ask.model, ask.version, body,
                                                                          loop_.options().infer, loop_.engine().pool())
                  : is_web(ask.form)             ? decoder.decode_web(body, loop_.options().infer)
                                     : decoder.decode(*hold.catalog, ask.model, ask.version, body, ask.json_bytes,
                                                      loop_.options().infer);
  exchange.predict_form = decoder.predict_form();
  if (status.ok() && !ask.request_headers.empty()) {
    status = decoder.add_parameters(ask.request_headers, loop_.options().infer);
  }
  if (!status.ok()) {
    refuse(exchange, status, 0, nullptr, decoder.request().id);
    return;
  }
  if (!loop_.work_.take(decoder.request())) {
    start_decoding(exchange, std::move(body));
    return;
  }
  Ticket* ticket = loop_.new_ticket();
  Model* model = nullptr;
  status = decoder.admit(*hold.catalog, body, loop_.engine(), *ticket, model, exchange.forms);
  if (status.ok()) {
    run_ticket(exchange, ticket, hold, *model);
  } else {
    loop_.recycle(ticket);
    refuse(exchange, status, 0, model, decoder.request().id);
  }
}

HttpConnection::Exchange* HttpConnection::find(std::uint32_t exchange) {
  const auto found = std::find_if(exchanges_.begin(), exchanges_.end(),
                                  [exchange](const Exchange& open) { return open.asked.exchange == exchange; });
  return found == exchanges_.end() ? nullptr : &*found;
}

void HttpConnection::start_decoding(Exchange& exchange, wire::Message body) {
  auto job = std::make_unique<HttpDecodeJob>();
  job->endpoint_id = id_;
  job->exchange = exchange.asked.exchange;
  job->engine = &loop_.engine();
  job->options = &loop_.options();
  job->model_name = exchange.asked.model;
  job->model_version = exchange.asked.version;
  job->body = std::move(body);
  job->json_bytes = exchange.asked.json_bytes;
  job->form = exchange.asked.form;
  job->parameters = exchange.asked.request_headers;
  job->hold = &loop_.catalog();
  if (!loop_.submit_job(job.get())) {
    refuse(exchange, resource_exhausted("too many large requests wait to be decoded (limit 1024); try again later"), 0,
           nullptr, {});
    return;
  }
  ++job->hold->tickets;
  job.release();  // the ring brings it back
}

void HttpConnection::run_ticket(Exchange& exchange, Ticket* ticket, CatalogHold& hold, Model& model) {
  if (model.decoupled) {
    if (const Status refused = expect_parts(exchange, *ticket, model); !refused.ok()) {
      const std::string id = ticket->id;
      loop_.recycle(ticket);
      refuse(exchange, refused, 0, &model, id);
      return;
    }
    exchange.events->hold = &hold;
  }
  ticket->cookie_slot = id_;
  ticket->cookie_call = exchange.asked.exchange;
  ticket->cookie_bytes = exchange.request_bytes;
  const Nanos timeout = exchange.asked.timeout;
  ticket->start(now_, timeout >= kNever - exchange.received ? kNever : exchange.received + timeout);
  exchange.ticket = ticket;
  loop_.stage(ticket, hold, model);
}

void HttpConnection::take_part(Part& part) {
  const Ticket& ticket = *part.ticket;
  if (ticket.cookie_message != nullptr) {
    static_cast<StreamMessage*>(ticket.cookie_message)->stream->take_part(part);
    return;
  }
  Exchange* exchange = find(static_cast<std::uint32_t>(ticket.cookie_call));
  if (exchange != nullptr && exchange->ticket == &ticket) take_part(*exchange, part);
}

void HttpConnection::finish_ticket(Ticket& ticket) {
  if (ticket.cookie_message != nullptr) {
    static_cast<StreamMessage*>(ticket.cookie_message)->stream->finish_ticket(ticket);
    return;
  }
  Exchange* exchange = find(static_cast<std::uint32_t>(ticket.cookie_call));
  if (exchange == nullptr || exchange->ticket != &ticket) return;
  exchange->ticket = nullptr;
  if (exchange->events) {
    finish_parts(*exchange, ticket);
    return;
  }
  if (ticket.status.ok()) {
    respond(*exchange, ticket);
    return;
  }
  log(entry(*exchange, ticket.status.code(), &ticket, true));
  HttpAnswer failed;
  failed.status = ticket.status;
  answer(*exchange, std::move(failed));
}

void HttpConnection::respond(Exchange& exchange, Ticket& ticket) {
  AccessEntry said;
  if (loop_.options().access_log) said = entry(exchange, Code::kOk, &ticket, true);
  HttpResult& result = loop_.http_result_;
  result.model = static_cast<const Model*>(ticket.cookie_model);
  result.outputs.swap(ticket.outputs);
  result.requests.clear();
  if (ticket.asks_more) result.requests.swap(ticket.output_requests);
  result.forms.swap(exchange.forms);
  result.id = ticket.id;
  result.timing = ticket.timing;
  result.batch_rows = ticket.batch_rows;
  result.time = ticket.time;
  result.encoding = exchange.asked.accepts;
  result.headers = std::move(exchange.asked.headers);
  result.form = exchange.asked.form;
  result.predict_form = exchange.predict_form;
  if (result.heavy()) {
    auto job = std::make_unique<HttpEncodeJob>();
    job->endpoint_id = id_;
    job->exchange = exchange.asked.exchange;
    job->hold = static_cast<CatalogHold*>(ticket.cookie_hold);
    job->pool = &loop_.engine().pool();
    job->result = std::move(result);
    job->entry = std::move(said);
    if (loop_.submit_job(job.get())) {
      ++job->hold->tickets;
      job.release();  // the ring brings it back
    } else {
      refuse(exchange, resource_exhausted("too many large answers wait to be written (limit 1024); try again later"), 0,
             nullptr, {});
    }
    return;
  }
  HttpAnswer done;
  result.write(done, &loop_.known_answers_);
  ticket.outputs.swap(result.outputs);  // their memory stays with the ticket
  said.code = done.status.code();
  said.response_bytes = done.body.size();
  log(std::move(said));
  answer(exchange, std::move(done));
}

void HttpConnection::finish_job(LoopJob& finished) {
  if (finished.streamed) {
    auto& job = static_cast<DecodeJob&>(finished);
    job.stream_message->stream->finish_job(job, *job.stream_message);
    return;
  }
  auto& job = static_cast<HttpJob&>(finished);
  Exchange* exchange = find(job.exchange);
  if (exchange == nullptr) return;
  if (!job.ran && !exchange->events) {
    refuse(*exchange, {Code::kUnavailable, "the server is shutting down"}, 0, nullptr, {});
  } else if (job.encodes) {
    auto& encoded = static_cast<HttpEncodeJob&>(job);
    if (exchange->events) {
      finish_event(*exchange, encoded);
      return;
    }
    encoded.entry.code = encoded.answer.status.code();
    encoded.entry.response_bytes = encoded.answer.body.size();
    log(std::move(encoded.entry));
    answer(*exchange, std::move(encoded.answer));
  } else {
    auto& decoded = static_cast<HttpDecodeJob&>(job);
    if (!decoded.status.ok()) {
      refuse(*exchange, decoded.status, decoded.http, decoded.model, decoded.request_id);
      return;
    }
    exchange->forms = std::move(decoded.forms);
    exchange->predict_form = decoded.predict_form;
    now_ = loop_.engine().clock().now();
    run_ticket(*exchange, decoded.ticket.release(), *decoded.hold, *decoded.model);
  }
}

void HttpConnection::refuse(Exchange& exchange, const Status& status, int http, Model* model,
                            std::string_view request_id) {
  if (model != nullptr) model->counters.unserved(status.code(), false, 0);
  if (loop_.options().access_log) {
    AccessEntry said = entry(exchange, status.code(), nullptr, true);
    said.request_id = request_id;
    log(std::move(said));
  }
  HttpAnswer refused;
  refused.status = status;
  refused.http = http;
  answer(exchange, std::move(refused));
}

void HttpConnection::end_ticket(Exchange& exchange, const Status& status) {
  log(entry(exchange, status.code(), exchange.ticket, false));
  if (exchange.ticket != nullptr) loop_.engine().cancel(std::exchange(exchange.ticket, nullptr), status);
}

void HttpConnection::answer(Exchange& exchange, HttpAnswer done) {
  done.exchange = exchange.asked.exchange;
  forget(exchange);
  answers_.push_back(std::move(done));
}

void HttpConnection::forget(Exchange& exchange) {
  context_.inflight_bytes -= exchange.charged;
  if (&exchange != &exchanges_.back()) exchange = std::move(exchanges_.back());
  exchanges_.pop_back();
}

std::vector<HttpAnswer> HttpConnection::take_answers() { return std::exchange(answers_, {}); }

unsigned HttpConnection::abort_calls(const Status& status) {
  const Loop::Step step(loop_);
  loop_.flush();
  for (const auto& stream : streams_) {
    if (!stream->pieces.finished()) cancel_stream(*stream, status);
  }
  // Backwards, because the last takes the place of one that goes.
  for (std::size_t i = exchanges_.size(); i > 0; --i) {
    Exchange& exchange = exchanges_[i - 1];
    if (exchange.events) {
      cancel_events(exchange, status);
      continue;
    }
    end_ticket(exchange, status);
    HttpAnswer ended;
    ended.status = status;
    answer(exchange, std::move(ended));
  }
  return bits();
}

AccessEntry HttpConnection::entry(const Exchange& exchange, Code code, const Ticket* ticket, bool answered) const {
  AccessEntry said;
  if (!loop_.options().access_log) return said;
  said.peer = peer_;
  if (is_web(exchange.asked.form)) {
    said.path = kModelInferPath;
  } else {
    said.path = "/v2/models/" + exchange.asked.model;
    if (!exchange.asked.version.empty()) said.path += "/versions/" + exchange.asked.version;
    said.path += exchange.asked.form == HttpForm::kGenerate ? "/generate"
                 : exchange.asked.form == HttpForm::kEvents ? "/generate_stream"
                                                            : "/infer";
  }
  said.model = exchange.asked.model;
  said.version = exchange.asked.version;
  said.code = code;
  said.request_bytes = exchange.request_bytes;
  said.total_ns = loop_.engine().clock().now() - exchange.received;
  said.set_headers(exchange.asked.request_headers);
  if (ticket != nullptr) said.set_ticket(*ticket, answered);
  return said;
}

void HttpConnection::log(AccessEntry&& said) {
  if (loop_.options().access_log) loop_.log_access(std::move(said));
}

}  // namespace headrace
