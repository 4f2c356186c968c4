// How requests of one model wait and who goes first: what config.pbtxt says, and the few rules that turn it into
// numbers. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "base/clock.h"
#include "batching/padding.h"

namespace headrace {

// How long a request without a deadline, or with a late one, lets those with earlier deadlines pass.
inline constexpr Nanos kPatience = kSecond;

enum class TimeoutAction : std::uint8_t { kReject, kDelay };

// Triton's ModelQueuePolicy, of one priority level.
struct QueuePolicy {
  TimeoutAction timeout_action = TimeoutAction::kReject;  // kDelay: past its timeout it goes behind the others
  Nanos default_timeout = kNever;                         // of a request, from its last byte on
  bool allow_timeout_override = false;                    // a request's own timeout may shorten it
  std::size_t max_queue_size = 0;                         // tickets of this level; 0: no bound but the model's
};

struct BatchingPolicy {
  bool dynamic_batching = false;                    // false: each ticket runs alone
  std::int64_t max_batch_size = 0;                  // rows; 0: the model is not batched
  std::vector<std::int64_t> preferred_batch_sizes;  // rows; those outside 1 .. max_batch_size are ignored
  Nanos max_queue_delay = 0;
  std::size_t max_queue_size = 4096;                     // tickets; 0: this default
  std::size_t max_queue_bytes = std::size_t{256} << 20;  // of inputs; 0: this default
  Padding padding;                                       // of requests of unlike lengths; empty: they do not share runs
  bool preserve_ordering = false;                        // answers of one stream go out in the order of its requests
  Nanos default_timeout = kNever;                        // of a request, from its last byte on
  bool allow_timeout_override = false;                   // a request's own timeout may shorten it
  TimeoutAction timeout_action = TimeoutAction::kReject;
  Nanos patience = kPatience;                        // one for all models, or who comes later may go first
  Nanos latency_objective = kNever;                  // from a request's last byte to its answer
  std::uint32_t priority_levels = 0;                 // level 1 goes first; 0: no levels
  std::uint32_t default_priority_level = 0;          // of requests that name none, or one that there is not
  std::map<std::uint32_t, QueuePolicy> level_queue;  // priority_queue_policy; other levels have what is said above

  // 0 where there are no levels.
  std::uint32_t level_of(std::uint32_t priority) const;
  QueuePolicy queue_of(std::uint32_t level) const;
  // After how long a request's timeout comes, given what it asked for (kNever: nothing).
  Nanos timeout_of(std::uint32_t level, Nanos asked) const;
  bool delays_late() const;  // a level has timeout_action DELAY
};

}  // namespace headrace
