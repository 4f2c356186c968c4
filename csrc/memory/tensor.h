// A tensor: element type, shape and bytes that are borrowed or belong to a pooled block.
//
// BYTES tensors are kept as they travel: for each element a 4-byte little-endian length and its bytes, row-major
// (Triton's and the Open Inference Protocol's raw form), so that rows can be gathered and sliced without parsing
// values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "memory/pool.h"

namespace headrace {

enum class DType : std::uint8_t {
  kInvalid = 0,
  kBool,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kFp16,
  kFp32,
  kFp64,
  kBytes,
  kBf16,
};

// Bytes of one element; 0 for BYTES and kInvalid.
std::size_t element_size(DType dtype);
// The protocol's word: "FP32", "BYTES", ...
std::string_view dtype_name(DType dtype);
std::optional<DType> parse_dtype(std::string_view name);

// Dimensions. Small ranks live inside, larger ones on the heap. -1 means "any" in a signature, never in a tensor.
class Shape {
 public:
  static constexpr std::size_t kInline = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const std::int64_t> dims) { assign(dims); }
  Shape(const Shape& other) { *this = other; }
  Shape(Shape&& other) noexcept : room_(other.room_), rank_(std::exchange(other.rank_, 0)) {}
  Shape& operator=(const Shape& other) {
    if (heaped() || other.heaped()) {
      assign(other.dims());
    } else {
      room_ = other.room_;
      rank_ = other.rank_;
    }
    return *this;
  }
  Shape& operator=(Shape&& other) noexcept {
    if (this == &other) return *this;
    if (heaped()) delete[] room_.heap;
    room_ = other.room_;
    rank_ = std::exchange(other.rank_, 0);
    return *this;
  }
  ~Shape() {
    if (heaped()) delete[] room_.heap;
  }

  std::size_t rank() const { return rank_; }
  std::span<const std::int64_t> dims() const { return {heaped() ? room_.heap : room_.inside.data(), rank_}; }
  std::int64_t operator[](std::size_t i) const { return dims()[i]; }
  void set(std::size_t i, std::int64_t value) { (heaped() ? room_.heap : room_.inside.data())[i] = value; }
  void assign(std::span<const std::int64_t> dims);
  bool operator==(const Shape& other) const;
  std::string to_string() const;  // "[1,3,224,224]"

 private:
  union Room {
    std::array<std::int64_t, kInline> inside;
    std::int64_t* heap;
  };
  bool heaped() const { return rank_ > kInline; }

  Room room_{};
  std::uint32_t rank_ = 0;
};

// The one place where sizes are multiplied. Empty when the product does not fit.
std::optional<std::size_t> checked_multiply(std::size_t a, std::size_t b);
// Empty when a dimension is negative, or when the product of those that are not zero does not fit: [0, 2^62, 2^62] is
// refused as [2^62, 2^62, 0] is, so that any part of a shape that has passed can be multiplied too.
std::optional<std::size_t> element_count(std::span<const std::int64_t> dims);
// Bytes of a fixed-size dtype; empty for BYTES, for a negative dimension or on overflow.
std::optional<std::size_t> tensor_bytes(DType dtype, std::span<const std::int64_t> dims);

// One cache line: a ticket's tensors are looked at by every stage of its way.
struct Tensor {
  [[no_unique_address]] Shape shape;
  DType dtype = DType::kInvalid;  // kInvalid: an optional input that was not given
  Block block;                    // owner of the bytes; empty when they are borrowed
  const std::byte* data = nullptr;
  std::size_t size = 0;  // bytes

  // As it was made, but for memory that a large shape keeps.
  void clear() {
    dtype = DType::kInvalid;
    block.reset();
    data = nullptr;
    size = 0;
  }
  std::span<const std::byte> bytes() const { return {data, size}; }
  explicit operator bool() const { return dtype != DType::kInvalid; }
};
static_assert(sizeof(void*) != 8 || sizeof(Tensor) == 64);

// Checks that `bytes` is exactly `elements` length-prefixed strings. The error says which element is cut or how many
// are left over.
Status check_bytes_tensor(std::span<const std::byte> bytes, std::size_t elements);
// Offset just behind `elements` strings that start at `offset`, of a tensor that check_bytes_tensor has passed.
std::size_t skip_strings(std::span<const std::byte> bytes, std::size_t offset, std::size_t elements);

}  // namespace headrace
