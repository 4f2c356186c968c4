// Calls of many messages that the owner answers: the order and the bound of what comes in. A message that has to be
// inflated first holds back those behind it. Of one call at most kMaxWaiting messages wait for the owner to be done
// with them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <utility>

#include "wire/grpc.h"

namespace headrace {

class OwnerStreams {
 public:
  static constexpr std::size_t kMaxWaiting = 64;

  void open(std::int32_t call) { streams_.try_emplace(call); }
  void close(std::int32_t call) { streams_.erase(call); }
  bool contains(std::int32_t call) const { return streams_.contains(call); }

  // A message has come. False: too many wait, and the call is to be refused.
  bool push(std::int32_t call, wire::Message message);
  // The client has sent its last.
  void end(std::int32_t call) { streams_.at(call).ended = true; }
  // An inflated message goes to the front, as it was; the next ones may follow.
  void inflated(std::int32_t call, wire::Message message);

  enum class Next { kNothing, kMessage, kInflate, kEnd };
  // What is to be done now: hand `message` to the owner, have it inflated first (and call inflated), or tell the owner
  // that the client has ended. Call it until it says kNothing.
  Next next(std::int32_t call, wire::Message& message);

  // The owner is done with the oldest message that it has: its bytes as they were sent, 0 if it has none.
  std::size_t release(std::int32_t call);

 private:
  struct Stream {
    std::deque<wire::Message> messages;  // not handed over yet
    std::deque<std::size_t> sizes;       // as sent, of all that the owner is not done with
    bool inflating = false;
    bool ended = false;
    bool end_told = false;
  };
  std::unordered_map<std::int32_t, Stream> streams_;
};

}  // namespace headrace
