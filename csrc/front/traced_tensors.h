// Copies of the tensors of one request that is traced with them: of each its beginning, of all together so many bytes.
// They hold what a caller sent and got.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "memory/tensor.h"

namespace headrace {

struct TracedTensor {
  std::size_t place = 0;  // in the model's signature
  bool output = false;
  std::string name;  // set when the trace ends
  DType dtype = DType::kInvalid;
  std::vector<std::int64_t> dims;
  std::size_t size = 0;  // of the tensor, in bytes
  std::string bytes;     // its beginning: whole elements; none of it where it lies in its client's shared memory
};

struct TracedTensors {
  static constexpr std::size_t kMostTensorBytes = std::size_t{16} << 10;
  static constexpr std::size_t kMostBytes = std::size_t{64} << 10;
  static constexpr std::size_t kMostTensors = 256;

  std::vector<TracedTensor> tensors;
  std::size_t bytes = 0;
  std::size_t left_out = 0;  // tensors that are not even begun

  // `room`: bytes that may be copied beside the bounds above.
  void add(std::span<const Tensor> given, bool outputs, std::size_t room);
};

}  // namespace headrace
