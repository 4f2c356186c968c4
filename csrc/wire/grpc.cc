#include "wire/grpc.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "wire/grpc_connection.h"

namespace headrace::wire {
namespace {

constexpr std::size_t kKeptPath = 256;                      // memory of a path that outlives its call
constexpr std::size_t kHeldStep = std::size_t{1} << 20;     // held bytes that are read in one step
constexpr std::size_t kHeldCharge = std::size_t{64} << 10;  // held bytes are charged in steps of this

std::string seconds(Nanos time) { return std::to_string(time / kSecond) + " s"; }

}  // namespace

Status output_refusal(std::size_t waiting, std::size_t max_output_bytes) {
  return resource_exhausted(std::to_string(waiting) + " bytes of answers wait on this connection, over the limit of " +
                            std::to_string(max_output_bytes) +
                            " (--max-output-bytes): read the answers before making new calls");
}

// ---- requests

void GrpcConnection::Impl::receive(std::span<const std::byte> bytes, Nanos now) {
  if (dead_ || bytes.empty()) return;
  now_ = last_byte_ = now;
  counters_.bytes_received += bytes.size();
  const bool alive = session_.receive(bytes, now);
  enter_fresh();
  if (!alive) end_all();
}

void GrpcConnection::Impl::receive_eof(Nanos now) {
  now_ = now;
  dead_ = true;
  end_all();
}

Http2Stream* GrpcConnection::Impl::on_open(std::int32_t id) {
  if (free_.empty()) {
    if (streams_.size() + held_ >= limits_.max_concurrent_streams) return nullptr;
    streams_.push_back(std::make_unique<CallStream>());
    CallStream& made = *streams_.back();
    made.stall.owner = made.whole.owner = &made;
    free_.push_back(&made);
    free_.reserve(streams_.capacity());
  }
  if (streams_.size() - free_.size() + held_ >= limits_.max_concurrent_streams) return nullptr;
  CallStream* stream = free_.back();
  free_.pop_back();
  stream->stream_id = id;
  return stream;
}

void GrpcConnection::Impl::on_header(Http2Stream& http2, std::string_view name, std::string_view value) {
  auto& stream = static_cast<CallStream&>(http2);
  stream.head.add(name, value, stream.path, stream.metadata);
}

void GrpcConnection::Impl::on_headers(Http2Stream& http2) {
  auto& stream = static_cast<CallStream&>(http2);
  if (const auto refusal = stream.head.refusal()) {
    refuse(stream, *refusal);
    return;
  }
  const Nanos timeout = stream.head.timeout();
  stream.received = now_;
  stream.deadline = timeout >= kNever - now_ ? kNever : now_ + timeout;
  if (stream.deadline <= now_) {
    answer(stream, {Code::kDeadlineExceeded, "the deadline had passed when the call arrived (grpc-timeout)"}, {});
    return;
  }
  if (session_.output_waiting() > limits_.max_output_bytes) {
    answer(stream, output_refusal(session_.output_waiting(), limits_.max_output_bytes), {});
    return;
  }
  ++counters_.calls;
  ++open_calls_;
  stream.open = true;
  fresh_.push_back({&stream, stream.id});
  handler_.on_call(stream);
}

void GrpcConnection::Impl::on_data(Http2Stream& http2, std::span<const std::byte> data) {
  auto& stream = static_cast<CallStream&>(http2);
  if (!stream.held.empty()) {
    if (stream.open) hold(stream, data);
    return;
  }
  read_messages(stream, data);
  if (!stream.open) return;
  if (stream.paused) {
    if (!data.empty()) hold(stream, data);
    return;
  }
  note_message_time(stream);
  session_.give_window(stream, stream.intake.left());
}

void GrpcConnection::Impl::read_messages(CallStream& stream, std::span<const std::byte>& data) {
  while (stream.open && !stream.paused && !data.empty()) {
    Message message;
    Status refusal;
    const auto step = stream.intake.feed(context_, stream.head.encoding(), data, message, refusal);
    if (step == MessageIntake::Step::kMore) return;
    if (step == MessageIntake::Step::kRefused) {
      end_call(stream, refusal);
      return;
    }
    stream.charged += message.bytes.size();
    stream.any_message = true;
    ++counters_.messages;
    handler_.on_message(stream, std::move(message));
  }
}

// ---- a call that is paused

void GrpcConnection::Impl::pause_messages(CallStream& stream) {
  HEADRACE_CHECK(stream.open);
  stream.paused = true;
  // It is we who wait.
  stalls_.remove(stream.stall);
  wholes_.remove(stream.whole);
}

// At most the stream's window: what is held gives none back.
void GrpcConnection::Impl::hold(CallStream& stream, std::span<const std::byte> data) {
  const std::size_t total = stream.held.size() + data.size();
  if (total > stream.held_charged) {
    const std::size_t upto = (total / kHeldCharge + 1) * kHeldCharge;
    const std::size_t more = upto - stream.held_charged;
    InflightBudget::Charge charge;
    if (more <= context_.max_inflight_bytes - std::min(context_.max_inflight_bytes, context_.inflight_bytes)) {
      charge = context_.budget.take(upto);
    }
    if (!charge) {
      end_call(stream, resource_exhausted("no room for " + std::to_string(total) +
                                          " bytes of messages that wait for their turn on this stream: the connection "
                                          "(--connection-inflight-bytes) or the server (--process-inflight-bytes) has "
                                          "too many request bytes in flight; wait for answers before sending more"));
      return;
    }
    context_.inflight_bytes += more;
    stream.held_charged = upto;
    stream.held_charge = std::move(charge);
  }
  stream.held.append(reinterpret_cast<const char*>(data.data()), data.size());
}

void GrpcConnection::Impl::release_held(CallStream& stream) {
  if (stream.held_charged == 0) return;
  context_.inflight_bytes -= std::exchange(stream.held_charged, 0);
  stream.held_charge.release();
  std::string().swap(stream.held);
  stream.held_at = 0;
}

bool GrpcConnection::Impl::resume_messages(CallStream& stream, Nanos now) {
  HEADRACE_CHECK(stream.open);
  now_ = now;
  stream.paused = false;
  const std::span<const std::byte> held = std::as_bytes(std::span<const char>(stream.held)).subspan(stream.held_at);
  std::span<const std::byte> step = held.first(std::min(held.size(), kHeldStep));
  const std::size_t before = step.size();
  read_messages(stream, step);
  if (!stream.open) return true;
  stream.held_at += before - step.size();
  if (stream.held_at < stream.held.size()) return stream.paused;
  release_held(stream);
  if (stream.paused) return true;
  if (std::exchange(stream.end_held, false)) {
    end_of_request(stream);
    return true;
  }
  note_message_time(stream);
  session_.give_window(stream, stream.intake.left());
  return true;
}

void GrpcConnection::Impl::note_message_time(CallStream& stream) {
  if (stream.intake.partial()) {
    stalls_.touch(stream.stall, now_);
    if (!stream.whole.linked) wholes_.add(stream.whole, now_);
  } else if (stream.stall.linked) {
    stalls_.remove(stream.stall);
    wholes_.remove(stream.whole);
  }
}

void GrpcConnection::Impl::on_end(Http2Stream& http2) {
  auto& stream = static_cast<CallStream&>(http2);
  if (!stream.open) return;
  if (stream.paused || !stream.held.empty()) {
    stream.end_held = true;
    return;
  }
  end_of_request(stream);
}

void GrpcConnection::Impl::end_of_request(CallStream& stream) {
  stalls_.remove(stream.stall);
  if (stream.intake.partial()) {
    end_call(stream, internal_error("the request ended in the middle of a message"));
    return;
  }
  handler_.on_end(stream);
}

// Timers are for calls that are not over within the read that brought them.
void GrpcConnection::Impl::enter_fresh() {
  for (const Fresh& fresh : fresh_) {
    CallStream& stream = *fresh.stream;
    if (!stream.open || stream.id != fresh.id) continue;
    if (stream.awaits_message && !stream.any_message && !stream.peer_ended && !stream.stall.linked) {
      stalls_.add(stream.stall, now_);
    }
    if (stream.deadline != kNever && !stream.deadline_handed_over) {
      deadlines_.add({stream.deadline, &stream, stream.id});
    }
  }
  fresh_.clear();
  if (deadlines_.size() > 2 * open_calls_ + 64) sweep_deadlines();
}

void GrpcConnection::Impl::sweep_deadlines() {
  deadlines_.sweep([](const auto& entry) {
    return entry.owner->open && entry.owner->id == entry.id && !entry.owner->deadline_handed_over;
  });
}

// ---- the end of calls

// Takes the call from the handler's hands; what the peer still sends for it is dropped.
void GrpcConnection::Impl::close_call(CallStream& stream) {
  stream.open = false;
  stream.keep_window = true;
  --open_calls_;
  stalls_.remove(stream.stall);
  wholes_.remove(stream.whole);
  stream.intake.reset(context_);
  release_held(stream);
}

void GrpcConnection::Impl::tell_cancelled(CallStream& stream, Code reason) {
  handler_.on_cancelled(stream, reason);
  context_.inflight_bytes -= std::exchange(stream.charged, 0);
}

// The codec's own verdict on an open call.
void GrpcConnection::Impl::end_call(CallStream& stream, const Status& status) {
  close_call(stream);
  session_.drop_output(stream);
  answer(stream, status, {});
  tell_cancelled(stream, status.code());
}

// The newest first: were it the oldest, a lane would start the next in line, only to be told to stop.
void GrpcConnection::Impl::end_all() {
  for (const std::unique_ptr<CallStream>& stream : streams_) session_.drop_output(*stream);
  for (const std::int32_t id : open_streams()) {
    auto* stream = static_cast<CallStream*>(find(id));
    if (stream == nullptr) continue;
    close_call(*stream);
    tell_cancelled(*stream, Code::kCancelled);
  }
}

void GrpcConnection::Impl::on_close(Http2Stream& http2, bool /*reset*/) {
  auto& stream = static_cast<CallStream&>(http2);
  if (stream.open) {
    close_call(stream);
    tell_cancelled(stream, Code::kCancelled);
  }
  recycle(stream);
}

void GrpcConnection::Impl::recycle(CallStream& stream) {
  stream.head.reset(stream.metadata);
  if (stream.path.capacity() > kKeptPath) std::string().swap(stream.path);
  stream.path.clear();
  stream.stream_id = 0;
  stream.received = 0;
  stream.deadline = kNever;
  stream.deadline_handed_over = stream.awaits_message = false;
  stream.user = nullptr;
  stream.user_id = 0;
  stream.responded = stream.any_message = stream.paused = stream.end_held = false;
  if (!stream.status.ok()) stream.status = Status();
  stream.trailers.clear();
  stream.reopen();
  free_.push_back(&stream);
}

// ---- output and time

void GrpcConnection::Impl::take_output(std::vector<OutputChunk>& chunks, std::size_t budget_bytes, Nanos now) {
  if (dead_) return;
  now_ = now;
  const std::size_t taken = session_.take_output(chunks, budget_bytes, now);
  counters_.bytes_sent += taken;
  if (taken != 0 || std::exchange(wait_begins_, false)) last_moved_ = now;
  if (session_.over()) end_all();
}

void GrpcConnection::Impl::output_blocked(bool blocked, Nanos now) {
  blocked_ = blocked;
  output_progress(now);
}

Nanos GrpcConnection::Impl::output_due() const {
  const bool waits = blocked_ || (session_.output_waiting() != 0 && !wait_begins_);
  return waits ? last_moved_ + limits_.write_stall : kNever;
}

// Of the connection as a whole: half a preface, half a header block, or nothing going on.
Nanos GrpcConnection::Impl::connection_due() const {
  if (!session_.greeted() || session_.inside_header_block()) return last_byte_ + limits_.message_stall;
  return open_calls_ == 0 ? last_byte_ + limits_.idle : kNever;
}

Nanos GrpcConnection::Impl::next_timeout() const {
  if (dead_ || session_.over()) return kNever;
  return std::min({stalls_.due(limits_.message_stall), wholes_.due(limits_.message_whole), deadlines_.due(),
                   output_due(), connection_due()});
}

void GrpcConnection::Impl::on_timer(Nanos now) {
  if (dead_ || session_.over()) return;
  now_ = now;
  if (output_due() <= now) {
    dead_ = true;  // nobody reads: not even a GOAWAY would arrive
    end_all();
    return;
  }
  while (stalls_.due(limits_.message_stall) <= now) {
    end_call(*stalls_.first(),
             {Code::kDeadlineExceeded, "half a message, and no byte of it for " + seconds(limits_.message_stall)});
  }
  while (wholes_.due(limits_.message_whole) <= now) {
    end_call(*wholes_.first(), {Code::kDeadlineExceeded, "the message was not whole within " +
                                                             seconds(limits_.message_whole) + " of its first byte"});
  }
  while (deadlines_.due() <= now) {
    const auto entry = deadlines_.take();
    CallStream& stream = *entry.owner;
    if (!stream.open || stream.id != entry.id || stream.deadline_handed_over) continue;
    end_call(stream, {Code::kDeadlineExceeded, "the deadline of the call passed (grpc-timeout)"});
  }
  if (connection_due() <= now) {
    const bool half = !session_.greeted() || session_.inside_header_block();
    session_.terminate(half ? Http2Error::kProtocol : Http2Error::kNone,
                       half ? "half a preface or header block, and then nothing" : "idle");
    end_all();
  }
}

// ---- the public face

GrpcConnection::GrpcConnection(const GrpcLimits& limits, Pool& pool, InflightBudget& budget, CallHandler& handler,
                               Nanos now)
    : impl_(std::make_unique<Impl>(limits, pool, budget, handler, now)) {}
GrpcConnection::~GrpcConnection() = default;

void GrpcConnection::receive(std::span<const std::byte> bytes, Nanos now) { impl_->receive(bytes, now); }
void GrpcConnection::receive_eof(Nanos now) { impl_->receive_eof(now); }
void GrpcConnection::send(Call& call, OutMessage& message) { impl_->send(static_cast<CallStream&>(call), message); }
void GrpcConnection::finish(Call& call, const Status& status, const Metadata& trailers) {
  impl_->finish(static_cast<CallStream&>(call), status, trailers);
}
Call* GrpcConnection::find(std::int32_t stream_id) { return impl_->find(stream_id); }
void GrpcConnection::release_bytes(Call& call, std::size_t bytes) {
  impl_->release_bytes(static_cast<CallStream&>(call), bytes);
}
std::size_t GrpcConnection::hold_slot(Call& call) { return impl_->hold_slot(static_cast<CallStream&>(call)); }
void GrpcConnection::release_slot(std::size_t held) { impl_->release_slot(held); }
void GrpcConnection::pause_messages(Call& call) { impl_->pause_messages(static_cast<CallStream&>(call)); }
bool GrpcConnection::resume_messages(Call& call, Nanos now) {
  return impl_->resume_messages(static_cast<CallStream&>(call), now);
}
void GrpcConnection::take_output(std::vector<OutputChunk>& chunks, std::size_t budget_bytes, Nanos now) {
  impl_->take_output(chunks, budget_bytes, now);
}
void GrpcConnection::output_progress(Nanos now) { impl_->output_progress(now); }
void GrpcConnection::output_blocked(bool blocked, Nanos now) { impl_->output_blocked(blocked, now); }
Nanos GrpcConnection::next_timeout() const { return impl_->next_timeout(); }
void GrpcConnection::on_timer(Nanos now) { impl_->on_timer(now); }
void GrpcConnection::shutdown_notice() { impl_->session().shutdown_notice(); }
void GrpcConnection::shutdown_final() { impl_->session().shutdown_final(); }
bool GrpcConnection::wants_close() const { return impl_->wants_close(); }
std::size_t GrpcConnection::open_calls() const { return impl_->open_calls(); }
bool GrpcConnection::has_output() const { return impl_->has_output(); }
std::vector<std::int32_t> GrpcConnection::open_streams() const { return impl_->open_streams(); }
std::size_t GrpcConnection::output_waiting() const { return impl_->output_waiting(); }
std::size_t GrpcConnection::output_waiting(const Call& call) const {
  return static_cast<const CallStream&>(call).output.size();
}
std::size_t GrpcConnection::inflight_bytes() const { return impl_->inflight_bytes(); }
const GrpcCounters& GrpcConnection::counters() const { return impl_->counters(); }

}  // namespace headrace::wire
