// A ModelStreamInfer over gRPC-Web: the requests are the frames of one body that is here already, the answers frames
// that go out as they are ready.
#pragma once

#include <cstddef>
#include <cstdint>

#include "front/answer_pieces.h"
#include "front/infer_stream.h"
#include "wire/intake.h"

namespace headrace {

struct WebStream {
  WebStream(StreamEndpoint& endpoint, std::uint32_t number) : exchange(number), stream(endpoint, call) {
    call.user = this;
  }

  const std::uint32_t exchange;
  wire::Call call;
  wire::Message body;
  std::size_t read = 0;     // of the body
  std::size_t charged = 0;  // for it, to the connection
  wire::MessageIntake intake;
  bool paused = false;
  bool read_on = false;  // there is more to read, in the loop's next step
  bool through = false;  // nothing of the body is read any more
  AnswerPieces pieces;
  Status status;  // how it ended
  InferStream stream;

  // Nothing of it is out, and all of it has been taken.
  bool over() const { return stream.over() && pieces.end_taken(); }
};

}  // namespace headrace
