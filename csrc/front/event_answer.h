// How a call of generate or generate_stream is answered by a model that answers any number of times: each answer an
// event, written as it comes (a large one by a worker, and those behind it wait), and taken when it can be sent.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "base/error.h"
#include "front/access_entry.h"
#include "front/answer_pieces.h"
#include "memory/tensor.h"

namespace headrace {

struct CatalogHold;
struct Model;

struct EventAnswer {
  const Model* model = nullptr;
  CatalogHold* hold = nullptr;
  std::string id;                          // the request's
  std::deque<std::vector<Tensor>> behind;  // answers that are not written yet
  bool writing = false;                    // a worker has one
  bool begun = false;                      // its owner has been told that it comes in pieces
  bool has_turn = false;                   // its owner takes pieces
  bool credit_kept = false;                // for want of room
  bool ended = false;                      // no answer follows those that are here
  Status status;                           // how it ended
  std::size_t written = 0;                 // bytes of events
  AccessEntry said;                        // for the log, once it is through
  AnswerPieces pieces;
};

}  // namespace headrace
