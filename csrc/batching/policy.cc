#include "batching/policy.h"

#include <algorithm>

namespace headrace {

std::uint32_t BatchingPolicy::level_of(std::uint32_t priority) const {
  if (priority_levels == 0) return 0;
  if (priority >= 1 && priority <= priority_levels) return priority;
  return std::clamp<std::uint32_t>(default_priority_level, 1, priority_levels);
}

QueuePolicy BatchingPolicy::queue_of(std::uint32_t level) const {
  const auto found = level_queue.find(level);
  if (found != level_queue.end()) return found->second;
  return {timeout_action, default_timeout, allow_timeout_override, 0};
}

Nanos BatchingPolicy::timeout_of(std::uint32_t level, Nanos asked) const {
  const QueuePolicy queue = queue_of(level);
  return queue.allow_timeout_override ? std::min(queue.default_timeout, asked) : queue.default_timeout;
}

bool BatchingPolicy::delays_late() const {
  if (timeout_action == TimeoutAction::kDelay) return true;
  return std::any_of(level_queue.begin(), level_queue.end(),
                     [](const auto& each) { return each.second.timeout_action == TimeoutAction::kDelay; });
}

}  // namespace headrace
