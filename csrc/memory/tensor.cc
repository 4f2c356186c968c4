#include "memory/tensor.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace headrace {
namespace {

struct DTypeRow {
  std::string_view name;
  std::size_t size;
};

// In the order of DType.
constexpr std::array<DTypeRow, 15> kRows = {{{"INVALID", 0},
                                             {"BOOL", 1},
                                             {"UINT8", 1},
                                             {"UINT16", 2},
                                             {"UINT32", 4},
                                             {"UINT64", 8},
                                             {"INT8", 1},
                                             {"INT16", 2},
                                             {"INT32", 4},
                                             {"INT64", 8},
                                             {"FP16", 2},
                                             {"FP32", 4},
                                             {"FP64", 8},
                                             {"BYTES", 0},
                                             {"BF16", 2}}};
static_assert(static_cast<std::size_t>(DType::kBf16) + 1 == kRows.size());

const DTypeRow& row(DType dtype) {
  const auto index = static_cast<std::size_t>(dtype);
  HEADRACE_CHECK(index < kRows.size());
  return kRows[index];
}

std::size_t read_length(const std::byte* at) {
  return std::to_integer<std::size_t>(at[0]) | std::to_integer<std::size_t>(at[1]) << 8 |
         std::to_integer<std::size_t>(at[2]) << 16 | std::to_integer<std::size_t>(at[3]) << 24;
}

}  // namespace

std::size_t element_size(DType dtype) { return row(dtype).size; }

std::string_view dtype_name(DType dtype) { return row(dtype).name; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (std::size_t i = 1; i < kRows.size(); ++i) {
    if (kRows[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

void Shape::assign(std::span<const std::int64_t> dims) {
  Room room{};  // `dims` may lie in this shape
  if (dims.size() > kInline) room.heap = new std::int64_t[dims.size()];
  std::copy(dims.begin(), dims.end(), dims.size() > kInline ? room.heap : room.inside.data());
  if (heaped()) delete[] room_.heap;
  room_ = room;
  rank_ = static_cast<std::uint32_t>(dims.size());
}

bool Shape::operator==(const Shape& other) const { return std::ranges::equal(dims(), other.dims()); }

std::string Shape::to_string() const {
  std::string text = "[";
  for (std::size_t i = 0; i < rank_; ++i) {
    if (i != 0) text += ',';
    text += std::to_string((*this)[i]);
  }
  return text += ']';
}

std::optional<std::size_t> checked_multiply(std::size_t a, std::size_t b) {
  std::size_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

std::optional<std::size_t> element_count(std::span<const std::int64_t> dims) {
  std::size_t count = 1;
  bool empty = false;
  for (const std::int64_t dim : dims) {
    if (dim < 0) return std::nullopt;
    if (dim == 0) {
      empty = true;
      continue;
    }
    const auto product = checked_multiply(count, static_cast<std::size_t>(dim));
    if (!product) return std::nullopt;
    count = *product;
  }
  return empty ? 0 : count;
}

std::optional<std::size_t> tensor_bytes(DType dtype, std::span<const std::int64_t> dims) {
  const std::size_t size = element_size(dtype);
  const auto count = element_count(dims);
  if (size == 0 || !count) return std::nullopt;
  return checked_multiply(*count, size);
}

Status check_bytes_tensor(std::span<const std::byte> bytes, std::size_t elements) {
  std::size_t offset = 0;
  for (std::size_t i = 0; i < elements; ++i) {
    const std::size_t left = bytes.size() - offset;
    if (left < 4) {
      return invalid_argument("BYTES element " + std::to_string(i) + " of " + std::to_string(elements) +
                              " is cut: its 4-byte length is due, and " + std::to_string(left) + " bytes are left");
    }
    const std::size_t length = read_length(bytes.data() + offset);
    if (length > left - 4) {
      return invalid_argument("BYTES element " + std::to_string(i) + " of " + std::to_string(elements) +
                              " is cut: its length says " + std::to_string(length) + " bytes, and " +
                              std::to_string(left - 4) + " are left");
    }
    offset += 4 + length;
  }
  if (offset != bytes.size()) {
    return invalid_argument(std::to_string(bytes.size() - offset) + " bytes are left over after the last of " +
                            std::to_string(elements) + " BYTES elements");
  }
  return {};
}

std::size_t skip_strings(std::span<const std::byte> bytes, std::size_t offset, std::size_t elements) {
  for (std::size_t i = 0; i < elements; ++i) offset += 4 + read_length(bytes.data() + offset);
  return offset;
}

}  // namespace headrace
