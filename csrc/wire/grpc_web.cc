#include "wire/grpc_web.h"

#include <string>
#include <string_view>

namespace headrace::wire {
namespace {

constexpr std::size_t kFrame = 5;
constexpr unsigned kCompressed = 0x01;
constexpr char kTrailers = '\x80';
constexpr std::string_view kSuccess = "grpc-status:0\r\n";

void append_frame(std::string& text, char flag, std::size_t size) {
  text += flag;
  for (int shift = 24; shift >= 0; shift -= 8) text += static_cast<char>((size >> shift) & 0xFF);
}

}  // namespace

Result<std::span<const std::byte>> read_web_message(std::span<const std::byte> body) {
  if (body.size() < kFrame) {
    return invalid_argument("the body has " + std::to_string(body.size()) +
                            " bytes: a gRPC-Web message begins with a frame of 5");
  }
  if (Status status = check_web_flag(body[0]); !status.ok()) return status;
  std::size_t size = 0;
  for (std::size_t i = 1; i < kFrame; ++i) size = size << 8 | std::to_integer<std::size_t>(body[i]);
  if (body.size() - kFrame != size) {
    return invalid_argument("the frame announces a message of " + std::to_string(size) + " bytes, and " +
                            std::to_string(body.size() - kFrame) + " follow: one is taken");
  }
  return body.subspan(kFrame);
}

Status check_web_flag(std::byte first) {
  const auto flag = std::to_integer<unsigned>(first);
  if ((flag & kCompressed) != 0) {
    return {Code::kUnimplemented, "the message is compressed: send it as it is, or with Content-Encoding"};
  }
  if (flag == 0) return {};
  return invalid_argument("the first frame's flag is " + std::to_string(flag) + ", not that of a message");
}

void frame_web_message(OutMessage& message) {
  std::string head;
  append_frame(head, '\0', message.size());
  message.own.insert(0, head);
  for (OutMessage::View& view : message.views) view.offset += kFrame;
}

void frame_web_response(OutMessage& message) {
  frame_web_message(message);
  append_frame(message.own, kTrailers, kSuccess.size());
  message.own += kSuccess;
}

}  // namespace headrace::wire
