#include "wire/http2.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace headrace::wire {
namespace {

constexpr std::uint32_t kMaxFrame = std::uint32_t{1} << 20;    // that we take
constexpr std::size_t kMaxDataFrame = std::size_t{256} << 10;  // that we send: others come between
constexpr std::size_t kConnectionWindows = 4;                  // the connection's window, in stream windows
constexpr Nanos kWindowEpoch = 100 * kMillisecond;
constexpr std::size_t kMaxFields = 128;

// RFC 9218: the deprecated priority tree is not kept. nghttp2 before 1.50 has no name for it and only passes it on.
constexpr std::int32_t kSettingNoPriorityTree = 0x9;

nghttp2_nv to_nv(const HeaderField& field) {
  // Deflating only reads the bytes; nghttp2's type says otherwise.
  const std::uint8_t flags = field.lasting ? NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE
                                           : static_cast<int>(NGHTTP2_NV_FLAG_NO_INDEX);
  return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(field.name.data())),
          reinterpret_cast<std::uint8_t*>(const_cast<char*>(field.value.data())), field.name.size(), field.value.size(),
          flags};
}

std::string_view view_of(nghttp2_rcbuf* buffer) {
  const nghttp2_vec bytes = nghttp2_rcbuf_get_buf(buffer);
  return {reinterpret_cast<const char*>(bytes.base), bytes.len};
}

// Memory is the only thing that these calls can fail for, given arguments that are right.
void must(int result) { HEADRACE_CHECK(!nghttp2_is_fatal(result)); }

}  // namespace

void TenSeconds::move_to(Nanos now) {
  const std::int64_t step = now / kSecond;
  if (step == step_) return;
  if (step - step_ >= kSteps || step < step_) {
    steps_.fill(0);
    sum_ = 0;
  } else {
    for (std::int64_t passed = step_ + 1; passed <= step; ++passed) {
      std::uint64_t& old = steps_[static_cast<std::size_t>(passed % kSteps)];
      sum_ -= old;
      old = 0;
    }
  }
  step_ = step;
}

}  // namespace headrace::wire

struct Http2Callbacks {
  using Session = headrace::wire::Http2Session;
  using Stream = headrace::wire::Http2Stream;

