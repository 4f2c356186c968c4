// What the gRPC codec costs a small unary call: a client's bytes, recorded in memory, through one connection and out
// again. Prints nanoseconds of this thread's CPU per call.
//   wire_calls [streams per read] [message bytes] [calls] [rounds]
#include <time.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "h2_client.h"
#include "wire/grpc.h"

namespace headrace::wire {
namespace {

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Like the core: holds the message until the call is answered, and answers after the read.
class Server final : public CallHandler {
 public:
  explicit Server(std::size_t answer_bytes) : answer_(answer_bytes, 'a') {}
  GrpcConnection* connection = nullptr;
  std::uint64_t answered = 0;

  void on_call(Call& call) override { HEADRACE_CHECK(call.path.size() > 10); }
  void on_message(Call& call, Message message) override {
    call.deadline_handed_over = true;
    held_.push_back({&call, std::move(message)});
  }
  void on_end(Call&) override {}
  void on_cancelled(Call&, Code) override { std::abort(); }

  void answer_all() {
    for (Held& held : held_) {
      out_.own.assign(answer_);
      connection->send(*held.call, out_);
      connection->finish(*held.call, Status());
    }
    answered += held_.size();
    held_.clear();
  }

 private:
  struct Held {
    Call* call;
    Message message;
  };
  const std::string answer_;
  std::vector<Held> held_;
  OutMessage out_;
};

// A connection with all that it needs.
struct Host {
  Pool pool{PoolOptions{}};
  InflightBudget budget{std::size_t{1} << 30, std::size_t{64} << 20};
  Server server;
  GrpcConnection connection;
  std::vector<OutputChunk> chunks;
  Nanos now = 0;

  explicit Host(std::size_t answer_bytes) : server(answer_bytes), connection({}, pool, budget, server, 0) {
    server.connection = &connection;
  }
  // One read, its answers, one write.
  void turn(const std::string& read) {
    now += 100 * kMicrosecond;
    connection.receive({reinterpret_cast<const std::byte*>(read.data()), read.size()}, now);
    server.answer_all();
    chunks.clear();
    connection.take_output(chunks, std::size_t{1} << 20, now);
    static_cast<void>(connection.next_timeout());
  }
};

// What a client sends when it is answered; the replay is answered alike.
std::vector<std::string> record(std::size_t streams, std::size_t bytes, std::size_t calls) {
  Host host(bytes);
  headrace::testing::H2Client client;
  const std::string body(bytes, 'm');
  std::vector<std::string> reads;
  for (std::size_t made = 0; made < calls; made += streams) {
    for (std::size_t i = 0; i < streams; ++i) {
      client.call("/inference.GRPCInferenceService/ModelInfer", body,
                  {{"user-agent", "grpc-python/1.85.1 grpc-c/50.0.0 (linux; chttp2)"},
                   {"grpc-accept-encoding", "identity, deflate, gzip"},
                   {"grpc-timeout", "10S"}});
    }
    reads.push_back(client.take());
    host.turn(reads.back());
    for (const OutputChunk& chunk : host.chunks) {
      HEADRACE_CHECK(client.feed({reinterpret_cast<const char*>(chunk.bytes.data()), chunk.bytes.size()}));
    }
  }
  return reads;
}

int run(std::size_t streams, std::size_t bytes, std::size_t calls, std::size_t rounds) {
  const std::vector<std::string> reads = record(streams, bytes, calls);
  const auto all = static_cast<double>(reads.size() * streams);
  std::vector<double> spent;
  double out_bytes = 0;
  for (std::size_t round = 0; round < rounds; ++round) {
    Host host(bytes);
    const double start = cpu_seconds();
    for (const std::string& read : reads) host.turn(read);
    spent.push_back((cpu_seconds() - start) * 1e9 / all);
    HEADRACE_CHECK(host.server.answered == reads.size() * streams);
    out_bytes = static_cast<double>(host.connection.counters().bytes_sent) / all;
  }
  std::sort(spent.begin(), spent.end());
  std::printf("%zu streams a read, %zu bytes: ns CPU per call: median %.0f, least %.0f, most %.0f (%.1f bytes out)\n",
              streams, bytes, spent[spent.size() / 2], spent.front(), spent.back(), out_bytes);
  return 0;
}

}  // namespace
}  // namespace headrace::wire

int main(int argc, char** argv) {
  const auto argument = [&](int i, std::size_t otherwise) {
    return argc > i ? static_cast<std::size_t>(std::strtoull(argv[i], nullptr, 10)) : otherwise;
  };
  return headrace::wire::run(argument(1, 32), argument(2, 200), argument(3, 20'000), argument(4, 15));
}
