// Any bytes as a ModelInferRequest: the codec must make of them what protobuf makes of them, and leave the pool at
// zero.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "infer_codec_oracle.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static headrace::Pool pool{headrace::PoolOptions{}};
  static headrace::wire::OracleCounts counts;
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const std::string difference = headrace::wire::differs_from_protobuf(bytes, bytes, pool, counts);
  if (!difference.empty()) {
    std::fprintf(stderr, "differs from protobuf: %s\n", difference.c_str());
    std::abort();
  }
  const headrace::PoolStats stats = pool.stats();
  if (stats.blocks_in_use != 0 || stats.bytes_in_use != 0) {
    std::fprintf(stderr, "%llu blocks were not given back\n", static_cast<unsigned long long>(stats.blocks_in_use));
    std::abort();
  }
  return 0;
}