  static Session& self(void* user) { return *static_cast<Session*>(user); }
  static Stream* stream_of(nghttp2_session* session, std::int32_t id) {
    return static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, id));
  }

  static int on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    Session& s = self(user);
    if (s.over_) return 0;
    s.inside_header_block_ = true;
    const std::int32_t id = frame->hd.stream_id;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
      s.header_stream_ = stream_of(session, id);
      return 0;
    }
    s.opened_.add(s.now_, 1);
    Stream* stream = s.header_stream_ = s.events_.on_open(id);
    if (stream == nullptr) {
      headrace::wire::must(nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_REFUSED_STREAM));
      return 0;
    }
    stream->id = id;
    stream->opened = s.now_;
    stream->window = Session::kFirstWindow;
    headrace::wire::must(nghttp2_session_set_stream_user_data(session, id, stream));
    return 0;
  }

  static int on_header(nghttp2_session* session, const nghttp2_frame* frame, nghttp2_rcbuf* name, nghttp2_rcbuf* value,
                       std::uint8_t /*flags*/, void* user) {
    Session& s = self(user);
    Stream* stream = s.header_stream_;  // no other frame comes within a header block
    if (s.over_ || stream == nullptr) return 0;
    const std::string_view name_view = headrace::wire::view_of(name);
    const std::string_view value_view = headrace::wire::view_of(value);
    stream->header_bytes += name_view.size() + value_view.size() + 32;  // as RFC 9113 counts them
    if (stream->header_bytes > s.limits_.max_header_bytes) {
      s.inside_header_block_ = false;
      headrace::wire::must(
          nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_ENHANCE_YOUR_CALM));
      return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) s.events_.on_header(*stream, name_view, value_view);
    return 0;
  }

  static int on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    Session& s = self(user);
    if (s.over_) return 0;
    const bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    switch (frame->hd.type) {
      case NGHTTP2_HEADERS: {
        s.inside_header_block_ = false;
        Stream* stream = stream_of(session, frame->hd.stream_id);
        if (stream == nullptr) return 0;
        stream->peer_ended = end;
        if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) s.events_.on_headers(*stream);
        if (end && !s.over_) s.events_.on_end(*stream);
        return 0;
      }
      case NGHTTP2_DATA: {
        if (!end) {
          if (frame->hd.length == frame->data.padlen) count_flood(s, s.empty_frames_);
          return 0;
        }
        Stream* stream = stream_of(session, frame->hd.stream_id);
        if (stream == nullptr) return 0;
        stream->peer_ended = true;
        s.events_.on_end(*stream);
        return 0;
      }
      case NGHTTP2_RST_STREAM: {
        ++s.resets_received_;
        const Stream* stream = stream_of(session, frame->hd.stream_id);
        if (stream != nullptr && s.now_ - stream->opened <= Session::kQuick) count_reset(s);
        return 0;
      }
      case NGHTTP2_SETTINGS:
        s.greeted_ = true;
        return 0;
      default:
        return 0;
    }
  }

  // A frame that made nghttp2 reset its stream: as good as a reset by the peer, were it used to make us work.
  static int on_invalid_frame(nghttp2_session* session, const nghttp2_frame* frame, int /*error*/, void* user) {
    Session& s = self(user);
    if (s.over_) return 0;
    if (frame->hd.type == NGHTTP2_HEADERS) s.inside_header_block_ = false;
    const Stream* stream = stream_of(session, frame->hd.stream_id);
    if (stream != nullptr && s.now_ - stream->opened <= Session::kQuick) count_reset(s);
    return 0;
  }

  static void count_reset(Session& s) {
    s.quick_resets_.add(s.now_, 1);
    const std::uint64_t resets = s.quick_resets_.sum(s.now_);
    if (resets > Session::kFloodFrames && resets * 2 > s.opened_.sum(s.now_)) {
      s.terminate(headrace::wire::Http2Error::kEnhanceYourCalm, "too many streams reset right after their opening");
    }
  }
  static void count_flood(Session& s, headrace::wire::TenSeconds& frames) {
    frames.add(s.now_, 1);
    if (frames.sum(s.now_) <= Session::kFloodFrames) return;
    s.terminate(headrace::wire::Http2Error::kEnhanceYourCalm, "too many empty DATA frames");
  }

  static int on_data(nghttp2_session* session, std::uint8_t flags, std::int32_t id, const std::uint8_t* bytes,
                     std::size_t size, void* user) {
    Session& s = self(user);
    s.data_bytes_ += size;
    Stream* stream = stream_of(session, id);
    if (s.over_ || stream == nullptr) return 0;
    stream->unconsumed += size;
    if ((flags & NGHTTP2_FLAG_END_STREAM) != 0) stream->keep_window = true;
    s.events_.on_data(*stream, {reinterpret_cast<const std::byte*>(bytes), size});
    return 0;
  }

  static int on_close(nghttp2_session* session, std::int32_t id, std::uint32_t error, void* user) {
    Session& s = self(user);
    Stream* stream = stream_of(session, id);
    if (stream == nullptr) return 0;
    if (s.header_stream_ == stream) s.header_stream_ = nullptr;
    s.drop_output(*stream);
    s.events_.on_close(*stream, error != NGHTTP2_NO_ERROR);
    return 0;
  }

  static ssize_t data_length(nghttp2_session* /*session*/, std::uint8_t /*type*/, std::int32_t /*id*/,
                             std::int32_t connection_window, std::int32_t stream_window, std::uint32_t max_frame,
                             void* /*user*/) {
    const auto size = std::min<std::size_t>(max_frame, headrace::wire::kMaxDataFrame);
    return static_cast<ssize_t>(std::min(size, static_cast<std::size_t>(std::min(connection_window, stream_window))));
  }

  // How much DATA goes into the next frame; send_data moves it.
  static ssize_t read_data(nghttp2_session* /*session*/, std::int32_t /*id*/, std::uint8_t* /*buffer*/,
                           std::size_t room, std::uint32_t* flags, nghttp2_data_source* source, void* user) {
    Session& s = self(user);
    auto& stream = *static_cast<Stream*>(source->ptr);
    const std::size_t size = std::min(room, stream.output.size());
    if (size == 0 && !stream.output_ended) {
      stream.output_deferred = true;
      return NGHTTP2_ERR_DEFERRED;
    }
    *flags = NGHTTP2_DATA_FLAG_NO_COPY;
    if (size == stream.output.size() && stream.output_ended) {
      *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
      s.events_.on_output_sent(stream);
    }
    return static_cast<ssize_t>(size);
  }

  static int send_data(nghttp2_session* /*session*/, nghttp2_frame* /*frame*/, const std::uint8_t* head,
                       std::size_t size, nghttp2_data_source* source, void* user) {
    Session& s = self(user);
    auto& stream = *static_cast<Stream*>(source->ptr);
    s.writer_.append(head, 9);
    stream.output.move_to(s.writer_, size);
    s.output_waiting_ -= size;
    s.paused_ = s.writer_.written() >= s.write_budget_;
    return s.paused_ ? static_cast<int>(NGHTTP2_ERR_PAUSE) : 0;
  }

  // The answer is complete and the request is not: what still comes is not wanted (RFC 9113, 8.1).
  static int on_sent(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
      self(user).over_ = true;  // nghttp2 itself may have found the peer at fault
    }
    if (frame->hd.type != NGHTTP2_HEADERS || (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) return 0;
    const Stream* stream = stream_of(session, frame->hd.stream_id);
    if (stream == nullptr || stream->peer_ended) return 0;
    headrace::wire::must(nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_NO_ERROR));
    return 0;
  }

  static const nghttp2_session_callbacks* callbacks() {
    static const nghttp2_session_callbacks* const kCallbacks = [] {
      nghttp2_session_callbacks* made = nullptr;
      headrace::wire::must(nghttp2_session_callbacks_new(&made));
      nghttp2_session_callbacks_set_on_begin_headers_callback(made, on_begin_headers);
      nghttp2_session_callbacks_set_on_header_callback2(made, on_header);
      nghttp2_session_callbacks_set_on_frame_recv_callback(made, on_frame);
      nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(made, on_invalid_frame);
      nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, on_data);
      nghttp2_session_callbacks_set_on_stream_close_callback(made, on_close);
      nghttp2_session_callbacks_set_data_source_read_length_callback(made, data_length);
      nghttp2_session_callbacks_set_send_data_callback(made, send_data);
      nghttp2_session_callbacks_set_on_frame_send_callback(made, on_sent);
      return made;
    }();
    return kCallbacks;
  }

  static const nghttp2_option* options() {
    static const nghttp2_option* const kOptions = [] {
      nghttp2_option* made = nullptr;
      headrace::wire::must(nghttp2_option_new(&made));
      nghttp2_option_set_no_auto_window_update(made, 1);
      nghttp2_option_set_no_closed_streams(made, 1);
#if HEADRACE_NGHTTP2_RESET_LIMIT
      // nghttp2's own limiter ends an honest client at its 1,001st cancel; count_reset has the rule that we want.
      nghttp2_option_set_stream_reset_rate_limit(made, UINT64_MAX, UINT64_MAX);
#endif
      return made;
    }();
    return kOptions;
  }
};

