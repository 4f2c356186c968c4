#include "front/owner_streams.h"

namespace headrace {

bool OwnerStreams::push(std::int32_t call, wire::Message message) {
  Stream& stream = streams_.at(call);
  if (stream.sizes.size() >= kMaxWaiting) return false;
  stream.sizes.push_back(message.bytes.size());
  stream.messages.push_back(std::move(message));
  return true;
}

void OwnerStreams::inflated(std::int32_t call, wire::Message message) {
  Stream& stream = streams_.at(call);
  stream.inflating = false;
  message.encoding = wire::Encoding::kIdentity;
  stream.messages.push_front(std::move(message));
}

OwnerStreams::Next OwnerStreams::next(std::int32_t call, wire::Message& message) {
  Stream& stream = streams_.at(call);
  if (stream.inflating) return Next::kNothing;
  if (!stream.messages.empty()) {
    message = std::move(stream.messages.front());
    stream.messages.pop_front();
    stream.inflating = message.encoding != wire::Encoding::kIdentity;
    return stream.inflating ? Next::kInflate : Next::kMessage;
  }
  if (!stream.ended || std::exchange(stream.end_told, true)) return Next::kNothing;
  return Next::kEnd;
}

std::size_t OwnerStreams::release(std::int32_t call) {
  const auto found = streams_.find(call);
  if (found == streams_.end() || found->second.sizes.empty()) return 0;
  const std::size_t bytes = found->second.sizes.front();
  found->second.sizes.pop_front();
  return bytes;
}

}  // namespace headrace
