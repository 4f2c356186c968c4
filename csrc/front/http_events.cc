// HttpConnection: calls of generate and generate_stream to models that answer a request any number of times.
#include <utility>

#include "front/http_connection.h"

namespace headrace {
namespace {

Status not_one_answer(const Model& model, const char* count) {
  return invalid_argument("generate expects model to produce exactly 1 response, and '" + model.name + "' gave " +
                          count + ": use generate_stream, which has any number of them");
}

}  // namespace

Status HttpConnection::expect_parts(Exchange& exchange, const Ticket& ticket, Model& model) {
  const HttpForm form = exchange.asked.form;
  if (form != HttpForm::kGenerate && form != HttpForm::kEvents) return decoupled_refusal(model);
  if (ticket.asks_more) return parts_refusal(model);
  exchange.events = std::make_unique<EventAnswer>();
  exchange.events->model = &model;
  exchange.events->id = ticket.id;
  return {};
}

void HttpConnection::take_part(Exchange& exchange, Part& part) {
  EventAnswer& events = *exchange.events;
  events.behind.push_back(std::move(part.outputs));
  if (exchange.asked.form == HttpForm::kEvents) {
    write_events(exchange);
  } else if (events.behind.size() > 1) {
    cancel_events(exchange, not_one_answer(*events.model, "more"));
  }
}

void HttpConnection::finish_parts(Exchange& exchange, Ticket& ticket) {
  EventAnswer& events = *exchange.events;
  context_.inflight_bytes -= std::exchange(exchange.charged, 0);
  if (ticket.status.ok() && !ticket.outputs.empty()) events.behind.push_back(std::exchange(ticket.outputs, {}));
  if (exchange.asked.form == HttpForm::kGenerate && ticket.status.ok() && events.behind.size() == 1) {
    ticket.outputs = std::move(events.behind.front());
    exchange.events.reset();
    respond(exchange, ticket);
    return;
  }
  events.ended = true;
  events.status = ticket.status;
  if (exchange.asked.form == HttpForm::kGenerate) {
    if (events.status.ok()) events.status = not_one_answer(*events.model, events.behind.empty() ? "none" : "more");
    events.behind.clear();
  }
  if (loop_.options().access_log) events.said = entry(exchange, events.status.code(), &ticket, true);
  write_events(exchange);
}

// Of what is here as much as can be written now, and the end.
void HttpConnection::write_events(Exchange& exchange) {
  EventAnswer& events = *exchange.events;
  while (!events.writing && !events.behind.empty()) {
    HttpResult& result = loop_.http_result_;
    result.model = events.model;
    result.outputs = std::move(events.behind.front());
    events.behind.pop_front();
    result.requests.clear();
    result.forms = exchange.forms;
    result.id = events.id;
    result.timing = false;
    result.encoding = wire::Encoding::kIdentity;
    result.headers.clear();
    result.form = HttpForm::kEvents;
    result.piece = true;
    HttpAnswer event;
    if (!result.heavy()) {
      result.write(event);
      result.outputs.clear();
      result.piece = false;
    } else {
      auto job = std::make_unique<HttpEncodeJob>();
      job->endpoint_id = id_;
      job->exchange = exchange.asked.exchange;
      job->hold = events.hold;
      job->pool = &loop_.engine().pool();
      job->result = std::exchange(result, {});
      if (loop_.submit_job(job.get())) {
        ++job->hold->tickets;
        events.writing = true;
        job.release();  // the ring brings it back
        return;
      }
      event.status = resource_exhausted("too many large answers wait to be written (limit 1024); try again later");
    }
    if (!event.status.ok()) {
      cancel_events(exchange, event.status);
      return;
    }
    add_event(exchange, event);
  }
  if (events.ended && !events.writing) {
    end_events(exchange);
  } else {
    give_credit(exchange);
  }
}

void HttpConnection::finish_event(Exchange& exchange, HttpEncodeJob& job) {
  EventAnswer& events = *exchange.events;
  events.writing = false;
  if (events.pieces.finished()) return;  // cancelled meanwhile
  if (!job.ran) {
    cancel_events(exchange, {Code::kUnavailable, "the server is shutting down"});
  } else if (!job.answer.status.ok()) {
    cancel_events(exchange, job.answer.status);
  } else {
    add_event(exchange, job.answer);
    write_events(exchange);
  }
}

void HttpConnection::add_event(Exchange& exchange, HttpAnswer& event) {
  EventAnswer& events = *exchange.events;
  if (!std::exchange(events.begun, true)) {
    ++in_pieces_;
    HttpAnswer& told = answers_.emplace_back();
    told.exchange = exchange.asked.exchange;
    told.in_pieces = true;
  }
  events.written += event.body.size();
  if (event.body.size() != 0) events.pieces.add(event.body, std::move(event.room));
}

void HttpConnection::end_events(Exchange& exchange) {
  EventAnswer& events = *exchange.events;
  HttpAnswer last;
  if (!events.status.ok() && !events.begun) {
    log(std::move(events.said));
    last.status = events.status;
    answer(exchange, std::move(last));  // as any other failure
    return;
  }
  if (!events.status.ok())
    last.body.own =
        wire::error_event(events.status.message().empty() ? events.status.to_string() : events.status.message());
  add_event(exchange, last);
  events.said.code = events.status.code();
  events.said.response_bytes = events.written;
  log(std::move(events.said));
  events.pieces.finish();
}

// Nothing more of the model is wanted; the error is the last event.
void HttpConnection::cancel_events(Exchange& exchange, const Status& status) {
  EventAnswer& events = *exchange.events;
  if (events.pieces.finished()) return;
  if (!events.ended && loop_.options().access_log) {
    events.said = entry(exchange, status.code(), exchange.ticket, false);
  }
  if (exchange.ticket != nullptr) loop_.engine().cancel(std::exchange(exchange.ticket, nullptr), status);
  context_.inflight_bytes -= std::exchange(exchange.charged, 0);
  events.behind.clear();
  events.ended = true;
  events.status = status;
  end_events(exchange);
}

// As InferStream's. One whose turn it is waits for its reader alone; those behind it have the connection's bound too.
void HttpConnection::give_credit(Exchange& exchange) {
  EventAnswer& events = *exchange.events;
  Ticket* ticket = exchange.ticket;
  if (ticket == nullptr || ticket->parts_taken < kPartCredit / 2) return;
  const std::size_t most = loop_.options().grpc.max_output_bytes;
  if (events.writing || events.pieces.waiting() > most / InferStream::kOutputShare ||
      (!events.has_turn && output_waiting() > most)) {
    events.credit_kept = true;
    return;
  }
  loop_.engine().give_credit(ticket, std::exchange(ticket->parts_taken, 0U));
}

bool HttpConnection::take_events(std::uint32_t number, std::size_t most, std::vector<AnswerPiece>& pieces) {
  Exchange* exchange = find(number);
  if (exchange == nullptr || !exchange->events) return false;
  EventAnswer& events = *exchange->events;
  events.has_turn = true;
  pieces = events.pieces.take(most);
  if (std::exchange(events.credit_kept, false)) give_credit(*exchange);
  if (!events.pieces.take_end()) return false;
  --in_pieces_;
  forget(*exchange);
  return true;
}

}  // namespace headrace
