// Bytes to a socket without an event loop in between.
#pragma once

#include <cstddef>
#include <string_view>

namespace headrace {

// Sends as much of the two texts, one behind the other, as a non-blocking socket takes at once; returns how many bytes
// that were. 0 also where the socket is broken: whoever sends the rest the usual way is told so.
std::size_t send_now(int socket, std::string_view first, std::string_view second);

}  // namespace headrace
