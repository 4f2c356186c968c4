// Calls as they come and go. What they are answered: connection_answers.cc.
#include "front/connection.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "front/decode_job.h"

namespace headrace {

Connection::Connection(Loop& loop, std::uint64_t id, std::uint64_t token, std::string peer)
    : StreamEndpoint(loop, id, token, std::move(peer)),
      codec_(loop.options().grpc, loop.engine().pool(), loop.engine().budget(), *this, now_) {}

Connection::~Connection() { loop_.unread_ -= unread_.size(); }

unsigned Connection::bits() const {
  unsigned bits = 0;
  if (!paused_ && codec_.has_output()) bits |= kHasOutput;
  if (!calls_.empty()) bits |= kHasCalls;
  if (!cancelled_.empty()) bits |= kHasCancelled;
  if (codec_.wants_close()) bits |= kWantsClose;
  if (!unread_.empty()) bits |= kHasUnread;
  if (read_on_) bits |= kReadOn;
  return bits;
}

unsigned Connection::receive(std::span<const std::byte> bytes) {
  const Loop::Step step(loop_);
  now_ = loop_.engine().clock().now();
  read_on_ = false;
  if (unread_.empty()) bytes = bytes.subspan(read(bytes));
  if (!bytes.empty()) keep_unread(bytes);
  return settle();
}

// How much of it this step is good for.
std::size_t Connection::read(std::span<const std::byte> bytes) {
  std::size_t done = 0;
  while (true) {
    const std::size_t size = std::min(kSlice, bytes.size() - done);
    codec_.receive(bytes.subspan(done, size), now_);
    done += size;
    if (done == bytes.size()) return done;
    // A backlog of many connections is bounded: beyond that a step may be long.
    const bool room = loop_.unread_ + bytes.size() - done <= Loop::kMaxUnread;
    const bool enough = calls_.size() >= kOwnerCalls || loop_.engine().clock().now() - now_ >= Loop::kStepTime;
    if (enough && room && !codec_.wants_close()) return done;
  }
}

void Connection::keep_unread(std::span<const std::byte> bytes) {
  unread_.insert(unread_.end(), bytes.begin(), bytes.end());
  loop_.unread_ += bytes.size();
  ask_again();
}

void Connection::read_on() {
  if (unread_.empty()) return;
  now_ = loop_.engine().clock().now();
  read_ += read(std::span<const std::byte>(unread_).subspan(read_));
  if (read_ < unread_.size()) {
    ask_again();
    return;
  }
  loop_.unread_ -= unread_.size();
  std::vector<std::byte>().swap(unread_);
  read_ = 0;
  read_on_ = true;
  if (ended_) codec_.receive_eof(now_);
}

unsigned Connection::receive_eof() {
  const Loop::Step step(loop_);
  now_ = loop_.engine().clock().now();
  ended_ = true;
  if (unread_.empty()) codec_.receive_eof(now_);
  return settle();
}

unsigned Connection::settle() {
  loop_.flush();
  end_step();
  loop_.arm_timer(*this);
  return bits();
}

void Connection::next_step() {
  read_on();
  for (std::size_t i = 0; i < streams_.size(); ++i) streams_[i]->next_step();
}

void Connection::end_step() {
  std::erase_if(streams_, [](const auto& stream) { return stream->over(); });
}

void Connection::pause_writing() {
  paused_ = true;
  codec_.output_blocked(true, loop_.engine().clock().now());
  loop_.arm_timer(*this);
}

unsigned Connection::resume_writing() {
  const Loop::Step step(loop_);
  paused_ = false;
  codec_.output_blocked(false, loop_.engine().clock().now());
  loop_.arm_timer(*this);
  return bits();
}

void Connection::take_output(std::vector<wire::OutputChunk>& chunks) {
  const Loop::Step step(loop_);
  codec_.take_output(chunks, kOutputStep, loop_.engine().clock().now());
  if (streams_.empty()) return;
  for (std::size_t i = 0; i < streams_.size(); ++i) streams_[i]->go_on();
  settle();
}

std::vector<OwnerCall> Connection::take_calls() {
  if (calls_.size() <= kOwnerCalls) return std::exchange(calls_, {});
  const auto end = calls_.begin() + static_cast<std::ptrdiff_t>(kOwnerCalls);
  std::vector<OwnerCall> first(std::make_move_iterator(calls_.begin()), std::make_move_iterator(end));
  calls_.erase(calls_.begin(), end);
  ask_again();
  return first;
}

std::vector<std::int32_t> Connection::take_cancelled() { return std::exchange(cancelled_, {}); }

void Connection::on_call(wire::Call& call) {
  if (call.path == kModelInferPath) {
    set_stage(call, Stage::kInferWaiting);
    call.awaits_message = true;
  } else if (call.path == kModelStreamInferPath) {
    set_stage(call, Stage::kStream);
    call.user = streams_.emplace_back(std::make_unique<InferStream>(*this, call)).get();
  } else if (loop_.is_method(call.path)) {
    set_stage(call, Stage::kOwnerWaiting);
    call.awaits_message = true;
  } else if (loop_.is_stream(call.path)) {
    set_stage(call, Stage::kOwnerStream);
    owner_streams_.open(call.stream_id);
    calls_.push_back({call.stream_id, OwnerKind::kOpen, call.path, call.metadata, {}});
  } else {
    refuse(call, {Code::kUnimplemented, "method " + call.path + " is not served here"}, nullptr);
  }
}

void Connection::on_message(wire::Call& call, wire::Message message) {
  const Stage now = stage(call);
  if (now == Stage::kStream) {
    stream(call).on_message(std::move(message));
    return;
  }
  if (now == Stage::kOwnerStream) {
    if (owner_streams_.push(call.stream_id, std::move(message))) {
      pump_stream(call);
    } else {
      abandon(call);
      refuse(call,
             resource_exhausted("method " + call.path + ": more than " + std::to_string(OwnerStreams::kMaxWaiting) +
                                " messages of one call wait to be answered; read the answers first"),
             nullptr);
    }
    return;
  }
  if (now != Stage::kInferWaiting && now != Stage::kOwnerWaiting) {
    // The first message's ticket or task goes its way and finds nobody. UNIMPLEMENTED is gRPC's word for it.
    abandon(call);
    refuse(call, {Code::kUnimplemented, "method " + call.path + " takes one message; a second one came"}, nullptr);
    return;
  }
  const bool is_infer = now == Stage::kInferWaiting;
  if (message.encoding != wire::Encoding::kIdentity) {
    start_job(call, std::move(message), is_infer);
  } else if (is_infer) {
    infer(call, std::move(message));
  } else {
    hand_to_owner(call, std::move(message));
  }
}

void Connection::on_end(wire::Call& call) {
  const Stage now = stage(call);
  if (now == Stage::kStream) {
    stream(call).on_end();
  } else if (now == Stage::kOwnerStream) {
    owner_streams_.end(call.stream_id);
    pump_stream(call);
  } else if (now == Stage::kInferWaiting || now == Stage::kOwnerWaiting) {
    refuse(call, {Code::kUnimplemented, "method " + call.path + " takes one message; none came"}, nullptr);
  }
}

void Connection::on_cancelled(wire::Call& call, Code reason) {
  if (stage(call) == Stage::kStream) {
    log(call, call.received, reason, nullptr, 0, 0);
    stream(call).on_cancelled(reason);
    return;
  }
  const bool running = stage(call) == Stage::kInferRunning;
  const auto* ticket = running ? static_cast<const Ticket*>(call.user) : nullptr;
  log(call, call.received, reason, ticket, running ? ticket->cookie_bytes : 0, 0, false);
  abandon(call);
}

void Connection::abandon(wire::Call& call) {
  switch (stage(call)) {
    case Stage::kInferRunning: {
      loop_.flush();  // it may have come in the very read that cancels it
      auto* ticket = static_cast<Ticket*>(call.user);
      // The stream's place stays taken until its ticket has come back, or a client could pile up work by cancelling.
      ticket->cookie_held = static_cast<std::int64_t>(codec_.hold_slot(call));
      loop_.engine().cancel(ticket, {Code::kCancelled, "the caller cancelled the call"});
      break;
    }
    case Stage::kOwnerStream:
      owner_streams_.close(call.stream_id);
      cancelled_.push_back(call.stream_id);
      break;
    case Stage::kOwnerRunning:
      cancelled_.push_back(call.stream_id);
      break;
    case Stage::kInferWaiting:
    case Stage::kInferJob:
    case Stage::kOwnerWaiting:
    case Stage::kOwnerJob:
    case Stage::kStream:  // takes any number of messages, and ends by itself
      break;              // what is on its way finds nobody
  }
}

void Connection::infer(wire::Call& call, wire::Message message) {
  RequestDecoder& decoder = loop_.decoder_;
  if (Status status = decode(call, message); !status.ok()) {
    refuse(call, status, nullptr, asked(decoder.request(), message.bytes.size()));
    return;
  }
  if (!loop_.work_.take(decoder.request())) {
    start_job(call, std::move(message), true);
    return;
  }
  CatalogHold& hold = loop_.catalog();
  Ticket* ticket = loop_.new_ticket();
  Model* model = nullptr;
  const std::size_t request_bytes = message.bytes.size();
  const Status status = decoder.admit(*hold.catalog, message, loop_.engine(), *ticket, model);
  if (!status.ok()) {
    loop_.recycle(ticket);
    refuse(call, status, model, asked(decoder.request(), request_bytes));
    return;
  }
  run_ticket(call, ticket, hold, *model, request_bytes);
}

void Connection::run_ticket(wire::Call& call, Ticket* ticket, CatalogHold& hold, Model& model,
                            std::size_t request_bytes) {
  if (model.decoupled) {
    const std::string id = ticket->id;
    loop_.recycle(ticket);
    refuse(call, decoupled_refusal(model), &model, {model.name, model.version_text, id, request_bytes});
    return;
  }
  ticket->cookie_slot = id_;
  ticket->cookie_call = static_cast<std::uint32_t>(call.stream_id);
  ticket->cookie_bytes = request_bytes;
  ticket->start(now_, call.deadline);
  call.deadline_handed_over = true;
  call.user = ticket;
  set_stage(call, Stage::kInferRunning);
  loop_.stage(ticket, hold, model);
}

void Connection::start_job(wire::Call& call, wire::Message message, bool is_infer) {
  std::unique_ptr<DecodeJob> job = make_job(call, std::move(message), is_infer);
  if (submit_job(job)) {
    if (stage(call) != Stage::kOwnerStream) set_stage(call, is_infer ? Stage::kInferJob : Stage::kOwnerJob);
  } else {
    abandon(call);
    refuse(call, too_many_jobs(), nullptr);
  }
}

void Connection::finish_job(LoopJob& finished) {
  auto& job = static_cast<DecodeJob&>(finished);
  if (job.stream_message != nullptr) {
    job.stream_message->stream->finish_job(job, *job.stream_message);
    return;
  }
  wire::Call* call = codec_.find(job.call_id);
  if (call == nullptr) return;
  if (!job.ran) {
    abandon(*call);
    refuse(*call, {Code::kUnavailable, "the server is shutting down"}, nullptr);
  } else if (!job.status.ok()) {
    abandon(*call);
    refuse(*call, job.status, job.model, {job.model_name, job.model_version, job.request_id, job.request_bytes});
  } else if (job.infer) {
    now_ = loop_.engine().clock().now();
    run_ticket(*call, job.ticket.release(), *job.hold, *job.model, job.request_bytes);
  } else if (stage(*call) == Stage::kOwnerStream) {
    owner_streams_.inflated(job.call_id, std::move(job.message));
    pump_stream(*call);
  } else {
    hand_to_owner(*call, std::move(job.message));
  }
}

void Connection::pump_stream(wire::Call& call) {
  for (;;) {
    wire::Message message;
    switch (owner_streams_.next(call.stream_id, message)) {
      case OwnerStreams::Next::kMessage:
        calls_.push_back({call.stream_id, OwnerKind::kMessage, {}, {}, std::move(message)});
        break;
      case OwnerStreams::Next::kEnd:
        calls_.push_back({call.stream_id, OwnerKind::kEnd, {}, {}, {}});
        return;
      case OwnerStreams::Next::kInflate:
        start_job(call, std::move(message), false);
        return;
      case OwnerStreams::Next::kNothing:
        return;
    }
  }
}

void Connection::hand_to_owner(wire::Call& call, wire::Message message) {
  set_stage(call, Stage::kOwnerRunning);
  calls_.push_back({call.stream_id, OwnerKind::kCall, call.path, call.metadata, std::move(message)});
}

void Connection::refuse(wire::Call& call, const Status& status, Model* model, const Asked& asked) {
  if (model != nullptr) model->counters.unserved(status.code(), false, loop_.engine().clock().now() - now_);
  log(call, call.received, status.code(), nullptr, asked.bytes, 0, true, &asked);
  codec_.finish(call, status);
}

unsigned Connection::reply(std::int32_t call_id, std::span<const std::byte> message) {
  const Loop::Step step(loop_);
  wire::Call* call = codec_.find(call_id);
  if (call != nullptr && stage(*call) == Stage::kOwnerRunning) {
    loop_.out_.clear();
    loop_.out_.own.assign(reinterpret_cast<const char*>(message.data()), message.size());
    log(*call, call->received, Code::kOk, nullptr, 0, message.size());
    codec_.send(*call, loop_.out_);
    codec_.finish(*call, Status());
  }
  loop_.arm_timer(*this);
  return bits();
}

wire::Call* Connection::owner_call(std::int32_t call_id) {
  wire::Call* call = codec_.find(call_id);
  const bool owned = call != nullptr && (stage(*call) == Stage::kOwnerRunning || stage(*call) == Stage::kOwnerStream);
  return owned ? call : nullptr;
}

unsigned Connection::send_part(std::int32_t call_id, std::span<const std::byte> message) {
  const Loop::Step step(loop_);
  if (wire::Call* call = owner_call(call_id); call != nullptr) {
    loop_.out_.clear();
    loop_.out_.own.assign(reinterpret_cast<const char*>(message.data()), message.size());
    codec_.send(*call, loop_.out_);
  }
  loop_.arm_timer(*this);
  return bits();
}

unsigned Connection::finish(std::int32_t call_id) { return fail(call_id, Status(), {}); }

unsigned Connection::release_message(std::int32_t call_id) {
  wire::Call* call = owner_call(call_id);
  if (call != nullptr) codec_.release_bytes(*call, owner_streams_.release(call_id));
  return bits();
}

unsigned Connection::fail(std::int32_t call_id, const Status& status, const wire::Metadata& trailers) {
  const Loop::Step step(loop_);
  if (wire::Call* call = owner_call(call_id); call != nullptr) {
    owner_streams_.close(call_id);
    log(*call, call->received, status.code(), nullptr, 0, 0);
    codec_.finish(*call, status, trailers);
  }
  loop_.arm_timer(*this);
  return bits();
}

unsigned Connection::shutdown_notice() {
  codec_.shutdown_notice();
  return bits();
}

unsigned Connection::shutdown_final() {
  codec_.shutdown_final();
  for (std::size_t i = 0; i < streams_.size(); ++i) {
    streams_[i]->close({Code::kUnavailable,
                        "the server is shutting down: what was sent on this stream and has no answer was not run"});
  }
  return settle();
}

unsigned Connection::abort_calls(const Status& status) {
  const Loop::Step step(loop_);
  for (const std::int32_t stream : codec_.open_streams()) {
    wire::Call* call = codec_.find(stream);
    if (call == nullptr) continue;
    on_cancelled(*call, status.code());
    codec_.finish(*call, status);
  }
  return settle();
}

}  // namespace headrace
