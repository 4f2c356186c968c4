#include "front/traced_tensors.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace headrace {
namespace {

// How much of the tensor are whole elements within `most` bytes.
std::size_t beginning(const Tensor& tensor, std::size_t most) {
  if (tensor.size <= most) return tensor.size;
  if (tensor.dtype != DType::kBytes) return most - most % element_size(tensor.dtype);
  std::size_t end = 0;
  for (std::uint32_t length = 0; most - end >= sizeof(length); end += sizeof(length) + length) {
    std::memcpy(&length, tensor.data + end, sizeof(length));
    if (length > most - end - sizeof(length)) break;
  }
  return end;
}

}  // namespace

void TracedTensors::add(std::span<const Tensor> given, bool outputs, std::size_t room) {
  for (std::size_t i = 0; i < given.size(); ++i) {
    const Tensor& tensor = given[i];
    if (!tensor) continue;
    const std::size_t most = std::min({kMostTensorBytes, kMostBytes - bytes, room});
    if (tensors.size() == kMostTensors || (most == 0 && tensor.size != 0)) {
      ++left_out;
      continue;
    }
    TracedTensor& made = tensors.emplace_back();
    made.place = i;
    made.output = outputs;
    made.dtype = tensor.dtype;
    made.dims.assign(tensor.shape.dims().begin(), tensor.shape.dims().end());
    made.size = tensor.size;
    if (tensor.data == nullptr) continue;
    made.bytes.assign(reinterpret_cast<const char*>(tensor.data), beginning(tensor, most));
    bytes += made.bytes.size();
    room -= made.bytes.size();
  }
}

}  // namespace headrace
