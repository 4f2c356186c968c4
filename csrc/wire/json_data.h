// Text of values -> elements of a tensor, for whoever knows dtype and shape: the v2 codec's `data`, the predict form's
// instances.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "base/error.h"
#include "memory/tensor.h"
#include "wire/json_text.h"

namespace headrace::wire {

// Thrown: the answer to values that are JSON and yet not the tensor's.
struct JsonDataRefusal {
  Status status;
};

class JsonDataConverter {
 public:
  // `elements` is the product of `shape`, which outlives this. `flat`: one array of all elements will do too.
  JsonDataConverter(std::string_view input, DType dtype, const Shape& shape, std::size_t elements, bool flat)
      : input_(input), dtype_(dtype), shape_(shape), elements_(elements), flat_allowed_(flat) {}

  // What messages call the text: "data", or "instances[7]" when a row is given.
  void call_it(std::string_view place) { place_ = place; }
  void call_it(std::string_view place, std::size_t row) {
    place_ = place;
    row_of_ = row;
  }

  // Refuses a shape that so little text cannot fill, so that nothing large is allocated for it.
  void check_size(std::string_view text);
  // Writes the elements to `out` and returns its end. BYTES: at most text.size() and 4 for each element. Throws
  // JsonDataRefusal and JsonError.
  std::byte* convert(std::string_view text, std::byte* out);

 private:
  static constexpr std::size_t kNoRow = ~std::size_t{0};

  template <class Element>
  std::byte* walk();
  template <class Element>
  void rows(std::size_t level);
  template <class Element>
  void run(std::size_t count, std::size_t level);
  template <class Element>
  void single();

  std::size_t nested_levels() const;
  std::size_t count_row(const char* first) const;
  std::string place(std::size_t level) const;
  std::string expected() const;
  JsonDataRefusal refusal(const std::string& what) const;
  [[noreturn]] void refuse_count(std::size_t sent) const;
  [[noreturn]] void refuse_row(const char* first, std::size_t level) const;
  [[noreturn]] void refuse_element(const char* at, const std::string& where) const;

  const std::string_view input_;
  const DType dtype_;
  const Shape& shape_;
  const std::size_t elements_;
  const bool flat_allowed_;
  std::string_view place_ = "data";
  std::size_t row_of_ = kNoRow;
  JsonCursor cursor_{{}};
  std::byte* out_ = nullptr;
  bool flat_ = false;
  std::array<std::size_t, kMaxJsonDepth> index_;  // of the arrays in one another that are being read
};

// The shape that values are nested in, along the first of each array: what convert() then checks of all. `depth`:
// containers around them. Throws JsonError.
void infer_json_shape(JsonCursor& cursor, std::size_t depth, std::size_t max_dims, Shape& shape);

}  // namespace headrace::wire
