// The body of one HTTP request as it arrives: block, charge, bytes. A body whose size is known gets one right-sized
// block at once; one that comes in chunks grows. Bytes are charged to the connection, the process and the pool as they
// come, and are copied once.
#pragma once

#include <cstddef>
#include <limits>
#include <span>

#include "base/error.h"
#include "memory/budget.h"
#include "memory/pool.h"
#include "wire/intake.h"

namespace headrace::wire {

class BodyIntake {
 public:
  static constexpr std::size_t kUnknown = std::numeric_limits<std::size_t>::max();

  // Starts a body of `size` bytes, of which `here` are about to be appended. `align_at`: the offset in it that is to be
  // aligned to 64 bytes (where binary tensors begin); one that is not in the body: its own beginning.
  // RESOURCE_EXHAUSTED names the limit; nothing is held then.
  Status begin(IntakeContext& context, std::size_t size, std::size_t align_at, Encoding encoding, std::size_t here);
  // No more than what is left of a known size. RESOURCE_EXHAUSTED: nothing is held any more.
  Status append(IntakeContext& context, std::span<const std::byte> bytes);
  // The body is whole. Its bytes stay charged to the connection: whoever ends the request gives `charged` back.
  Message finish(std::size_t& charged);
  // Drops what has come, and gives its charge to the connection back.
  void reset(IntakeContext& context);

  bool open() const { return open_; }
  std::size_t bytes() const { return got_; }

  // Whether a body of `size` may be sent at all.
  static Status check_size(const IntakeContext& context, std::size_t size);

 private:
  static constexpr std::size_t kFirst = InflightBudget::kSmallMessage;  // block of a body of unknown size

  Status grow(IntakeContext& context, std::size_t upto);
  Status charge_connection(IntakeContext& context, std::size_t bytes);
  Status no_room(const IntakeContext& context) const;

  bool open_ = false;
  std::size_t size_ = 0;  // kUnknown: not known
  std::size_t got_ = 0;
  std::size_t charged_ = 0;
  std::size_t offset_ = 0;  // of the body in its block
  Encoding encoding_ = Encoding::kIdentity;
  Block block_;
  InflightBudget::Charge charge_;
};

}  // namespace headrace::wire
