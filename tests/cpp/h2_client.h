// An HTTP/2 client in memory, on nghttp2: makes the bytes that a client would send and reads what a server answers.
#pragma once

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"

namespace headrace::testing {

using Fields = std::vector<std::pair<std::string, std::string>>;

inline std::string grpc_frame(std::string_view body, bool compressed = false) {
  const auto size = static_cast<std::uint32_t>(body.size());
  std::string out = {static_cast<char>(compressed), static_cast<char>(size >> 24), static_cast<char>(size >> 16),
                     static_cast<char>(size >> 8), static_cast<char>(size)};
  out += body;
  return out;
}

class H2Client {
 public:
  struct Answer {
    Fields headers;   // of the first block
    Fields trailers;  // of a later one
    std::string body;
    bool ended = false;
    bool closed = false;
    std::uint32_t reset = 0;  // the code it was closed with

    static std::string field(const Fields& fields, std::string_view name) {
      for (const auto& [key, value] : fields) {
        if (key == name) return value;
      }
      return "";
    }
    std::string header(std::string_view name) const { return field(headers, name); }
    std::string trailer(std::string_view name) const { return field(trailers, name); }
    // Of the trailers, or of a Trailers-Only answer.
    std::string grpc(std::string_view name) const {
      const std::string found = trailer(name);
      return found.empty() ? header(name) : found;
    }
    std::vector<std::string> messages() const {
      std::vector<std::string> out;
      std::size_t at = 0;
      while (at + 5 <= body.size()) {
        std::uint32_t size = 0;
        for (std::size_t i = 1; i < 5; ++i) size = size << 8 | static_cast<unsigned char>(body[at + i]);
        out.push_back(body.substr(at + 5, size));
        at += 5 + size;
      }
      return out;
    }
  };

  struct Options {
    std::int32_t window = 0;  // 0: nghttp2's
    std::uint32_t max_frame = 0;
    bool auto_window = true;
  };

  H2Client() : H2Client(Options{}) {}
  explicit H2Client(const Options& options) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, length);
    nghttp2_option* option = nullptr;
    nghttp2_option_new(&option);
    nghttp2_option_set_no_auto_window_update(option, options.auto_window ? 0 : 1);
    nghttp2_option_set_peer_max_concurrent_streams(option, 1U << 20);
    nghttp2_option_set_max_send_header_block_length(option, 1U << 20);
    nghttp2_session_client_new2(&session_, callbacks, this, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    std::vector<nghttp2_settings_entry> settings;
    if (options.window != 0) {
      settings.push_back({NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(options.window)});
    }
    if (options.max_frame != 0) settings.push_back({NGHTTP2_SETTINGS_MAX_FRAME_SIZE, options.max_frame});
    nghttp2_submit_settings(session_, 0, settings.data(), settings.size());
    if (options.window > 65535) {
      nghttp2_session_set_local_window_size(session_, 0, 0, options.window);
    }
  }
  H2Client(const H2Client&) = delete;
  H2Client& operator=(const H2Client&) = delete;
  ~H2Client() { nghttp2_session_del(session_); }

  static Fields grpc_headers(const std::string& path) {
    return {{":method", "POST"}, {":scheme", "http"}, {":path", path},
            {":authority", "x"}, {"te", "trailers"},  {"content-type", "application/grpc"}};
  }

  // Opens a stream. More body may follow by write(), unless `end`.
  std::int32_t request(const Fields& headers, std::string body, bool end = true) {
    std::vector<nghttp2_nv> nva = to_nv(headers);
    Body* source = bodies_.emplace_back(std::make_unique<Body>()).get();
    source->bytes = std::move(body);
    source->end = end;
    nghttp2_data_provider provider{};
    provider.source.ptr = source;
    provider.read_callback = read_body;
    const std::int32_t id = nghttp2_submit_request(session_, nullptr, nva.data(), nva.size(),
                                                   end && source->bytes.empty() ? nullptr : &provider, nullptr);
    HEADRACE_CHECK(id > 0);
    by_id_[id] = source;
    return id;
  }
  std::int32_t call(const std::string& path, std::string_view message, const Fields& extra = {}) {
    Fields headers = grpc_headers(path);
    headers.insert(headers.end(), extra.begin(), extra.end());
    return request(headers, grpc_frame(message));
  }
  std::int32_t open(const std::string& path, const Fields& extra = {}) {
    Fields headers = grpc_headers(path);
    headers.insert(headers.end(), extra.begin(), extra.end());
    return request(headers, "", false);
  }
  void write(std::int32_t id, std::string_view bytes, bool end = false) {
    Body& body = *by_id_.at(id);
    body.bytes += bytes;
    body.end = end;
    nghttp2_session_resume_data(session_, id);
  }
  void trailers(std::int32_t id, const Fields& fields) {
    Body& body = *by_id_.at(id);
    body.trailers = fields;
    body.end = true;
    nghttp2_session_resume_data(session_, id);
  }
  void reset(std::int32_t id, std::uint32_t code = NGHTTP2_CANCEL) { nghttp2_submit_rst_stream(session_, 0, id, code); }
  void ping() { nghttp2_submit_ping(session_, 0, nullptr); }
  void consume(std::int32_t id, std::size_t bytes) { nghttp2_session_consume(session_, id, bytes); }

