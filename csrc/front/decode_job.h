// What is too much for an event loop's step, done by a worker: inflating a message, decoding many elements one by one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "front/loop.h"
#include "wire/grpc.h"

namespace headrace {

struct StreamMessage;

struct DecodeJob final : LoopJob {
  std::int32_t call_id = 0;
  wire::Message message;
  bool infer = false;                       // a ModelInferRequest: decode it too
  StreamMessage* stream_message = nullptr;  // that it is; null: the call is of one message
  Engine* engine = nullptr;
  const LoopOptions* options = nullptr;
  std::size_t request_bytes = 0;
  wire::Metadata headers;  // that become parameters
  // Results.
  Status status;  // not OK beforehand: the call is refused already
  std::unique_ptr<Ticket> ticket;
  Model* model = nullptr;
  std::string model_name;  // these three: what was asked for, if it is refused
  std::string model_version;
  std::string request_id;

  void run() noexcept override;
};

}  // namespace headrace
