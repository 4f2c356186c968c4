#include "backend/echo.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

#include "base/check.h"

namespace headrace {

namespace {

// The bytes that a row starts with when it holds `text` as its first element; empty if the dtype has no such reading.
template <class T>
std::vector<std::byte> number_bytes(const std::string& text) {
  T value{};
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || rest != text.data() + text.size()) return {};
  std::vector<std::byte> bytes(sizeof(T));
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

std::vector<std::byte> element_bytes(DType dtype, const std::string& text) {
  switch (dtype) {
    case DType::kBool:
    case DType::kUint8:
      return number_bytes<std::uint8_t>(text);
    case DType::kUint16:
      return number_bytes<std::uint16_t>(text);
    case DType::kUint32:
      return number_bytes<std::uint32_t>(text);
    case DType::kUint64:
      return number_bytes<std::uint64_t>(text);
    case DType::kInt8:
      return number_bytes<std::int8_t>(text);
    case DType::kInt16:
      return number_bytes<std::int16_t>(text);
    case DType::kInt32:
      return number_bytes<std::int32_t>(text);
    case DType::kInt64:
      return number_bytes<std::int64_t>(text);
    case DType::kFp32:
      return number_bytes<float>(text);
    case DType::kFp64:
      return number_bytes<double>(text);
    case DType::kBytes: {
      std::vector<std::byte> bytes(sizeof(std::uint32_t) + text.size());
      const auto length = static_cast<std::uint32_t>(text.size());
      std::memcpy(bytes.data(), &length, sizeof(length));
      std::memcpy(bytes.data() + sizeof(length), text.data(), text.size());
      return bytes;
    }
    default:
      return {};
  }
}

struct EchoModel {
  Signature signature;
  std::vector<std::size_t> sources;  // per output: the input that it gives back
  std::vector<std::byte> fail_on;
  std::vector<std::byte> hold_on;
  bool by_rows = false;  // an answer for each row
  bool marks_last = false;
};

std::size_t rows_of(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.shape.rank() == 0 ? 1 : tensor.shape[0]);
}

// A row is a slice along dimension 0; a scalar is one row. Where the one behind that at `offset` begins.
std::size_t row_end(const Tensor& tensor, std::size_t offset) {
  const std::size_t elements = element_count(tensor.shape.dims()).value_or(0) / rows_of(tensor);
  return tensor.dtype == DType::kBytes ? skip_strings(tensor.bytes(), offset, elements)
                                       : offset + elements * element_size(tensor.dtype);
}

bool starts_with(std::span<const std::byte> bytes, std::span<const std::byte> start) {
  return !start.empty() && bytes.size() >= start.size() && std::equal(start.begin(), start.end(), bytes.begin());
}

struct Stop {
  Mutex mutex;
  CondVar changed;
  bool asked HEADRACE_GUARDED_BY(mutex) = false;

  static void ask(void* context) {
    auto* stop = static_cast<Stop*>(context);
    const MutexLock lock(stop->mutex);
    stop->asked = true;
    stop->changed.notify_all();
  }
  void wait() {
    const MutexLock lock(mutex);
    while (!asked) changed.wait(mutex);
  }
};

Status hold(Interrupt* interrupt) {
  if (interrupt == nullptr) return {Code::kFailedPrecondition, "hold_on needs a run that can be stopped."};
  Stop stop;
  interrupt->arm(&Stop::ask, &stop);
  stop.wait();
  interrupt->disarm();
  return {Code::kCancelled, "The run was stopped: nobody waits for its answer any more."};
}

Status failed_row() { return internal_error("A row starts with the value that fail_on names."); }

// Row by row.
class EchoParts final : public PartRun {
 public:
  EchoParts(std::shared_ptr<const EchoModel> model, std::span<const Tensor> inputs)
      : model_(std::move(model)), rows_(rows_of(inputs[model_->sources.front()])), offsets_(inputs.size(), 0) {}

  Status next(BatchRun& batch, bool& last) override {
    if (row_ == rows_) {
      last = true;
      return {};
    }
    std::vector<Tensor> outputs(batch.wanted.size());
    std::vector<std::size_t> ends = offsets_;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const std::size_t source = model_->sources[i];
      const Tensor& input = batch.inputs[source];
      ends[source] = row_end(input, offsets_[source]);
      const std::span<const std::byte> row = input.bytes().subspan(offsets_[source], ends[source] - offsets_[source]);
      if (i == 0 && starts_with(row, model_->fail_on)) return failed_row();
      if (i == 0 && starts_with(row, model_->hold_on))
        if (Status held = hold(batch.interrupt); !held.ok()) return held;
      if (batch.wanted[i] == 0) continue;
      Result<Block> block = batch.pool->allocate(row.size());
      if (!block) return block.status();
      std::vector<std::int64_t> dims(input.shape.dims().begin(), input.shape.dims().end());
      if (!dims.empty()) dims[0] = 1;
      outputs[i].dtype = input.dtype;
      outputs[i].shape = Shape(dims);
      outputs[i].block = std::move(*block);
      outputs[i].data = outputs[i].block.data();
      outputs[i].size = row.size();
      if (!row.empty()) std::memcpy(outputs[i].block.data(), row.data(), row.size());
    }
    offsets_ = std::move(ends);
    ++row_;
    last = model_->marks_last && row_ == rows_;
    batch.outputs = std::move(outputs);
    return {};
  }

