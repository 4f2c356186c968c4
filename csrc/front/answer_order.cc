#include "front/answer_order.h"

#include <utility>

#include "base/check.h"

namespace headrace {

void AnswerOrder::enter(Place& place, bool ordered) {
  place.ordered = ordered;
  place.final_kept = false;
  place.next = nullptr;
  if (!ordered) return;
  (last_ != nullptr ? last_->next : first_) = &place;
  last_ = &place;
}

void AnswerOrder::keep(Place& place, wire::OutMessage& answer, bool final) {
  HEADRACE_CHECK(!has_turn(place) && !place.final_kept);
  kept_bytes_ += answer.size();
  place.kept.push_back(std::exchange(answer, {}));
  place.final_kept = final;
}

AnswerOrder::Place* AnswerOrder::leave(Place& place) {
  if (!place.ordered) return nullptr;
  HEADRACE_CHECK(&place == first_);
  first_ = place.next;
  if (first_ == nullptr) last_ = nullptr;
  return first_ != nullptr && !first_->kept.empty() ? first_ : nullptr;
}

std::vector<wire::OutMessage> AnswerOrder::take_kept(Place& place) {
  for (const wire::OutMessage& answer : place.kept) kept_bytes_ -= answer.size();
  return std::exchange(place.kept, {});
}

}  // namespace headrace
