// The head of an HTTP/1.1 request, where it is the plain case: an inference whose body has a stated length, written the
// way that clients write it. Anything else, right or wrong, is for a whole parser to judge.
#pragma once

#include <cstddef>
#include <limits>
#include <string_view>

#include "wire/intake.h"

namespace headrace::wire {

struct PlainInfer {
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

  std::string_view model;
  std::string_view version;                // "": none
  std::size_t head_bytes = 0;              // up to and with the empty line
  std::size_t body_bytes = 0;              // Content-Length
  std::size_t json_bytes = kNone;          // Inference-Header-Content-Length
  Encoding accepts = Encoding::kIdentity;  // of Accept-Encoding, gzip before deflate
};

// Reads `POST /v2/models/M[/versions/V]/infer HTTP/1.1` and its header block from the front of `bytes`. False when it
// is not whole, or anything about it is not plain: another method or path, an escape in it, a header that changes how
// the message or the connection goes on (Transfer-Encoding, Expect, Connection other than keep-alive, ...), one given
// twice that must not be, a byte that does not belong there. What is taken means just what it means to llhttp.
bool read_plain_infer(std::string_view bytes, std::size_t max_head_bytes, PlainInfer& head);

// The header fields of a head that read_plain_infer has taken, one after the other.
class HeadFields {
 public:
  explicit HeadFields(std::string_view head);  // its first PlainInfer::head_bytes bytes
  bool next();                                 // false: there is none more
  std::string_view name() const { return name_; }
  std::string_view value() const { return value_; }  // without the space around it

 private:
  std::string_view rest_;
  std::string_view name_;
  std::string_view value_;
};

}  // namespace headrace::wire
