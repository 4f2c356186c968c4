// Parts of the protocol's protobuf messages, written by protozero.
#pragma once

#include <cstdint>
#include <protozero/pbf_writer.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace headrace::wire::testing {

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Writes one submessage into a string.
template <class Fill>
std::string message(Fill fill) {
  std::string data;
  protozero::pbf_writer writer(data);
  fill(writer);
  return data;
}

inline std::string input(std::string_view name, std::string_view datatype, const std::vector<std::int64_t>& shape) {
  return message([&](protozero::pbf_writer& writer) {
    writer.add_string(1, name.data(), name.size());
    writer.add_string(2, datatype.data(), datatype.size());
    writer.add_packed_int64(3, shape.begin(), shape.end());
  });
}

inline std::string int_parameter(std::string_view key, std::int64_t value) {
  return message([&](protozero::pbf_writer& entry) {
    entry.add_string(1, key.data(), key.size());
    entry.add_message(2, message([&](protozero::pbf_writer& choice) { choice.add_int64(2, value); }));
  });
}

}  // namespace headrace::wire::testing
