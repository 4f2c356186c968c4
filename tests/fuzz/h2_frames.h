// A client's frames, made from a fuzzer's input: whole ones that mean something, so that what lies behind the framing
// is reached, with just enough room in each for what breaks a rule.
#pragma once

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/check.h"

namespace headrace::wire {

// The fuzzer's input, from its front; nothing but zeros follow its end.
class FuzzInput {
 public:
  explicit FuzzInput(std::span<const std::byte> bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  unsigned next() {
    if (bytes_.empty()) return 0;
    const auto byte = std::to_integer<unsigned>(bytes_.front());
    bytes_ = bytes_.subspan(1);
    return byte;
  }
  std::span<const std::byte> take(std::size_t size) {
    const std::span<const std::byte> front = bytes_.first(std::min(size, bytes_.size()));
    bytes_ = bytes_.subspan(front.size());
    return front;
  }

 private:
  std::span<const std::byte> bytes_;
};

class H2Frames {
 public:
  enum Kind : std::uint8_t { kHeaders, kMessage, kReset, kWindow, kSettings, kOther, kTrailers, kRaw };

  // One frame (or what stands for it) of this kind; its details are read from the input.
  std::string make(Kind kind, FuzzInput& input) {
    switch (kind) {
      case kHeaders:
        return headers(input);
      case kMessage:
        return message(input);
      case kReset: {
        const std::uint32_t id = stream(input);
        const unsigned code = input.next() % 16;
        return code == 15 ? opened_and_reset() : frame(3, 0, id, number(code));
      }
      case kWindow: {
        const std::uint32_t id = input.next() % 3 == 0 ? 0 : stream(input);
        return frame(8, 0, id, number(input.next() << (input.next() % 32)));
      }
      case kSettings:
        return settings(input);
      case kTrailers:
        return frame(1, 0x4 | 0x1, stream(input), field("x-tail", "1"));
      case kOther:
        return other(input);
      case kRaw:
        break;
    }
    const auto type = static_cast<std::uint8_t>(input.next() % 16);
    const auto flags = static_cast<std::uint8_t>(input.next());
    const std::uint32_t id = stream(input);
    return frame(type, flags, id, text(input.take(input.next() % 64)));
  }

