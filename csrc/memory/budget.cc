#include "memory/budget.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace headrace {

using Charge = InflightBudget::Charge;

InflightBudget::InflightBudget(std::size_t cap, std::size_t max_message_bytes)
    : large_reserve_(max_message_bytes),
      cap_(std::max(cap, max_message_bytes + kSmallReserve)),
      common_limit_(cap_ - max_message_bytes - kSmallReserve) {}

InflightBudget::~InflightBudget() { HEADRACE_CHECK(charged() == 0); }

Charge InflightBudget::begin(std::size_t message_bytes) {
  Charge charge(this, message_bytes);
  MutexLock lock(mutex_);
  link(charge, Charge::List::kIncomplete);
  lock.unlock();
  return charge;
}

Charge InflightBudget::take(std::size_t message_bytes) {
  Charge charge(this, message_bytes);
  if (!charge.raise(message_bytes)) charge.budget_ = nullptr;
  return charge;
}

// All of `bytes` into the common tier, or nothing.
bool InflightBudget::add_common(std::size_t bytes) {
  std::size_t now = common_.load(std::memory_order_relaxed);
  while (bytes <= common_limit_ - now) {
    if (common_.compare_exchange_weak(now, now + bytes, std::memory_order_relaxed)) {
      note_peak();
      return true;
    }
  }
  return false;
}

// As much of `bytes` as the common tier has room for; returns how much.
std::size_t InflightBudget::add_common_at_most(std::size_t bytes) {
  std::size_t now = common_.load(std::memory_order_relaxed);
  std::size_t part = std::min(bytes, common_limit_ - now);
  while (part != 0 && !common_.compare_exchange_weak(now, now + part, std::memory_order_relaxed)) {
    part = std::min(bytes, common_limit_ - now);
  }
  return part;
}

// The slow way: what the common tier cannot take goes to the reserves that this charge may use.
bool InflightBudget::add_reserved(Charge& charge, std::size_t bytes) {
  MutexLock lock(mutex_);
  settle_holders();
  const bool small = charge.message_bytes_ <= kSmallMessage;
  const bool incomplete = charge.list_ == Charge::List::kIncomplete;
  const std::size_t small_limit = !small ? 0 : incomplete ? kSmallReserve / 2 : kSmallReserve;
  const std::size_t small_room = small_limit - std::min(small_limit, small_used_);
  const std::size_t large_room = incomplete && incomplete_.first == &charge ? large_reserve_ - large_used_ : 0;
  const std::size_t common_part = add_common_at_most(bytes);
  const std::size_t small_part = std::min(bytes - common_part, small_room);
  const std::size_t large_part = bytes - common_part - small_part;
  if (large_part > large_room) {
    common_.fetch_sub(common_part, std::memory_order_relaxed);
    return false;
  }
  small_used_ += small_part;
  large_used_ += large_part;
  charge.in_small_ += small_part;
  charge.in_large_ += large_part;
  reserved_.store(small_used_ + large_used_, std::memory_order_relaxed);
  note_peak();
  return true;
}

void InflightBudget::note_peak() {
  const std::size_t now = charged();
  std::size_t highest = peak_.load(std::memory_order_relaxed);
  while (now > highest && !peak_.compare_exchange_weak(highest, now, std::memory_order_relaxed)) {
  }
}

// Moves what whole messages hold of the large reserve into the common tier, as far as that has room.
void InflightBudget::settle_holders() {
  for (Charge* holder = holders_.first; holder != nullptr; holder = holder->next_) {
    const std::size_t part = add_common_at_most(holder->in_large_);
    holder->in_large_ -= part;
    large_used_ -= part;
  }
  reserved_.store(small_used_ + large_used_, std::memory_order_relaxed);
}

InflightBudget::Chain& InflightBudget::chain_of(const Charge& charge) {
  return charge.list_ == Charge::List::kIncomplete ? incomplete_ : holders_;
}

void InflightBudget::link(Charge& charge, Charge::List list) {
  charge.list_ = list;
  Chain& chain = chain_of(charge);
  charge.previous_ = std::exchange(chain.last, &charge);
  charge.next_ = nullptr;
  (charge.previous_ != nullptr ? charge.previous_->next_ : chain.first) = &charge;
}

void InflightBudget::unlink(Charge& charge) {
  Chain& chain = chain_of(charge);
  (charge.previous_ != nullptr ? charge.previous_->next_ : chain.first) = charge.next_;
  (charge.next_ != nullptr ? charge.next_->previous_ : chain.last) = charge.previous_;
  charge.list_ = Charge::List::kNone;
}

Charge& Charge::operator=(Charge&& other) noexcept {
  if (this != &other) {
    release();
    take_over(other);
  }
  return *this;
}

// This charge is empty. Takes the other's place in its list too.
void Charge::take_over(Charge& other) noexcept {
  if (other.budget_ == nullptr) return;
  budget_ = other.budget_;
  bytes_ = std::exchange(other.bytes_, 0);
  message_bytes_ = other.message_bytes_;
  if (other.list_ == List::kNone) {
    in_small_ = std::exchange(other.in_small_, 0);
  } else {
    MutexLock lock(budget_->mutex_);
    in_small_ = std::exchange(other.in_small_, 0);
    in_large_ = std::exchange(other.in_large_, 0);
    list_ = std::exchange(other.list_, List::kNone);
    previous_ = other.previous_;
    next_ = other.next_;
    Chain& chain = budget_->chain_of(*this);
    (previous_ != nullptr ? previous_->next_ : chain.first) = this;
    (next_ != nullptr ? next_->previous_ : chain.last) = this;
  }
  other.budget_ = nullptr;
}

bool Charge::raise(std::size_t upto) {
  upto = std::min(upto, message_bytes_);
  if (upto <= bytes_) return true;
  const std::size_t more = upto - bytes_;
  if (!budget_->add_common(more) && !budget_->add_reserved(*this, more)) return false;
  bytes_ = upto;
  return true;
}

void Charge::complete() {
  if (list_ != List::kIncomplete) return;
  MutexLock lock(budget_->mutex_);
  budget_->unlink(*this);
  if (in_large_ != 0) budget_->link(*this, List::kHolders);
}

void Charge::release() {
  if (budget_ == nullptr) return;
  std::size_t common_part = bytes_;
  if (list_ != List::kNone || in_small_ != 0) {
    MutexLock lock(budget_->mutex_);
    if (list_ != List::kNone) budget_->unlink(*this);
    common_part -= in_small_ + in_large_;
    budget_->small_used_ -= std::exchange(in_small_, 0);
    budget_->large_used_ -= std::exchange(in_large_, 0);
    budget_->reserved_.store(budget_->small_used_ + budget_->large_used_, std::memory_order_relaxed);
  }
  budget_->common_.fetch_sub(common_part, std::memory_order_relaxed);
  bytes_ = 0;
  budget_ = nullptr;
}

}  // namespace headrace
