// One HTTP/2 connection, server side, sans I/O: nghttp2 with our limits, windows and flood rules around it.
// Frames in, streams out; header fields and queued bytes in, frames out. Knows nothing of gRPC.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "wire/output.h"

struct nghttp2_session;
struct Http2Callbacks;  // of http2.cc: nghttp2's callbacks

namespace headrace::wire {

struct Http2Limits {
  std::size_t max_header_bytes = std::size_t{64} << 10;
  std::uint32_t max_concurrent_streams = 1024;
};

// RFC 9113, section 7.
enum class Http2Error : std::uint32_t {
  kNone = 0,
  kProtocol = 1,
  kInternal = 2,
  kRefusedStream = 7,
  kCancel = 8,
  kEnhanceYourCalm = 11,
};

// One stream; what is above derives from it.
struct Http2Stream {
  std::int32_t id = 0;
  bool peer_ended = false;       // END_STREAM has come
  bool output_ended = false;     // nothing follows what is in `output`, save trailers
  bool output_deferred = false;  // nghttp2 waits for resume()
  bool interleaved = false;      // its output takes turns with that of other streams
  bool keep_window = false;      // give no more window: what it still sends is not wanted
  OutputQueue output;            // change it only through Http2Session
  Nanos opened = 0;
  std::size_t header_bytes = 0;
  std::size_t window = 0;      // how much the peer may send between two updates
  std::size_t unconsumed = 0;  // received and not yet given back as window

  void reopen() {
    id = 0;
    peer_ended = output_ended = output_deferred = interleaved = keep_window = false;
    output.clear();
    header_bytes = window = unconsumed = 0;
  }
};

struct HeaderField {
  std::string_view name;  // lower case
  std::string_view value;
  bool lasting = false;  // a literal of ours: need not be copied, and is worth a place in the peer's table
};

// Called from inside receive(), take_output() and abandon(). They may answer, reset and end any stream.
class Http2Events {
 public:
  // A request's header block begins. Null refuses the stream (REFUSED_STREAM): nothing more is heard of it.
  virtual Http2Stream* on_open(std::int32_t id) = 0;
  virtual void on_header(Http2Stream& stream, std::string_view name, std::string_view value) = 0;
  virtual void on_headers(Http2Stream& stream) = 0;  // the request's header block is whole
  virtual void on_data(Http2Stream& stream, std::span<const std::byte> data) = 0;
  virtual void on_end(Http2Stream& stream) = 0;  // END_STREAM
  // `output_ended` is set and `output` is empty: the last DATA is out. Called once; answer with trailers().
  virtual void on_output_sent(Http2Stream& stream) = 0;
  // Finished, or reset by either side. The stream is gone when this returns.
  virtual void on_close(Http2Stream& stream, bool reset) = 0;

 protected:
  ~Http2Events() = default;
};

// Sums over the last ten seconds, in steps of one.
class TenSeconds {
 public:
  void add(Nanos now, std::uint64_t count) {
    move_to(now);
    steps_[static_cast<std::size_t>(step_ % kSteps)] += count;
    sum_ += count;
  }
  std::uint64_t sum(Nanos now) {
    move_to(now);
    return sum_;
  }

 private:
  static constexpr std::int64_t kSteps = 10;
  void move_to(Nanos now);
  std::array<std::uint64_t, kSteps> steps_{};
  std::int64_t step_ = 0;
  std::uint64_t sum_ = 0;
};

class Http2Session {
 public:
  static constexpr std::size_t kFirstWindow = std::size_t{1} << 20;  // of a stream: smaller bodies need no update
  static constexpr std::size_t kMaxWindow = std::size_t{16} << 20;
  static constexpr std::uint64_t kFloodFrames = 1000;  // quick resets, or empty frames, in ten seconds
  static constexpr Nanos kQuick = 10 * kMillisecond;

  Http2Session(const Http2Limits& limits, Http2Events& events, Nanos now);
  ~Http2Session();
  Http2Session(const Http2Session&) = delete;
  Http2Session& operator=(const Http2Session&) = delete;

  // False: the connection is over (the peer broke the protocol or flooded us; GOAWAY is queued).
  bool receive(std::span<const std::byte> bytes, Nanos now);

  // The first header block of an answer. `end`: it is also the last.
  void respond(Http2Stream& stream, std::span<const HeaderField> fields, bool end);
  void push_message(Http2Stream& stream, OutMessage& message);
  void end_output(Http2Stream& stream);  // after it no push_message
  void trailers(Http2Stream& stream, std::span<const HeaderField> fields);
  void drop_output(Http2Stream& stream);
  void reset(Http2Stream& stream, Http2Error error);
  Http2Stream* find(std::int32_t id) const;
  // The body that is coming has `left` bytes to go: widens or refills the stream's window for it.
  void give_window(Http2Stream& stream, std::size_t left);

  // Appends chunks; about `budget_bytes` at most. How many bytes they are.
  std::size_t take_output(std::vector<OutputChunk>& chunks, std::size_t budget_bytes, Nanos now);
  void shutdown_notice();
  void shutdown_final();
  // GOAWAY with a reason (a literal, for the peer's log); no further frame of the peer is read.
  void terminate(Http2Error error, const char* reason);

  bool over() const { return over_; }  // terminated
  bool wants_close() const;            // nothing to read and nothing to write any more
  bool wants_write() const;
  std::size_t output_waiting() const { return output_waiting_; }
  bool inside_header_block() const { return inside_header_block_; }
  bool greeted() const { return greeted_; }  // the preface and the first SETTINGS have come
  std::uint64_t resets_received() const { return resets_received_; }

 private:
  friend struct ::Http2Callbacks;
  void resume(Http2Stream& stream);
  void adapt_window();

  const Http2Limits limits_;
  Http2Events& events_;
  nghttp2_session* session_ = nullptr;
  OutputWriter writer_;
  std::size_t write_budget_ = 0;
  bool paused_ = false;  // the budget ended a turn
  Nanos now_;

  std::size_t data_bytes_ = 0;  // DATA of this receive
  std::size_t window_ = kFirstWindow;
  std::size_t epoch_bytes_ = 0;  // since the window was last judged
  Nanos epoch_start_;

  TenSeconds opened_;
  TenSeconds quick_resets_;
  TenSeconds empty_frames_;
  std::size_t output_waiting_ = 0;
  std::uint64_t resets_received_ = 0;
  bool inside_header_block_ = false;
  Http2Stream* header_stream_ = nullptr;  // whose header block is being read
  bool greeted_ = false;
  bool over_ = false;
  bool broken_ = false;  // nothing can be written any more
};

}  // namespace headrace::wire
