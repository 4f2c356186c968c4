#include "batching/assembly.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace headrace {
namespace {

bool aligned(const Tensor& tensor) {
  const std::size_t size = element_size(tensor.dtype);
  return size <= 1 || reinterpret_cast<std::uintptr_t>(tensor.data) % size == 0;
}

// Makes `tensor` the owner of `bytes` fresh bytes and returns where they are to be written; null after `status` is set.
std::byte* own(Tensor& tensor, std::size_t bytes, Pool& pool, Status& status) {
  Result<Block> block = pool.allocate(bytes);
  if (!block) {
    status = block.status();
    return nullptr;
  }
  tensor.block = std::move(*block);
  tensor.data = tensor.block.data();
  tensor.size = bytes;
  return tensor.block.data();
}

// An input that the lane is to read from its client's memory.
bool elsewhere(const Tensor& tensor) { return tensor.data == nullptr && tensor.size != 0; }

// The ticket's input `i`, piece by piece: bytes `from` .. `from + to.size()` of it, wherever they are.
Status copy_piece(const Ticket& ticket, std::size_t i, std::size_t from, std::span<std::byte> to) {
  const Tensor& given = ticket.inputs[i];
  if (!elsewhere(given)) {
    if (!to.empty()) std::memcpy(to.data(), given.data + from, to.size());
    return {};
  }
  const auto place = std::ranges::find(ticket.input_places, i, &InputPlace::input);
  HEADRACE_CHECK(place != ticket.input_places.end());
  const Status status = place->region->read(place->offset + from, to);
  return status.ok() ? status : Status(status.code(), "input '" + *place->name + "': " + status.message());
}

// All of it.
Status copy_input(const Ticket& ticket, std::size_t i, std::byte* to) {
  return copy_piece(ticket, i, 0, {to, ticket.inputs[i].size});
}

Status gather_one(const Ticket& ticket, Pool& pool, std::vector<Tensor>& inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& given = ticket.inputs[i];
    Tensor& input = inputs[i];
    if (!elsewhere(given) && aligned(given)) {
      input = given;
      continue;
    }
    input.dtype = given.dtype;
    input.shape = given.shape;
    Status status;
    std::byte* to = own(input, given.size, pool, status);
    if (to == nullptr) return status;
    if (status = copy_input(ticket, i, to); !status.ok()) return status;
  }
  return {};
}

Status gather_input(std::span<Ticket* const> tickets, std::size_t i, Pool& pool, Tensor& input) {
  const Tensor& first = tickets.front()->inputs[i];
  if (!first) return {};
  std::size_t bytes = 0;
  std::int64_t rows = 0;
  for (const Ticket* ticket : tickets) {
    const Tensor& given = ticket->inputs[i];
    HEADRACE_CHECK(given.dtype == first.dtype && given.shape.rank() == first.shape.rank() && given.shape.rank() > 0);
    bytes += given.size;  // all of these bytes exist, so their sum fits
    rows += given.shape[0];
  }
  input.dtype = first.dtype;
  input.shape = first.shape;
  input.shape.set(0, rows);
  Status status;
  std::byte* to = own(input, bytes, pool, status);
  if (to == nullptr) return status;
  for (const Ticket* ticket : tickets) {
    if (status = copy_input(*ticket, i, to); !status.ok()) return status;
    to += ticket->inputs[i].size;
  }
  return {};
}

// Its dimension `dim` is padded to `length`.
Status pad_input(std::span<Ticket* const> tickets, std::size_t i, std::size_t dim, std::int64_t length, Pool& pool,
                 Tensor& input) {
  const Tensor& first = tickets.front()->inputs[i];
  if (!first) return {};
  std::int64_t rows = 0;
  for (const Ticket* ticket : tickets) rows += ticket->inputs[i].shape[0];
  input.dtype = first.dtype;
  input.shape = first.shape;
  input.shape.set(0, rows);
  input.shape.set(dim, length);
  const std::optional<std::size_t> bytes = tensor_bytes(input.dtype, input.shape.dims());
  if (!bytes) return resource_exhausted("a batch padded to shape " + input.shape.to_string() + " cannot be addressed");
  Status status;
  std::byte* to = own(input, *bytes, pool, status);
  if (to == nullptr) return status;
  // What lies behind one step of the length, and how often the length comes in a row.
  std::size_t step = element_size(input.dtype);
  for (std::size_t d = dim + 1; d < first.shape.rank(); ++d) step *= static_cast<std::size_t>(first.shape[d]);
  std::size_t pieces_a_row = 1;
  for (std::size_t d = 1; d < dim; ++d) pieces_a_row *= static_cast<std::size_t>(first.shape[d]);
  const std::size_t padded = step * static_cast<std::size_t>(length);
  for (const Ticket* ticket : tickets) {
    const Shape& shape = ticket->inputs[i].shape;
    const std::size_t own_bytes = step * static_cast<std::size_t>(shape[dim]);
    const std::size_t pieces = pieces_a_row * static_cast<std::size_t>(shape[0]);
    for (std::size_t piece = 0; piece < pieces; ++piece) {
      if (status = copy_piece(*ticket, i, piece * own_bytes, {to, own_bytes}); !status.ok()) return status;
      std::memset(to + own_bytes, 0, padded - own_bytes);
      to += padded;
    }
  }
  return {};
}

bool anyone_wants(std::span<Ticket* const> tickets, std::size_t output) {
  return std::ranges::any_of(tickets, [output](const Ticket* ticket) { return ticket->wanted[output] != 0; });
}

