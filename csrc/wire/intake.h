// The messages of one stream as they arrive: length prefix, block, charge, bytes. Each body is copied once, from the
// read buffer into its block, whose bytes are charged as they come. The first few bytes of a message that stays away
// lie in a small block: a mapping for each of a thousand prefixes would be a long step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "memory/budget.h"
#include "memory/pool.h"

namespace headrace::wire {

enum class Encoding : std::uint8_t { kIdentity, kGzip, kDeflate };

// A request message, whole. Its bytes lie in one pooled block; where it is possible the first large field's payload is
// aligned to 64 bytes. Keep `block` (and `charge`) for as long as the bytes are used.
struct Message {
  Block block;
  std::span<const std::byte> bytes;
  InflightBudget::Charge charge;            // empty for an empty message
  Encoding encoding = Encoding::kIdentity;  // not identity: `bytes` are compressed (the 5-byte prefix's flag was set)
};

// What all streams of a connection share.
struct IntakeContext {
  Pool& pool;
  InflightBudget& budget;
  std::size_t max_message_bytes;
  std::size_t max_inflight_bytes;  // of the connection
  std::size_t inflight_bytes = 0;  // charged to the connection; given back by whoever ends the call
};

class MessageIntake {
 public:
  enum class Step : std::uint8_t { kMore, kMessage, kRefused };

  // Takes from the front of `data`: all of it (kMore), or up to the end of one message. `encoding` is the call's.
  // kRefused: `refusal` says why, nothing is held any more, and the call must end.
  Step feed(IntakeContext& context, Encoding encoding, std::span<const std::byte>& data, Message& message,
            Status& refusal);
  // Drops what has come of a message.
  void reset(IntakeContext& context);

  bool partial() const { return prefix_size_ != 0; }  // inside a message, or its prefix
  std::size_t left() const { return size_ - got_; }   // of the body whose prefix has come
  std::size_t charged() const { return charged_; }    // of the message in progress, to the connection

 private:
  static constexpr std::size_t kPrefix = 5;
  static constexpr std::size_t kLargeField = 4096;  // its payload is worth aligning
  static constexpr std::size_t kFirstBytes = 4096 - Pool::kAlignment;

  Status begin(IntakeContext& context, Encoding encoding, std::size_t here);
  Status grow(IntakeContext& context, std::size_t upto);
  static Result<Block> first_block(IntakeContext& context);
  Result<Block> whole_block(IntakeContext& context) const;
  Status make_room(IntakeContext& context, std::size_t upto);
  Status charge_block();
  Status charge_connection(IntakeContext& context, std::size_t bytes);
  Status no_room(const IntakeContext& context) const;
  void align();

  std::array<std::byte, kPrefix> prefix_{};
  std::size_t prefix_size_ = 0;
  std::size_t size_ = 0;  // of the body
  std::size_t got_ = 0;   // of the body
  std::size_t charged_ = 0;
  std::size_t offset_ = 0;  // of the body in its block
  bool aligned_ = true;     // the offset is final
  bool first_ = false;      // the block is one for the first bytes, not for the whole message
  Encoding encoding_ = Encoding::kIdentity;
  Block block_;
  InflightBudget::Charge charge_;
};

}  // namespace headrace::wire
