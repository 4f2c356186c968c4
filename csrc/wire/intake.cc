#include "wire/intake.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace headrace::wire {
namespace {

std::size_t size_of_prefix(const std::byte* prefix) {
  return std::to_integer<std::size_t>(prefix[1]) << 24 | std::to_integer<std::size_t>(prefix[2]) << 16 |
         std::to_integer<std::size_t>(prefix[3]) << 8 | std::to_integer<std::size_t>(prefix[4]);
}

constexpr std::size_t kLookAgain = 1024;                 // bytes between two looks for the first large field
constexpr std::size_t kTooMany = std::size_t{16} << 10;  // bytes that are not worth moving for it

struct Search {
  bool decided;         // false: more bytes are needed to know
  std::size_t payload;  // where the payload of the field begins; 0: there is none to align
};

bool read_varint(std::span<const std::byte> bytes, std::size_t& at, std::uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (at == bytes.size()) return false;
    const auto byte = std::to_integer<std::uint64_t>(bytes[at++]);
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  at = bytes.size();  // not a varint: the codec above will say so
  return false;
}

// The first top-level length-delimited field of at least `large` bytes, in the beginning of a protobuf message.
Search find_large_field(std::span<const std::byte> bytes, std::size_t large) {
  constexpr int kMostFields = 128;
  std::size_t at = 0;
  for (int i = 0; i < kMostFields; ++i) {
    std::uint64_t tag = 0;
    std::uint64_t value = 0;
    if (!read_varint(bytes, at, tag)) return {false, 0};
    switch (tag & 7) {
      case 0:
        if (!read_varint(bytes, at, value)) return {false, 0};
        continue;
      case 1:
        value = 8;
        break;
      case 2:
        if (!read_varint(bytes, at, value)) return {false, 0};
        if (value >= large) return {true, at};
        break;
      case 5:
        value = 4;
        break;
      default:
        return {true, 0};
    }
    if (value > bytes.size() - at) return {false, 0};
    at += static_cast<std::size_t>(value);
  }
  return {true, 0};
}

std::size_t offset_for(std::size_t payload) {
  return (Pool::kAlignment - payload % Pool::kAlignment) % Pool::kAlignment;
}

}  // namespace

MessageIntake::Step MessageIntake::feed(IntakeContext& context, Encoding encoding, std::span<const std::byte>& data,
                                        Message& message, Status& refusal) {
  if (prefix_size_ < kPrefix) {
    const std::size_t take = std::min(kPrefix - prefix_size_, data.size());
    std::memcpy(prefix_.data() + prefix_size_, data.data(), take);
    prefix_size_ += take;
    data = data.subspan(take);
    if (prefix_size_ < kPrefix) return Step::kMore;
    refusal = begin(context, encoding, data.size());
    if (!refusal.ok()) {
      reset(context);
      return Step::kRefused;
    }
  }
  while (got_ < size_ && !data.empty()) {
    std::size_t take = std::min(size_ - got_, data.size());
    if (!aligned_ && got_ == 0) {
      const Search found = find_large_field(data.first(take), kLargeField);
      aligned_ = found.decided;
      offset_ = offset_for(found.payload);
    } else if (!aligned_) {
      take = std::min(take, kLookAgain);
    }
    if (got_ + take > charged_ || !block_ || (first_ && got_ + take > kFirstBytes)) {
      refusal = make_room(context, got_ + take);
      if (!refusal.ok()) {
        reset(context);
        return Step::kRefused;
      }
    }
    std::memcpy(block_.data() + offset_ + got_, data.data(), take);
    got_ += take;
    data = data.subspan(take);
    if (!aligned_) align();
  }
  if (got_ < size_) return Step::kMore;
  charge_.complete();
  message.bytes = {size_ == 0 ? nullptr : block_.data() + offset_, size_};
  message.block = std::move(block_);
  message.charge = std::move(charge_);
  message.encoding = encoding_;
  prefix_size_ = size_ = got_ = charged_ = 0;
  return Step::kMessage;
}

