// How much work on single requests one step of an event loop does by itself. What is too much is a worker's, whose
// thread costs a request two wake-ups more, but nobody else's latency.
#pragma once

#include <cstddef>

#include "wire/infer_codec.h"

namespace headrace {

class StepWork {
 public:
  // Looking at more bytes than this, one by one, is not for an event loop.
  static constexpr std::size_t kEachBytes = std::size_t{256} << 10;
  // A request that names strings in shared memory is short whatever their bytes: a thousand come in one read. So a
  // step counts what it copies for all of them; a copy is at least a system call. (Numbers are copied by lanes.)
  static constexpr std::size_t kCopyBytes = std::size_t{1} << 20;
  static constexpr std::size_t kLeastCopy = std::size_t{16} << 10;

  // A step begins.
  void begin() { copied_ = 0; }
  // False: typed contents to be converted or strings to be walked are more than kEachBytes, or the strings in shared
  // memory are more than this step may still copy. Counts the copy otherwise: the caller is about to make it.
  bool take(const wire::InferRequest& request);

 private:
  std::size_t copied_ = 0;
};

}  // namespace headrace
