#include "engine/sample.h"

#include <cstring>
#include <optional>
#include <string>
#include <utility>

namespace headrace {

Result<Sample> make_sample(const Signature& signature, Pool& pool, std::int64_t rows, std::int64_t size,
                           MadeUp& values) {
  Sample sample;
  for (const TensorSpec& spec : signature.inputs) {
    if (spec.optional) {
      sample.inputs.emplace_back();
      continue;
    }
    if (spec.any_rank) return Status(Code::kFailedPrecondition, "input '" + spec.name + "' states no shape");
    std::vector<std::int64_t> dims = spec.dims;
    for (std::int64_t& dim : dims)
      if (dim < 0) dim = &dim == dims.data() ? rows : size;
    const std::optional<std::size_t> count = element_count(dims);
    const std::size_t cap = pool.stats().cap;
    if (!count || *count > cap)
      return Status(Code::kResourceExhausted, "a sample of input '" + spec.name + "' does not fit the pool");
    // A row of made-up values, then the same again: what a run costs does not depend on them.
    const auto copies = static_cast<std::size_t>(!spec.dims.empty() && spec.dims[0] < 0 ? rows : 1);
    std::string row;
    for (std::size_t i = 0; copies != 0 && i < *count / copies; ++i) values.append(row, spec.dtype);
    Result<Block> block = pool.allocate(row.size() * copies);
    if (!block) return block.status();
    for (std::size_t copy = 0; copy < copies && !row.empty(); ++copy)
      std::memcpy(block->data() + copy * row.size(), row.data(), row.size());
    Tensor& tensor = sample.inputs.emplace_back();
    tensor.dtype = spec.dtype;
    tensor.shape = Shape(dims);
    tensor.size = row.size() * copies;
    tensor.block = std::move(*block);
    tensor.data = tensor.block.data();
  }
  return sample;
}

Status run_sample(Session& session, Pool& pool, const Sample& sample, int lane, Interrupt* interrupt) {
  const std::vector<std::uint8_t> wanted(session.signature().outputs.size(), 1);
  BatchRun batch;
  batch.inputs = sample.inputs;
  batch.wanted = wanted;
  batch.pool = &pool;
  batch.lane = lane;
  batch.interrupt = interrupt;
  return session.run(batch);
}

}  // namespace headrace
