// Any bytes as the body of an infer request and of a predict request: the codec agrees with simdjson and with itself,
// and leaves the pool at zero.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "json_codec_oracle.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static headrace::Pool pool{headrace::PoolOptions{}};
  static headrace::wire::JsonOracleCounts counts;
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  const std::string difference = headrace::wire::json_codec_differs(bytes, pool, counts);
  if (!difference.empty()) {
    std::fprintf(stderr, "%s\n", difference.c_str());
    std::abort();
  }
  const headrace::PoolStats stats = pool.stats();
  if (stats.blocks_in_use != 0 || stats.bytes_in_use != 0) {
    std::fprintf(stderr, "%llu blocks were not given back\n", static_cast<unsigned long long>(stats.blocks_in_use));
    std::abort();
  }
  return 0;
}
