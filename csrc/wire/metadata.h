// The words of gRPC's headers: timeouts, encodings, "-bin" values, percent-encoded messages. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace headrace::wire {

using Metadata = std::vector<std::pair<std::string, std::string>>;

// "application/grpc", with "+proto" or parameters behind it.
bool is_grpc_content_type(std::string_view value);

// 1 to 8 digits and one of H M S m u n. What does not fit is kNever. Empty: malformed.
std::optional<Nanos> parse_grpc_timeout(std::string_view value);

// Appends. Base64 with or without padding; false when it is not base64 (`out` may have grown then).
bool base64_decode(std::string_view text, std::string& out);
void base64_encode(std::string_view bytes, std::string& out);  // without padding

// grpc-message: all but printable ASCII, and '%', becomes %XX.
std::string percent_encode(std::string_view text);

inline bool is_binary_name(std::string_view name) { return name.ends_with("-bin"); }
// What a header may be named, lower case, and what an ASCII value may hold.
bool is_metadata_name(std::string_view name);
bool is_metadata_value(std::string_view value);

}  // namespace headrace::wire
