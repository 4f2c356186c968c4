// Compressed text, as clients send it.
#pragma once

#include <gtest/gtest.h>
#include <zlib.h>

#include <string>

namespace headrace::testing {

// `window`: zlib's windowBits, which name the format too.
inline std::string deflated(const std::string& text, int window) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, static_cast<uLong>(text.size())), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}
inline std::string gzip(const std::string& text) { return deflated(text, MAX_WBITS + 16); }
inline std::string zlib_text(const std::string& text) { return deflated(text, MAX_WBITS); }

}  // namespace headrace::testing
