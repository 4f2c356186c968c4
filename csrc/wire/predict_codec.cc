#include "wire/predict_codec.h"

#include <optional>
#include <string>
#include <utility>

#include "base/check.h"
#include "wire/json_data.h"
#include "wire/json_elements.h"
#include "wire/json_text.h"

namespace headrace::wire {

namespace {

struct Refusal {
  Status status;
};

[[noreturn]] void refuse(const std::string& message) { throw Refusal{invalid_argument("predict request " + message)}; }

std::string shown(std::string_view name) { return "'" + std::string(name.substr(0, 64)) + "'"; }

// An input that is being filled, value after value.
struct Column {
  std::string_view first;      // its value in the first row, or its only one
  std::size_t rows = 0;        // that have it
  std::size_t text_bytes = 0;  // of all its values
  Shape row_shape;
  std::optional<JsonDataConverter> converter;
  Tensor tensor;
  std::byte* end = nullptr;
};

class Decoder {
 public:
  Decoder(std::string_view text, std::span<const PredictSpec> specs, const InferLimits& limits, JsonStrings& strings,
          Pool& pool, PredictRequest& request)
      : cursor_(text),
        specs_(specs),
        limits_(limits),
        strings_(strings),
        pool_(pool),
        request_(request),
        columns_(specs.size()) {}

  void decode() {
    std::optional<JsonCursor> instances;
    std::optional<JsonCursor> inputs;
    members(cursor_, [&](std::string_view name) {
      if (name == "instances") {
        if (instances) refuse("has 'instances' twice; send them once");
        instances = cursor_;
      } else if (name == "inputs") {
        if (inputs) refuse("has 'inputs' twice; send them once");
        inputs = cursor_;
      } else if (name == "signature_name") {
        if (cursor_.peek() != '"') refuse("has a signature_name that is no string");
        bool escaped = false;
        request_.signature_name = strings_.keep(cursor_.string(escaped, ""));
        return;
      } else {
        return cursor_.skip_value(1);
      }
      static_cast<void>(passed(cursor_, 1));
    });
    if (cursor_.peek() != '\0' || cursor_.at() != cursor_.end()) cursor_.fail("expected nothing behind the request");
    if (instances && inputs) refuse("has 'instances' (rows) and 'inputs' (columns); send one of the two");
    if (!instances && !inputs) refuse("has neither 'instances' (rows) nor 'inputs' (columns)");
    if (instances) {
      request_.form = PredictForm::kRows;
      rows(*instances);
    } else {
      request_.form = PredictForm::kColumns;
      columns(*inputs);
    }
    finish();
  }

 private:
  // Calls member(name) for each; it reads the value with the same cursor.
  template <class Member>
  void members(JsonCursor& cursor, Member member) {
    cursor.expect('{', "expected an object");
    if (cursor.take('}')) return;
    do {
      bool escaped = false;
      std::string_view name = cursor.string(escaped, "expected a member's name in quotes");
      if (escaped) {
        key_.resize(name.size());
        name = std::string_view(key_).substr(0, unescape_json(name, key_.data()));
      }
      cursor.expect(':', "expected ':' after a member's name");
      member(name);
    } while (cursor.take(','));
    cursor.expect('}', "expected ',' or '}'");
  }

  // An object that is no {"b64": ...} has values by name.
  bool named(JsonCursor cursor) {
    if (!cursor.take('{')) return false;
    if (cursor.peek() != '"') return true;
    bool escaped = false;
    if (cursor.string(escaped, "") != "b64") return true;
    return find("b64") != specs_.size();
  }

  // Rows name their inputs in one order, mostly: the one behind the last is looked at first.
  std::size_t find(std::string_view name) {
    for (std::size_t i = 0; i < specs_.size(); ++i) {
      next_ = next_ < specs_.size() ? next_ : 0;
      const std::size_t slot = next_++;
      if (specs_[slot].name == name) return slot;
    }
    return specs_.size();
  }

