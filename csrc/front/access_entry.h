// One line of the access log: a call that has ended, as far as the core knows of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "batching/request.h"
#include "wire/metadata.h"

namespace headrace {

struct AccessEntry {
  // Bounds of what callers may make the log say in headers; what is longer ends in "...".
  static constexpr std::size_t kMaxHeaderValue = 128;
  static constexpr std::size_t kMaxHeaders = 1024;  // names and values together

  std::string peer;
  std::string path;
  std::string model;
  std::string version;
  std::string request_id;
  Code code = Code::kOk;
  std::size_t request_bytes = 0;
  std::size_t response_bytes = 0;
  std::int64_t rows = 0;
  std::int64_t batch_rows = 0;
  Nanos queue_ns = 0;
  Nanos compute_ns = 0;
  Nanos total_ns = 0;
  wire::Metadata headers;  // those that became parameters

  // `answered`: the ticket is back. Until then a lane may be writing to it, and only what the submitter set is read.
  void set_ticket(const Ticket& ticket, bool answered);
  void set_headers(const wire::Metadata& forwarded);
};

}  // namespace headrace
