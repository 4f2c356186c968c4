// HTTP/1.1 as far as the core takes it: any bytes as what a connection reads, in any cuts, and any bytes as the body of
// an inference. A head that is taken means what a strict reading says; neither the cuts nor the way in (at once, by a
// stated length, by chunks) make a difference to the answers; all memory comes back.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "front/http_connection.h"
#include "front/loop.h"
#include "http_head_oracle.h"
#include "wire/deflate.h"
#include "wire/http_head.h"

namespace headrace {
namespace {

constexpr std::size_t kMaxHead = 1024;
constexpr std::size_t kMaxBody = std::size_t{512} << 10;
constexpr std::size_t kPadded = std::size_t{300} << 10;  // a worker's

[[noreturn]] void fail(const std::string& text) {
  std::fprintf(stderr, "%s\n", text.c_str());
  std::abort();
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// One engine and one loop for all inputs; each has connections of its own.
class Server {
 public:
  Server() {
    folder_ = (std::filesystem::temp_directory_path() / "http_fuzz.XXXXXX").string();
    HEADRACE_CHECK(::mkdtemp(folder_.data()) != nullptr);
    EngineOptions options;
    options.lanes = 1;
    options.clock = &clock_;
    options.max_message_bytes = kMaxBody;
    engine_ = std::make_shared<Engine>(options);
    LoopOptions loop_options;
    loop_options.grpc.max_header_bytes = kMaxHead;
    loop_options.grpc.max_message_bytes = kMaxBody;
    loop_options.access_log = true;
    loop_ = std::make_unique<Loop>(engine_, loop_options);
    auto catalog = std::make_shared<Catalog>();
    add(*catalog, "m", "input x INT32 [-1,1]\nfail_on 99\n", 8);
    add(*catalog, "t", "input s BYTES [-1]\ninput f FP32 [-1,-1]\noptional o FP16 [-1]\n", 0);
    engine_->publish(std::move(catalog));
  }
  ~Server() {
    loop_->close();
    loop_.reset();
    engine_->close();
    std::filesystem::remove_all(folder_);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  Loop& loop() { return *loop_; }
  // What an event loop does, until `done` says so.
  template <class Done>
  void drain_until(Done done, int wait_ms = 10) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(8);
    while (!done()) {
      if (std::chrono::steady_clock::now() > limit) fail("no answer");
      pollfd entry{loop_->fileno(), POLLIN, 0};
      ::poll(&entry, 1, wait_ms);
      loop_->drain(ready_);
      ready_.clear();
    }
  }
  // Nothing is left of what an input had. A lane lets go of it a moment after the answer, and tells nobody.
  void check_empty() {
    const auto empty = [&] {
      const PoolStats stats = engine_->pool().stats();
      return engine_->snapshot().tickets == 0 && stats.bytes_in_use == 0 && stats.blocks_in_use == 0 &&
             engine_->budget().charged() == 0;
    };
    drain_until(empty, 0);
    HEADRACE_CHECK(loop_->connections() == 0);
    loop_->take_access_log(Loop::kMaxAccessEntries);
  }

 private:
  void add(Catalog& catalog, const std::string& name, const std::string& text, std::int64_t max_batch_size) {
    ModelSpec spec;
    spec.name = name;
    spec.backend = "echo";
    spec.model_dir = folder_;
    spec.model_file = folder_ + "/" + name;
    std::ofstream(spec.model_file) << text;
    spec.batching_decided = true;
    spec.batching.max_batch_size = max_batch_size;  // each request by itself, or an answer could tell of its mates
    auto model = engine_->load(spec);
    if (!model) fail(model.status().to_string());
    models_.push_back(*model);
    catalog.add(name, "", *model);
    catalog.add(name, "1", *model);
  }

  ManualClock clock_{1000 * kSecond};
  std::string folder_;
  std::shared_ptr<Engine> engine_;
  std::unique_ptr<Loop> loop_;
  std::vector<std::shared_ptr<Model>> models_;
  std::vector<Ready> ready_;
};

std::string text_of(const wire::OutMessage& body) {
  std::string out;
  std::size_t at = 0;
  for (const auto& view : body.views) {
    out += body.own.substr(at, view.offset - at);
    out.append(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size());
    at = view.offset;
  }
  return out + body.own.substr(at);
}

std::string text_of(const HttpAnswer& answer) {
  if (!answer.status.ok()) return std::to_string(answer.http) + " " + answer.status.to_string();
  if (!answer.head.empty()) {
    const std::string length = "Content-Length: " + std::to_string(answer.body.size()) + "\r\n";
    if (answer.head.find(length) == std::string::npos) fail("an answer's length is not what it says:\n" + answer.head);
  }
  return answer.head + text_of(answer.body);
}

// A connection, and what came of its requests by their numbers.
class Client {
 public:
  explicit Client(Server& server) : server_(server), id_(server.loop().connect_http(1, "peer")) {}
  ~Client() { server_.loop().disconnect(id_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  HttpConnection& http() {
    HttpConnection* found = server_.loop().find_http(id_);
    HEADRACE_CHECK(found != nullptr);
    return *found;
  }
  // A read. What is left of it is kept, as its owner may who has no other parser.
  void read(std::string_view piece, std::size_t room) {
    left_ += piece;
    for (;;) {
      const std::size_t before = left_.size();
      const auto got = http().receive(bytes_of(left_), next_, room);
      server_.loop().flush();
      HEADRACE_CHECK(got.started <= room && got.left <= before);
      next_ += static_cast<std::uint32_t>(got.started);
      left_.erase(0, before - got.left);
      if (left_.empty() || left_.size() == before) return;
    }
  }
  void collect() {
    server_.drain_until([&] {
      for (const HttpAnswer& answer : http().take_answers()) {
        if (!answers.emplace(answer.exchange, text_of(answer)).second) fail("two answers to one request");
      }
      return http().open_calls() == 0;
    });
  }
  std::string state() {
    return std::to_string(next_) + " begun, " + std::to_string(left_.size()) + " bytes left, " +
           (http().receiving_since() == kNever ? "none" : "one") + " half here";
  }
  std::map<std::uint32_t, std::string> answers;

 private:
  Server& server_;
  const std::uint64_t id_;
  std::uint32_t next_ = 0;
  std::string left_;
};

void same(const std::string& one, const std::string& other, const char* what) {
  if (one != other) fail(std::string(what) + ":\n" + one + "\n--- is not\n" + other);
}

// Sizes of pieces: the first few as the input says, then the last of them again and again.
class Cuts {
 public:
  Cuts(unsigned first, unsigned second) : sizes_{first + 1, second + 1} {}
  std::string_view next(std::string_view& text) {
    const std::string_view piece = text.substr(0, sizes_[at_]);
    text.remove_prefix(piece.size());
    at_ ^= 1;
    return piece;
  }

 private:
  std::size_t sizes_[2];
  std::size_t at_ = 0;
};

// One inference by begin_body and append_body; `known`: with its length.
std::string stepwise(Server& server, HttpInfer asked, std::string_view body, wire::Encoding encoding, bool known,
                     Cuts cuts) {
  Client client(server);
  const std::size_t size = known ? body.size() : wire::BodyIntake::kUnknown;
  std::string_view rest = body;
  std::string_view piece = cuts.next(rest);
  const std::size_t align_at = asked.json_bytes == HttpDecoder::kAllJson ? 0 : asked.json_bytes;
  Status status = client.http().begin_body(size, align_at, encoding, piece.size());
  if (status.ok()) status = client.http().append_body(bytes_of(piece));
  while (status.ok() && !rest.empty()) status = client.http().append_body(bytes_of(cuts.next(rest)));
  if (!status.ok()) return "0 " + status.to_string();
  client.http().infer(std::move(asked));
  client.collect();
  return client.answers.begin()->second;
}

void converse(Server& server, std::string_view text, Cuts cuts, unsigned room) {
  const std::string difference = wire::http_head_differs(text, kMaxHead);
  if (!difference.empty()) fail("the head: " + difference);
  Client whole(server);
  whole.read(text, 1000);
  whole.collect();
  {
    Client cut(server);
    for (std::string_view rest = text; !rest.empty();) cut.read(cuts.next(rest), room);
    cut.collect();
    same(cut.state(), whole.state(), "cut, the connection");
    for (const auto& [number, answer] : whole.answers) same(cut.answers[number], answer, "cut, an answer");
    if (cut.answers.size() != whole.answers.size()) fail("cut, there are other answers");
  }
  Client gone(server);  // with whatever is open
  gone.read(text, 1000);
  // The whole parser's way in: each request by itself.
  for (std::uint32_t number = 0;; ++number) {
    wire::PlainInfer head;
    if (!wire::read_plain_infer(text, kMaxHead, head)) return;
    text.remove_prefix(head.head_bytes);
    if (head.body_bytes > text.size()) return;
    HttpInfer asked;
    asked.model = head.model;
    asked.version = head.version;
    asked.accepts = head.accepts;
    if (head.json_bytes != wire::PlainInfer::kNone) asked.json_bytes = head.json_bytes;
    const std::string_view body = text.substr(0, head.body_bytes);
    text.remove_prefix(head.body_bytes);
    for (const bool known : {true, false}) {
      same(stepwise(server, asked, body, wire::Encoding::kIdentity, known, cuts), whole.answers[number],
           "through the parser");
    }
  }
}

std::string one_body(Server& server, std::string_view input) {
  const auto next = [&input] {
    const unsigned byte = input.empty() ? 0 : static_cast<unsigned char>(input.front());
    input.remove_prefix(std::min<std::size_t>(1, input.size()));
    return byte;
  };
  const unsigned how = next();
  HttpInfer asked;
  asked.form = static_cast<HttpForm>(how % 5);
  asked.model = (how & 0x80) != 0 ? "t" : "m";
  if ((how & 0x40) != 0) asked.headers = "X-A: b\r\n";
  const unsigned more = next();
  asked.accepts = static_cast<wire::Encoding>(more % 3);
  const auto encoding = static_cast<wire::Encoding>((more >> 2) % 3);
  if ((more & 0x80) != 0) asked.json_bytes = next() << 8 | next();
  const Cuts cuts(next(), next());
  std::string body(input);
  if ((more & 0x60) == 0x60) body.resize(std::max(body.size(), kPadded), ' ');
  if ((more & 0x10) == 0) {
    wire::OutMessage message;
    message.own = body;
    HEADRACE_CHECK(wire::deflate(encoding, message).ok());
    body = message.own;
  }
  const std::string first = stepwise(server, asked, body, encoding, true, cuts);
  same(stepwise(server, asked, body, encoding, false, cuts), first, "in chunks");
  Client client(server);
  if (encoding == wire::Encoding::kIdentity) {
    client.http().infer(asked, bytes_of(body));
    client.collect();
    same(client.answers[0], first, "at once");
  }
  // Python's own, and one that the client never ends.
  HEADRACE_CHECK(client.http().begin_body(body.size(), 0, encoding, 0).ok());
  HEADRACE_CHECK(client.http().append_body(bytes_of(body)).ok());
  if (client.http().take_body() != body) fail("take_body gives something else");
  HEADRACE_CHECK(client.http().begin_body(body.size() + 1, 0, encoding, 0).ok());
  HEADRACE_CHECK(client.http().append_body(bytes_of(body)).ok());
  if ((how & 0x20) != 0) client.http().drop_body();
  if ((more & 0x60) == 0x20) {
    asked.exchange = 1;
    client.http().infer(asked, bytes_of(body));
    client.http().abort_calls({Code::kUnavailable, "the end"});
    client.collect();
    if (client.answers.count(1) != 1) fail("no answer at the end");
  }
  return first;
}

}  // namespace
}  // namespace headrace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static headrace::Server server;
  constexpr std::size_t kHow = 3;
  if (size < kHow) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + kHow, size - kHow);
  if ((data[0] & 1) == 0) {
    headrace::converse(server, text, headrace::Cuts(data[1], data[2]), 1 + (data[0] >> 1) % 4);
  } else {
    headrace::one_body(server, text);
  }
  server.check_empty();
  return 0;
}
