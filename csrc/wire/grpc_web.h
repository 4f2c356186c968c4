// gRPC-Web's frames: a flag byte, a length of four bytes (big endian) and as many bytes; the last frame of an answer
// holds the trailers. https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md
#pragma once

#include <cstddef>
#include <span>

#include "base/error.h"
#include "wire/output.h"

namespace headrace::wire {

// The one message of a request's body. INVALID_ARGUMENT for a body that is not exactly one frame of a message,
// UNIMPLEMENTED for a frame that is compressed.
Result<std::span<const std::byte>> read_web_message(std::span<const std::byte> body);
// Of a frame's first byte: whether it begins a message that can be read. Errors as read_web_message's.
Status check_web_flag(std::byte flag);

// Puts the frame of a message before it.
void frame_web_message(OutMessage& message);

// Makes the answer's body of a response: its frame before it, the trailers of success behind it.
void frame_web_response(OutMessage& message);

}  // namespace headrace::wire