// That `output` can be cut into rows. The runtime's doing, never the caller's: INTERNAL.
Status check_rows(const Tensor& output, std::int64_t rows, const std::string& name) {
  if (output.shape.rank() == 0 || output.shape[0] != rows) {
    return internal_error("output '" + name + "' has shape " + output.shape.to_string() + " for a batch of " +
                          std::to_string(rows) +
                          " rows; if the model has no batch dimension, set max_batch_size: 0 in its config.pbtxt");
  }
  const auto elements = element_count(output.shape.dims());
  if (!elements) return internal_error("output '" + name + "' has the impossible shape " + output.shape.to_string());
  if (output.dtype == DType::kBytes) {
    const Status strings = check_bytes_tensor(output.bytes(), *elements);
    if (!strings.ok()) return internal_error("output '" + name + "': " + strings.message());
  } else if (output.size != tensor_bytes(output.dtype, output.shape.dims())) {
    return internal_error("output '" + name + "' of shape " + output.shape.to_string() + " has " +
                          std::to_string(output.size) + " bytes");
  }
  return {};
}

void scatter_output(std::span<Ticket* const> tickets, std::span<Ticket* const> claimed, std::int64_t rows,
                    std::size_t i, const Tensor& output) {
  const bool strings = output.dtype == DType::kBytes;
  const std::size_t row_bytes = rows == 0 || strings ? 0 : output.size / static_cast<std::size_t>(rows);
  const std::size_t row_elements =
      rows == 0 || !strings ? 0 : *element_count(output.shape.dims()) / static_cast<std::size_t>(rows);
  BlockCopies copies(output.block, static_cast<std::uint32_t>(claimed.size()));
  std::size_t offset = 0;
  std::size_t next = 0;
  for (Ticket* ticket : tickets) {
    const auto own_rows = static_cast<std::size_t>(ticket->rows);
    const std::size_t end =
        strings ? skip_strings(output.bytes(), offset, row_elements * own_rows) : offset + row_bytes * own_rows;
    const bool mine = next < claimed.size() && claimed[next] == ticket;
    if (mine) ++next;
    if (mine && ticket->wanted[i] != 0) {
      Tensor& slice = ticket->outputs[i];
      slice.dtype = output.dtype;
      slice.shape = output.shape;
      slice.shape.set(0, ticket->rows);
      slice.block = copies.take();
      slice.data = output.data + offset;
      slice.size = end - offset;
    }
    offset = end;
  }
  HEADRACE_CHECK(next == claimed.size());
}

}  // namespace

Status gather(std::span<Ticket* const> tickets, Pool& pool, std::vector<Tensor>& inputs) {
  HEADRACE_CHECK(!tickets.empty());
  inputs.clear();
  inputs.resize(tickets.front()->inputs.size());
  Status status;
  if (tickets.size() == 1) {
    status = gather_one(*tickets.front(), pool, inputs);
  } else {
    for (std::size_t i = 0; i < inputs.size() && status.ok(); ++i) {
      status = gather_input(tickets, i, pool, inputs[i]);
    }
  }
  if (!status.ok()) inputs.clear();
  return status;
}

Status gather_padded(std::span<Ticket* const> tickets, const Padding& padding, std::int64_t length, Pool& pool,
                     std::vector<Tensor>& inputs) {
  inputs.clear();
  inputs.resize(tickets.front()->inputs.size());
  HEADRACE_CHECK(padding.inputs.size() == inputs.size());
  Status status;
  for (std::size_t i = 0; i < inputs.size() && status.ok(); ++i) {
    const int dim = padding.inputs[i];
    status = dim == 0 ? gather_input(tickets, i, pool, inputs[i])
                      : pad_input(tickets, i, static_cast<std::size_t>(dim), length, pool, inputs[i]);
  }
  if (!status.ok()) inputs.clear();
  return status;
}

void wanted_outputs(std::span<Ticket* const> tickets, std::vector<std::uint8_t>& wanted) {
  HEADRACE_CHECK(!tickets.empty());
  wanted = tickets.front()->wanted;
  for (const Ticket* ticket : tickets.subspan(1)) {
    HEADRACE_CHECK(ticket->wanted.size() == wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] |= ticket->wanted[i];
  }
}

Status check_outputs(std::span<Ticket* const> tickets, std::int64_t rows, bool batched, std::span<const Tensor> outputs,
                     std::span<const std::string> output_names) {
  HEADRACE_CHECK(!tickets.empty() && (batched || tickets.size() == 1) && output_names.size() == outputs.size());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i]) {
      if (anyone_wants(tickets, i)) return internal_error("the runtime gave no output '" + output_names[i] + "'");
    } else if (batched) {
      Status status = check_rows(outputs[i], rows, output_names[i]);
      if (!status.ok()) return status;
    }
  }
  return {};
}

void scatter(std::span<Ticket* const> tickets, std::span<Ticket* const> claimed, std::int64_t rows, bool batched,
             std::span<const Tensor> outputs) {
  for (Ticket* ticket : claimed) {
    for (Tensor& output : ticket->outputs) output.clear();
    ticket->outputs.resize(outputs.size());
  }
  if (claimed.empty()) return;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i]) continue;
    if (batched) {
      scatter_output(tickets, claimed, rows, i, outputs[i]);
    } else if (claimed.front()->wanted[i] != 0) {
      claimed.front()->outputs[i] = outputs[i];
    }
  }
}

}  // namespace headrace
