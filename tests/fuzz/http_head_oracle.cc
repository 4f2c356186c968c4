#include "http_head_oracle.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <utility>
#include <vector>

#include "wire/http_head.h"

namespace headrace::wire {
namespace {

struct Reading {
  std::string model;
  std::string version;
  std::size_t head_bytes = 0;
  std::multimap<std::string, std::string> headers;          // by lower-case name
  std::vector<std::pair<std::string, std::string>> fields;  // as they were sent

  std::optional<std::string> only(const std::string& name) const {
    return headers.count(name) == 1 ? std::optional(headers.find(name)->second) : std::nullopt;
  }
};

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return out;
}

std::string trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t") - first + 1));
}

std::vector<std::string> split(std::string_view text, std::string_view by) {
  std::vector<std::string> parts;
  for (std::size_t at = 0;;) {
    const std::size_t end = text.find(by, at);
    parts.emplace_back(text.substr(at, end - at));
    if (end == std::string_view::npos) return parts;
    at = end + by.size();
  }
}

// A whole and strictly valid request for an inference at the front of the bytes, in RFC 9112's grammar without
// what it allows out of kindness.
std::optional<Reading> read(std::string_view bytes, std::size_t max_head_bytes) {
  static const std::regex kPath("/v2/models/([A-Za-z0-9._~-]+)(/versions/([A-Za-z0-9._~-]+))?/infer");
  static const std::regex kName("[A-Za-z0-9!#$%&'*+.^_`|~-]+");
  const std::size_t end = bytes.find("\r\n\r\n");
  if (end == std::string_view::npos || end + 4 > max_head_bytes) return std::nullopt;
  Reading out;
  out.head_bytes = end + 4;
  std::vector<std::string> lines = split(bytes.substr(0, end), "\r\n");
  const std::vector<std::string> words = split(lines.front(), " ");
  if (words.size() != 3 || words[0] != "POST" || words[2] != "HTTP/1.1") return std::nullopt;
  std::smatch match;
  if (!std::regex_match(words[1], match, kPath)) return std::nullopt;
  out.model = match[1];
  out.version = match[3];
  lines.erase(lines.begin());
  for (const std::string& line : lines) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) return std::nullopt;
    const std::string name = line.substr(0, colon);
    if (name.size() > 1000 || !std::regex_match(name, kName)) return std::nullopt;  // its stack grows with the text
    for (const char c : line) {
      if (c != '\t' && (c < ' ' || c > '~')) return std::nullopt;
    }
    out.fields.emplace_back(name, trimmed(std::string_view(line).substr(colon + 1)));
    out.headers.emplace(lower(name), out.fields.back().second);
  }
  return out;
}

std::optional<std::size_t> number(const std::optional<std::string>& text) {
  if (!text || text->empty() || text->size() > 15) return std::nullopt;
  if (!std::all_of(text->begin(), text->end(), [](char c) { return c >= '0' && c <= '9'; })) return std::nullopt;
  return std::stoull(*text);
}

// gzip where it is named, else deflate.
Encoding accepted(const Reading& reading) {
  Encoding best = Encoding::kIdentity;
  const auto [first, last] = reading.headers.equal_range("accept-encoding");
  for (auto each = first; each != last; ++each) {
    for (const std::string& part : split(lower(each->second), ",")) {
      const std::string name = trimmed(part);
      if (name == "gzip" || name == "x-gzip") return Encoding::kGzip;
      if (name == "deflate") best = Encoding::kDeflate;
    }
  }
  return best;
}

// What changes how a message or a connection goes on.
std::string not_plain(const Reading& reading) {
  for (const char* name : {"transfer-encoding", "content-encoding", "expect", "upgrade", "te", "trailer", "origin",
                           "grpc-timeout", "proxy-connection"}) {
    if (reading.headers.count(name) != 0) return name;
  }
  const auto [first, last] = reading.headers.equal_range("connection");
  for (auto each = first; each != last; ++each) {
    if (lower(each->second) != "keep-alive") return "connection: " + each->second;
  }
  return {};
}

bool any_client_sends(const Reading& reading) {
  static const std::set<std::string> kKnown = {"host",         "user-agent",     "accept",
                                               "content-type", "content-length", "inference-header-content-length",
                                               "connection"};
  return std::all_of(reading.headers.begin(), reading.headers.end(),
                     [](const auto& header) { return kKnown.count(header.first) != 0; });
}

}  // namespace

std::string http_head_differs(std::string_view bytes, std::size_t max_head_bytes) {
  PlainInfer ours;
  const bool taken = read_plain_infer(bytes, max_head_bytes, ours);
  const std::optional<Reading> theirs = read(bytes, max_head_bytes);
  const std::optional<std::size_t> length = theirs ? number(theirs->only("content-length")) : std::nullopt;
  if (!taken) {
    if (!theirs || !length || !any_client_sends(*theirs) || !not_plain(*theirs).empty()) return {};
    const bool any_json = theirs->headers.count("inference-header-content-length") != 0;
    if (any_json && !number(theirs->only("inference-header-content-length"))) return {};
    return "not taken, though it is plain";
  }
  if (!theirs) return "taken, though it is not a valid request for an inference";
  if (!length) return "taken without one good Content-Length";
  if (const std::string why = not_plain(*theirs); !why.empty()) return "taken with " + why;
  if (ours.model != theirs->model) return "model";
  if (ours.version != theirs->version) return "version";
  if (ours.head_bytes != theirs->head_bytes) return "head_bytes";
  if (ours.body_bytes != *length) return "body_bytes";
  const std::size_t json = theirs->headers.count("inference-header-content-length");
  if (json == 0 && ours.json_bytes != PlainInfer::kNone) return "json_bytes out of nothing";
  if (json != 0 && number(theirs->only("inference-header-content-length")) != ours.json_bytes) return "json_bytes";
  if (ours.accepts != accepted(*theirs)) return "accepts";
  HeadFields fields(bytes.substr(0, ours.head_bytes));
  for (const auto& [name, value] : theirs->fields) {
    if (!fields.next() || fields.name() != name || fields.value() != value) return "the header field " + name;
  }
  if (fields.next()) return "one header field too many";
  return {};
}

}  // namespace headrace::wire
