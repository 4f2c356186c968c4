#include "wire/request_head.h"

#include <algorithm>
#include <utility>

namespace headrace::wire {
namespace {

constexpr std::size_t kMostSpare = 16;        // strings kept for the next request of the stream,
constexpr std::size_t kMostSpareBytes = 256;  // each with this much memory

}  // namespace

void RequestHead::add(std::string_view name, std::string_view value, std::string& path, Metadata& metadata) {
  switch (name.size()) {
    case 2:
      if (name != "te") break;
      te_ = value == "trailers";
      return;
    case 5:
      if (name != ":path") break;
      path.assign(value);
      return;
    case 7:
      if (name == ":method") {
        post_ = value == "POST";
        return;
      }
      if (name != ":scheme") break;
      return;
    case 10:
      if (name != ":authority") break;
      return;
    case 12:
      if (name == "content-type") {
        grpc_ = is_grpc_content_type(value);
        return;
      }
      if (name != "grpc-timeout") break;
      if (const std::optional<Nanos> timeout = parse_grpc_timeout(value)) {
        timeout_ = *timeout;
      } else {
        timeout_is_bad_ = true;
        bad_timeout_.assign(value);
      }
      return;
    case 13:
      if (name != "grpc-encoding") break;
      encoding_is_unknown_ = false;
      if (value == "gzip") {
        encoding_ = Encoding::kGzip;
      } else if (value == "deflate") {
        encoding_ = Encoding::kDeflate;
      } else if (value != "identity") {
        encoding_is_unknown_ = true;
        unknown_encoding_.assign(value);
      }
      return;
    case 14:
      if (name != "content-length") break;
      return;
    case 17:
      if (name != "grpc-message-type") break;
      return;
    case 20:
      if (name != "grpc-accept-encoding") break;
      return;
    default:
      break;
  }
  if (name.starts_with(':')) return;
  add_metadata(name, value, metadata);
}

void RequestHead::add_metadata(std::string_view name, std::string_view value, Metadata& metadata) {
  if (!is_binary_name(name)) {
    next(name, metadata).assign(value);
    return;
  }
  // Several values of one binary name may come joined by commas.
  for (;;) {
    const std::size_t comma = value.find(',');
    std::string& decoded = next(name, metadata);
    decoded.clear();
    if (!base64_decode(value.substr(0, comma), decoded)) bad_binary_.assign(name);
    if (comma == std::string_view::npos) return;
    value.remove_prefix(comma + 1);
  }
}

std::string& RequestHead::next(std::string_view name, Metadata& metadata) {
  if (spare_.empty()) {
    metadata.emplace_back(name, std::string());
  } else {
    metadata.push_back(std::move(spare_.back()));
    spare_.pop_back();
    metadata.back().first.assign(name);
  }
  return metadata.back().second;
}

void RequestHead::reset(Metadata& metadata) {
  for (auto& field : metadata) {
    if (spare_.size() == kMostSpare) break;
    if (field.first.capacity() <= kMostSpareBytes && field.second.capacity() <= kMostSpareBytes) {
      spare_.push_back(std::move(field));
    }
  }
  metadata.clear();
  if (metadata.capacity() > 4 * kMostSpare) Metadata().swap(metadata);
  post_ = grpc_ = te_ = timeout_is_bad_ = encoding_is_unknown_ = false;
  encoding_ = Encoding::kIdentity;
  timeout_ = kNever;
  // Rarely used, so their memory is not worth keeping.
  for (std::string* text : {&unknown_encoding_, &bad_timeout_, &bad_binary_}) {
    if (!text->empty()) std::string().swap(*text);
  }
}

std::optional<RequestHead::Refusal> RequestHead::refusal() const {
  if (!post_) return Refusal{405, {}};
  if (!grpc_) return Refusal{415, {}};
  if (!te_) {
    return Refusal{400, internal_error("the header 'te: trailers' is missing: something on the way drops trailers, "
                                       "without which gRPC cannot answer")};
  }
  if (timeout_is_bad_) {
    return Refusal{
        200, internal_error("grpc-timeout '" + bad_timeout_ + "' is not 1 to 8 digits followed by H, M, S, m, u or n")};
  }
  if (encoding_is_unknown_) {
    return Refusal{200,
                   {Code::kUnimplemented,
                    "grpc-encoding '" + unknown_encoding_ + "' is not supported: use identity, gzip or deflate"},
                   true};
  }
  if (!bad_binary_.empty()) {
    return Refusal{200, internal_error("the value of the header '" + bad_binary_ + "' is not base64")};
  }
  return std::nullopt;
}

}  // namespace headrace::wire