  template <class Place>
  std::size_t input(std::string_view name, Place place) {
    const std::size_t slot = find(name);
    if (slot != specs_.size()) return slot;
    std::string all;
    for (const PredictSpec& spec : specs_) all += (all.empty() ? "" : ", ") + shown(spec.name);
    refuse("has " + place() + " with an input " + shown(name) + " that the model has not; it has " + all);
  }

  // The input that a value without a name is for.
  std::size_t only_input(const char* where) const {
    if (specs_.size() == 1) return 0;
    std::size_t slot = specs_.size();
    for (std::size_t i = 0; i < specs_.size(); ++i) {
      if (specs_[i].optional) continue;
      if (slot != specs_.size()) slot = specs_.size() + 1;
      if (slot == specs_.size()) slot = i;
    }
    if (slot >= specs_.size()) {
      refuse("has values without names in '" + std::string(where) + "', but the model has " +
             std::to_string(specs_.size()) + " inputs; send objects of values by input");
    }
    return slot;
  }

  // A value's text; what is in its brackets is not checked yet.
  static std::string_view passed(JsonCursor& cursor, std::size_t depth) {
    const char byte = cursor.peek();
    const char* const first = cursor.at();
    if (byte == '[' || byte == '{') return cursor.skip_brackets(depth);
    cursor.skip_value(depth);
    return {first, static_cast<std::size_t>(cursor.at() - first)};
  }

  // ---- rows

  void rows(JsonCursor cursor) {
    if (cursor.peek() != '[') refuse("has 'instances' that are no array");
    JsonCursor inside = cursor;
    inside.expect('[', "");
    if (inside.peek() == ']') refuse("has no instances; send at least one");
    if (!named(inside)) return whole("instances", only_input("instances"), cursor);
    JsonCursor counter = inside;
    std::size_t count = 0;
    do {
      check_row(counter, count++);
    } while (counter.take(','));
    counter.expect(']', "expected ',' or ']'");
    for (std::size_t slot = 0; slot < specs_.size(); ++slot) begin(slot, count, "instances");
    for (std::size_t row = 0; row < count; ++row) {
      if (row != 0) inside.expect(',', "expected ','");
      members(inside, [&](std::string_view name) {
        Column& column = columns_[find(name)];
        const std::string_view value = passed(inside, 3);
        column.converter->call_it("instances", row);
        column.end = column.converter->convert(value, column.end);
      });
    }
  }

  // The first row says which inputs there are; every other has the same.
  void check_row(JsonCursor& cursor, std::size_t row) {
    const auto place = [&] { return "instances[" + std::to_string(row) + "]"; };
    if (cursor.peek() != '{') refuse("has " + place() + " that is no object, as instances[0] is");
    members(cursor, [&](std::string_view name) {
      Column& column = columns_[input(name, place)];
      if (column.rows == row + 1) refuse("has input " + shown(name) + " twice in " + place() + "; send it once");
      if (column.rows != row) refuse("has input " + shown(name) + " in " + place() + ", but not in instances[0]");
      ++column.rows;
      const std::string_view value = passed(cursor, 3);
      if (row == 0) column.first = value;
      column.text_bytes += value.size();
    });
    for (std::size_t slot = 0; slot < specs_.size(); ++slot) {
      if (columns_[slot].rows == row && row != 0 && !columns_[slot].first.empty()) {
        refuse("has no input " + shown(specs_[slot].name) + " in " + place() + ", which instances[0] has");
      }
    }
  }

  // ---- columns

  void columns(JsonCursor cursor) {
    if (!named(cursor)) return whole("inputs", only_input("inputs"), cursor);
    members(cursor, [&](std::string_view name) {
      const std::size_t slot = input(name, [] { return std::string("'inputs'"); });
      if (columns_[slot].converter) refuse("has input " + shown(name) + " twice; send it once");
      const JsonCursor value = cursor;
      static_cast<void>(passed(cursor, 2));
      whole("inputs", slot, value);
    });
  }