namespace headrace::wire {

Http2Session::Http2Session(const Http2Limits& limits, Http2Events& events, Nanos now)
    : limits_(limits), events_(events), now_(now), epoch_start_(now) {
  must(nghttp2_session_server_new2(&session_, Http2Callbacks::callbacks(), this, Http2Callbacks::options()));
  const std::array<nghttp2_settings_entry, 5> settings = {{
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(kFirstWindow)},
      {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, kMaxFrame},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, static_cast<std::uint32_t>(limits.max_header_bytes)},
      {kSettingNoPriorityTree, 1},
  }};
  must(nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size()));
  must(nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0,
                                             static_cast<std::int32_t>(kConnectionWindows * window_)));
}

Http2Session::~Http2Session() { nghttp2_session_del(session_); }

bool Http2Session::receive(std::span<const std::byte> bytes, Nanos now) {
  if (over_) return false;
  now_ = now;
  data_bytes_ = 0;
  const ssize_t read =
      nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  if (read < 0) {
    const bool flood = read == NGHTTP2_ERR_FLOODED || read == NGHTTP2_ERR_TOO_MANY_SETTINGS || read < -904;
    terminate(flood ? Http2Error::kEnhanceYourCalm : Http2Error::kProtocol, nghttp2_strerror(static_cast<int>(read)));
  } else if (data_bytes_ != 0) {
    must(nghttp2_session_consume_connection(session_, data_bytes_));
    adapt_window();
  }
  // A peer that makes us answer and does not read the answers.
  if (nghttp2_session_get_outbound_queue_size(session_) > 4 * std::size_t{limits_.max_concurrent_streams} + 4096) {
    terminate(Http2Error::kEnhanceYourCalm, "too many answers wait to be read");
  }
  return !over_;
}

// A window that is used up in less than a tenth of a second may be what holds the peer back: double it.
void Http2Session::adapt_window() {
  epoch_bytes_ += data_bytes_;
  if (epoch_bytes_ < kConnectionWindows * window_ / 2) return;
  if (now_ - epoch_start_ < kWindowEpoch && window_ < kMaxWindow) {
    window_ *= 2;
    must(nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0,
                                               static_cast<std::int32_t>(kConnectionWindows * window_)));
  }
  epoch_bytes_ = 0;
  epoch_start_ = now_;
}

