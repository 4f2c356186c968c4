#include "front/step_work.h"

#include <algorithm>
#include <cstdint>

#include "front/tensor_parameters.h"

namespace headrace {

bool StepWork::take(const wire::InferRequest& request) {
  std::size_t each = request.contents_bytes;
  for (const wire::WireInput& input : request.inputs) {
    if (input.raw && input.datatype == "BYTES") each += input.raw->size();
  }
  if (each > kEachBytes) return false;
  const std::uint64_t shared = shared_inputs(request).strings;
  if (shared == 0) return true;
  const std::uint64_t copy = std::max<std::uint64_t>(shared, kLeastCopy * request.inputs.size());
  if (copy > kCopyBytes - copied_) return false;
  copied_ += copy;
  return true;
}

}  // namespace headrace
