// What is too much of an inference over HTTP for an event loop's step, done by a worker: inflating and decoding a large
// body, writing a large answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "front/endpoint.h"
#include "front/http_answer.h"
#include "front/http_decoder.h"
#include "front/loop.h"

namespace headrace {

struct HttpJob : LoopJob {
  std::uint32_t exchange = 0;
  bool encodes = false;
};

struct HttpDecodeJob final : HttpJob {
  Engine* engine = nullptr;
  const LoopOptions* options = nullptr;
  std::string model_name;
  std::string model_version;
  wire::Message body;
  std::size_t json_bytes = HttpDecoder::kAllJson;
  HttpForm form = HttpForm::kInfer;
  wire::Metadata parameters;  // headers that become that
  // Results.
  Status status;
  int http = 0;  // as in HttpAnswer
  std::unique_ptr<Ticket> ticket;
  Model* model = nullptr;
  std::vector<wire::OutputForm> forms;
  wire::PredictForm predict_form = wire::PredictForm::kRows;
  std::string request_id;

  void run() noexcept override;
};

struct HttpEncodeJob final : HttpJob {
  HttpEncodeJob() { encodes = true; }
  Pool* pool = nullptr;
  HttpResult result;
  AccessEntry entry;  // for the log, once the answer's size is known
  HttpAnswer answer;

  void run() noexcept override { result.write_counted(answer, *pool); }
};

}  // namespace headrace