  // One value is the whole tensor.
  void whole(const char* place, std::size_t slot, JsonCursor cursor) {
    Column& column = columns_[slot];
    column.first = passed(cursor, 1);
    column.text_bytes = column.first.size();
    begin(slot, 0, place);
    column.converter->call_it(place);
    column.end = column.converter->convert(column.first, column.end);
  }

  // Makes room for `rows` values like the first; 0: for that one as it is.
  void begin(std::size_t slot, std::size_t rows, const char* place) {
    Column& column = columns_[slot];
    if (column.first.empty()) return;
    const PredictSpec& spec = specs_[slot];
    const auto limit = [&](const std::string& what) {
      refuse("has " + std::string(place) + " for input " + shown(spec.name) + " of " + what);
    };
    JsonCursor cursor(column.first);
    infer_json_shape(cursor, 0, limits_.max_dims, column.row_shape);
    const std::optional<std::size_t> elements = element_count(column.row_shape.dims());
    if (!elements) limit("more elements than can be addressed");
    std::vector<std::int64_t> dims;
    if (rows != 0) dims.push_back(static_cast<std::int64_t>(rows));
    for (const std::int64_t dim : column.row_shape.dims()) dims.push_back(dim);
    if (dims.size() > limits_.max_dims) {
      limit("more dimensions than the limit of " + std::to_string(limits_.max_dims) + " (--max-dims)");
    }
    const std::optional<std::size_t> all = checked_multiply(*elements, rows == 0 ? 1 : rows);
    // Every element is a character of its own at least, so rows that need more are shorter than the first.
    if (!all || *all > column.text_bytes) limit("rows that are not nested as the first is");
    const bool strings = spec.dtype == DType::kBytes;
    const std::optional<std::size_t> size =
        checked_multiply(*all, strings ? sizeof(std::uint32_t) : element_size(spec.dtype));
    if (!size) limit("more bytes than can be addressed");
    Result<Block> block = pool_.allocate(*size + (strings ? column.text_bytes : 0));
    if (!block) throw Refusal{block.status()};
    column.tensor.dtype = spec.dtype;
    column.tensor.shape.assign(dims);
    column.tensor.data = block->data();
    column.end = block->data();
    column.tensor.block = std::move(*block);
    column.converter.emplace(spec.name, spec.dtype, column.row_shape, *elements, false);
  }

  void finish() {
    for (std::size_t slot = 0; slot < specs_.size(); ++slot) {
      Column& column = columns_[slot];
      if (!column.converter) {
        if (specs_[slot].optional) continue;
        refuse("has no input " + shown(specs_[slot].name) + "; the model needs it");
      }
      column.tensor.size = static_cast<std::size_t>(column.end - column.tensor.data);
      request_.inputs.push_back({slot, std::move(column.tensor)});
    }
  }

  JsonCursor cursor_;
  std::span<const PredictSpec> specs_;
  const InferLimits& limits_;
  JsonStrings& strings_;
  Pool& pool_;
  PredictRequest& request_;
  std::vector<Column> columns_;
  std::size_t next_ = 0;  // of specs_
  std::string key_;       // the name in hand, where it had escapes
};

// ---------------------------------------------------------------------------------------------------------------------
// Response

bool as_base64(const ResponseOutput& output) {
  return output.tensor->dtype == DType::kBytes && output.name.ends_with("_bytes");
}

class Writer {
 public:
  Writer(const ResponseOutput& output, std::string& out)
      : output_(output), dims_(output.tensor->shape.dims()), elements_(*output.tensor, as_base64(output)), out_(out) {}

  // The value whose dimensions are those from `level` on.
  void value(std::size_t level) {
    if (level == dims_.size()) return run(1);
    out_ += '[';
    const auto count = static_cast<std::size_t>(dims_[level]);
    if (level + 1 == dims_.size()) {
      run(count);
    } else {
      for (std::size_t i = 0; i < count; ++i) {
        if (i != 0) out_ += ',';
        value(level + 1);
      }
    }
    out_ += ']';
  }

