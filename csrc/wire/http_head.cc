#include "wire/http_head.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

namespace headrace::wire {
namespace {

constexpr std::string_view kStart = "POST /v2/models/";
constexpr std::string_view kVersions = "/versions/";
constexpr std::string_view kInfer = "/infer HTTP/1.1\r\n";

// What a byte may be part of.
enum : std::uint8_t { kToken = 1, kSegment = 2, kValue = 4 };

constexpr std::array<std::uint8_t, 256> make_kinds() {
  std::array<std::uint8_t, 256> kinds{};
  for (int c = 0; c < 256; ++c) {
    const bool alphanumeric = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    std::uint8_t kind = 0;
    if (alphanumeric || c == '-' || c == '_' || c == '.' || c == '~') kind |= kSegment;
    if (alphanumeric) kind |= kToken;
    for (const char mark : std::string_view("!#$%&'*+-.^_`|~")) {
      if (c == mark) kind |= kToken;
    }
    if (c == '\t' || (c >= ' ' && c < 127)) kind |= kValue;
    kinds[static_cast<std::size_t>(c)] = kind;
  }
  return kinds;
}
constexpr std::array<std::uint8_t, 256> kKinds = make_kinds();

bool is(char c, std::uint8_t kind) { return (kKinds[static_cast<unsigned char>(c)] & kind) != 0; }

bool is_blank(char c) { return c == ' ' || c == '\t'; }

std::size_t run_of(std::string_view bytes, std::size_t at, std::uint8_t kind) {
  while (at < bytes.size() && is(bytes[at], kind)) ++at;
  return at;
}

// `lower` is in lower case.
bool same(std::string_view text, std::string_view lower) {
  if (text.size() != lower.size()) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if ((c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c) != lower[i]) return false;
  }
  return true;
}

bool read_number(std::string_view text, std::size_t& number) {
  constexpr std::size_t kMostDigits = 15;
  if (number != PlainInfer::kNone || text.empty() || text.size() > kMostDigits) return false;
  std::size_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    value = value * 10 + static_cast<std::size_t>(c - '0');
  }
  number = value;
  return true;
}

bool read_accepted(std::string_view value, Encoding& accepts) {
  if (accepts != Encoding::kIdentity) return false;
  while (!value.empty()) {
    const std::size_t comma = value.find(',');
    std::string_view name = value.substr(0, comma);
    value = comma == std::string_view::npos ? std::string_view() : value.substr(comma + 1);
    while (!name.empty() && is_blank(name.front())) name.remove_prefix(1);
    while (!name.empty() && is_blank(name.back())) name.remove_suffix(1);
    if (name.find_first_of(";*") != std::string_view::npos) return false;
    if (same(name, "gzip") || same(name, "x-gzip")) {
      accepts = Encoding::kGzip;
    } else if (same(name, "deflate") && accepts == Encoding::kIdentity) {
      accepts = Encoding::kDeflate;
    }
  }
  return true;
}

// False: this header is not of the plain case.
bool read_header(std::string_view name, std::string_view value, PlainInfer& head, std::size_t& length) {
  switch (name.size()) {
    case 2:
      return !same(name, "te");
    case 6:
      return !same(name, "expect") && !same(name, "origin");
    case 7:
      return !same(name, "upgrade") && !same(name, "trailer");
    case 10:
      return !same(name, "connection") || same(value, "keep-alive");
    case 12:
      return !same(name, "grpc-timeout");
    case 14:
      return !same(name, "content-length") || read_number(value, length);
    case 15:
      return !same(name, "accept-encoding") || read_accepted(value, head.accepts);
    case 16:
      return !same(name, "content-encoding") && !same(name, "proxy-connection");
    case 17:
      return !same(name, "transfer-encoding");
    case 31:
      return !same(name, "inference-header-content-length") || read_number(value, head.json_bytes);
    default:
      return true;
  }
}

}  // namespace

bool read_plain_infer(std::string_view bytes, std::size_t max_head_bytes, PlainInfer& head) {
  if (bytes.substr(0, kStart.size()) != kStart) return false;
  bytes = bytes.substr(0, max_head_bytes);
  head = PlainInfer();
  std::size_t at = run_of(bytes, kStart.size(), kSegment);
  head.model = bytes.substr(kStart.size(), at - kStart.size());
  if (bytes.substr(at, kVersions.size()) == kVersions) {
    const std::size_t begin = at + kVersions.size();
    at = run_of(bytes, begin, kSegment);
    head.version = bytes.substr(begin, at - begin);
    if (head.version.empty()) return false;
  }
  if (head.model.empty() || bytes.substr(at, kInfer.size()) != kInfer) return false;
  at += kInfer.size();
  std::size_t length = PlainInfer::kNone;
  while (at < bytes.size() && bytes[at] != '\r') {
    const std::size_t name_end = run_of(bytes, at, kToken);
    if (name_end == at || name_end == bytes.size() || bytes[name_end] != ':') return false;
    std::size_t begin = name_end + 1;
    while (begin < bytes.size() && is_blank(bytes[begin])) ++begin;
    const std::size_t end = run_of(bytes, begin, kValue);
    if (bytes.substr(end, 2) != "\r\n") return false;
    std::size_t last = end;
    while (last > begin && is_blank(bytes[last - 1])) --last;
    if (!read_header(bytes.substr(at, name_end - at), bytes.substr(begin, last - begin), head, length)) return false;
    at = end + 2;
  }
  if (bytes.substr(at, 2) != "\r\n" || length == PlainInfer::kNone) return false;
  head.head_bytes = at + 2;
  head.body_bytes = length;
  return true;
}

HeadFields::HeadFields(std::string_view head) : rest_(head.substr(head.find('\n') + 1)) {}

bool HeadFields::next() {
  const std::size_t colon = rest_.find(':');
  if (rest_.starts_with('\r') || colon == std::string_view::npos) return false;
  const std::size_t end = rest_.find('\r', colon);
  name_ = rest_.substr(0, colon);
  value_ = rest_.substr(colon + 1, end - colon - 1);
  constexpr std::string_view kSpace = " \t";
  value_.remove_prefix(std::min(value_.size(), value_.find_first_not_of(kSpace)));
  value_ = value_.substr(0, value_.find_last_not_of(kSpace) + 1);
  rest_.remove_prefix(end + 2);
  return true;
}

}  // namespace headrace::wire
