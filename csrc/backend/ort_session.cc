#include "backend/ort_session.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>

#include "backend/ort_signature.h"
#include "base/check.h"

namespace headrace {

namespace {

using ort::Api;
using ort::Failure;
using ort::take;

constexpr int kUnwritten = 0xA5;  // what a block is filled with to see whether the runtime wrote to it

// Where a dimension of an output comes from.
struct DimSource {
  enum Kind : std::uint8_t { kFixed, kInput, kUnknown } kind = kUnknown;
  std::int64_t value = 0;  // kFixed
  std::size_t input = 0;   // kInput: the same as this dimension of this input
  std::size_t input_dim = 0;
};

// A guess of an output's shape lets the runtime write into a pooled block. The sources are what the model states (fixed
// dimensions, symbols it shares with an input) and one rule of thumb (dimension 0 of a batch is the same everywhere).
// No guess is trusted: the runtime refuses to write a tensor of another shape, the batch is then run again with outputs
// of the runtime's own, and a guess that turns out wrong is never made again. An output's first guess also checks that
// the block was written at all, because the runtime may hand out an input or a constant instead.
enum class Guess : std::uint8_t { kUnproven, kProven, kNever };

struct OutputPlan {
  std::vector<DimSource> dims;
  std::atomic<Guess> guess{Guess::kNever};
};

// Memory that a thread keeps from run to run, of whatever session.
struct Scratch {
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { drop_options(); }
  void drop_options() {
    if (options != nullptr) api.call<ort::ReleaseRunOptions>(std::exchange(options, nullptr));
  }

  std::vector<const char*> input_names;
  std::vector<ort::Value*> inputs;
  std::vector<const char*> output_names;
  std::vector<std::size_t> output_indices;
  std::vector<ort::Value*> outputs;
  std::vector<std::uint8_t> guessed;  // per entry of outputs
  std::vector<std::int64_t> dims;
  std::vector<std::size_t> offsets;
  const Pool* staged = nullptr;  // of the device that the thread's last run was on
  // Run options latch a stop, so they are dropped after one; until then a thread goes on with the same ones.
  Api api;
  ort::RunOptions* options = nullptr;
};

Scratch& thread_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

void release(Api api, std::vector<ort::Value*>& values) {
  for (ort::Value* value : values)
    if (value != nullptr) api.call<ort::ReleaseValue>(value);
  values.clear();
}

Status run_error(const Failure& failure) {
  if (failure.code == ort::Error::kInvalidArgument)
    return invalid_argument("ONNX Runtime refuses the inputs: " + failure.message);
  return internal_error("ONNX Runtime failed: " + failure.message);
}

// The stop of a run in progress: what the interrupt's hook gets.
struct Stop {
  Api api;
  ort::RunOptions* options;
  bool asked = false;

  static void ask(void* context) {
    auto* stop = static_cast<Stop*>(context);
    stop->asked = true;
    static_cast<void>(take(stop->api, stop->api.call<ort::RunOptionsSetTerminate>(stop->options)));
  }
};

class OrtSession final : public Session {
 public:
  OrtSession(const ort::Library& library, ort::SessionHandle session, Signature signature, const OnnxFile& file,
             Placement placement, std::shared_ptr<Pool> staging, std::unique_ptr<ort::SharedWeights::Loan> loan)
      : library_(library),
        api_(library.api()),
        loan_(std::move(loan)),
        session_(std::move(session)),
        signature_(std::move(signature)),
        placement_(std::move(placement)),
        staging_(std::move(staging)) {
    for (const TensorSpec& spec : signature_.inputs) input_elements_.push_back(ort::element_of(spec.dtype));
    plans_ = std::make_unique<OutputPlan[]>(signature_.outputs.size());
    for (std::size_t i = 0; i < signature_.outputs.size(); ++i) plan(signature_.outputs[i], file, plans_[i]);
  }

  const Signature& signature() const override { return signature_; }
  Placement placement() const override { return placement_; }
  std::vector<SharedMemory> shared_memory() const override {
    return loan_ == nullptr ? std::vector<SharedMemory>() : loan_->memory();
  }

