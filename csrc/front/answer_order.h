// In which order the answers of one stream go out: a message that keeps its order waits for those before it that do so
// too, any other is answered when its answer is there. A message may have many answers, the last of them final. Pure.
#pragma once

#include <cstddef>
#include <vector>

#include "wire/output.h"

namespace headrace {

class AnswerOrder {
 public:
  // One message's place; whoever owns it keeps it until its final answer has come out.
  struct Place {
    bool ordered = false;
    bool final_kept = false;
    Place* next = nullptr;               // of those that keep their order
    std::vector<wire::OutMessage> kept;  // answers that wait for their turn
  };

  // A message has come.
  void enter(Place& place, bool ordered);
  // Its answers may go out as they come.
  bool has_turn(const Place& place) const { return !place.ordered || &place == first_; }
  // An answer before its turn; leaves `answer` cleared. None follows a final one.
  void keep(Place& place, wire::OutMessage& answer, bool final);
  // The final answer of a place that has its turn has gone out. The place whose turn it is now; null when nothing of it
  // is kept (or nobody waits). What take_kept() gives is then to be sent, and if `final_kept`, leave() to be called
  // again.
  Place* leave(Place& place);
  std::vector<wire::OutMessage> take_kept(Place& place);

  std::size_t kept_bytes() const { return kept_bytes_; }
  bool empty() const { return first_ == nullptr; }

 private:
  Place* first_ = nullptr;
  Place* last_ = nullptr;
  std::size_t kept_bytes_ = 0;
};

}  // namespace headrace
