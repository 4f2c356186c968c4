// A protobuf message, field by field, in place. protozero reads the varints; this keeps to what protobuf's own parser
// does where protozero's pbf_reader differs: tags and lengths are at most five bytes, no length is truncated to 32
// bits, groups of unknown fields are skipped, and a bool of more than one byte is read whole.
//
// A broken message throws protozero::exception.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <protozero/exception.hpp>
#include <protozero/types.hpp>
#include <protozero/varint.hpp>
#include <span>
#include <string_view>

namespace headrace::wire {

// What FieldReader::key() is compared with.
constexpr std::uint32_t varint_key(std::uint32_t number) {
  return protozero::tag_and_type(number, protozero::pbf_wire_type::varint);
}
constexpr std::uint32_t fixed32_key(std::uint32_t number) {
  return protozero::tag_and_type(number, protozero::pbf_wire_type::fixed32);
}
constexpr std::uint32_t fixed64_key(std::uint32_t number) {
  return protozero::tag_and_type(number, protozero::pbf_wire_type::fixed64);
}
constexpr std::uint32_t bytes_key(std::uint32_t number) {
  return protozero::tag_and_type(number, protozero::pbf_wire_type::length_delimited);
}

class FieldReader {
 public:
  // `level`: how many messages this one lies in (groups may nest to level 100, counted from the outermost message).
  explicit FieldReader(std::string_view bytes, int level = 0)
      : at_(bytes.data()), end_(bytes.data() + bytes.size()), level_(level) {}
  explicit FieldReader(std::span<const std::byte> bytes, int level = 0)
      : FieldReader(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()), level) {}

  // Moves to the next field; false at the end. Each field must then be read, or skipped, once.
  bool next() {
    if (at_ == end_) return false;
    key_ = read_key();
    if (wire_type(key_) == kEndGroup) throw protozero::unknown_pbf_wire_type_exception();
    return true;
  }
  std::uint32_t key() const { return key_; }
  std::uint32_t number() const { return key_ >> 3; }

  std::uint64_t varint() { return protozero::decode_varint(&at_, end_); }
  std::string_view bytes() {
    const char* start = at_;
    const std::uint64_t size = varint();
    if (at_ - start > 5) throw protozero::invalid_length_exception();
    return take(size);
  }
  template <class T>
  T fixed() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  void skip() { skip_value(key_, level_); }

 private:
  static constexpr std::uint32_t kStartGroup = 3;
  static constexpr std::uint32_t kEndGroup = 4;
  static constexpr int kMaxLevel = 100;  // as in protobuf

  static constexpr std::uint32_t wire_type(std::uint32_t key) { return key & 7U; }

  std::uint32_t read_key() {
    const char* start = at_;
    const auto key = static_cast<std::uint32_t>(varint());
    if (at_ - start > 5 || key >> 3 == 0) throw protozero::invalid_tag_exception();
    return key;
  }
  std::string_view take(std::uint64_t size) {
    if (size > static_cast<std::uint64_t>(end_ - at_)) throw protozero::end_of_buffer_exception();
    const std::string_view taken(at_, static_cast<std::size_t>(size));
    at_ += size;
    return taken;
  }
  void skip_value(std::uint32_t key, int level) {
    switch (wire_type(key)) {
      case 0:
        varint();
        return;
      case 1:
        take(8);
        return;
      case 2:
        bytes();
        return;
      case 5:
        take(4);
        return;
      case kStartGroup:
        if (level == kMaxLevel) throw protozero::unknown_pbf_wire_type_exception();
        for (;;) {
          const std::uint32_t inner = read_key();
          if (wire_type(inner) == kEndGroup) {
            if (inner >> 3 != key >> 3) throw protozero::invalid_tag_exception();
            return;
          }
          skip_value(inner, level + 1);
        }
      default:
        throw protozero::unknown_pbf_wire_type_exception();
    }
  }

  const char* at_;
  const char* end_;
  int level_;
  std::uint32_t key_ = 0;
};

}  // namespace headrace::wire
