#include "batching/padding.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"

namespace headrace {

namespace {

std::size_t product(std::span<const std::int64_t> dims) {
  std::size_t elements = 1;  // of a tensor that exists, so it fits
  for (const std::int64_t dim : dims) elements *= static_cast<std::size_t>(dim);
  return elements;
}

Status cut(Tensor& output, std::size_t dim, std::int64_t own, Pool& pool) {
  const std::span<const std::int64_t> dims = output.shape.dims();
  const std::size_t pieces = product(dims.first(dim));
  const auto length = static_cast<std::size_t>(dims[dim]);
  const auto kept = static_cast<std::size_t>(own);
  const bool strings = output.dtype == DType::kBytes;
  const std::size_t step = product(dims.subspan(dim + 1)) * (strings ? 1 : element_size(output.dtype));
  // Where each piece begins, and the end of what is kept of it.
  std::vector<std::pair<std::size_t, std::size_t>> kept_pieces(pieces);
  std::size_t bytes = 0;
  std::size_t at = 0;
  for (auto& [begin, end] : kept_pieces) {
    begin = at;
    end = strings ? skip_strings(output.bytes(), at, step * kept) : at + step * kept;
    at = strings ? skip_strings(output.bytes(), end, step * (length - kept)) : at + step * length;
    bytes += end - begin;
  }
  output.shape.set(dim, own);
  if (pieces == 1) {  // its front: no copy
    output.size = bytes;
    return {};
  }
  Result<Block> block = pool.allocate(bytes);
  if (!block) return block.status();
  std::byte* to = block->data();
  for (const auto& [begin, end] : kept_pieces) {
    if (end != begin) std::memcpy(to, output.data + begin, end - begin);
    to += end - begin;
  }
  output.block = std::move(*block);
  output.data = output.block.data();
  output.size = bytes;
  return {};
}

}  // namespace

std::int64_t length_of(std::span<const Tensor> inputs, const Padding& padding) {
  std::int64_t length = -1;
  for (std::size_t i = 0; i < padding.inputs.size(); ++i) {
    if (padding.inputs[i] == 0 || !inputs[i]) continue;
    const std::int64_t own = inputs[i].shape[static_cast<std::size_t>(padding.inputs[i])];
    if (own < 1 || (length >= 0 && own != length)) return -1;
    length = own;
  }
  return length;
}

std::int64_t length_class(std::int64_t length) {
  constexpr std::int64_t kExact = 8;
  constexpr int kBits = 2;  // four classes a doubling
  HEADRACE_CHECK(length >= 1);
  if (length <= kExact) return length;
  const int shift = std::bit_width(static_cast<std::uint64_t>(length - 1)) - 1 - kBits;
  const std::int64_t step = std::int64_t{1} << shift;
  return length > std::numeric_limits<std::int64_t>::max() - step ? length : (length + step - 1) / step * step;
}

std::int64_t padded_length(std::span<Ticket* const> tickets, const Padding& padding) {
  if (!padding || tickets.size() < 2) return 0;
  const std::int64_t first = length_of(tickets.front()->inputs, padding);
  if (first < 0) return 0;  // then all agree in every dimension
  std::int64_t longest = first;
  bool differ = false;
  for (const Ticket* ticket : tickets.subspan(1)) {
    const std::int64_t length = length_of(ticket->inputs, padding);
    HEADRACE_CHECK(length > 0);
    differ |= length != first;
    longest = std::max(longest, length);
  }
  return differ ? longest : 0;
}

Status check_lengths(std::span<const Tensor> outputs, const Padding& padding, std::int64_t length,
                     std::span<const std::string> output_names) {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const auto dim = static_cast<std::size_t>(padding.outputs[i]);
    if (dim == 0 || !outputs[i]) continue;
    const Shape& shape = outputs[i].shape;
    if (shape.rank() > dim && shape[dim] == length) continue;
    return internal_error("output '" + output_names[i] + "' has shape " + shape.to_string() + " for inputs of length " +
                          std::to_string(length));
  }
  return {};
}

Status cut_outputs(Ticket& ticket, const Padding& padding, std::int64_t length, Pool& pool) {
  const std::int64_t own = length_of(ticket.inputs, padding);
  if (own == length) return {};
  for (std::size_t i = 0; i < ticket.outputs.size(); ++i) {
    const auto dim = static_cast<std::size_t>(padding.outputs[i]);
    if (dim == 0 || !ticket.outputs[i]) continue;
    if (Status status = cut(ticket.outputs[i], dim, own, pool); !status.ok()) return status;
  }
  return {};
}

}  // namespace headrace
