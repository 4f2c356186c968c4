// How a caller wants an output answered, where that is not "as it is": classified, or written to its shared memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "memory/pool.h"
#include "memory/shared_region.h"
#include "memory/tensor.h"

namespace headrace {

struct OutputRequest {
  std::size_t output = 0;                      // its place in the signature
  std::uint32_t classes = 0;                   // the best so many of each row; 0: the tensor as it is
  std::shared_ptr<const SharedRegion> region;  // null: the answer carries the bytes
  std::uint64_t offset = 0;                    // in the region
  std::uint64_t bytes = 0;                     // room there
  std::uint64_t written = 0;                   // set by fulfil_requests()
};

// Brings a ticket's outputs to what was asked of them. One that was written to shared memory keeps type and shape, and
// has no bytes any more. `labels`: by place in the signature; may be shorter. INVALID_ARGUMENT: an output of `names` is
// larger than the room for it, or the client cut its object; RESOURCE_EXHAUSTED: see classify(). `outputs` are then
// spoilt.
Status fulfil_requests(std::span<OutputRequest> requests, std::span<Tensor> outputs, bool batched,
                       std::span<const std::string> names, std::span<const std::vector<std::string>> labels,
                       Pool& pool);

}  // namespace headrace
