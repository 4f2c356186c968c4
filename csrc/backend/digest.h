// BLAKE2b with 32 bytes of digest (RFC 7693): two runs of bytes with one digest are taken to be equal, so it must be
// one for which nobody can make two.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace headrace {

using Digest = std::array<std::uint8_t, 32>;

Digest digest_of(std::span<const std::byte> bytes);

}  // namespace headrace