  // Not before the thread's first run: only that sets the thread's device, and taking page-locked memory without one
  // begins to use the first GPU, whichever is meant.
  Pool* staging() const override {
    return staging_ != nullptr && thread_scratch().staged == staging_.get() ? staging_.get() : nullptr;
  }

  Status run(BatchRun& batch) override {
    HEADRACE_CHECK(batch.inputs.size() == signature_.inputs.size());
    HEADRACE_CHECK(batch.wanted.size() == signature_.outputs.size());
    Scratch& scratch = thread_scratch();
    Status status = bind_inputs(batch, scratch);
    if (status.ok()) {
      bool again = false;
      status = attempt(batch, scratch, true, again);
      if (again) status = attempt(batch, scratch, false, again);
    }
    release(api_, scratch.inputs);
    if (!status.ok()) batch.outputs.clear();
    return status;
  }

 private:
  void plan(const TensorSpec& output, const OnnxFile& file, OutputPlan& plan) const {
    const auto& inputs = signature_.inputs;
    const bool batched = !inputs.empty() && std::all_of(inputs.begin(), inputs.end(), [](const TensorSpec& input) {
      return input.optional || (!input.dims.empty() && input.dims[0] < 0);
    }) && !inputs[0].optional;
    for (std::size_t d = 0; d < output.dims.size(); ++d) {
      DimSource source;
      if (output.dims[d] >= 0) {
        source = {DimSource::kFixed, output.dims[d], 0, 0};
      } else {
        for (std::size_t i = 0; i < inputs.size() && source.kind == DimSource::kUnknown; ++i) {
          const auto& symbols = inputs[i].symbols;
          const auto found = std::find(symbols.begin(), symbols.end(), output.symbols[d]);
          if (!output.symbols[d].empty() && !inputs[i].optional && found != symbols.end())
            source = {DimSource::kInput, 0, i, static_cast<std::size_t>(found - symbols.begin())};
        }
        if (source.kind == DimSource::kUnknown && d == 0 && batched) source = {DimSource::kInput, 0, 0, 0};
      }
      plan.dims.push_back(source);
    }
    const bool known = std::none_of(plan.dims.begin(), plan.dims.end(),
                                    [](const DimSource& source) { return source.kind == DimSource::kUnknown; });
    const bool handed_on = file.inputs.contains(output.name) || file.initializers.contains(output.name);
    if (known && !handed_on && !output.any_rank && output.dtype != DType::kBytes)
      plan.guess.store(Guess::kUnproven, std::memory_order_relaxed);
  }

  Status bind_inputs(const BatchRun& batch, Scratch& scratch) const {
    scratch.input_names.clear();
    for (std::size_t i = 0; i < batch.inputs.size(); ++i) {
      const Tensor& tensor = batch.inputs[i];
      const TensorSpec& spec = signature_.inputs[i];
      if (!tensor) {
        if (spec.optional) continue;
        return invalid_argument("Input '" + spec.name + "' is missing.");
      }
      if (tensor.dtype != spec.dtype)
        return invalid_argument("Input '" + spec.name + "' has datatype " + std::string(dtype_name(tensor.dtype)) +
                                "; the model takes " + std::string(dtype_name(spec.dtype)) + ".");
      ort::Value* value = nullptr;
      const std::span<const std::int64_t> dims = tensor.shape.dims();
      Failure failure;
      if (tensor.dtype == DType::kBytes) {
        failure = take(api_, api_.call<ort::CreateTensorAsOrtValue>(library_.allocator(), dims.data(), dims.size(),
                                                                    ort::Element::kString, &value));
      } else {
        // The runtime only reads inputs; its one way of wrapping memory takes a plain pointer.
        failure = take(api_, api_.call<ort::CreateTensorWithDataAsOrtValue>(
                                 library_.cpu_memory(), const_cast<void*>(static_cast<const void*>(tensor.data)),
                                 tensor.size, dims.data(), dims.size(), input_elements_[i], &value));
      }
      if (failure) return invalid_argument("Input '" + spec.name + "': " + failure.message);
      scratch.inputs.push_back(value);
      scratch.input_names.push_back(spec.name.c_str());
      if (tensor.dtype == DType::kBytes)
        if (Status filled = fill_strings(tensor, spec, value); !filled.ok()) return filled;
    }
    return {};
  }

