// An answer of HTTP/1.1 that is written in pieces, as they are ready. Its owner takes them when it is the answer's turn
// and the transport has room, so what waits here is what a slow reader costs.
#pragma once

#include <cstddef>
#include <deque>
#include <utility>
#include <vector>

#include "wire/output.h"

namespace headrace {

struct AnswerPiece {
  wire::OutMessage message;
  Block room;  // what counts its own bytes, as HttpAnswer's
};

class AnswerPieces {
 public:
  // Leaves `message` cleared.
  void add(wire::OutMessage& message, Block room = {}) {
    waiting_ += message.size();
    pieces_.push_back({std::exchange(message, {}), std::move(room)});
  }
  // No piece follows.
  void finish() { finished_ = true; }
  // The next ones, about `most` bytes of them, one at least if there is one.
  std::vector<AnswerPiece> take(std::size_t most) {
    std::vector<AnswerPiece> taken;
    for (std::size_t bytes = 0; !pieces_.empty() && bytes < most; pieces_.pop_front()) {
      const std::size_t size = pieces_.front().message.size();
      bytes += size;
      waiting_ -= size;
      taken.push_back(std::move(pieces_.front()));
    }
    return taken;
  }

  std::size_t waiting() const { return waiting_; }  // bytes
  bool finished() const { return finished_; }
  // True once: all has been taken, and nothing follows.
  bool take_end() { return finished_ && pieces_.empty() && !std::exchange(end_taken_, true); }
  bool end_taken() const { return end_taken_; }
  bool has_news() const { return !pieces_.empty() || (finished_ && !end_taken_); }

 private:
  std::deque<AnswerPiece> pieces_;
  std::size_t waiting_ = 0;
  bool finished_ = false;
  bool end_taken_ = false;
};

}  // namespace headrace
