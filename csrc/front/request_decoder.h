// From the bytes of a ModelInferRequest to a ticket: decode, resolve, admit, bind. Used by a loop for what is small and
// by a worker for what is not, so it holds scratch memory and nothing else.
#pragma once

#include <cstddef>

#include "base/error.h"
#include "batching/request.h"
#include "engine/admission.h"
#include "engine/catalog.h"
#include "memory/pool.h"
#include "wire/grpc.h"
#include "wire/infer_codec.h"

namespace headrace {

class RequestDecoder {
 public:
  // Work on more bytes than this, one by one, is not for an event loop.
  static constexpr std::size_t kHeavyBytes = std::size_t{256} << 10;

  // Reads the message in place; what admit() uses are views into it.
  Status decode(const wire::Message& message, const wire::InferLimits& limits);
  // admit() would look at each element of many: typed contents to be converted, strings to be walked.
  bool heavy() const;
  // Fills the ticket (all but sink and cookies) and takes the message's block and charge over. `model` is set as soon
  // as it is known, so that a refusal can be counted.
  Status admit(const Catalog& catalog, wire::Message& message, Pool& pool, Ticket& ticket, Model*& model);
  const wire::InferRequest& request() const { return request_; }

 private:
  Status check_parameters();
  Status bind_inputs(const wire::Message& message, Pool& pool);

  wire::InferRequest request_;
  Admission admission_;
  bool timing_ = false;
};

}  // namespace headrace