  // Element by element, since a string may hold any bytes, zeros included.
  Status fill_strings(const Tensor& tensor, const TensorSpec& spec, ort::Value* value) const {
    const std::optional<std::size_t> count = element_count(tensor.shape.dims());
    if (!count) return invalid_argument("Input '" + spec.name + "' has an impossible shape.");
    if (Status checked = check_bytes_tensor(tensor.bytes(), *count); !checked.ok())
      return invalid_argument("Input '" + spec.name + "': " + checked.message());
    const std::byte* from = tensor.data;
    for (std::size_t i = 0; i < *count; ++i) {
      std::uint32_t length = 0;
      std::memcpy(&length, from, sizeof(length));
      from += sizeof(length);
      char* element = nullptr;
      const Failure failure =
          take(api_, api_.call<ort::GetResizedStringTensorElementBuffer>(value, i, std::size_t{length}, &element));
      if (failure) return internal_error("Input '" + spec.name + "': " + failure.message);
      if (length != 0) std::memcpy(element, from, length);
      from += length;
    }
    return {};
  }

  // One run. With `guess`, outputs whose shape can be told get a pooled block beforehand; `again` comes back true when
  // that may be why the run failed, or when a block was not written.
  Status attempt(BatchRun& batch, Scratch& scratch, bool guess, bool& again) const {
    Outputs outputs(api_, scratch);
    // The second attempt compares with what the first one guessed.
    std::vector<Tensor> guesses;
    if (!guess) guesses = std::move(batch.outputs);
    batch.outputs.assign(signature_.outputs.size(), Tensor());
    bool guessed = false;
    for (std::size_t i = 0; i < signature_.outputs.size(); ++i) {
      if (batch.wanted[i] == 0) continue;
      ort::Value* value = nullptr;
      if (guess)
        if (Status placed = place(batch, scratch, i, value); !placed.ok()) return placed;
      outputs.add(signature_.outputs[i].name.c_str(), i, value);
      guessed = guessed || value != nullptr;
    }
    again = false;
    if (scratch.outputs.empty()) return {};

    const auto [failure, stopped] = execute(batch, scratch);
    if (staging_ != nullptr) scratch.staged = staging_.get();
    if (failure && stopped) return {Code::kCancelled, "The run was stopped: nobody waits for its answer any more."};
    if (failure) {
      again = guessed;  // the error's code does not tell a wrong guess from a wrong input
      return run_error(failure);
    }
    for (std::size_t k = 0; k < scratch.outputs.size(); ++k) {
      const std::size_t i = scratch.output_indices[k];
      Tensor& tensor = batch.outputs[i];
      if (scratch.guessed[k] != 0) {
        if (plans_[i].guess.load(std::memory_order_relaxed) == Guess::kUnproven && !prove(plans_[i], tensor))
          again = true;
        continue;
      }
      if (Status collected = collect(batch, scratch, scratch.outputs[k], tensor); !collected.ok()) return collected;
      if (!guesses.empty() && guesses[i] && !(guesses[i].shape == tensor.shape))
        plans_[i].guess.store(Guess::kNever, std::memory_order_relaxed);
    }
    return {};
  }

  // The names and values of a run's outputs, in the thread's scratch.
  class Outputs {
   public:
    Outputs(Api api, Scratch& scratch) : api_(api), scratch_(scratch) {
      scratch_.output_names.clear();
      scratch_.output_indices.clear();
      scratch_.guessed.clear();
    }
    ~Outputs() { release(api_, scratch_.outputs); }
    Outputs(const Outputs&) = delete;
    Outputs& operator=(const Outputs&) = delete;
    void add(const char* name, std::size_t index, ort::Value* value) {
      scratch_.output_names.push_back(name);
      scratch_.output_indices.push_back(index);
      scratch_.outputs.push_back(value);
      scratch_.guessed.push_back(value != nullptr ? 1 : 0);
    }

   private:
    Api api_;
    Scratch& scratch_;
  };