 private:
  void run(std::size_t count) {
    if (elements_.append(count, out_)) return;
    throw Refusal{invalid_argument(
        "output '" + std::string(output_.name) + "': element " + std::to_string(elements_.next()) +
        " is not UTF-8, so JSON cannot hold it; give the output a name that ends in _bytes to have it as base64, or "
        "ask for it as binary on /v2 (the binary tensor data extension)")};
  }

  const ResponseOutput& output_;
  std::span<const std::int64_t> dims_;
  JsonElements elements_;
  std::string& out_;
};

void write_rows(std::span<const ResponseOutput> outputs, std::string& out) {
  std::vector<Writer> writers;
  writers.reserve(outputs.size());
  for (const ResponseOutput& output : outputs) {
    const Shape& shape = output.tensor->shape;
    if (shape.rank() == 0 || shape[0] != outputs[0].tensor->shape[0]) {
      throw Refusal{invalid_argument("output '" + std::string(output.name) + "' of shape " + shape.to_string() +
                                     " cannot be told apart by rows (output '" + std::string(outputs[0].name) +
                                     "' has the shape " + outputs[0].tensor->shape.to_string() +
                                     "); send the request in column form, with 'inputs'")};
    }
    writers.emplace_back(output, out);
  }
  out += "{\"predictions\":[";
  const std::int64_t rows = outputs.empty() ? 0 : outputs[0].tensor->shape[0];
  for (std::int64_t row = 0; row < rows; ++row) {
    if (row != 0) out += ',';
    if (writers.size() == 1) {
      writers[0].value(1);
      continue;
    }
    char before = '{';
    for (std::size_t i = 0; i < writers.size(); ++i) {
      out += before;
      before = ',';
      append_json_string(outputs[i].name, out);
      out += ':';
      writers[i].value(1);
    }
    out += '}';
  }
  out += "]}";
}

void write_columns(std::span<const ResponseOutput> outputs, std::string& out) {
  out += "{\"outputs\":";
  if (outputs.size() == 1) {
    Writer(outputs[0], out).value(0);
  } else {
    out += '{';
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (i != 0) out += ',';
      append_json_string(outputs[i].name, out);
      out += ':';
      Writer(outputs[i], out).value(0);
    }
    out += '}';
  }
  out += '}';
}

}  // namespace

Status PredictReader::decode(std::span<const std::byte> body, std::span<const PredictSpec> specs,
                             const InferLimits& limits, Pool& pool, PredictRequest& request) {
  request.inputs.clear();
  request.signature_name = {};
  strings_.clear();
  const std::string_view text(reinterpret_cast<const char*>(body.data()), body.size());
  try {
    Decoder(text, specs, limits, strings_, pool, request).decode();
    return {};
  } catch (Refusal& refusal) {
    request.inputs.clear();
    return std::move(refusal.status);
  } catch (JsonDataRefusal& refusal) {
    request.inputs.clear();
    return std::move(refusal.status);
  } catch (const JsonError& error) {
    request.inputs.clear();
    return invalid_argument("predict request is not valid JSON: " + error.what + ", at byte " +
                            std::to_string(error.at - text.data()));
  }
}

std::size_t predict_response_bytes(std::span<const ResponseOutput> outputs) {
  std::size_t bytes = 64;
  for (const ResponseOutput& output : outputs) bytes += 64 + output.name.size() + json_data_bytes(*output.tensor);
  return bytes;
}

Status encode_predict_response(std::span<const ResponseOutput> outputs, PredictForm form, OutMessage& out) {
  out.clear();
  out.own.reserve(predict_response_bytes(outputs));
  try {
    form == PredictForm::kRows ? write_rows(outputs, out.own) : write_columns(outputs, out.own);
    return {};
  } catch (Refusal& refusal) {
    out.clear();
    return std::move(refusal.status);
  }
}

}  // namespace headrace::wire
