#include "wire/json_data.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "wire/json_codec.h"
#include "wire/json_values.h"

namespace headrace::wire {

namespace {

// Values that are no arrays; checks the text on its way.
std::size_t count_leaves(JsonCursor cursor) {
  std::size_t leaves = 0;
  std::size_t open = 0;
  do {
    if (cursor.take('[')) {
      if (++open > kMaxJsonDepth) cursor.fail("nested too deeply");
      if (!cursor.take(']')) continue;
      --open;
    } else {
      cursor.skip_value(open);
      ++leaves;
    }
    while (open != 0 && !cursor.take(',')) {
      cursor.expect(']', "expected ',' or ']'");
      --open;
    }
  } while (open != 0);
  return leaves;
}

template <class T>
std::string integer(const std::string& name) {
  return name + ": send an integer from " + std::to_string(std::numeric_limits<T>::min()) + " to " +
         std::to_string(std::numeric_limits<T>::max()) + " in plain digits";
}

}  // namespace

void JsonDataConverter::check_size(std::string_view text) {
  if (elements_ <= text.size() / 2) return;  // an element and its comma or bracket
  const std::size_t sent = count_leaves(JsonCursor(text));
  if (sent != elements_) refuse_count(sent);
}

std::byte* JsonDataConverter::convert(std::string_view text, std::byte* out) {
  cursor_ = JsonCursor(text);
  out_ = out;
  switch (dtype_) {
    case DType::kBool:
      return walk<BoolElement>();
    case DType::kUint8:
      return walk<IntegerElement<std::uint8_t>>();
    case DType::kUint16:
      return walk<IntegerElement<std::uint16_t>>();
    case DType::kUint32:
      return walk<IntegerElement<std::uint32_t>>();
    case DType::kUint64:
      return walk<IntegerElement<std::uint64_t>>();
    case DType::kInt8:
      return walk<IntegerElement<std::int8_t>>();
    case DType::kInt16:
      return walk<IntegerElement<std::int16_t>>();
    case DType::kInt32:
      return walk<IntegerElement<std::int32_t>>();
    case DType::kInt64:
      return walk<IntegerElement<std::int64_t>>();
    case DType::kFp16:
      return walk<RealElement<Fp16Element>>();
    case DType::kBf16:
      return walk<RealElement<Bf16Element>>();
    case DType::kFp32:
      return walk<RealElement<FloatElement>>();
    case DType::kFp64:
      return walk<RealElement<DoubleElement>>();
    case DType::kBytes:
      return walk<StringElement>();
    case DType::kInvalid:
      break;
  }
  return out;
}

// Brackets around each element when data is nested as the shape is: a dimension of 0 hides those behind it.
std::size_t JsonDataConverter::nested_levels() const {
  const std::span<const std::int64_t> dims = shape_.dims();
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] == 0) return i + 1;
  }
  return dims.size();
}

template <class Element>
std::byte* JsonDataConverter::walk() {
  const char* const first = cursor_.at();
  std::size_t brackets = 0;
  while (cursor_.take('[')) {
    if (++brackets > kMaxJsonDepth) cursor_.fail("nested too deeply");
  }
  const std::size_t nested = nested_levels();
  cursor_.move_to(first);
  flat_ = flat_allowed_ && brackets == 1;
  if (flat_) {
    run<Element>(elements_, 0);
  } else if (brackets != nested) {
    throw refusal(place(0) + " is nested " + std::to_string(brackets) + " deep, its shape " + shape_.to_string() +
                  " wants " + std::to_string(nested) + (flat_allowed_ ? ", or one flat array" : ""));
  } else if (nested == 0) {
    single<Element>();
  } else {
    rows<Element>(0);
  }
  if (cursor_.peek() != '\0' || cursor_.at() != cursor_.end()) cursor_.fail("expected nothing behind the last array");
  return out_;
}