  // A pooled block for output `i` if its shape can be told; `value` stays null otherwise.
  Status place(BatchRun& batch, Scratch& scratch, std::size_t i, ort::Value*& value) const {
    const OutputPlan& plan = plans_[i];
    const Guess guess = plan.guess.load(std::memory_order_relaxed);
    if (guess == Guess::kNever) return {};
    scratch.dims.clear();
    for (const DimSource& source : plan.dims) {
      if (source.kind == DimSource::kFixed) {
        scratch.dims.push_back(source.value);
        continue;
      }
      const Tensor& input = batch.inputs[source.input];
      if (source.input_dim >= input.shape.rank()) return {};  // the runtime will refuse this input
      scratch.dims.push_back(input.shape[source.input_dim]);
    }
    const DType dtype = signature_.outputs[i].dtype;
    const std::optional<std::size_t> bytes = tensor_bytes(dtype, scratch.dims);
    if (!bytes) return {};
    Tensor& tensor = batch.outputs[i];
    // The device writes it. That staging has no room is no reason to refuse.
    Pool* staged = staging();
    if (staged == nullptr || !allocate(*staged, dtype, scratch.dims, *bytes, tensor).ok()) {
      if (Status allocated = allocate(*batch.pool, dtype, scratch.dims, *bytes, tensor); !allocated.ok())
        return allocated;
    }
    if (guess == Guess::kUnproven) std::memset(tensor.block.data(), kUnwritten, *bytes);
    const Failure failure = take(api_, api_.call<ort::CreateTensorWithDataAsOrtValue>(
                                           library_.cpu_memory(), static_cast<void*>(tensor.block.data()), *bytes,
                                           static_cast<const std::int64_t*>(scratch.dims.data()), scratch.dims.size(),
                                           ort::element_of(dtype), &value));
    if (failure) return internal_error("Output '" + signature_.outputs[i].name + "': " + failure.message);
    return {};
  }

  static Status allocate(Pool& pool, DType dtype, std::span<const std::int64_t> dims, std::size_t bytes,
                         Tensor& tensor) {
    Result<Block> block = pool.allocate(bytes);
    if (!block) return block.status();
    tensor.dtype = dtype;
    tensor.shape.assign(dims);
    tensor.block = std::move(*block);
    tensor.data = tensor.block.data();
    tensor.size = bytes;
    return {};
  }

  // False: the block was left as it was, and its output is never guessed again.
  static bool prove(OutputPlan& plan, const Tensor& tensor) {
    if (tensor.size == 0) return true;  // nothing to see; the next one will tell
    const bool written = std::any_of(tensor.data, tensor.data + tensor.size,
                                     [](std::byte byte) { return byte != std::byte{kUnwritten}; });
    plan.guess.store(written ? Guess::kProven : Guess::kNever, std::memory_order_relaxed);
    return written;
  }

  std::pair<Failure, bool> execute(const BatchRun& batch, Scratch& scratch) const {
    const auto run = [&](const ort::RunOptions* options) {
      return take(api_, api_.call<ort::Run>(
                            session_.get(), options, static_cast<const char* const*>(scratch.input_names.data()),
                            static_cast<const ort::Value* const*>(scratch.inputs.data()), scratch.inputs.size(),
                            static_cast<const char* const*>(scratch.output_names.data()), scratch.output_names.size(),
                            scratch.outputs.data()));
    };
    if (batch.interrupt == nullptr) return {run(nullptr), false};
    if (!(scratch.api == api_)) scratch.drop_options();
    if (scratch.options == nullptr) {
      scratch.api = api_;
      if (Failure failure = take(api_, api_.call<ort::CreateRunOptions>(&scratch.options)); failure)
        return {std::move(failure), false};
    }
    Stop stop{api_, scratch.options};
    batch.interrupt->arm(&Stop::ask, &stop);
    Failure failure = run(scratch.options);
    batch.interrupt->disarm();
    if (stop.asked) scratch.drop_options();
    return {std::move(failure), stop.asked};
  }