 private:
  static std::string text(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  static std::string number(std::uint32_t value, int bytes = 4) {
    std::string out;
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out += static_cast<char>(value >> shift & 0xFF);
    return out;
  }
  static std::string frame(std::uint8_t type, std::uint8_t flags, std::uint32_t id, std::string_view payload) {
    std::string out = number(static_cast<std::uint32_t>(payload.size()), 3);
    out += static_cast<char>(type);
    out += static_cast<char>(flags);
    out += number(id);
    return out.append(payload);
  }
  // HPACK: a literal with a literal name; `first` says whether it enters the table.
  static std::string field(std::string_view name, std::string_view value, unsigned first = 0) {
    std::string out(1, static_cast<char>(first));
    for (const std::string_view part : {name, value}) {
      HEADRACE_CHECK(part.size() < 127);
      out += static_cast<char>(part.size());
      out += part;
    }
    return out;
  }

  // One that was opened, most often; or the next, or the connection.
  std::uint32_t stream(FuzzInput& input) const {
    const unsigned which = input.next();
    if (which >= 250) return which == 250 ? 0 : next_ + (which & 1);
    return next_ < 3 ? 1 : next_ - 2 - 2 * (which % std::min(next_ / 2, 16U));
  }

  std::string headers(FuzzInput& input) {
    constexpr std::array<std::string_view, 4> kPaths = {"/inference.GRPCInferenceService/ModelStreamInfer",
                                                        "/inference.GRPCInferenceService/ModelInfer", "/a/b",
                                                        "no path"};
    constexpr std::array<std::string_view, 4> kEncodings = {"", "gzip", "deflate", "br"};
    constexpr std::array<std::string_view, 4> kTimeouts = {"", "1S", "20m", "9x"};
    const unsigned kind = input.next();
    const unsigned more = input.next();
    std::string block = "\x83\x86";  // POST, http
    const unsigned table = (more & 0x40) != 0 ? 0x40 : 0;
    block += field(":path", kPaths[kind & 3], table);
    block += field(":authority", "a", table);
    block += field("te", "trailers", table);
    block += field("content-type", (more & 0x3f) == 0x3f ? "text/plain" : "application/grpc", table);
    if (const std::string_view encoding = kEncodings[kind >> 2 & 3]; !encoding.empty()) {
      block += field("grpc-encoding", encoding, table);
    }
    if (const std::string_view timeout = kTimeouts[kind >> 4 & 3]; !timeout.empty()) {
      block += field("grpc-timeout", timeout, table);
    }
    if ((more & 0x3f) == 0x3e) block += std::string(1500, '\xbe');  // the newest field of the table, again and again
    if ((kind & 0x40) != 0) block += field("a-bin", text(input.take(more % 16)), table);
    const std::uint32_t id = next_;
    next_ += 2;
    const std::uint8_t end = (kind & 0x80) != 0 ? 1 : 0;
    if ((more & 0x80) == 0) return frame(1, 0x4 | end, id, block);
    const std::size_t half = block.size() / 2;
    return frame(1, end, id, std::string_view(block).substr(0, half)) +
           frame(9, 0x4, id, std::string_view(block).substr(half));
  }

  // DATA with a message in gRPC's frame, or with a part of one.
  std::string message(FuzzInput& input) {
    const std::uint32_t id = stream(input);
    const unsigned how = input.next();
    const std::size_t size = std::size_t{input.next()} << ((how & 7) == 7 ? 10 : how & 7);
    std::string body = (how & 8) != 0 ? text(input.take(size)) : std::string(size, 'm');
    if ((how & 0x60) != 0) body = compress(body, (how & 0x20) != 0 ? MAX_WBITS + 16 : MAX_WBITS);
    std::string bytes(1, (how & 0x60) != 0 ? '\1' : '\0');
    bytes += number(static_cast<std::uint32_t>(body.size())) + body;
    if ((how & 0x10) != 0) bytes.resize(bytes.size() - std::min<std::size_t>(bytes.size(), input.next()));
    std::string out;
    std::string_view rest = bytes;
    while (rest.size() > kFrame) {
      out += frame(0, 0, id, rest.substr(0, kFrame));
      rest.remove_prefix(kFrame);
    }
    return out + frame(0, (how & 0x80) != 0 ? 1 : 0, id, rest);
  }

  static std::string compress(std::string& body, int window) {
    z_stream stream{};
    HEADRACE_CHECK(deflateInit2(&stream, 1, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    std::string out(deflateBound(&stream, body.size()), '\0');
    stream.next_in = reinterpret_cast<Bytef*>(body.data());
    stream.avail_in = static_cast<uInt>(body.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    HEADRACE_CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
    out.resize(out.size() - stream.avail_out);
    deflateEnd(&stream);
    return out;
  }

  static std::string settings(FuzzInput& input) {
    const unsigned which = input.next();
    if (which == 0) return frame(4, 1, 0, "");  // ACK
    return frame(4, 0, 0, number(which % 10, 2) + number(input.next() << (input.next() % 32)));
  }

  static constexpr std::size_t kFrame = std::size_t{16} << 10;  // what may be sent unasked
  // More than an honest client sends within a moment.
  static constexpr int kMany = 1001;

  std::string opened_and_reset() {
    std::string out;
    for (int i = 0; i < kMany; ++i) {
      const std::string block = "\x83\x86\x84" + field(":authority", "a");
      out += frame(1, 0x4, next_, block) + frame(3, 0, next_, number(8));
      next_ += 2;
    }
    return out;
  }

  std::string other(FuzzInput& input) const {
    const unsigned which = input.next();
    const std::string one = other(which, input);
    std::string out = one;
    for (int i = 1; (which & 0x80) != 0 && i < kMany; ++i) out += one;
    return out;
  }

  std::string other(unsigned which, FuzzInput& input) const {
    switch (which % 4) {
      case 0:
        return frame(6, which >> 4 & 1, 0, "12345678");  // PING
      case 1:
        return frame(2, 0, stream(input), number(0) + "\x10");  // PRIORITY
      case 2:
        return frame(0, which >> 4 & 1, stream(input), "");  // DATA without a byte
      default: {                                             // padded DATA
        const std::string padding(which >> 2 & 0x3f, '\0');
        return frame(0, 0x8, stream(input),
                     std::string(1, static_cast<char>(padding.size())) + std::string(5, '\0') + padding);
      }
    }
  }

  std::uint32_t next_ = 1;
};

}  // namespace headrace::wire
