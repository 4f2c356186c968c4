#include "wire/body_intake.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace headrace::wire {

Status BodyIntake::check_size(const IntakeContext& context, std::size_t size) {
  if (size <= context.max_message_bytes) return {};
  return resource_exhausted("the body is over the limit of " + std::to_string(context.max_message_bytes) +
                            " bytes (--max-request-bytes): send less at once, or raise the limit");
}

Status BodyIntake::begin(IntakeContext& context, std::size_t size, std::size_t align_at, Encoding encoding,
                         std::size_t here) {
  const bool known = size != kUnknown;
  if (Status status = check_size(context, known ? size : here); !status.ok()) return status;
  open_ = true;
  size_ = size;
  got_ = charged_ = 0;
  encoding_ = encoding;
  if (align_at >= size) align_at = 0;
  offset_ = (Pool::kAlignment - align_at % Pool::kAlignment) % Pool::kAlignment;
  const std::size_t first = known ? size : kFirst;
  const bool small = first <= InflightBudget::kSmallMessage;
  Result<Block> block = small ? context.pool.allocate(first + offset_) : context.pool.reserve(first + offset_);
  if (!block.ok()) {
    reset(context);
    return block.status();
  }
  block_ = std::move(*block);
  if (known && small && here >= size) {
    Status status = charge_connection(context, size);
    if (status.ok() && size != 0) {
      charge_ = context.budget.take(size);
      if (!charge_) status = no_room(context);
    }
    if (!status.ok()) reset(context);
    return status;
  }
  charge_ = context.budget.begin(known ? size : context.max_message_bytes);
  Status status = known && small ? grow(context, size) : Status();
  if (!status.ok()) reset(context);
  return status;
}

Status BodyIntake::append(IntakeContext& context, std::span<const std::byte> bytes) {
  const std::size_t upto = got_ + bytes.size();
  Status status = upto <= charged_ ? Status() : check_size(context, upto);
  if (status.ok() && upto > charged_) status = grow(context, upto);
  if (!status.ok()) {
    reset(context);
    return status;
  }
  if (!bytes.empty()) std::memcpy(block_.data() + offset_ + got_, bytes.data(), bytes.size());
  got_ = upto;
  return {};
}

Status BodyIntake::grow(IntakeContext& context, std::size_t upto) {
  const bool known = size_ != kUnknown;
  const std::size_t most = known ? size_ : context.max_message_bytes;
  const std::size_t step = !known && upto <= kFirst ? kFirst : Pool::kChargeStep;
  upto = std::min(most, (upto + step - 1) / step * step);
  if (!known && upto > kFirst && block_.capacity() < most + offset_) {
    // Larger than most: the addresses of the largest, so that what comes is copied no second time.
    Result<Block> larger = context.pool.reserve(most + offset_);
    if (!larger.ok()) return larger.status();
    if (!larger->charge(offset_ + upto)) return no_room(context);
    std::memcpy(larger->data() + offset_, block_.data() + offset_, got_);
    block_ = std::move(*larger);
  }
  if (Status status = charge_connection(context, upto - charged_); !status.ok()) return status;
  if (!charge_.raise(upto)) return no_room(context);
  if (!block_.charge(std::min(block_.capacity(), offset_ + upto))) {
    return resource_exhausted("no memory for a body of " + std::to_string(upto) +
                              " bytes: the pool is at its cap (--pool-bytes); try again later");
  }
  return {};
}

Status BodyIntake::charge_connection(IntakeContext& context, std::size_t bytes) {
  if (bytes > context.max_inflight_bytes - std::min(context.max_inflight_bytes, context.inflight_bytes)) {
    return resource_exhausted("no room for the body: this connection has " + std::to_string(context.inflight_bytes) +
                              " of " + std::to_string(context.max_inflight_bytes) +
                              " request bytes in flight (--connection-inflight-bytes); wait for answers, or use more "
                              "connections");
  }
  context.inflight_bytes += bytes;
  charged_ += bytes;
  return {};
}

Status BodyIntake::no_room(const IntakeContext& context) const {
  return resource_exhausted("no room for the body: the server has " + std::to_string(context.budget.charged()) +
                            " of " + std::to_string(context.budget.cap()) +
                            " request bytes in flight (--process-inflight-bytes); try again later");
}

Message BodyIntake::finish(std::size_t& charged) {
  Message message;
  charge_.complete();
  message.bytes = {block_.data() + offset_, got_};
  message.block = std::move(block_);
  message.charge = std::move(charge_);
  message.encoding = encoding_;
  open_ = false;
  got_ = 0;
  charged = std::exchange(charged_, 0);
  return message;
}

void BodyIntake::reset(IntakeContext& context) {
  context.inflight_bytes -= charged_;
  open_ = false;
  got_ = charged_ = 0;
  block_.reset();
  charge_.release();
}

}  // namespace headrace::wire