template <class Element>
void JsonDataConverter::rows(std::size_t level) {
  const auto count = static_cast<std::size_t>(shape_[level]);
  if (level + 1 == nested_levels()) return run<Element>(count, level);
  const char* const first = cursor_.at();
  cursor_.expect('[', "expected '['");
  for (std::size_t i = 0; i < count; ++i) {
    if (i != 0 && !cursor_.take(',')) refuse_row(first, level);
    if (cursor_.peek() != '[') refuse_row(first, level);
    index_[level] = i;
    rows<Element>(level + 1);
  }
  if (!cursor_.take(']')) refuse_row(first, level);
}

// One array of `count` elements.
template <class Element>
void JsonDataConverter::run(std::size_t count, std::size_t level) {
  const char* const end = cursor_.end();
  const char* const first = cursor_.at();
  const char* at = skip_json_space(first, end);
  if (at == end || *at != '[') cursor_.fail("expected '['");
  at = skip_json_space(at + 1, end);
  std::byte* out = out_;
  for (std::size_t i = 0; i < count; ++i) {
    if (i != 0) {
      if (at == end || *at != ',') refuse_row(first, level);
      at = skip_json_space(at + 1, end);
    }
    const char* const stop = Element::read(at, end, out);
    if (stop == nullptr) {
      // NOLINTNEXTLINE(clang-analyzer-core.NullDereference): between cursor and end, as long as there is a text
      if (at == end || *at == ']' || *at == '[') refuse_row(first, level);
      refuse_element(at, place(level) + "[" + std::to_string(i) + "]");
    }
    at = skip_json_space(stop, end);
  }
  if (at == end || *at != ']') refuse_row(first, level);
  out_ = out;
  cursor_.move_to(at + 1);
}

template <class Element>
void JsonDataConverter::single() {
  cursor_.peek();
  const char* const stop = Element::read(cursor_.at(), cursor_.end(), out_);
  if (stop == nullptr) refuse_element(cursor_.at(), place(0));
  cursor_.move_to(stop);
}

// Values in the array at `first`, arrays or not.
std::size_t JsonDataConverter::count_row(const char* first) const {
  JsonCursor cursor = cursor_;
  cursor.move_to(first);
  cursor.expect('[', "expected '['");
  if (cursor.take(']')) return 0;
  std::size_t values = 0;
  do {
    cursor.skip_value(1);
    ++values;
  } while (cursor.take(','));
  cursor.expect(']', "expected ',' or ']'");
  return values;
}

std::string JsonDataConverter::place(std::size_t level) const {
  std::string text(place_);
  const auto index = [&](std::size_t value) { text.append(1, '[').append(std::to_string(value)).append(1, ']'); };
  if (row_of_ != kNoRow) index(row_of_);
  for (std::size_t i = 0; i < level; ++i) index(index_[i]);
  return text;
}

JsonDataRefusal JsonDataConverter::refusal(const std::string& what) const {
  return {invalid_argument("input '" + std::string(input_) + "': " + what)};
}

void JsonDataConverter::refuse_count(std::size_t sent) const {
  throw refusal(place(0) + " has " + std::to_string(sent) + " elements, its shape " + shape_.to_string() + " needs " +
                std::to_string(elements_));
}

// The array at `first` has not as many values as it should, or is no JSON.
void JsonDataConverter::refuse_row(const char* first, std::size_t level) const {
  const std::size_t sent = count_row(first);
  const std::size_t needed = flat_ ? elements_ : static_cast<std::size_t>(shape_[level]);
  if (sent == needed) {
    throw refusal(place(level) + " mixes elements and arrays; nest it as its shape " + shape_.to_string() + " is" +
                  (flat_allowed_ ? ", or send one flat array" : ""));
  }
  throw refusal(place(level) + " has " + std::to_string(sent) + " elements, its shape " + shape_.to_string() +
                " needs " + std::to_string(needed));
}

void JsonDataConverter::refuse_element(const char* at, const std::string& where) const {
  JsonCursor cursor = cursor_;
  cursor.move_to(at);
  cursor.skip_value(1);  // if it is no JSON, that is the answer
  std::string shown(at, std::min<std::size_t>(static_cast<std::size_t>(cursor.at() - at), 40));
  for (char& byte : shown) {
    if (byte < 0x20 || byte > 0x7E) byte = '?';
  }
  throw refusal(where + " is " + shown + ", which is no " + expected());
}

