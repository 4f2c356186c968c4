#include "front/infer_stream.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "front/decode_job.h"
#include "front/stream_endpoint.h"

namespace headrace {

// ---- messages

StreamMessage& InferStream::enter(std::size_t request_bytes) {
  if (free_.empty()) {
    messages_.push_back(std::make_unique<StreamMessage>());
    messages_.back()->stream = this;
    free_.push_back(messages_.back().get());
  }
  StreamMessage* place = free_.back();
  free_.pop_back();
  place->ticket = nullptr;
  place->request_bytes = request_bytes;
  place->index = in_flight_.size();
  place->number = next_number_++;
  in_flight_.push_back(place);
  if (!answered_) largest_answer_ = std::max(largest_answer_, request_bytes);
  return *place;
}

void InferStream::leave(StreamMessage& message) {
  in_flight_.back()->index = message.index;
  in_flight_[message.index] = in_flight_.back();
  in_flight_.pop_back();
  free_.push_back(&message);
}

void InferStream::on_message(wire::Message message) {
  StreamMessage& place = enter(message.bytes.size());
  const std::size_t waiting = endpoint_.output_waiting();
  const std::size_t limit = endpoint_.loop().options().grpc.max_output_bytes;
  if (waiting > limit) {
    refuse(place, wire::output_refusal(waiting, limit), nullptr, {});
  } else if (message.encoding != wire::Encoding::kIdentity) {
    start_job(place, std::move(message));
  } else {
    decode(place, std::move(message));
  }
  pause_if_full();
}

void InferStream::decode(StreamMessage& place, wire::Message message) {
  Loop& loop = endpoint_.loop();
  RequestDecoder& decoder = loop.decoder_;
  if (Status status = endpoint_.decode(*call_, message); !status.ok()) {
    refuse(place, status, nullptr, StreamEndpoint::asked(decoder.request(), place.request_bytes));
    return;
  }
  if (!loop.work_.take(decoder.request())) {
    start_job(place, std::move(message));
    return;
  }
  CatalogHold& hold = loop.catalog();
  Ticket* ticket = loop.new_ticket();
  Model* model = nullptr;
  const Status status = decoder.admit(*hold.catalog, message, loop.engine(), *ticket, model);
  if (status.ok()) {
    run(place, ticket, hold, *model);
  } else {
    loop.recycle(ticket);
    refuse(place, status, model, StreamEndpoint::asked(decoder.request(), place.request_bytes));
  }
}

void InferStream::start_job(StreamMessage& place, wire::Message message) {
  auto job = endpoint_.make_job(*call_, std::move(message), true);
  job->stream_message = &place;
  job->streamed = true;
  if (endpoint_.submit_job(job)) {
    job_out_ = true;
  } else {
    refuse(place, StreamEndpoint::too_many_jobs(), nullptr, {});
  }
}

void InferStream::run(StreamMessage& place, Ticket* ticket, CatalogHold& hold, Model& model) {
  if (model.decoupled && ticket->asks_more) {
    const std::string id = ticket->id;
    endpoint_.loop().recycle(ticket);
    refuse(place, StreamEndpoint::parts_refusal(model), &model,
           {model.name, model.version_text, id, place.request_bytes});
    return;
  }
  order_.enter(place, model.policy.preserve_ordering || ticket->in_sequence || ticket->id.empty());
  place.ticket = ticket;
  ticket->cookie_slot = endpoint_.id();
  ticket->cookie_message = &place;
  ticket->cookie_bytes = place.request_bytes;
  ticket->start(endpoint_.now_, kNever);  // the call's own deadline is the codec's
  endpoint_.loop().stage(ticket, hold, model);
}

void InferStream::refuse(StreamMessage& place, const Status& status, Model* model, const Asked& asked) {
  const Nanos took = endpoint_.loop().engine().clock().now() - endpoint_.now_;
  if (model != nullptr) model->counters.unserved(status.code(), false, took);
  endpoint_.log(*call_, endpoint_.now_, status.code(), nullptr, asked.bytes, 0, true, &asked);
  order_.enter(place, asked.request_id.empty() || (model != nullptr && model->policy.preserve_ordering));
  endpoint_.release_bytes(*call_, place.request_bytes);
  wire::InferResponse response;
  response.model_name = asked.model;
  response.model_version = asked.version;
  response.id = asked.request_id;
  endpoint_.encode_stream_error(status, response);
  answer(place, true);
}

// ---- answers

void InferStream::answer(StreamMessage& place, bool final) {
  wire::OutMessage& out = endpoint_.loop().out_;
  if (out.size() != 0)
    largest_answer_ = std::exchange(answered_, true) ? std::max(largest_answer_, out.size()) : out.size();
  if (!order_.has_turn(place)) {
    order_.keep(place, out, final);
    return;
  }
  if (out.size() != 0) endpoint_.send(*call_, out);
  if (!final) return;
  AnswerOrder::Place* next = order_.leave(place);
  leave(place);
  while (next != nullptr) {
    auto& turn = static_cast<StreamMessage&>(*next);
    std::vector<wire::OutMessage> kept = order_.take_kept(turn);
    for (wire::OutMessage& each : kept) {
      if (each.size() != 0) endpoint_.send(*call_, each);
    }
    if (!turn.final_kept) {
      give_credit(turn);
      return;
    }
    next = order_.leave(turn);
    leave(turn);
  }
}

void InferStream::take_part(Part& part) {
  if (call_ == nullptr) return;
  auto& place = *static_cast<StreamMessage*>(part.ticket->cookie_message);
  endpoint_.encode_stream_part(*part.ticket, part);
  answer(place, false);
  give_credit(place);
}

// Half of it at a time. One whose turn it is waits for its reader alone, or those behind it could never go out.
void InferStream::give_credit(StreamMessage& place) {
  if (place.ticket == nullptr || place.ticket->parts_taken < kPartCredit / 2) return;
  const std::size_t share = endpoint_.loop().options().grpc.max_output_bytes / kOutputShare;
  const std::size_t before = order_.has_turn(place) ? 0 : order_.kept_bytes();
  if (endpoint_.output_waiting(*call_) + before > share) {
    credit_kept_ = true;
    return;
  }
  endpoint_.loop().engine().give_credit(place.ticket, std::exchange(place.ticket->parts_taken, 0U));
}

void InferStream::finish_ticket(Ticket& ticket) {
  auto& place = *static_cast<StreamMessage*>(ticket.cookie_message);
  place.ticket = nullptr;
  if (call_ == nullptr) {
    leave_dead(place);
    return;
  }
  endpoint_.release_bytes(*call_, place.request_bytes);
  const auto& model = *static_cast<const Model*>(ticket.cookie_model);
  const bool empty = model.decoupled && ticket.status.ok() && ticket.outputs.empty();
  endpoint_.loop().out_.clear();
  if (!empty || ticket.empty_final) endpoint_.encode_stream_answer(ticket, true);
  endpoint_.log(*call_, ticket.time.received, ticket.status.code(), &ticket, ticket.cookie_bytes,
                endpoint_.loop().out_.size());
  answer(place, true);
  finish_if_done();
  go_on();
}

void InferStream::finish_job(DecodeJob& job, StreamMessage& place) {
  job_out_ = false;
  if (call_ == nullptr) {
    leave_dead(place);
    return;
  }
  endpoint_.now_ = endpoint_.loop().engine().clock().now();
  if (!job.ran) {
    refuse(place, {Code::kUnavailable, "the server is shutting down"}, nullptr, {});
  } else if (!job.status.ok()) {
    refuse(place, job.status, job.model, {job.model_name, job.model_version, job.request_id, job.request_bytes});
  } else {
    run(place, job.ticket.release(), *job.hold, *job.model);
  }
  finish_if_done();
  go_on();
}

// ---- the end

void InferStream::on_end() {
  ended_ = true;
  finish_if_done();
}

void InferStream::close(const Status& status) {
  if (call_ == nullptr || closing_) return;
  closing_ = true;
  closing_status_ = status;
  if (!ended_ && !std::exchange(paused_, true)) endpoint_.pause_messages(*call_);
  finish_if_done();
}

void InferStream::finish_if_done() {
  if (call_ == nullptr || !in_flight_.empty() || !(ended_ || closing_)) return;
  wire::Call& call = *std::exchange(call_, nullptr);
  endpoint_.end_stream(call, ended_ ? Status() : closing_status_);
}

void InferStream::on_cancelled(Code reason) {
  if (call_ == nullptr) return;
  wire::Call& call = *std::exchange(call_, nullptr);
  endpoint_.loop().flush();  // some may have come in the very read that cancels them
  // Those that wait for nothing but their turn go now; backwards, because the last takes the place of one that leaves.
  for (std::size_t i = in_flight_.size(); i > 0; --i) {
    StreamMessage& place = *in_flight_[i - 1];
    order_.take_kept(place);
    if (std::exchange(place.final_kept, false)) leave(place);
  }
  order_ = AnswerOrder();
  if (in_flight_.empty()) return;
  // The stream's place stays taken until all has come back, or a client could pile up work by cancelling.
  held_ = endpoint_.hold_slot(call);
  slot_held_ = true;
  // The newest first: were it the oldest, a lane would start the next in line, only to be told to stop.
  std::vector<StreamMessage*> newest = in_flight_;
  std::ranges::sort(newest, [](const auto* a, const auto* b) { return a->number > b->number; });
  for (const StreamMessage* place : newest) {
    if (place->ticket == nullptr) continue;
    endpoint_.log(call, place->ticket->time.received, reason, place->ticket, place->request_bytes, 0, false);
    endpoint_.loop().engine().cancel(place->ticket, {Code::kCancelled, "the caller cancelled the call"});
  }
}

void InferStream::leave_dead(StreamMessage& place) {
  leave(place);
  if (in_flight_.empty() && std::exchange(slot_held_, false)) endpoint_.release_slot(held_);
}

// ---- bounds

std::size_t InferStream::output_expected() const {
  return endpoint_.output_waiting(*call_) + order_.kept_bytes() + in_flight_.size() * largest_answer_;
}

// At `part` of 2 halves of a bound.
bool InferStream::at_bound(std::size_t part) const {
  const std::size_t share = endpoint_.loop().options().grpc.max_output_bytes / kOutputShare;
  return in_flight_.size() >= part * kMaxInFlight / 2 || output_expected() > part * share / 2;
}

void InferStream::pause_if_full() {
  if (call_ == nullptr || paused_ || !(job_out_ || closing_ || at_bound(2))) return;
  paused_ = true;
  endpoint_.pause_messages(*call_);
}

void InferStream::go_on() {
  if (call_ != nullptr && std::exchange(credit_kept_, false)) {
    for (StreamMessage* place : in_flight_) give_credit(*place);
  }
  if (call_ == nullptr || !paused_ || job_out_ || closing_ || next_step_ || at_bound(1)) return;
  paused_ = false;
  endpoint_.now_ = endpoint_.loop().engine().clock().now();
  if (endpoint_.resume_messages(*call_)) return;
  paused_ = next_step_ = true;
  endpoint_.pause_messages(*call_);
  endpoint_.ask_again();
}

void InferStream::next_step() {
  if (std::exchange(next_step_, false)) go_on();
}

}  // namespace headrace
