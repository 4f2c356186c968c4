// Bytes of request messages in flight, for the whole process: who may be charged, and who is refused first.
//
// Three tiers under one cap, so that half-sent uploads can never lock everybody out:
//   - a large message may fill the cap less two reserves,
//   - a small one (at most kSmallMessage) may also use the small reserve,
//   - the oldest incomplete message may also use the large reserve (one maximal message), and so always finishes.
// Thread-safe: the loops of a process share one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>

#include "base/sync.h"

namespace headrace {

class InflightBudget {
 public:
  static constexpr std::size_t kSmallMessage = std::size_t{64} << 10;

  // `cap` is raised to hold the reserves if it is smaller.
  InflightBudget(std::size_t cap, std::size_t max_message_bytes);

  // One message's share. Incomplete from begin() to complete(); its bytes stay charged until it is destroyed or
  // released (which may be on another thread, long after the connection is gone; the budget outlives its charges).
  class Charge {
   public:
    Charge() = default;
    Charge(Charge&& other) noexcept;
    Charge& operator=(Charge&& other) noexcept;
    ~Charge() { release(); }
    explicit operator bool() const { return budget_ != nullptr; }
    // Raises the charge to `upto` bytes. False, and nothing changed, when there is no room for this message.
    [[nodiscard]] bool raise(std::size_t upto);
    void complete();  // all bytes are here: no longer a candidate for the reserve
    void release();
    std::size_t bytes() const { return bytes_; }

   private:
    friend class InflightBudget;
    InflightBudget* budget_ = nullptr;
    std::list<Charge*>::iterator place_{};  // in the budget's list of incomplete messages, oldest first
    std::size_t bytes_ = 0;
    std::size_t message_bytes_ = 0;
    bool incomplete_ = false;
    bool reserve_ = false;  // holds the large reserve
  };

  Charge begin(std::size_t message_bytes);
  std::size_t charged() const;
  std::size_t peak() const;
  std::size_t cap() const { return cap_; }

 private:
  friend class Charge;
  const std::size_t cap_;
  const std::size_t large_reserve_;
  const std::size_t small_reserve_;
  mutable Mutex mutex_;
  std::size_t charged_ HEADRACE_GUARDED_BY(mutex_) = 0;
  std::size_t peak_ HEADRACE_GUARDED_BY(mutex_) = 0;
  bool reserve_taken_ HEADRACE_GUARDED_BY(mutex_) = false;
  std::list<Charge*> incomplete_ HEADRACE_GUARDED_BY(mutex_);
};

}  // namespace headrace
