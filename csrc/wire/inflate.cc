#include <zlib.h>

#include <algorithm>
#include <limits>
#include <string>

#include "base/check.h"
#include "wire/grpc.h"

namespace headrace::wire {
namespace {

struct Inflater {
  z_stream stream{};
  ~Inflater() { inflateEnd(&stream); }
};

Status too_large(std::size_t max_bytes, Code code) {
  return {code, "the message is over the limit of " + std::to_string(max_bytes) +
                    " bytes after inflating (--max-request-bytes): send less at once, or raise the limit"};
}

}  // namespace

Result<Message> inflate(const Message& message, std::size_t max_bytes, Pool& pool, InflightBudget& budget,
                        InflateCodes codes) {
  HEADRACE_CHECK(message.encoding != Encoding::kIdentity);
  if (message.bytes.size() > std::numeric_limits<uInt>::max()) return too_large(max_bytes, codes.over);
  Inflater inflater;
  z_stream& stream = inflater.stream;
  // 16: a gzip wrapper. "deflate" means zlib's.
  const int window = message.encoding == Encoding::kGzip ? MAX_WBITS + 16 : MAX_WBITS;
  if (inflateInit2(&stream, window) != Z_OK) return resource_exhausted("no memory to inflate a message");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(message.bytes.data()));
  stream.avail_in = static_cast<uInt>(message.bytes.size());

  // The size is not known before the end: addresses for the most there can be, charged as they fill. One byte more
  // than the limit shows that there would be more.
  const std::size_t most = std::min(max_bytes, message.bytes.size() * 1032 + 64);  // deflate's best ratio is 1032
  Result<Block> reserved = pool.reserve(most + 1);
  if (!reserved.ok()) return reserved.status();
  Message out;
  out.block = std::move(*reserved);
  out.charge = budget.begin(most);
  std::size_t size = 0;
  int result = Z_OK;
  while (result != Z_STREAM_END) {
    const std::size_t room = std::min(Pool::kChargeStep, most + 1 - size);
    if (room == 0) return too_large(max_bytes, codes.over);
    if (!out.charge.raise(size + room) || !out.block.charge(size + room)) {
      return resource_exhausted("no room to inflate a message of " + std::to_string(message.bytes.size()) +
                                " bytes: the server has " + std::to_string(budget.charged()) + " of " +
                                std::to_string(budget.cap()) +
                                " request bytes in flight (--process-inflight-bytes); try again later");
    }
    stream.next_out = reinterpret_cast<Bytef*>(out.block.data() + size);
    stream.avail_out = static_cast<uInt>(room);
    result = ::inflate(&stream, Z_NO_FLUSH);
    size += room - stream.avail_out;
    if (size > max_bytes) return too_large(max_bytes, codes.over);
    if (result == Z_BUF_ERROR) return Status(codes.broken, "a compressed message is cut short");
    if (result != Z_OK && result != Z_STREAM_END) {
      return Status(codes.broken, std::string("a message cannot be inflated: ") +
                                      (stream.msg != nullptr ? stream.msg : "it is broken"));
    }
  }
  if (stream.avail_in != 0) {
    return Status(codes.broken, std::to_string(stream.avail_in) + " bytes follow the end of a compressed message");
  }
  out.charge.complete();
  out.bytes = {out.block.data(), size};
  return out;
}

}  // namespace headrace::wire
