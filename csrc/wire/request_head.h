// The header fields of one request: collects path, timeout, encoding and metadata, and judges whether it is gRPC.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/error.h"
#include "wire/intake.h"
#include "wire/metadata.h"

namespace headrace::wire {

class RequestHead {
 public:
  // One field, in the order of arrival. The path goes to `path`, what is neither pseudo nor protocol to `metadata`.
  void add(std::string_view name, std::string_view value, std::string& path, Metadata& metadata);
  // Ready for another request. Takes back the memory of the last one's metadata.
  void reset(Metadata& metadata);

  // What stands in the way of a call, worst first. `http_status` is 200 where gRPC's status says it all.
  struct Refusal {
    int http_status;
    Status status;  // OK: the HTTP status stands alone
    bool name_encodings = false;
  };
  std::optional<Refusal> refusal() const;

  Encoding encoding() const { return encoding_; }
  Nanos timeout() const { return timeout_; }  // kNever: none

 private:
  void add_metadata(std::string_view name, std::string_view value, Metadata& metadata);
  std::string& next(std::string_view name, Metadata& metadata);

  bool post_ = false;
  bool grpc_ = false;
  bool te_ = false;
  Encoding encoding_ = Encoding::kIdentity;
  Nanos timeout_ = kNever;
  bool encoding_is_unknown_ = false;
  bool timeout_is_bad_ = false;
  std::string unknown_encoding_;  // these may be empty: so are the values then
  std::string bad_timeout_;
  std::string bad_binary_;  // the name of a "-bin" field that is not base64
  Metadata spare_;          // strings with memory to use again
};

}  // namespace headrace::wire
