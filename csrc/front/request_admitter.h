// From a decoded request to a ticket: resolve, check parameters, admit, bind. Knows no protocol: whoever decoded the
// request (protobuf, JSON) says in a RequestSource where the tensors' bytes are. Used by a loop for what is small and
// by a worker for what is not, so it holds scratch memory and nothing else.
#pragma once

#include <cstddef>

#include "base/error.h"
#include "batching/request.h"
#include "engine/admission.h"
#include "engine/catalog.h"
#include "engine/engine.h"
#include "front/request_parameters.h"
#include "front/tensor_parameters.h"
#include "memory/budget.h"
#include "memory/pool.h"
#include "wire/infer_codec.h"

namespace headrace {

// A request as its front decoded it. All of it is used within admit() only.
class RequestSource {
 public:
  // `block`: what the inputs' `raw` bytes are views of; a ticket shares it. `charge`: of these bytes against the
  // process' budget; moved to the ticket that is admitted, left alone otherwise.
  RequestSource(const wire::InferRequest& request, const Block& block, InflightBudget::Charge& charge)
      : request_(request), block_(block), charge_(charge) {}
  RequestSource(const RequestSource&) = delete;
  RequestSource& operator=(const RequestSource&) = delete;

  // What request().inputs[place], which has no `raw`, holds: a tensor of `dtype` in pooled memory, exactly `elements`
  // of them (none where the shape says so). INVALID_ARGUMENT names the input and what is wrong with it.
  virtual Result<Tensor> convert(std::size_t place, DType dtype, std::size_t elements, Pool& pool) const = 0;

  const wire::InferRequest& request() const { return request_; }
  const Block& block() const { return block_; }
  InflightBudget::Charge& charge() { return charge_; }

 protected:
  ~RequestSource() = default;

 private:
  const wire::InferRequest& request_;
  const Block& block_;
  InflightBudget::Charge& charge_;
};

class RequestAdmitter {
 public:
  // Fills the ticket (all but sink and cookies; Ticket::start sets its times) and takes the source's charge over.
  // `model` is set as soon as it is known, so that a refusal can be counted. Strings in shared memory are copied here;
  // numbers are left for the lane (Ticket::input_places).
  Status admit(const Catalog& catalog, RequestSource& source, Engine& engine, Ticket& ticket, Model*& model);

 private:
  Status bind_inputs(const RequestSource& source, const Model& model, Engine& engine, Ticket& ticket);
  Status bind_shared(const wire::WireInput& input, const SharedPlace& place, std::size_t slot, const Model& model,
                     Engine& engine, Ticket& ticket);
  Status charge_shared(const wire::InferRequest& request, Engine& engine, Ticket& ticket);
  Status want_outputs(const wire::InferRequest& request, const Model& model, Engine& engine, Ticket& ticket);

  Admission admission_;
  RequestParameters parameters_;
};

}  // namespace headrace
