#include "backend/digest.h"

#include <bit>
#include <cstring>
#include <utility>

namespace headrace {

namespace {

constexpr std::size_t kBlock = 128;  // bytes that one compression takes
constexpr std::array<std::uint64_t, 8> kInitial{0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b,
                                                0xa54ff53a5f1d36f1, 0x510e527fade682d1, 0x9b05688c2b3e6c1f,
                                                0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
constexpr std::uint8_t kOrder[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

static_assert(std::endian::native == std::endian::little, "words are read as they lie");

using Words = std::array<std::uint64_t, 16>;

template <std::size_t A, std::size_t B, std::size_t C, std::size_t D>
inline void mix(Words& v, std::uint64_t x, std::uint64_t y) {
  v[A] += v[B] + x;
  v[D] = std::rotr(v[D] ^ v[A], 32);
  v[C] += v[D];
  v[B] = std::rotr(v[B] ^ v[C], 24);
  v[A] += v[B] + y;
  v[D] = std::rotr(v[D] ^ v[A], 16);
  v[C] += v[D];
  v[B] = std::rotr(v[B] ^ v[C], 63);
}

template <std::size_t Round>
inline void round(Words& v, const Words& m) {
  constexpr auto& s = kOrder[Round % 10];
  mix<0, 4, 8, 12>(v, m[s[0]], m[s[1]]);
  mix<1, 5, 9, 13>(v, m[s[2]], m[s[3]]);
  mix<2, 6, 10, 14>(v, m[s[4]], m[s[5]]);
  mix<3, 7, 11, 15>(v, m[s[6]], m[s[7]]);
  mix<0, 5, 10, 15>(v, m[s[8]], m[s[9]]);
  mix<1, 6, 11, 12>(v, m[s[10]], m[s[11]]);
  mix<2, 7, 8, 13>(v, m[s[12]], m[s[13]]);
  mix<3, 4, 9, 14>(v, m[s[14]], m[s[15]]);
}

// Unrolled, so that the words stay in registers: several times as fast.
template <std::size_t... Round>
inline void rounds(Words& v, const Words& m, std::index_sequence<Round...> /*rounds*/) {
  (round<Round>(v, m), ...);
}

struct State {
  std::array<std::uint64_t, 8> h = kInitial;
  std::uint64_t taken = 0;  // bytes so far

  void compress(const std::byte* block, bool last) {
    Words m{};
    std::memcpy(m.data(), block, kBlock);
    Words v{};
    for (std::size_t i = 0; i < 8; ++i) {
      v[i] = h[i];
      v[i + 8] = kInitial[i];
    }
    v[12] ^= taken;
    if (last) v[14] = ~v[14];
    rounds(v, m, std::make_index_sequence<12>());
    for (std::size_t i = 0; i < 8; ++i) h[i] ^= v[i] ^ v[i + 8];
  }
};

}  // namespace

Digest digest_of(std::span<const std::byte> bytes) {
  Digest digest;
  State state;
  state.h[0] ^= 0x01010000U ^ digest.size();  // no key, no tree
  while (bytes.size() > kBlock) {             // the last block is never empty unless all is
    state.taken += kBlock;
    state.compress(bytes.data(), false);
    bytes = bytes.subspan(kBlock);
  }
  std::array<std::byte, kBlock> rest{};
  if (!bytes.empty()) std::memcpy(rest.data(), bytes.data(), bytes.size());
  state.taken += bytes.size();
  state.compress(rest.data(), true);
  std::memcpy(digest.data(), state.h.data(), digest.size());
  return digest;
}

}  // namespace headrace
