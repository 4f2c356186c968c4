// Bytes of request messages in flight, for the whole process: who may be charged, and who is refused first.
//
// Three tiers under one cap, so that half-sent uploads can never lock everybody out:
//   - the common tier, the cap less two reserves: for every message,
//   - the small reserve: also for messages of at most kSmallMessage. The half-sent among them may fill half of it, so
//     the other half is only ever held by messages that are whole,
//   - the large reserve, one maximal message: also for the oldest incomplete message.
//
// What the oldest incomplete message gets: bytes of other incomplete messages never refuse it, however many they are,
// so half-sent uploads alone never stop one that goes on. Only messages that are whole (they wait for their model, or
// run) can hold what it needs of the large reserve: its last user keeps its part of it until it is released, or until
// the common tier has room to take that part over, whichever is first. In that gap the next oldest has what is left of
// the reserve, and is refused beyond it: the process is then full of accepted work. Nobody ever waits.
//
// Thread-safe: the loops of a process share one. What fits the common tier takes no lock, except for the list of the
// incomplete.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/sync.h"

namespace headrace {

class InflightBudget {
 public:
  static constexpr std::size_t kSmallMessage = std::size_t{64} << 10;
  static constexpr std::size_t kSmallReserve = 64 * kSmallMessage;

  // `cap` is raised to hold the reserves if it is smaller; no message is larger than `max_message_bytes`.
  InflightBudget(std::size_t cap, std::size_t max_message_bytes);
  ~InflightBudget();  // all charges are gone
  InflightBudget(const InflightBudget&) = delete;
  InflightBudget& operator=(const InflightBudget&) = delete;

  // One message's share. Incomplete from begin() to complete(); its bytes stay charged until it is destroyed or
  // released (which may be on another thread, long after the connection is gone; the budget outlives its charges).
  // Used by one thread at a time.
  class Charge {
   public:
    Charge() = default;
    Charge(Charge&& other) noexcept { take_over(other); }
    Charge& operator=(Charge&& other) noexcept;
    ~Charge() { release(); }
    explicit operator bool() const { return budget_ != nullptr; }
    // Raises the charge to `upto` bytes, or to the whole message if that is less. False, and nothing changed, when
    // there is no room for this message.
    [[nodiscard]] bool raise(std::size_t upto);
    void complete();  // all bytes are here: no longer a candidate for the reserve
    void release();
    std::size_t bytes() const { return bytes_; }

   private:
    friend class InflightBudget;
    enum class List : std::uint8_t { kNone, kIncomplete, kHolders };

    Charge(InflightBudget* budget, std::size_t message_bytes) : budget_(budget), message_bytes_(message_bytes) {}
    void take_over(Charge& other) noexcept;

    InflightBudget* budget_ = nullptr;
    std::size_t bytes_ = 0;
    std::size_t message_bytes_ = 0;
    // Of `bytes_`, what is not in the common tier. Under the budget's mutex while the charge is in a list.
    std::size_t in_small_ = 0;
    std::size_t in_large_ = 0;
    Charge* previous_ = nullptr;
    Charge* next_ = nullptr;
    List list_ = List::kNone;
  };

  // A message whose first bytes have come. Charges nothing yet.
  Charge begin(std::size_t message_bytes);
  // A message that is whole at first sight: begin, raise and complete in one, without a lock in the common case.
  // Empty when there is no room for it.
  [[nodiscard]] Charge take(std::size_t message_bytes);

  std::size_t charged() const {
    return common_.load(std::memory_order_relaxed) + reserved_.load(std::memory_order_relaxed);
  }
  std::size_t peak() const { return peak_.load(std::memory_order_relaxed); }
  std::size_t cap() const { return cap_; }

 private:
  // Oldest first, linked through the charges themselves.
  struct Chain {
    Charge* first = nullptr;
    Charge* last = nullptr;
  };

  bool add_common(std::size_t bytes);
  std::size_t add_common_at_most(std::size_t bytes);
  bool add_reserved(Charge& charge, std::size_t bytes);
  void note_peak();
  void settle_holders() HEADRACE_REQUIRES(mutex_);
  Chain& chain_of(const Charge& charge) HEADRACE_REQUIRES(mutex_);
  void link(Charge& charge, Charge::List list) HEADRACE_REQUIRES(mutex_);
  void unlink(Charge& charge) HEADRACE_REQUIRES(mutex_);

  const std::size_t large_reserve_;
  const std::size_t cap_;
  const std::size_t common_limit_;
  std::atomic<std::size_t> common_{0};
  std::atomic<std::size_t> reserved_{0};  // small_used_ + large_used_, for those who only look
  std::atomic<std::size_t> peak_{0};
  mutable Mutex mutex_;
  std::size_t small_used_ HEADRACE_GUARDED_BY(mutex_) = 0;
  std::size_t large_used_ HEADRACE_GUARDED_BY(mutex_) = 0;
  Chain incomplete_ HEADRACE_GUARDED_BY(mutex_);
  Chain holders_ HEADRACE_GUARDED_BY(mutex_);  // whole messages that still have a part of the large reserve
};

}  // namespace headrace
