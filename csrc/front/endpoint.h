// What a loop's slot holds, whatever its protocol: who is told of tickets and jobs that have come back, and of time.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"
#include "batching/request.h"
#include "schedule/worker.h"

namespace headrace {

inline constexpr char kModelInferPath[] = "/inference.GRPCInferenceService/ModelInfer";

struct CatalogHold;
class Loop;

// Work that a worker does for an endpoint. `hold` stays in use for as long as it is out.
struct LoopJob : Job {
  std::uint64_t endpoint_id = 0;
  bool streamed = false;  // a DecodeJob for a message of a stream
  CatalogHold* hold = nullptr;
};

class Endpoint {
 public:
  Endpoint(Loop& loop, std::uint64_t id, std::uint64_t token, std::string peer);
  virtual ~Endpoint() = default;
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  std::uint64_t id() const { return id_; }
  std::uint64_t token() const { return token_; }
  Loop& loop() { return loop_; }
  virtual unsigned bits() const = 0;  // ReadyBits

 protected:
  friend class Loop;
  virtual void finish_ticket(Ticket& ticket) = 0;
  // One answer of several. The ticket is not answered yet; what it may have more of is given back by give_credit().
  virtual void take_part(Part& part) = 0;
  virtual void finish_job(LoopJob& job) = 0;
  virtual Nanos next_timeout() const = 0;
  virtual void on_timer(Nanos now) = 0;
  // The next step that it has asked for by Loop::ask_again.
  virtual void next_step() {}
  // Of a step in which it had a part, before its bits() are read.
  virtual void end_step() {}

  Loop& loop_;
  const std::uint64_t id_;
  const std::uint64_t token_;
  const std::string peer_;
  Nanos now_;  // of the step in progress

 private:
  bool touched_ = false;  // in the loop's list of this step
  Nanos timer_ = kNever;  // the earliest timer that the loop holds for it
};

}  // namespace headrace
