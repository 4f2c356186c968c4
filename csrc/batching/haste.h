// How soon those who came lately wanted their answers. A lane that is held for a time t is lost for t to whoever comes
// meanwhile: where nobody is in haste that costs nothing, and where answers are wanted within a few runs it decides who
// is late. Pure; one for all models, because they share the lanes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace headrace {

class Haste {
 public:
  static constexpr Nanos kForgotten = kSecond;  // after which the haste of those who came no longer counts

  // Somebody came at `now` and wants an answer within `span`. About one in 64 wants it sooner than exact() says: a step
  // down weighs 64 times one up (Robbins and Monro's way to a quantile, 1951, with steps in proportion to the value
  // and never beyond what was seen).
  void note(Nanos span, Nanos now) {
    if (now - seen_ > kForgotten || exact_ == kNever) {
      exact_ = span;
    } else if (span < exact_) {
      exact_ -= std::min(exact_ - span, exact_ / 4);
    } else {
      exact_ += std::min(span - exact_, exact_ / 256);
    }
    seen_ = now;
  }
  Nanos exact(Nanos now) const { return now - seen_ > kForgotten ? kNever : exact_; }

  // What batches and promises rest on. It follows in steps: for each, all that is promised has to be reckoned anew.
  Nanos span() const { return span_; }                // kNever: nobody is in haste
  std::uint64_t edition() const { return edition_; }  // changes with span()
  bool moved(Nanos now) const {
    const Nanos goal = exact(now);
    if (goal == kNever || span_ == kNever) return goal != span_;
    return goal < span_ - span_ / 4 || goal > span_ + span_ / 4;
  }
  void set_span(Nanos span) {
    span_ = span;
    ++edition_;
  }

 private:
  Nanos exact_ = kNever;
  Nanos span_ = kNever;
  Nanos seen_ = 0;
  std::uint64_t edition_ = 0;
};

}  // namespace headrace
