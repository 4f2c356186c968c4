// What one event loop owns of the core: its completion ring, its endpoints by slot and generation, its view of the
// catalog, its timers. One thread at a time (the loop's); only the ring is written to by others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "engine/completions.h"
#include "engine/engine.h"
#include "front/access_entry.h"
#include "front/endpoint.h"
#include "front/header_forward.h"
#include "front/http_answer.h"
#include "front/http_decoder.h"
#include "front/request_decoder.h"
#include "front/step_work.h"
#include "front/traced_tensors.h"
#include "wire/grpc.h"
#include "wire/infer_codec.h"

namespace headrace {

class Connection;
class HttpConnection;

struct LoopOptions {
  wire::GrpcLimits grpc;
  wire::InferLimits infer;
  std::vector<std::string> methods;  // paths of unary calls that the owner answers
  std::vector<std::string> streams;  // paths of calls of many messages that the owner answers
  // Which headers become parameters of inference requests, by the protocol that brings them; null: none.
  HeaderForward::Wants grpc_headers;
  HeaderForward::Wants http_headers;
  bool access_log = false;
  bool measure_steps = false;
};

// What a connection asks its owner to do.
// kHasUnread: to read no more, until kReadOn comes.
enum ReadyBits : unsigned {
  kHasOutput = 1,
  kHasCalls = 2,
  kHasCancelled = 4,
  kWantsClose = 8,
  kHasUnread = 16,
  kReadOn = 32
};

struct Ready {
  std::uint64_t token;
  unsigned bits;
};

// A request that a sampler took, and what happened to it when.
struct TraceEntry {
  std::uint64_t sampler = 0;
  std::string model;
  std::string version;
  std::string request_id;
  Timeline time;
  Nanos ended = 0;    // its answer is made
  bool times = true;  // they are wanted
  std::optional<TracedTensors> tensors;
};

// A catalog in use: tickets that were admitted under it keep its models' objects alive without counting each.
struct CatalogHold {
  std::shared_ptr<const Catalog> catalog;
  std::uint64_t edition = 0;
  std::size_t tickets = 0;
  std::size_t jobs = 0;  // of the tickets, those that are still being decoded
};

class Loop {
 public:
  static constexpr std::size_t kReadBytes = std::size_t{256} << 10;
  static constexpr std::size_t kMaxUnread = std::size_t{16} << 20;  // of all connections: see Connection::read()
  static constexpr std::size_t kMaxAccessEntries = 65536;
  static constexpr std::size_t kMaxTraces = 65536;
  static constexpr std::size_t kMaxTracedBytes = std::size_t{16} << 20;  // of tensors that wait to be written
  static constexpr std::size_t kTracedBytesPerTake = std::size_t{1} << 20;
  // Law 11, a step is short: so many completions, and after so long no more of what can wait for the next.
  static constexpr int kCompletionsPerStep = 256;
  static constexpr Nanos kStepTime = 1500 * kMicrosecond;

  Loop(std::shared_ptr<Engine> engine, LoopOptions options);
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  int fileno() const { return ring_.fileno(); }
  std::span<std::byte> read_buffer() { return {read_buffer_.get(), kReadBytes}; }

  // Connections are named by slot and generation, so that a completion for one that is gone finds nothing.
  std::uint64_t connect(std::uint64_t token, std::string peer);
  std::uint64_t connect_http(std::uint64_t token, std::string peer);
  Endpoint* endpoint(std::uint64_t id);
  Connection* find(std::uint64_t id);           // of connect()
  HttpConnection* find_http(std::uint64_t id);  // of connect_http()
  void disconnect(std::uint64_t id);
  std::size_t connections() const { return open_connections_; }

  // Handles completions that are ready (a bounded number; the descriptor stays readable for the rest).
  void drain(std::vector<Ready>& ready);
  Nanos next_timeout() const { return timers_.empty() ? kNever : timers_.front().time; }
  void on_timer(std::vector<Ready>& ready);
  // Ends all connections, waits for the tickets and jobs that are out, and lets go of the engine's objects. Idempotent.
  void close();

  // Submits what receive() of an HttpConnection has staged: once for all that one turn of the event loop has read, so
  // that lanes find it together and are woken once. Everything that may cancel or close does it by itself.
  void flush();

  // Takes the current catalog in. True when no request will be submitted under an older one any more.
  bool settled();

