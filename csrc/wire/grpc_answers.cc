#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "wire/grpc_connection.h"

namespace headrace::wire {
namespace {

constexpr HeaderField kStatusOk{":status", "200", true};
constexpr HeaderField kContentType{"content-type", "application/grpc", true};
constexpr std::array<std::string_view, 17> kCodes = {"0", "1",  "2",  "3",  "4",  "5",  "6",  "7", "8",
                                                     "9", "10", "11", "12", "13", "14", "15", "16"};
constexpr std::size_t kMostTrailers = 64;
constexpr std::size_t kMostStatusBytes = std::size_t{4} << 10;  // of grpc-message: clients refuse long header blocks

}  // namespace

void GrpcConnection::Impl::send(CallStream& stream, OutMessage& message) {
  HEADRACE_CHECK(stream.open);
  const std::size_t size = message.size();
  if (size > std::numeric_limits<std::uint32_t>::max()) {
    message.clear();
    stream.status = internal_error("the answer has " + std::to_string(size) +
                                   " bytes; a gRPC message has at most 4 GiB: ask for less at once");
    return;
  }
  if (!stream.responded) {
    stream.responded = true;
    const std::array<HeaderField, 2> fields = {kStatusOk, kContentType};
    session_.respond(stream, fields, false);
  }
  if (session_.output_waiting() == 0) wait_begins_ = true;
  session_.push_message(stream, message);
}

void GrpcConnection::Impl::finish(CallStream& stream, const Status& status, const Metadata& trailers) {
  HEADRACE_CHECK(stream.open);
  close_call(stream);
  context_.inflight_bytes -= std::exchange(stream.charged, 0);
  if (!stream.status.ok()) {
    answer(stream, Status(stream.status), {});  // what send() could not send
    return;
  }
  if (trailers.size() > kMostTrailers) {
    answer(stream,
           internal_error("the answer has " + std::to_string(trailers.size()) + " trailers, over the limit of " +
                          std::to_string(kMostTrailers)),
           {});
    return;
  }
  for (const auto& [name, value] : trailers) {
    if (!is_metadata_name(name) || name.starts_with("grpc-") || (!is_binary_name(name) && !is_metadata_value(value))) {
      answer(stream,
             internal_error("the trailer '" + name +
                            "' cannot be sent: names are lower case and not of gRPC's own, values printable ASCII "
                            "unless the name ends with -bin"),
             {});
      return;
    }
  }
  answer(stream, status, trailers);
}

void GrpcConnection::Impl::answer(CallStream& stream, const Status& status, const Metadata& trailers) {
  stream.keep_window = true;
  stream.status =
      status.message().empty()
          ? status
          : Status(status.code(), percent_encode(std::string_view(status.message()).substr(0, kMostStatusBytes)));
  stream.trailers = trailers;
  for (auto& [name, value] : stream.trailers) {
    if (!is_binary_name(name)) continue;
    std::string encoded;
    base64_encode(value, encoded);
    value = std::move(encoded);
  }
  if (!stream.responded && status.ok()) {
    const std::array<HeaderField, 2> fields = {kStatusOk, kContentType};
    session_.respond(stream, fields, false);
    stream.responded = true;
  }
  if (stream.responded) {
    session_.end_output(stream);  // on_output_sent goes on
    return;
  }
  fields_.assign({kStatusOk, kContentType});
  on_output_sent(stream);
}

void GrpcConnection::Impl::on_output_sent(Http2Stream& http2) {
  auto& stream = static_cast<CallStream&>(http2);
  const bool only = !stream.responded;  // Trailers-Only: fields_ has the head
  if (!only) fields_.clear();
  fields_.push_back({"grpc-status", kCodes[static_cast<std::size_t>(stream.status.code())], true});
  if (!stream.status.message().empty()) fields_.push_back({"grpc-message", stream.status.message()});
  for (const auto& [name, value] : stream.trailers) fields_.push_back({name, value});
  if (only) {
    session_.respond(stream, fields_, true);
  } else {
    session_.trailers(stream, fields_);
  }
}

// Not a call: answered before the handler hears of it.
void GrpcConnection::Impl::refuse(CallStream& stream, const RequestHead::Refusal& refusal) {
  if (refusal.http_status == 200) {
    if (refusal.name_encodings) {
      answer(stream, refusal.status, {{"grpc-accept-encoding", "identity,deflate,gzip"}});
    } else {
      answer(stream, refusal.status, {});
    }
    return;
  }
  stream.keep_window = true;
  const std::string http_status = std::to_string(refusal.http_status);
  fields_.assign({HeaderField{":status", http_status}});
  if (refusal.http_status == 405) fields_.push_back({"allow", "POST", true});
  std::string message;
  if (!refusal.status.ok()) {
    message = percent_encode(refusal.status.message());
    fields_.push_back(kContentType);
    fields_.push_back({"grpc-status", kCodes[static_cast<std::size_t>(refusal.status.code())], true});
    fields_.push_back({"grpc-message", message});
  }
  session_.respond(stream, fields_, true);
}

Call* GrpcConnection::Impl::find(std::int32_t id) {
  auto* stream = static_cast<CallStream*>(session_.find(id));
  return stream != nullptr && stream->open ? stream : nullptr;
}

void GrpcConnection::Impl::release_bytes(CallStream& stream, std::size_t bytes) {
  HEADRACE_CHECK(bytes <= stream.charged);
  stream.charged -= bytes;
  context_.inflight_bytes -= bytes;
}

std::vector<std::int32_t> GrpcConnection::Impl::open_streams() const {
  std::vector<std::int32_t> ids;
  for (const auto& stream : streams_) {
    if (stream->open) ids.push_back(stream->stream_id);
  }
  std::sort(ids.begin(), ids.end(), std::greater<>());
  return ids;
}

std::size_t GrpcConnection::Impl::hold_slot(CallStream& stream) {
  ++held_;
  return std::exchange(stream.charged, 0);
}

void GrpcConnection::Impl::release_slot(std::size_t held) {
  HEADRACE_CHECK(held_ != 0 && held <= context_.inflight_bytes);
  --held_;
  context_.inflight_bytes -= held;
}

}  // namespace headrace::wire
