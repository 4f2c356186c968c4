#include "batching/classification.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/check.h"

namespace headrace {
namespace {

struct Fp16 {
  std::uint16_t bits;
};
struct Bf16 {
  std::uint16_t bits;
};

// As something that can be compared and written.
template <class T>
T plain(T value) {
  return value;
}
float plain(Bf16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }
float plain(Fp16 value) {
  const std::uint32_t sign = (value.bits & 0x8000U) << 16;
  const std::uint32_t exponent = (value.bits >> 10) & 0x1FU;
  const std::uint32_t fraction = value.bits & 0x3FFU;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000U | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float small = static_cast<float>(fraction) * 0x1p-24F;
  return sign != 0 ? -small : small;
}

// A view of a row may begin at any address.
template <class T>
auto value_at(const std::byte* row, std::size_t index) {
  T value;
  std::memcpy(&value, row + index * sizeof(T), sizeof(T));
  return plain(value);
}

template <class V>
bool before(V a, std::uint32_t a_index, V b, std::uint32_t b_index) {
  if constexpr (std::is_floating_point_v<V>) {
    if (std::isnan(a) != std::isnan(b)) return std::isnan(b);
    if (std::isnan(a)) return a_index < b_index;
  }
  return a != b ? a > b : a_index < b_index;
}

template <class V>
void append_value(std::string& text, V value) {
  char digits[400];  // the largest double has 309 before the point
  std::to_chars_result end{};
  if constexpr (std::is_floating_point_v<V>) {
    end = std::to_chars(digits, digits + sizeof(digits), static_cast<double>(value), std::chars_format::fixed, 6);
  } else {
    end = std::to_chars(digits, digits + sizeof(digits), value);
  }
  HEADRACE_CHECK(end.ec == std::errc());
  text.append(digits, end.ptr);
}

struct Rows {
  const std::byte* data;
  std::size_t count;
  std::size_t values;  // of each
  std::size_t k;
  std::span<const std::string> labels;
};

// All strings, each behind its length.
template <class T>
std::string strings_of(const Rows& rows) {
  std::string text;
  std::string one;
  std::vector<std::uint32_t> order(rows.values);
  for (std::size_t r = 0; r < rows.count; ++r) {
    const std::byte* row = rows.data + r * rows.values * sizeof(T);
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(i);
    const auto middle = order.begin() + static_cast<std::ptrdiff_t>(rows.k);
    std::partial_sort(order.begin(), middle, order.end(), [row](std::uint32_t a, std::uint32_t b) {
      return before(value_at<T>(row, a), a, value_at<T>(row, b), b);
    });
    for (auto best = order.begin(); best != middle; ++best) {
      one.clear();
      append_value(one, value_at<T>(row, *best));
      one.append(":").append(std::to_string(*best));
      if (*best < rows.labels.size() && !rows.labels[*best].empty()) one.append(":").append(rows.labels[*best]);
      const auto size = static_cast<std::uint32_t>(one.size());
      char length[4];
      for (unsigned i = 0; i < 4; ++i) length[i] = static_cast<char>(size >> (8 * i));
      text.append(length, sizeof(length)).append(one);
    }
  }
  return text;
}

using Strings = std::string (*)(const Rows&);

Strings strings_for(DType dtype) {
  switch (dtype) {
    case DType::kUint8:
      return strings_of<std::uint8_t>;
    case DType::kUint16:
      return strings_of<std::uint16_t>;
    case DType::kUint32:
      return strings_of<std::uint32_t>;
    case DType::kUint64:
      return strings_of<std::uint64_t>;
    case DType::kInt8:
      return strings_of<std::int8_t>;
    case DType::kInt16:
      return strings_of<std::int16_t>;
    case DType::kInt32:
      return strings_of<std::int32_t>;
    case DType::kInt64:
      return strings_of<std::int64_t>;
    case DType::kFp16:
      return strings_of<Fp16>;
    case DType::kBf16:
      return strings_of<Bf16>;
    case DType::kFp32:
      return strings_of<float>;
    case DType::kFp64:
      return strings_of<double>;
    default:
      return nullptr;
  }
}

}  // namespace

bool classifiable(DType dtype) { return strings_for(dtype) != nullptr; }

Result<Tensor> classify(const Tensor& output, bool batched, std::uint32_t k, std::span<const std::string> labels,
                        Pool& pool) {
  const Strings strings = strings_for(output.dtype);
  HEADRACE_CHECK(strings != nullptr);
  const std::span<const std::int64_t> dims = output.shape.dims();
  Rows rows{output.data, 1, *element_count(dims), 0, labels};
  if (batched) {
    rows.count = static_cast<std::size_t>(dims[0]);
    rows.values = *element_count(dims.subspan(1));
  }
  rows.k = std::min<std::size_t>(k, rows.values);
  if (rows.values > std::numeric_limits<std::uint32_t>::max() ||
      (rows.k != 0 && rows.count > kMaxClassStrings / rows.k)) {
    return resource_exhausted("classification of " + std::to_string(rows.count) + " rows, the best " +
                              std::to_string(rows.k) + " of " + std::to_string(rows.values) +
                              " values of each, is over the limit of " + std::to_string(kMaxClassStrings) +
                              " strings; ask for fewer classes, or for the tensor itself");
  }
  const std::string text = strings(rows);
  Result<Block> block = pool.allocate(text.size());
  if (!block) return block.status();
  if (!text.empty()) std::memcpy(block->data(), text.data(), text.size());
  Tensor tensor;
  tensor.dtype = DType::kBytes;
  const std::int64_t shape[] = {static_cast<std::int64_t>(rows.count), static_cast<std::int64_t>(rows.k)};
  tensor.shape.assign(batched ? std::span<const std::int64_t>(shape) : std::span<const std::int64_t>(shape).last(1));
  tensor.data = block->data();
  tensor.size = text.size();
  tensor.block = std::move(*block);
  return tensor;
}

}  // namespace headrace
