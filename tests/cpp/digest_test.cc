#include "backend/digest.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace headrace {
namespace {

std::string hex(const Digest& digest) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string of(std::string_view bytes) { return hex(digest_of(std::as_bytes(std::span(bytes)))); }

// As Python's hashlib.blake2b(digest_size=32) has them: nothing, a part of a block, a block, and blocks and a part.
TEST(Digest, IsBlake2bOf32Bytes) {
  EXPECT_EQ(of(""), "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
  EXPECT_EQ(of("abc"), "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
  EXPECT_EQ(of(std::string(128, '\7')), "332f1f712b03a6a6f6c28db7d96c62f170744119ab0f831b9e0d80f800e3aad7");
  EXPECT_EQ(of(std::string(300, '\7')), "0191c3eb5a6d2128509033fab49cb00a21416257a4c104cff5ee37d156e04db2");
}

TEST(Digest, EveryByteCounts) {
  std::string bytes(700, 'x');
  const std::string all = of(bytes);
  for (const std::size_t at : {0U, 127U, 128U, 511U, 699U}) {
    bytes[at] = 'y';
    EXPECT_NE(of(bytes), all) << at;
    bytes[at] = 'x';
  }
  EXPECT_NE(of(bytes.substr(1)), all);
}

}  // namespace
}  // namespace headrace
