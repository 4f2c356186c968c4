// A tensor's elements as JSON text, a run at a time: the v2 response writes them all in one array, the predict form row
// by row.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "memory/tensor.h"

namespace headrace::wire {

class JsonElements {
 public:
  // `base64`: BYTES as {"b64": "..."}. The tensor is whole: as many bytes as its shape says.
  JsonElements(const Tensor& tensor, bool base64);
  // Appends the next `count` elements with commas between them. False: next() is BYTES that are no text.
  bool append(std::size_t count, std::string& out);
  std::size_t next() const { return next_; }
  std::size_t left() const { return elements_ - next_; }

 private:
  template <class Element, class Write>
  void each(std::size_t count, std::string& out, Write write);
  bool strings(std::size_t count, std::string& out);

  const Tensor& tensor_;
  const bool base64_;
  std::size_t elements_ = 0;
  std::size_t next_ = 0;
  std::size_t offset_ = 0;  // of BYTES: where the next one starts
};

// Whole elements that follow each other, of no shape, as the same text; BYTES that are not all UTF-8 as {"b64": "..."}.
std::string elements_text(DType dtype, std::span<const std::byte> bytes);

// About how long the text of all its elements is.
std::size_t json_data_bytes(const Tensor& tensor);

}  // namespace headrace::wire