  // An output of the runtime's own, copied once into a pooled block.
  Status collect(const BatchRun& batch, Scratch& scratch, ort::Value* value, Tensor& tensor) const {
    ort::Owned<ort::TensorInfo, ort::ReleaseTensorTypeAndShapeInfo> info(api_);
    Failure failure =
        take(api_, api_.call<ort::GetTensorTypeAndShape>(static_cast<const ort::Value*>(value), info.out()));
    ort::Element element = ort::Element::kUndefined;
    std::size_t rank = 0;
    const ort::TensorInfo* shape = info.get();
    if (!failure) failure = take(api_, api_.call<ort::GetTensorElementType>(shape, &element));
    if (!failure) failure = take(api_, api_.call<ort::GetDimensionsCount>(shape, &rank));
    scratch.dims.resize(rank);
    if (!failure) failure = take(api_, api_.call<ort::GetDimensions>(shape, scratch.dims.data(), rank));
    if (failure) return run_error(failure);
    const DType dtype = ort::dtype_of(element);
    if (dtype == DType::kBytes) return collect_strings(batch, scratch, value, tensor);
    const std::optional<std::size_t> bytes = tensor_bytes(dtype, scratch.dims);
    if (!bytes) return internal_error("ONNX Runtime gave an output of an impossible shape.");
    if (Status allocated = allocate(*batch.pool, dtype, scratch.dims, *bytes, tensor); !allocated.ok())
      return allocated;
    void* data = nullptr;
    failure = take(api_, api_.call<ort::GetTensorMutableData>(value, &data));
    if (failure) return run_error(failure);
    if (*bytes != 0) std::memcpy(tensor.block.data(), data, *bytes);
    return {};
  }

  Status collect_strings(const BatchRun& batch, Scratch& scratch, const ort::Value* value, Tensor& tensor) const {
    const std::optional<std::size_t> count = element_count(scratch.dims);
    if (!count) return internal_error("ONNX Runtime gave an output of an impossible shape.");
    std::size_t content = 0;
    Failure failure = take(api_, api_.call<ort::GetStringTensorDataLength>(value, &content));
    if (failure) return run_error(failure);
    const std::size_t prefixes = *count * sizeof(std::uint32_t);
    if (Status allocated = allocate(*batch.pool, DType::kBytes, scratch.dims, prefixes + content, tensor);
        !allocated.ok())
      return allocated;
    if (*count == 0) return {};
    // The content goes to the end of the block and is then moved down element by element, behind each one's length:
    // what is written never reaches what is still to be read.
    std::byte* to = tensor.block.data();
    const std::byte* from = to + prefixes;
    scratch.offsets.resize(*count);
    failure = take(api_, api_.call<ort::GetStringTensorContent>(value, static_cast<void*>(to + prefixes), content,
                                                                scratch.offsets.data(), *count));
    if (failure) return run_error(failure);
    for (std::size_t i = 0; i < *count; ++i) {
      const std::size_t end = i + 1 < *count ? scratch.offsets[i + 1] : content;
      const std::size_t length = end - scratch.offsets[i];
      if (length > UINT32_MAX) return internal_error("ONNX Runtime gave a string of 4 GiB or more.");
      const auto prefix = static_cast<std::uint32_t>(length);
      std::memcpy(to, &prefix, sizeof(prefix));
      std::memmove(to + sizeof(prefix), from + scratch.offsets[i], length);
      to += sizeof(prefix) + length;
    }
    return {};
  }

  const ort::Library& library_;
  const Api api_;
  const std::unique_ptr<ort::SharedWeights::Loan> loan_;  // outlives the session; null: nothing is shared
  const ort::SessionHandle session_;
  const Signature signature_;
  const Placement placement_;
  const std::shared_ptr<Pool> staging_;  // of the session's allocator, so it goes first
  std::vector<ort::Element> input_elements_;
  std::unique_ptr<OutputPlan[]> plans_;
};

}  // namespace

std::unique_ptr<Session> make_ort_session(const ort::Library& library, ort::SessionHandle session, Signature signature,
                                          const OnnxFile& file, Placement placement, std::shared_ptr<Pool> staging,
                                          std::unique_ptr<ort::SharedWeights::Loan> loan) {
  return std::make_unique<OrtSession>(library, std::move(session), std::move(signature), file, std::move(placement),
                                      std::move(staging), std::move(loan));
}

}  // namespace headrace
