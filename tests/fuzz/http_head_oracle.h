// What the core takes as a plain inference, compared with a slow and strict reading of the same bytes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace headrace::wire {

// Where the two differ; empty if they agree. A head that the core leaves to the whole parser is right, unless there is
// nothing in it that any client would not send.
std::string http_head_differs(std::string_view bytes, std::size_t max_head_bytes);

}  // namespace headrace::wire
