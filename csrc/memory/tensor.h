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
#include <memory>
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
  static constexpr std::size_t kInline = 6;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const std::int64_t> dims);
  Shape(const Shape& other) : rank_(other.rank_), inline_(other.inline_) {
    if (other.heap_) assign(other.dims());
  }
  Shape(Shape&& other) noexcept
      : rank_(std::exchange(other.rank_, 0)), inline_(other.inline_), heap_(std::move(other.heap_)) {}
  Shape& operator=(const Shape& other) {
    if (heap_ || other.heap_) {
      assign(other.dims());
    } else {
      rank_ = other.rank_;
      inline_ = other.inline_;
    }
    return *this;
  }
  Shape& operator=(Shape&& other) noexcept {
    if (this == &other) return *this;
    rank_ = std::exchange(other.rank_, 0);
    inline_ = other.inline_;
    heap_ = std::move(other.heap_);
    return *this;
  }
  ~Shape() = default;

  std::size_t rank() const { return rank_; }
  std::span<const std::int64_t> dims() const { return {heap_ ? heap_.get() : inline_.data(), rank_}; }
  std::int64_t operator[](std::size_t i) const { return dims()[i]; }
  void set(std::size_t i, std::int64_t value) { (heap_ ? heap_.get() : inline_.data())[i] = value; }
  void assign(std::span<const std::int64_t> dims);
  bool operator==(const Shape& other) const;
  std::string to_string() const;  // "[1,3,224,224]"

 private:
  std::size_t rank_ = 0;
  std::array<std::int64_t, kInline> inline_{};
  std::unique_ptr<std::int64_t[]> heap_;
};

// The one place where sizes are multiplied. Empty when the product does not fit.
std::optional<std::size_t> checked_multiply(std::size_t a, std::size_t b);
// Empty when a dimension is negative, or when the product of those that are not zero does not fit: [0, 2^62, 2^62] is
// refused as [2^62, 2^62, 0] is, so that any part of a shape that has passed can be multiplied too.
std::optional<std::size_t> element_count(std::span<const std::int64_t> dims);
// Bytes of a fixed-size dtype; empty for BYTES, for a negative dimension or on overflow.
std::optional<std::size_t> tensor_bytes(DType dtype, std::span<const std::int64_t> dims);

struct Tensor {
  DType dtype = DType::kInvalid;  // kInvalid: an optional input that was not given
  Shape shape;
  Block block;  // owner of the bytes; empty when they are borrowed
  const std::byte* data = nullptr;
  std::size_t size = 0;  // bytes

  std::span<const std::byte> bytes() const { return {data, size}; }
  explicit operator bool() const { return dtype != DType::kInvalid; }
};

// Checks that `bytes` is exactly `elements` length-prefixed strings. The error says which element is cut or how many
// are left over.
Status check_bytes_tensor(std::span<const std::byte> bytes, std::size_t elements);
// Offset just behind `elements` strings that start at `offset`, of a tensor that check_bytes_tensor has passed.
std::size_t skip_strings(std::span<const std::byte> bytes, std::size_t offset, std::size_t elements);

}  // namespace headrace
