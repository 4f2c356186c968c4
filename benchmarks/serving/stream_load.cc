// One connection that keeps so many requests in flight, over one ModelStreamInfer stream or as unary ModelInfer calls:
// the same client for both, because no load generator of others speaks bidirectional streams.
//   stream_load PORT unary|stream IN_FLIGHT REQUESTS MESSAGE_FILE
// MESSAGE_FILE holds one ModelInferRequest with its five bytes of gRPC's prefix. Prints the seconds that it took and
// how many requests were answered well.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <unordered_map>

namespace {

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "stream_load: %s\n", what);
  std::exit(1);
}

// gRPC messages of one stream as they come.
class Messages {
 public:
  // Calls `each` with the first byte of every message that ends in `bytes` (0: an empty one).
  template <class Each>
  void feed(std::string_view bytes, Each each) {
    while (!bytes.empty()) {
      if (prefix_ < 5) {
        const auto byte = static_cast<unsigned char>(bytes.front());
        if (prefix_ > 0) left_ = left_ << 8 | byte;
        bytes.remove_prefix(1);
        if (++prefix_ == 5) fresh_ = true;
      } else {
        if (fresh_) first_ = static_cast<unsigned char>(bytes.front());
        fresh_ = false;
        const std::size_t take = std::min(bytes.size(), left_);
        bytes.remove_prefix(take);
        left_ -= take;
      }
      if (prefix_ == 5 && left_ == 0) {
        each(fresh_ ? static_cast<unsigned char>(0) : first_);
        prefix_ = 0;
        fresh_ = false;
      }
    }
  }

 private:
  int prefix_ = 0;
  std::size_t left_ = 0;
  bool fresh_ = false;
  unsigned char first_ = 0;
};

