// Typed contents (InferTensorContents) -> raw tensor bytes. Twice over the wire bytes: once to count, so that nothing
// is allocated for a shape that the contents do not fill, and once to convert.
#include <bit>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "wire/field_reader.h"
#include "wire/infer_codec.h"

namespace headrace::wire {

namespace {

static_assert(std::endian::native == std::endian::little, "raw tensors and protobuf's fixed fields are little-endian");

constexpr int kLevel = 2;  // contents lie in an input in a request

enum class WireForm : std::uint8_t { kVarint, kFixed32, kFixed64, kBytes };

struct ContentsField {
  std::uint32_t number;
  WireForm form;
  std::string_view name;
};

constexpr ContentsField kFields[] = {
    {1, WireForm::kVarint, "bool_contents"},   {2, WireForm::kVarint, "int_contents"},
    {3, WireForm::kVarint, "int64_contents"},  {4, WireForm::kVarint, "uint_contents"},
    {5, WireForm::kVarint, "uint64_contents"}, {6, WireForm::kFixed32, "fp32_contents"},
    {7, WireForm::kFixed64, "fp64_contents"},  {8, WireForm::kBytes, "bytes_contents"},
};

const ContentsField* field_of(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return &kFields[0];
    case DType::kInt8:
    case DType::kInt16:
    case DType::kInt32:
      return &kFields[1];
    case DType::kInt64:
      return &kFields[2];
    case DType::kUint8:
    case DType::kUint16:
    case DType::kUint32:
      return &kFields[3];
    case DType::kUint64:
      return &kFields[4];
    case DType::kFp16:
    case DType::kBf16:
    case DType::kFp32:
      return &kFields[5];
    case DType::kFp64:
      return &kFields[6];
    case DType::kBytes:
      return &kFields[7];
    case DType::kInvalid:
      return nullptr;
  }
  return nullptr;
}

std::uint32_t single_key(const ContentsField& field) {
  switch (field.form) {
    case WireForm::kVarint:
      return varint_key(field.number);
    case WireForm::kFixed32:
      return fixed32_key(field.number);
    case WireForm::kFixed64:
      return fixed64_key(field.number);
    case WireForm::kBytes:
      return bytes_key(field.number);
  }
  return 0;
}

// Leaves the conversion with its answer.
struct Refusal {
  Status status;
};

// Round to nearest, ties to even; too large becomes infinite, NaN stays NaN (made quiet), subnormals are kept.
std::uint16_t to_fp16(std::uint32_t bits) {
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  std::uint32_t half = 0;
  if (magnitude > 0x7F800000U) {  // NaN
    half = 0x7E00U | ((magnitude >> 13) & 0x03FFU);
  } else if (magnitude >= 0x47800000U) {  // 65536 and more
    half = 0x7C00U;
  } else if (magnitude >= 0x38800000U) {  // normal in FP16; the carry of rounding may reach the exponent, and infinity
    half = (magnitude - 0x38000000U + 0x0FFFU + ((magnitude >> 13) & 1U)) >> 13;
  } else if (magnitude > 0x33000000U) {  // more than half of the smallest subnormal, which is 2^-24
    const std::uint32_t shift = 126U - (magnitude >> 23);
    const std::uint32_t mantissa = (magnitude & 0x007FFFFFU) | 0x00800000U;
    const std::uint32_t rest = mantissa & ((1U << shift) - 1U);
    const std::uint32_t middle = 1U << (shift - 1U);
    half = mantissa >> shift;
    if (rest > middle || (rest == middle && (half & 1U) != 0)) ++half;
  }
  return static_cast<std::uint16_t>(sign | half);
}

std::uint16_t to_bf16(std::uint32_t bits) {
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x0040U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

class Converter {
 public:
  Converter(const WireInput& input, DType dtype, const ContentsField& field)
      : input_(input), dtype_(dtype), field_(field), single_key_(single_key(field)) {}

  // Elements in the dtype's own field; sums up the strings' bytes. Refuses elements in any other field.
  std::size_t count() {
    std::size_t elements = 0;
    FieldReader reader(input_.contents, kLevel);
    while (reader.next()) {
      if (reader.key() == single_key_) {
        ++elements;
        if (field_.form == WireForm::kBytes) {
          count_string(reader.bytes());
        } else {
          reader.skip();
        }
      } else if (reader.key() == bytes_key(field_.number)) {
        elements += packed_count(reader.bytes());
      } else {
        refuse_other_field(reader);
        reader.skip();
      }
    }
    return elements;
  }

  std::size_t string_bytes() const { return string_bytes_; }

  void convert(std::byte* out) {
    switch (dtype_) {
      case DType::kBool:
        return varints<bool, std::uint8_t>(out);
      case DType::kUint8:
        return varints<std::uint32_t, std::uint8_t>(out);
      case DType::kUint16:
        return varints<std::uint32_t, std::uint16_t>(out);
      case DType::kUint32:
        return varints<std::uint32_t, std::uint32_t>(out);
      case DType::kUint64:
        return varints<std::uint64_t, std::uint64_t>(out);
      case DType::kInt8:
        return varints<std::int32_t, std::int8_t>(out);
      case DType::kInt16:
        return varints<std::int32_t, std::int16_t>(out);
      case DType::kInt32:
        return varints<std::int32_t, std::int32_t>(out);
      case DType::kInt64:
        return varints<std::int64_t, std::int64_t>(out);
      case DType::kFp16:
        return halves<to_fp16>(out);
      case DType::kBf16:
        return halves<to_bf16>(out);
      case DType::kFp32:
      case DType::kFp64:
        return copies(out);
      case DType::kBytes:
        return strings(out);
      case DType::kInvalid:
        return;
    }
  }

 private:
  void count_string(std::string_view value) {
    if (value.size() > std::numeric_limits<std::uint32_t>::max()) {
      refuse("a string in bytes_contents has " + std::to_string(value.size()) +
             " bytes; a BYTES element holds at most 4294967295");
    }
    string_bytes_ += sizeof(std::uint32_t) + value.size();
  }

  std::size_t packed_count(std::string_view bytes) const {
    if (field_.form == WireForm::kVarint) {  // each ends with a byte below 128
      std::size_t ends = 0;
      for (const char byte : bytes) ends += static_cast<unsigned char>(byte) < 0x80 ? 1U : 0U;
      return ends;
    }
    const std::size_t size = field_.form == WireForm::kFixed32 ? 4 : 8;
    if (bytes.size() % size != 0) throw protozero::invalid_length_exception();
    return bytes.size() / size;
  }

  void refuse_other_field(FieldReader reader) const {
    for (const ContentsField& other : kFields) {
      if (reader.number() != other.number) continue;
      const bool single = reader.key() == single_key(other);
      const bool packed = !single && reader.key() == bytes_key(other.number) && !reader.bytes().empty();
      if (single || packed) {
        refuse("datatype " + std::string(dtype_name(dtype_)) + " is sent in " + std::string(field_.name) + ", not in " +
               std::string(other.name));
      }
    }
  }

  // Calls `single` for a field with one element and `packed` for a field with many.
  template <class Single, class Packed>
  void each_field(Single single, Packed packed) {
    FieldReader reader(input_.contents, kLevel);
    while (reader.next()) {
      if (reader.key() == single_key_) {
        single(reader);
      } else if (reader.key() == bytes_key(field_.number)) {
        packed(reader.bytes());
      } else {
        reader.skip();
      }
    }
  }

  // Wire: protobuf's type of the field, which a longer varint is cut to. Element: the tensor's.
  template <class Wire, class Element>
  void varints(std::byte* out) {
    const std::byte* const start = out;
    const auto put = [&](std::uint64_t varint) {
      const auto value = static_cast<Wire>(varint);
      if constexpr (!std::is_same_v<Wire, bool> && sizeof(Element) < sizeof(Wire)) {
        if (value < std::numeric_limits<Element>::min() || value > std::numeric_limits<Element>::max()) {
          refuse("element " + std::to_string(static_cast<std::size_t>(out - start) / sizeof(Element)) + " of " +
                 std::string(field_.name) + " is " + std::to_string(value) + ", which datatype " +
                 std::string(dtype_name(dtype_)) + " cannot hold (" +
                 std::to_string(std::numeric_limits<Element>::min()) + " to " +
                 std::to_string(std::numeric_limits<Element>::max()) + ")");
        }
      }
      const auto element = static_cast<Element>(value);
      std::memcpy(out, &element, sizeof(Element));
      out += sizeof(Element);
    };
    each_field([&](FieldReader& reader) { put(reader.varint()); },
               [&](std::string_view bytes) {
                 const char* at = bytes.data();
                 const char* const end = at + bytes.size();
                 while (at != end) put(protozero::decode_varint(&at, end));
               });
  }

  void copies(std::byte* out) {
    const auto put = [&](const char* bytes, std::size_t size) {
      std::memcpy(out, bytes, size);
      out += size;
    };
    each_field(
        [&](FieldReader& reader) {
          if (field_.form == WireForm::kFixed32) {
            const auto value = reader.fixed<std::uint32_t>();
            put(reinterpret_cast<const char*>(&value), sizeof(value));
          } else {
            const auto value = reader.fixed<std::uint64_t>();
            put(reinterpret_cast<const char*>(&value), sizeof(value));
          }
        },
        [&](std::string_view bytes) {
          if (!bytes.empty()) put(bytes.data(), bytes.size());
        });
  }

  template <std::uint16_t (*round)(std::uint32_t)>
  void halves(std::byte* out) {
    const auto put = [&](std::uint32_t bits) {
      const std::uint16_t half = round(bits);
      std::memcpy(out, &half, sizeof(half));
      out += sizeof(half);
    };
    each_field([&](FieldReader& reader) { put(reader.fixed<std::uint32_t>()); },
               [&](std::string_view bytes) {
                 for (std::size_t i = 0; i < bytes.size(); i += sizeof(std::uint32_t)) {
                   std::uint32_t bits;
                   std::memcpy(&bits, bytes.data() + i, sizeof(bits));
                   put(bits);
                 }
               });
  }

  void strings(std::byte* out) {
    each_field(
        [&](FieldReader& reader) {
          const std::string_view value = reader.bytes();
          const auto size = static_cast<std::uint32_t>(value.size());
          std::memcpy(out, &size, sizeof(size));
          if (!value.empty()) std::memcpy(out + sizeof(size), value.data(), value.size());
          out += sizeof(size) + value.size();
        },
        [](std::string_view) {});  // strings are never packed
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw Refusal{invalid_argument("input '" + std::string(input_.name) + "': " + what)};
  }

  const WireInput& input_;
  const DType dtype_;
  const ContentsField& field_;
  const std::uint32_t single_key_;
  std::size_t string_bytes_ = 0;
};

}  // namespace

Result<Tensor> convert_contents(const WireInput& input, DType dtype, std::size_t elements, Pool& pool) {
  const ContentsField* field = field_of(dtype);
  if (field == nullptr) {
    return invalid_argument("input '" + std::string(input.name) + "': datatype '" + std::string(input.datatype) +
                            "' is not one that contents can carry");
  }
  try {
    Converter converter(input, dtype, *field);
    const std::size_t sent = converter.count();
    if (sent != elements) {
      return invalid_argument("input '" + std::string(input.name) + "': " + std::string(field->name) + " has " +
                              std::to_string(sent) + " elements, its shape " + input.shape.to_string() + " needs " +
                              std::to_string(elements));
    }
    std::optional<std::size_t> size = converter.string_bytes();
    if (dtype != DType::kBytes) size = checked_multiply(elements, element_size(dtype));
    if (!size) {
      return invalid_argument("input '" + std::string(input.name) + "': " + std::to_string(elements) + " elements of " +
                              std::string(dtype_name(dtype)) + " are more bytes than can be addressed");
    }
    Result<Block> block = pool.allocate(*size);
    if (!block) return block.status();
    Tensor tensor;
    tensor.dtype = dtype;
    tensor.shape = input.shape;
    tensor.data = block->data();
    tensor.size = *size;
    converter.convert(block->data());
    tensor.block = std::move(*block);
    return tensor;
  } catch (Refusal& refusal) {
    return std::move(refusal.status);
  } catch (const protozero::exception& error) {
    return invalid_argument("input '" + std::string(input.name) +
                            "': contents are not a valid protobuf message: " + error.what());
  }
}

}  // namespace headrace::wire