Status MessageIntake::begin(IntakeContext& context, Encoding encoding, std::size_t here) {
  const auto flag = std::to_integer<unsigned>(prefix_[0]);
  if (flag > 1) return internal_error("a message's compressed flag is " + std::to_string(flag) + ", not 0 or 1");
  if (flag == 1 && encoding == Encoding::kIdentity) {
    return internal_error("a message is flagged as compressed, but the call names no grpc-encoding");
  }
  encoding_ = flag == 1 ? encoding : Encoding::kIdentity;
  size_ = size_of_prefix(prefix_.data());
  got_ = charged_ = offset_ = 0;
  if (size_ > context.max_message_bytes) {
    const std::size_t size = std::exchange(size_, 0);
    return resource_exhausted("the message of " + std::to_string(size) + " bytes is over the limit of " +
                              std::to_string(context.max_message_bytes) +
                              " bytes (--max-request-bytes): send less at once, or raise the limit");
  }
  if (size_ == 0) return {};
  aligned_ = size_ < kLargeField || encoding_ != Encoding::kIdentity;
  const bool small = size_ <= InflightBudget::kSmallMessage;
  first_ = size_ > kFirstBytes && here <= kFirstBytes;
  // A length with no byte behind it takes no memory at all: make_room() comes with the first.
  if (!first_ || here != 0) {
    Result<Block> block = first_ ? first_block(context) : whole_block(context);
    if (!block.ok()) return block.status();
    block_ = std::move(*block);
  }
  if (small && here >= size_) {
    Status capped = charge_connection(context, size_);
    if (!capped.ok()) return capped;
    charge_ = context.budget.take(size_);
    return charge_ ? Status() : no_room(context);
  }
  charge_ = context.budget.begin(size_);
  return small ? grow(context, size_) : Status();
}

Result<Block> MessageIntake::first_block(IntakeContext& context) {
  return context.pool.allocate(kFirstBytes + Pool::kAlignment);
}

Result<Block> MessageIntake::whole_block(IntakeContext& context) const {
  const std::size_t room = size_ + (aligned_ ? offset_ : Pool::kAlignment - 1);
  return size_ <= InflightBudget::kSmallMessage ? context.pool.allocate(room) : context.pool.reserve(room);
}

Status MessageIntake::make_room(IntakeContext& context, std::size_t upto) {
  if (upto > charged_) {
    if (Status status = grow(context, upto); !status.ok()) return status;
  }
  if (!first_ || (block_ && upto <= kFirstBytes)) return {};
  first_ = upto <= kFirstBytes;
  Result<Block> block = first_ ? first_block(context) : whole_block(context);
  if (!block.ok()) return block.status();
  if (got_ != 0) std::memcpy(block->data() + offset_, block_.data() + offset_, got_);
  block_ = std::move(*block);
  return first_ ? Status() : charge_block();
}

// Charges what has come, in steps, to the connection, the process and the pool.
Status MessageIntake::grow(IntakeContext& context, std::size_t upto) {
  const std::size_t steps = (upto + Pool::kChargeStep - 1) / Pool::kChargeStep;
  upto = std::min(size_, steps * Pool::kChargeStep);
  Status capped = charge_connection(context, upto - charged_);
  if (!capped.ok()) return capped;
  if (!charge_.raise(upto)) return no_room(context);
  return first_ ? Status() : charge_block();
}

Status MessageIntake::charge_block() {
  // The spare bytes before an aligned payload count too, from the start.
  if (!block_.charge(std::min(block_.capacity(), charged_ + Pool::kAlignment - 1))) {
    return resource_exhausted("no memory for a message of " + std::to_string(size_) +
                              " bytes: the pool is at its cap (--pool-bytes); try again later");
  }
  return {};
}

Status MessageIntake::charge_connection(IntakeContext& context, std::size_t bytes) {
  if (bytes > context.max_inflight_bytes - std::min(context.max_inflight_bytes, context.inflight_bytes)) {
    return resource_exhausted("no room for a message of " + std::to_string(size_) + " bytes: this connection has " +
                              std::to_string(context.inflight_bytes) + " of " +
                              std::to_string(context.max_inflight_bytes) +
                              " request bytes in flight (--connection-inflight-bytes); wait for answers, or use "
                              "more connections");
  }
  context.inflight_bytes += bytes;
  charged_ += bytes;
  return {};
}

Status MessageIntake::no_room(const IntakeContext& context) const {
  return resource_exhausted("no room for a message of " + std::to_string(size_) + " bytes: the server has " +
                            std::to_string(context.budget.charged()) + " of " + std::to_string(context.budget.cap()) +
                            " request bytes in flight (--process-inflight-bytes); try again later");
}

// The first bytes were too few to show where the first large field begins: look again, and move what has come.
void MessageIntake::align() {
  const std::span<const std::byte> have{block_.data(), got_};
  const Search found = find_large_field(have, kLargeField);
  aligned_ = found.decided || got_ > kTooMany;
  if (!found.decided || got_ > kTooMany) return;
  offset_ = offset_for(found.payload);
  if (offset_ != 0) std::memmove(block_.data() + offset_, block_.data(), got_);
}

void MessageIntake::reset(IntakeContext& context) {
  context.inflight_bytes -= charged_;
  prefix_size_ = size_ = got_ = charged_ = 0;
  first_ = false;
  block_.reset();
  charge_.release();
}

}  // namespace headrace::wire