 private:
  const std::shared_ptr<const EchoModel> model_;
  const std::size_t rows_;
  std::size_t row_ = 0;
  std::vector<std::size_t> offsets_;  // of this row, by input
};

class EchoSession final : public Session {
 public:
  explicit EchoSession(EchoModel model) : shared_(std::make_shared<const EchoModel>(std::move(model))) {}
  const Signature& signature() const override { return model_.signature; }
  bool decoupled() const override { return model_.by_rows; }

  Result<std::unique_ptr<PartRun>> begin(BatchRun& batch) override {
    HEADRACE_CHECK(batch.inputs.size() == model_.signature.inputs.size());
    HEADRACE_CHECK(batch.wanted.size() == model_.signature.outputs.size());
    if (Status checked = check(batch.inputs); !checked.ok()) return checked;
    const Tensor& first = batch.inputs[model_.sources.front()];
    for (const std::size_t source : model_.sources) {
      if (rows_of(batch.inputs[source]) == rows_of(first)) continue;
      return invalid_argument("Inputs of a model that answers row by row must have as many rows as each other.");
    }
    return std::unique_ptr<PartRun>(std::make_unique<EchoParts>(shared_, batch.inputs));
  }

  Status run(BatchRun& batch) override {
    HEADRACE_CHECK(batch.inputs.size() == model_.signature.inputs.size());
    HEADRACE_CHECK(batch.wanted.size() == model_.signature.outputs.size());
    batch.outputs.clear();
    if (Status checked = check(batch.inputs); !checked.ok()) return checked;
    const Tensor& first = batch.inputs[model_.sources.front()];
    if (has_row(first, model_.fail_on)) return failed_row();
    if (has_row(first, model_.hold_on))
      if (Status held = hold(batch.interrupt); !held.ok()) return held;
    std::vector<Tensor> outputs(batch.wanted.size());
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (batch.wanted[i] == 0) continue;
      const Tensor& input = batch.inputs[model_.sources[i]];
      Result<Block> block = batch.pool->allocate(input.size);
      if (!block) return block.status();
      outputs[i].dtype = input.dtype;
      outputs[i].shape = input.shape;
      outputs[i].block = std::move(*block);
      outputs[i].data = outputs[i].block.data();
      outputs[i].size = input.size;
      if (input.size != 0) std::memcpy(outputs[i].block.data(), input.data, input.size);
    }
    batch.outputs = std::move(outputs);
    return {};
  }

 private:
  Status check(std::span<const Tensor> inputs) const {
    std::map<std::string, std::int64_t> symbols;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const TensorSpec& spec = model_.signature.inputs[i];
      const Tensor& tensor = inputs[i];
      const std::string what = "Input '" + spec.name + "' ";
      if (!tensor) {
        if (spec.optional) continue;
        return invalid_argument(what + "is missing.");
      }
      if (tensor.dtype != spec.dtype)
        return invalid_argument(what + "has datatype " + std::string(dtype_name(tensor.dtype)) + "; the model takes " +
                                std::string(dtype_name(spec.dtype)) + ".");
      bool fits = tensor.shape.rank() == spec.dims.size();
      for (std::size_t d = 0; fits && d < spec.dims.size(); ++d) {
        fits = spec.dims[d] < 0 || spec.dims[d] == tensor.shape[d];
        if (fits && !spec.symbols[d].empty())
          fits = symbols.try_emplace(spec.symbols[d], tensor.shape[d]).first->second == tensor.shape[d];
      }
      if (!fits)
        return invalid_argument(what + "has shape " + tensor.shape.to_string() + ", which does not fit the model's " +
                                Shape(spec.dims).to_string() + " or another input.");
      if (tensor.dtype != DType::kBytes) {
        if (tensor_bytes(tensor.dtype, tensor.shape.dims()) != tensor.size)
          return invalid_argument(what + "has " + std::to_string(tensor.size) + " bytes, which is not what shape " +
                                  tensor.shape.to_string() + " takes.");
        continue;
      }
      const std::optional<std::size_t> count = element_count(tensor.shape.dims());
      if (!count) return invalid_argument(what + "has an impossible shape.");
      if (Status strings = check_bytes_tensor(tensor.bytes(), *count); !strings.ok())
        return invalid_argument(what + ": " + strings.message());
    }
    return {};
  }

  static bool has_row(const Tensor& tensor, std::span<const std::byte> start) {
    if (start.empty() || element_count(tensor.shape.dims()).value_or(0) == 0) return false;
    std::size_t offset = 0;
    for (std::size_t row = 0; row < rows_of(tensor); ++row) {
      if (starts_with(tensor.bytes().subspan(offset), start)) return true;
      offset = row_end(tensor, offset);
    }
    return false;
  }

  const std::shared_ptr<const EchoModel> shared_;
  const EchoModel& model_ = *shared_;
};