void Http2Session::give_window(Http2Stream& stream, std::size_t left) {
  if (stream.keep_window || stream.peer_ended) return;
  if (left > stream.window && window_ > stream.window) {
    stream.window = window_;
    must(nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, stream.id,
                                               static_cast<std::int32_t>(window_)));
  }
  // A quarter: nghttp2 sends an update for a half, and it must never be that less than a quarter is left to the peer
  // and less than a half is counted.
  if (stream.unconsumed < stream.window / 4) return;
  const std::int32_t room = nghttp2_session_get_stream_effective_local_window_size(session_, stream.id) -
                            nghttp2_session_get_stream_effective_recv_data_length(session_, stream.id);
  if (left != 0 && room > 0 && left <= static_cast<std::size_t>(room)) return;  // it can end without an update
  must(nghttp2_session_consume_stream(session_, stream.id, stream.unconsumed));
  stream.unconsumed = 0;
}

void Http2Session::respond(Http2Stream& stream, std::span<const HeaderField> fields, bool end) {
  HEADRACE_CHECK(fields.size() <= kMaxFields);
  std::array<nghttp2_nv, kMaxFields> nva;
  std::transform(fields.begin(), fields.end(), nva.begin(), to_nv);
  nghttp2_data_provider body{};
  body.source.ptr = &stream;
  body.read_callback = Http2Callbacks::read_data;
  must(nghttp2_submit_response(session_, stream.id, nva.data(), fields.size(), end ? nullptr : &body));
}

void Http2Session::trailers(Http2Stream& stream, std::span<const HeaderField> fields) {
  HEADRACE_CHECK(fields.size() <= kMaxFields);
  std::array<nghttp2_nv, kMaxFields> nva;
  std::transform(fields.begin(), fields.end(), nva.begin(), to_nv);
  must(nghttp2_submit_trailer(session_, stream.id, nva.data(), fields.size()));
}

void Http2Session::resume(Http2Stream& stream) {
  if (!stream.output_deferred) return;
  stream.output_deferred = false;
  must(nghttp2_session_resume_data(session_, stream.id));
}

void Http2Session::push_message(Http2Stream& stream, OutMessage& message) {
  const std::size_t before = stream.output.size();
  stream.output.push_message(message);
  output_waiting_ += stream.output.size() - before;
#if HEADRACE_NGHTTP2_EXTPRI
  // Streams are served one after the other, save those that say that they may be interleaved: a large answer does.
  if (stream.output.size() > kMaxDataFrame && !stream.interleaved) {
    stream.interleaved = true;
    const nghttp2_extpri priority{NGHTTP2_EXTPRI_DEFAULT_URGENCY, 1};
    must(nghttp2_session_change_extpri_stream_priority(session_, stream.id, &priority, 1));
  }
#endif
  resume(stream);
}

void Http2Session::end_output(Http2Stream& stream) {
  stream.output_ended = true;
  resume(stream);
}

void Http2Session::drop_output(Http2Stream& stream) {
  output_waiting_ -= stream.output.size();
  stream.output.clear();
}

void Http2Session::reset(Http2Stream& stream, Http2Error error) {
  must(nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream.id, static_cast<std::uint32_t>(error)));
}

Http2Stream* Http2Session::find(std::int32_t id) const { return Http2Callbacks::stream_of(session_, id); }

std::size_t Http2Session::take_output(std::vector<OutputChunk>& chunks, std::size_t budget_bytes, Nanos now) {
  now_ = now;
  write_budget_ = budget_bytes;
  writer_.begin(chunks);
  while (writer_.written() < budget_bytes) {
    paused_ = false;
    const std::uint8_t* bytes = nullptr;
    const ssize_t size = nghttp2_session_mem_send(session_, &bytes);
    if (size < 0) {
      over_ = broken_ = true;
      break;
    }
    if (size == 0 && !paused_) break;
    writer_.append(bytes, static_cast<std::size_t>(size));
  }
  writer_.end();
  return writer_.written();
}

void Http2Session::shutdown_notice() { must(nghttp2_submit_shutdown_notice(session_)); }

void Http2Session::shutdown_final() {
  must(nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                             NGHTTP2_NO_ERROR, nullptr, 0));
}

void Http2Session::terminate(Http2Error error, const char* reason) {
  if (over_) return;
  over_ = true;
  const auto code = static_cast<std::uint32_t>(error);
  // One to carry the reason: nghttp2's own, which ends the session, has no place for it.
  must(nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_), code,
                             reinterpret_cast<const std::uint8_t*>(reason), std::strlen(reason)));
  must(nghttp2_session_terminate_session(session_, code));
}

bool Http2Session::wants_write() const { return nghttp2_session_want_write(session_) != 0; }

bool Http2Session::wants_close() const {
  return broken_ || (!wants_write() && (over_ || nghttp2_session_want_read(session_) == 0));
}

}  // namespace headrace::wire