class Client {
 public:
  Client(bool stream, std::size_t in_flight, std::size_t requests, std::string message)
      : stream_(stream), in_flight_(in_flight), requests_(requests), message_(std::move(message)) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_option* option = nullptr;
    nghttp2_option_new(&option);
    nghttp2_option_set_peer_max_concurrent_streams(option, 1U << 20);
    nghttp2_session_client_new2(&session_, callbacks, this, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    const nghttp2_settings_entry window{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 24};
    nghttp2_submit_settings(session_, 0, &window, 1);
    nghttp2_session_set_local_window_size(session_, 0, 0, 1 << 24);
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() { nghttp2_session_del(session_); }

  void start() {
    if (stream_) open("/inference.GRPCInferenceService/ModelStreamInfer");
    for (std::size_t i = 0; i < std::min(in_flight_, requests_); ++i) ask();
  }
  bool done() const { return closed_ >= (stream_ ? 1 : requests_); }
  std::size_t good() const { return good_; }

  void receive(const std::uint8_t* bytes, std::size_t size) {
    if (nghttp2_session_mem_recv(session_, bytes, size) != static_cast<ssize_t>(size)) fail("the server broke HTTP/2");
    if (body_id_ != 0 && deferred_ && (body_at_ < body_.size() || asked_ == requests_)) {
      deferred_ = false;
      nghttp2_session_resume_data(session_, body_id_);
    }
  }
  void take(std::string& out) {
    const std::uint8_t* bytes = nullptr;
    for (ssize_t size = 0; (size = nghttp2_session_mem_send(session_, &bytes)) > 0;) {
      out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
    }
  }

 private:
  static Client& self(void* user) { return *static_cast<Client*>(user); }

  void open(const char* path) {
    const auto field = [](const char* name, const char* value) {
      return nghttp2_nv{reinterpret_cast<std::uint8_t*>(const_cast<char*>(name)),
                        reinterpret_cast<std::uint8_t*>(const_cast<char*>(value)), std::strlen(name),
                        std::strlen(value), NGHTTP2_NV_FLAG_NONE};
    };
    const nghttp2_nv fields[] = {field(":method", "POST"), field(":scheme", "http"),
                                 field(":path", path),     field(":authority", "localhost"),
                                 field("te", "trailers"),  field("content-type", "application/grpc")};
    nghttp2_data_provider body{};
    body.source.ptr = this;
    body.read_callback = stream_ ? read_stream : read_unary;
    const std::int32_t id = nghttp2_submit_request(session_, nullptr, fields, std::size(fields), &body, nullptr);
    if (id < 0) fail("no stream can be opened");
    if (stream_) body_id_ = id;
  }
  void ask() {
    if (asked_ == requests_) return;
    ++asked_;
    if (stream_) {
      body_ += message_;
    } else {
      open("/inference.GRPCInferenceService/ModelInfer");
    }
  }

  static ssize_t read_stream(nghttp2_session*, std::int32_t, std::uint8_t* out, std::size_t room, std::uint32_t* flags,
                             nghttp2_data_source*, void* user) {
    Client& c = self(user);
    const std::size_t size = std::min(room, c.body_.size() - c.body_at_);
    std::memcpy(out, c.body_.data() + c.body_at_, size);
    c.body_at_ += size;
    if (c.body_at_ == c.body_.size()) {
      c.body_.clear();
      c.body_at_ = 0;
      if (c.asked_ == c.requests_) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
      } else if (size == 0) {
        c.deferred_ = true;
        return NGHTTP2_ERR_DEFERRED;
      }
    }
    return static_cast<ssize_t>(size);
  }
  static ssize_t read_unary(nghttp2_session* session, std::int32_t id, std::uint8_t* out, std::size_t room,
                            std::uint32_t* flags, nghttp2_data_source*, void* user) {
    Client& c = self(user);
    const auto at = reinterpret_cast<std::uintptr_t>(nghttp2_session_get_stream_user_data(session, id));
    const std::size_t size = std::min<std::size_t>(room, c.message_.size() - at);
    std::memcpy(out, c.message_.data() + at, size);
    nghttp2_session_set_stream_user_data(session, id, reinterpret_cast<void*>(at + size));
    if (at + size == c.message_.size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(size);
  }
  static int on_data(nghttp2_session*, std::uint8_t, std::int32_t, const std::uint8_t* bytes, std::size_t size,
                     void* user) {
    Client& c = self(user);
    if (!c.stream_) return 0;
    c.messages_.feed({reinterpret_cast<const char*>(bytes), size}, [&](unsigned char first) {
      constexpr unsigned char kInferResponse = 0x12;  // a ModelStreamInferResponse that begins so has no error_message
      if (first == kInferResponse) ++c.good_;
      c.ask();
    });
    return 0;
  }
  static int on_header(nghttp2_session*, const nghttp2_frame*, const std::uint8_t* name, std::size_t name_size,
                       const std::uint8_t* value, std::size_t value_size, std::uint8_t, void* user) {
    const std::string_view key(reinterpret_cast<const char*>(name), name_size);
    const std::string_view text(reinterpret_cast<const char*>(value), value_size);
    if (key == "grpc-status" && text == "0" && !self(user).stream_) ++self(user).good_;
    if (key == "grpc-status" && text != "0") fail("a call did not end with OK");
    return 0;
  }
  static int on_close(nghttp2_session*, std::int32_t, std::uint32_t, void* user) {
    Client& c = self(user);
    ++c.closed_;
    if (!c.stream_) c.ask();
    return 0;
  }

  const bool stream_;
  const std::size_t in_flight_;
  const std::size_t requests_;
  const std::string message_;
  nghttp2_session* session_ = nullptr;
  std::size_t asked_ = 0;
  std::size_t good_ = 0;
  std::size_t closed_ = 0;
  std::int32_t body_id_ = 0;  // the stream's, whose body grows
  std::string body_;
  std::size_t body_at_ = 0;
  bool deferred_ = false;
  Messages messages_;
};

int connect_to(std::uint16_t port) {
  const int plug = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (plug < 0 || ::connect(plug, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    fail("no connection to the port");
  }
  const int on = 1;
  ::setsockopt(plug, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return plug;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) fail("PORT unary|stream IN_FLIGHT REQUESTS MESSAGE_FILE");
  std::ifstream file(argv[5], std::ios::binary);
  std::string message{std::istreambuf_iterator<char>(file), {}};
  if (message.size() < 5) fail("the message's file cannot be read");
  const int plug = connect_to(static_cast<std::uint16_t>(std::atoi(argv[1])));
  const auto begin = std::chrono::steady_clock::now();
  Client client(std::string_view(argv[2]) == "stream", std::strtoull(argv[3], nullptr, 10),
                std::strtoull(argv[4], nullptr, 10), std::move(message));
  client.start();
  std::string out;
  static std::uint8_t in[1 << 18];
  while (!client.done()) {
    client.take(out);
    while (!out.empty()) {
      const ssize_t sent = ::send(plug, out.data(), out.size(), MSG_NOSIGNAL);
      if (sent <= 0) fail("the connection broke while it was written");
      out.erase(0, static_cast<std::size_t>(sent));
    }
    const ssize_t got = ::recv(plug, in, sizeof(in), 0);
    if (got <= 0) fail("the connection ended");
    client.receive(in, static_cast<std::size_t>(got));
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("%.6f s, %zu good\n", took.count(), client.good());
  ::close(plug);
}
