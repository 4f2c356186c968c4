#include "wire/deflate.h"

#include <zlib.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "base/check.h"

namespace headrace::wire {
namespace {

constexpr int kFast = 1;
constexpr int kMemory = 8;  // zlib's default

struct Deflater {
  z_stream stream{};
  std::string out;

  ~Deflater() { deflateEnd(&stream); }

  void write(const char* bytes, std::size_t size, int flush) {
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes));
    do {
      const std::size_t now = std::min<std::size_t>(size, std::numeric_limits<uInt>::max());
      size -= now;
      stream.avail_in = static_cast<uInt>(now);
      int result = Z_OK;
      do {
        constexpr std::size_t kStep = std::size_t{32} << 10;
        const std::size_t at = out.size();
        out.resize(at + kStep);
        stream.next_out = reinterpret_cast<Bytef*>(out.data() + at);
        stream.avail_out = kStep;
        result = ::deflate(&stream, size == 0 ? flush : Z_NO_FLUSH);
        HEADRACE_CHECK(result == Z_OK || result == Z_STREAM_END || result == Z_BUF_ERROR);
        out.resize(at + kStep - stream.avail_out);
      } while (stream.avail_out == 0);
    } while (size != 0);
  }
};

}  // namespace

Status deflate(Encoding encoding, OutMessage& message) {
  if (encoding == Encoding::kIdentity) return {};
  Deflater deflater;
  // 16: a gzip wrapper. "deflate" means zlib's.
  const int window = encoding == Encoding::kGzip ? MAX_WBITS + 16 : MAX_WBITS;
  if (deflateInit2(&deflater.stream, kFast, Z_DEFLATED, window, kMemory, Z_DEFAULT_STRATEGY) != Z_OK) {
    return resource_exhausted("no memory to compress the answer; try again later, or accept it as it is");
  }
  std::size_t at = 0;
  for (const OutMessage::View& view : message.views) {
    deflater.write(message.own.data() + at, view.offset - at, Z_NO_FLUSH);
    at = view.offset;
    deflater.write(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size(), Z_NO_FLUSH);
  }
  deflater.write(message.own.data() + at, message.own.size() - at, Z_FINISH);
  message.clear();
  message.own = std::move(deflater.out);
  return {};
}

}  // namespace headrace::wire