std::string JsonDataConverter::expected() const {
  const std::string name(dtype_name(dtype_));
  switch (dtype_) {
    case DType::kBool:
      return name + ": send true or false";
    case DType::kInt8:
      return integer<std::int8_t>(name);
    case DType::kInt16:
      return integer<std::int16_t>(name);
    case DType::kInt32:
      return integer<std::int32_t>(name);
    case DType::kInt64:
      return integer<std::int64_t>(name);
    case DType::kUint8:
      return integer<std::uint8_t>(name);
    case DType::kUint16:
      return integer<std::uint16_t>(name);
    case DType::kUint32:
      return integer<std::uint32_t>(name);
    case DType::kUint64:
      return integer<std::uint64_t>(name);
    case DType::kBytes:
      return name + R"(: send a string or {"b64": "..."})";
    default:
      return name + R"(: send a number within its range, or "NaN", "Infinity", "-Infinity")";
  }
}

void infer_json_shape(JsonCursor& cursor, std::size_t depth, std::size_t max_dims, Shape& shape) {
  std::vector<std::int64_t> dims;
  bool empty = false;
  while (!empty && cursor.take('[')) {
    if (dims.size() == max_dims || depth + dims.size() >= kMaxJsonDepth) cursor.fail("nested in too many arrays");
    dims.push_back(0);
    empty = cursor.take(']');
  }
  std::size_t level = dims.size();
  if (empty) {
    --level;  // closed, with nothing in it
  } else {
    cursor.skip_value(depth + level);
  }
  while (level-- > 0) {
    std::int64_t count = 1;
    for (; cursor.take(','); ++count) {
      if (cursor.peek() == '[') {
        static_cast<void>(cursor.skip_brackets(depth + level + 1));
      } else {
        cursor.skip_value(depth + level + 1);
      }
    }
    cursor.expect(']', "expected ',' or ']'");
    dims[level] = count;
  }
  shape.assign(dims);
}

Result<Tensor> convert_json_data(const WireInput& input, DType dtype, std::size_t elements, Pool& pool) {
  const auto refuse = [&](const std::string& what) {
    return invalid_argument("input '" + std::string(input.name) + "': " + what);
  };
  if (dtype == DType::kInvalid) {
    return refuse("datatype '" + std::string(input.datatype) + "' is not one that data can carry");
  }
  if (element_count(input.shape.dims()) != elements) {
    return internal_error("input '" + std::string(input.name) + "': " + std::to_string(elements) +
                          " elements are not the product of its shape " + input.shape.to_string());
  }
  const std::string_view text(reinterpret_cast<const char*>(input.contents.data()), input.contents.size());
  JsonDataConverter converter(input.name, dtype, input.shape, elements, true);
  try {
    if (input.has_contents) {
      converter.check_size(text);
    } else if (elements != 0) {
      return refuse("it has no data, its shape " + input.shape.to_string() + " needs " + std::to_string(elements) +
                    " elements");
    }
    // No string is longer than its text; the prefixes come on top.
    const bool strings = dtype == DType::kBytes;
    const std::optional<std::size_t> size =
        checked_multiply(elements, strings ? sizeof(std::uint32_t) : element_size(dtype));
    if (!size) return refuse(std::to_string(elements) + " elements are more than can be addressed");
    Result<Block> block = pool.allocate(*size + (strings ? text.size() : 0));
    if (!block) return block.status();
    Tensor tensor;
    tensor.dtype = dtype;
    tensor.shape = input.shape;
    tensor.data = block->data();
    if (input.has_contents)
      tensor.size = static_cast<std::size_t>(converter.convert(text, block->data()) - tensor.data);
    tensor.block = std::move(*block);
    return tensor;
  } catch (JsonDataRefusal& refusal) {
    return std::move(refusal.status);
  } catch (const JsonError& error) {
    return refuse("data is not valid JSON: " + error.what + ", at byte " + std::to_string(error.at - text.data()) +
                  " of it");
  }
}

}  // namespace headrace::wire
