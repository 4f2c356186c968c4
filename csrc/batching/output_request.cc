#include "batching/output_request.h"

#include <utility>

#include "base/check.h"
#include "batching/classification.h"

namespace headrace {

Status fulfil_requests(std::span<OutputRequest> requests, std::span<Tensor> outputs, bool batched,
                       std::span<const std::string> names, std::span<const std::vector<std::string>> labels,
                       Pool& pool) {
  for (OutputRequest& request : requests) {
    HEADRACE_CHECK(request.output < outputs.size() && outputs[request.output]);
    Tensor& tensor = outputs[request.output];
    if (request.classes != 0) {
      const std::span<const std::string> own = request.output < labels.size()
                                                   ? std::span<const std::string>(labels[request.output])
                                                   : std::span<const std::string>();
      Result<Tensor> classes = classify(tensor, batched, request.classes, own, pool);
      if (!classes)
        return {classes.status().code(), "output '" + names[request.output] + "': " + classes.status().message()};
      tensor = std::move(*classes);
    }
    if (request.region == nullptr) continue;
    if (tensor.size > request.bytes) {
      return invalid_argument("output '" + names[request.output] + "' takes " + std::to_string(tensor.size) +
                              " bytes; the request's shared_memory_byte_size for it is " +
                              std::to_string(request.bytes));
    }
    if (Status status = request.region->write(request.offset, tensor.bytes()); !status.ok()) {
      return {status.code(), "output '" + names[request.output] + "': " + status.message()};
    }
    request.written = tensor.size;
    tensor.block.reset();
    tensor.data = nullptr;
    tensor.size = 0;
  }
  return {};
}

}  // namespace headrace