  // What goes to the server now.
  std::string take() {
    std::string out;
    for (;;) {
      const std::uint8_t* bytes = nullptr;
      const ssize_t size = nghttp2_session_mem_send(session_, &bytes);
      HEADRACE_CHECK(size >= 0);
      if (size == 0) return out;
      out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
    }
  }
  // False: the server broke the protocol.
  bool feed(std::string_view bytes) {
    const ssize_t read =
        nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    return read == static_cast<ssize_t>(bytes.size());
  }

  const Answer& answer(std::int32_t id) { return answers_[id]; }
  bool goaway = false;
  std::uint32_t goaway_code = 0;
  std::int32_t goaway_last_id = 0;
  std::string goaway_reason;
  int ping_acks = 0;
  std::size_t window_updates = 0;  // of streams
  std::size_t data_frames = 0;
  std::size_t largest_data_frame = 0;
  nghttp2_session* session() { return session_; }

 private:
  struct Body {
    std::string bytes;
    std::size_t at = 0;
    bool end = false;
    Fields trailers;
  };

  static std::vector<nghttp2_nv> to_nv(const Fields& fields) {
    std::vector<nghttp2_nv> out;
    for (const auto& [name, value] : fields) {
      out.push_back({reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
                     reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
                     NGHTTP2_NV_FLAG_NONE});
    }
    return out;
  }
  static H2Client& self(void* user) { return *static_cast<H2Client*>(user); }

  static ssize_t read_body(nghttp2_session* session, std::int32_t id, std::uint8_t* out, std::size_t room,
                           std::uint32_t* flags, nghttp2_data_source* source, void* /*user*/) {
    Body& body = *static_cast<Body*>(source->ptr);
    const std::size_t size = std::min(room, body.bytes.size() - body.at);
    if (size == 0 && !body.end) return NGHTTP2_ERR_DEFERRED;
    std::memcpy(out, body.bytes.data() + body.at, size);
    body.at += size;
    if (body.at == body.bytes.size()) {
      body.bytes.clear();
      body.at = 0;
      if (body.end) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (!body.trailers.empty()) {
          *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
          std::vector<nghttp2_nv> nva = to_nv(body.trailers);
          nghttp2_submit_trailer(session, id, nva.data(), nva.size());
        }
      }
    }
    return static_cast<ssize_t>(size);
  }
  static ssize_t length(nghttp2_session* /*session*/, std::uint8_t /*type*/, std::int32_t /*id*/,
                        std::int32_t connection, std::int32_t stream, std::uint32_t max_frame, void* /*user*/) {
    return std::min<ssize_t>({connection, stream, static_cast<ssize_t>(max_frame)});
  }
  static int on_header(nghttp2_session* /*session*/, const nghttp2_frame* frame, const std::uint8_t* name,
                       std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t /*flags*/,
                       void* user) {
    Answer& answer = self(user).answers_[frame->hd.stream_id];
    Fields& fields = frame->headers.cat == NGHTTP2_HCAT_RESPONSE ? answer.headers : answer.trailers;
    fields.emplace_back(std::string(reinterpret_cast<const char*>(name), name_size),
                        std::string(reinterpret_cast<const char*>(value), value_size));
    return 0;
  }
  static int on_data(nghttp2_session* /*session*/, std::uint8_t /*flags*/, std::int32_t id, const std::uint8_t* bytes,
                     std::size_t size, void* user) {
    self(user).answers_[id].body.append(reinterpret_cast<const char*>(bytes), size);
    return 0;
  }
  static int on_frame(nghttp2_session* /*session*/, const nghttp2_frame* frame, void* user) {
    H2Client& client = self(user);
    if (frame->hd.type == NGHTTP2_GOAWAY) {
      client.goaway = true;
      client.goaway_code = frame->goaway.error_code;
      client.goaway_last_id = frame->goaway.last_stream_id;
      if (frame->goaway.opaque_data_len != 0) {
        client.goaway_reason.assign(reinterpret_cast<const char*>(frame->goaway.opaque_data),
                                    frame->goaway.opaque_data_len);
      }
    }
    if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK) != 0) ++client.ping_acks;
    if (frame->hd.type == NGHTTP2_WINDOW_UPDATE && frame->hd.stream_id != 0) ++client.window_updates;
    if (frame->hd.type == NGHTTP2_DATA) {
      ++client.data_frames;
      client.largest_data_frame = std::max(client.largest_data_frame, frame->hd.length);
    }
    if ((frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
      client.answers_[frame->hd.stream_id].ended = true;
    }
    return 0;
  }
  static int on_close(nghttp2_session* /*session*/, std::int32_t id, std::uint32_t code, void* user) {
    Answer& answer = self(user).answers_[id];
    answer.closed = true;
    answer.reset = code;
    return 0;
  }

  nghttp2_session* session_ = nullptr;
  std::vector<std::unique_ptr<Body>> bodies_;
  std::map<std::int32_t, Body*> by_id_;
  std::map<std::int32_t, Answer> answers_;
};

}  // namespace headrace::testing