// Reads a model file line by line; the first thing wrong ends it.
class Parser {
 public:
  explicit Parser(const std::string& path) : path_(path) {}

  Result<EchoModel> parse(std::istream& text) {
    std::string line;
    while (std::getline(text, line)) {
      ++line_;
      std::istringstream words(line.substr(0, line.find('#')));
      std::string word;
      if (!(words >> word)) continue;
      if (Status status = statement(word, words); !status.ok()) return status;
    }
    return finish();
  }

 private:
  Status wrong(const std::string& what) const {
    return invalid_argument("Model file " + path_ + ", line " + std::to_string(line_) + ": " + what + ".");
  }

  Status statement(const std::string& word, std::istringstream& words) {
    if (word == "input" || word == "optional") return input(words, word == "optional");
    std::string key;
    if (!(words >> key)) return wrong("'" + word + "' needs a value");
    if (word == "output") {
      outputs_.push_back(key);
    } else if (word == "metadata") {
      std::string value;
      std::getline(words >> std::ws, value);
      model_.signature.metadata[key] = value;
    } else if (word == "fail_on") {
      fail_on_ = key;
    } else if (word == "hold_on") {
      hold_on_ = key;
    } else if (word == "answers") {
      std::string more;
      words >> more;
      if (key != "rows" || (!more.empty() && more != "last")) return wrong("answers are 'rows' or 'rows last'");
      model_.by_rows = true;
      model_.marks_last = !more.empty();
    } else {
      return wrong("'" + word + "' is none of input, optional, output, metadata, fail_on, hold_on, answers");
    }
    return {};
  }

  Status input(std::istringstream& words, bool optional) {
    TensorSpec spec;
    std::string dtype;
    std::string dims;
    if (!(words >> spec.name >> dtype)) return wrong("an input needs a name, a datatype and dims");
    std::getline(words >> std::ws, dims);
    std::erase_if(dims, [](char c) { return c == ' ' || c == '\t' || c == '\r'; });
    const std::optional<DType> parsed = parse_dtype(dtype);
    if (!parsed) return wrong("'" + dtype + "' is no datatype");
    if (dims.size() < 2 || dims.front() != '[' || dims.back() != ']') return wrong("dims are written [2,batch,-1]");
    spec.dtype = *parsed;
    spec.optional = optional;
    std::istringstream list(dims.substr(1, dims.size() - 2));
    for (std::string dim; std::getline(list, dim, ',');) {
      std::int64_t size = -1;
      const auto [rest, error] = std::from_chars(dim.data(), dim.data() + dim.size(), size);
      const bool number = error == std::errc() && rest == dim.data() + dim.size();
      if (dim.empty() || (number && size < -1)) return wrong("'" + dim + "' is no dimension");
      spec.dims.push_back(number ? size : -1);
      spec.symbols.push_back(number ? "" : dim);
    }
    model_.signature.inputs.push_back(std::move(spec));
    return {};
  }

  Result<EchoModel> finish() {
    for (std::size_t i = 0; i < model_.signature.inputs.size(); ++i) {
      if (model_.signature.inputs[i].optional) continue;
      TensorSpec output = model_.signature.inputs[i];
      if (model_.sources.size() < outputs_.size()) output.name = outputs_[model_.sources.size()];
      model_.signature.outputs.push_back(std::move(output));
      model_.sources.push_back(i);
    }
    if (model_.sources.empty()) return wrong("there is no input");
    if (outputs_.size() > model_.sources.size()) return wrong("there are more outputs than inputs");
    const DType first = model_.signature.outputs.front().dtype;
    for (const auto& [text, bytes, name] :
         {std::tuple(&fail_on_, &model_.fail_on, "fail_on"), std::tuple(&hold_on_, &model_.hold_on, "hold_on")}) {
      if (text->empty()) continue;
      *bytes = element_bytes(first, *text);
      if (bytes->empty())
        return wrong(std::string(name) + " '" + *text + "' cannot be read as " + std::string(dtype_name(first)));
    }
    return std::move(model_);
  }

  const std::string& path_;
  int line_ = 0;
  EchoModel model_;
  std::vector<std::string> outputs_;
  std::string fail_on_;
  std::string hold_on_;
};

class Echo final : public Backend {
 public:
  std::string_view name() const override { return "echo"; }
  std::string version() const override { return ""; }

  Result<std::unique_ptr<Session>> load(const std::string& model_file, const std::string& model_dir,
                                        const SessionOptions& options) override {
    static_cast<void>(model_dir);  // an echo model refers to nothing outside
    static_cast<void>(options);    // and there is nothing to set
    std::ifstream text(model_file);
    if (!text) return Status(Code::kNotFound, "Model file " + model_file + " cannot be opened.");
    Result<EchoModel> model = Parser(model_file).parse(text);
    if (!model) return model.status();
    return std::unique_ptr<Session>(std::make_unique<EchoSession>(std::move(*model)));
  }
};

}  // namespace

Result<std::shared_ptr<Backend>> open_echo(const BackendOptions& options) {
  static_cast<void>(options);  // it has no runtime to find
  return std::shared_ptr<Backend>(std::make_shared<Echo>());
}

}  // namespace headrace