  // The oldest entries, at most so many; and how many were dropped since the last call, for want of room.
  std::pair<std::vector<AccessEntry>, std::uint64_t> take_access_log(std::size_t most);
  // The same of the requests that a sampler took.
  std::pair<std::vector<TraceEntry>, std::uint64_t> take_traces(std::size_t most);
  Nanos max_step() const { return max_step_; }
  Engine& engine() { return *engine_; }
  const LoopOptions& options() const { return options_; }

  // One step of the loop's thread: bounds its work, and measures it if asked to.
  class Step {
   public:
    explicit Step(Loop& loop);
    ~Step();
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;

   private:
    Loop& loop_;
    Nanos start_ = 0;
  };

 private:
  friend class Connection;
  friend class StreamEndpoint;
  friend class InferStream;
  friend class HttpConnection;

  struct Slot {
    std::unique_ptr<Endpoint> endpoint;
    std::uint32_t generation = 0;
  };
  struct Timer {
    Nanos time;
    std::uint64_t id;
    bool operator>(const Timer& other) const { return time > other.time; }
  };

  std::pair<std::uint64_t, Slot*> take_slot();
  std::uint64_t open(Slot& slot, std::unique_ptr<Endpoint> endpoint);
  // next_step() for those that asked, until the step that has `begun` then has done enough.
  void go_on(Nanos begun);
  // The endpoint has more to do than a step should: next_step() is called in the next one.
  void ask_again(const Endpoint& endpoint);
  bool is_method(const std::string& path) const { return methods_.contains(path); }
  bool is_stream(const std::string& path) const { return streams_.contains(path); }
  CatalogHold& catalog();  // the current one
  Ticket* new_ticket();
  void recycle(Ticket* ticket);
  // Tickets of one read are submitted together, when the read is over: lanes then find all of them.
  void stage(Ticket* ticket, CatalogHold& hold, Model& model);
  [[nodiscard]] bool submit_job(LoopJob* job);
  void arm_timer(Endpoint& endpoint);
  bool current(const Timer& timer);  // its endpoint is there and still wants it
  void note(Endpoint& endpoint, std::vector<Ready>& ready);
  void complete_part(Part* part, std::vector<Endpoint*>& touched);
  void complete(Completion* completion, std::vector<Endpoint*>& touched);
  void log_access(AccessEntry entry);
  // Of requests that a sampler took: loop_traces.cc.
  void begin_trace(Ticket& ticket, const TraceSampler& sampler);
  void trace_outputs(const Ticket& ticket, std::span<const Tensor> outputs);
  void end_trace(const Ticket& ticket);

  const std::shared_ptr<Engine> engine_;
  const LoopOptions options_;
  std::unordered_set<std::string> methods_;
  std::unordered_set<std::string> streams_;
  CompletionRing ring_;
  std::unique_ptr<std::byte[]> read_buffer_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::size_t open_connections_ = 0;
  std::list<CatalogHold> catalogs_;  // the current one at the back
  Completion* backlog_ = nullptr;    // taken from the ring, not handled yet
  Ticket* staged_first_ = nullptr;
  Ticket* staged_last_ = nullptr;
  std::vector<Ticket*> spare_tickets_;
  std::size_t outstanding_ = 0;  // tickets and jobs that have not come back
  std::vector<Timer> timers_;  // a heap, the earliest first; some are of connections that are gone or want another time
  std::vector<Endpoint*> touched_;
  std::vector<std::uint64_t> asked_again_;  // endpoints, by id
  std::deque<AccessEntry> access_log_;
  std::uint64_t access_dropped_ = 0;
  std::deque<TraceEntry> traces_;
  std::uint64_t traces_dropped_ = 0;
  std::unordered_map<const Ticket*, TraceEntry> traced_;  // tickets that are out and traced with their tensors
  std::size_t traced_bytes_ = 0;                          // of tensors, in traced_ and traces_
  Nanos max_step_ = 0;
  StepWork work_;
  std::size_t unread_ = 0;  // bytes that connections keep for their next step
  bool closed_ = false;
  std::uint64_t step_number_ = 0;
  HeaderForward grpc_headers_;
  HeaderForward http_headers_;
  RequestDecoder decoder_;
  wire::OutMessage out_;
  std::vector<wire::ResponseOutput> response_outputs_;
  std::vector<wire::ResponseParameter> response_parameters_;
  HttpDecoder http_decoder_;
  HttpResult http_result_;
  KnownAnswers known_answers_;
};

}  // namespace headrace
