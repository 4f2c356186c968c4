#include "engine/warmup.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/made_up.h"

namespace headrace {
namespace {

constexpr Nanos kEnough = 2 * kSecond;                    // by default: no size is begun that would make it longer
constexpr std::uint32_t kRunsOfASize = 2;                 // the first one allocates, the second one tells the time
constexpr std::size_t kMostBytes = std::size_t{1} << 30;  // of one input

// Stands in for the scheduler: one ticket, which nobody answers but the run itself.
class Alone final : public Ledger, public RunObserver {
 public:
  void still_running(std::span<Ticket* const> tickets, std::vector<Ticket*>& out) override {
    out.assign(tickets.begin(), tickets.end());
  }
  TicketChain settle(Dispatcher::Entry* /*entry*/, std::span<Ticket* const> tickets) override {
    TicketChain chain;
    for (Ticket* ticket : tickets) {
      ticket->state = TicketState::kDone;
      chain.append(ticket);
    }
    return chain;
  }
  void answer(TicketChain /*chain*/) override {}
  void ran(const RunRecord& record) noexcept override { time = record.infer_end - record.infer_start; }

  Nanos time = 0;
};

class Warmup {
 public:
  Warmup(const Model& model, Pool& pool, const Clock& clock)
      : model_(model), pool_(pool), execution_(0, pool, clock), runnable_(model.runnable) {
    runnable_.observer = &alone_;
  }

  Status sample(const WarmupSample& sample) {
    const std::string label = "model_warmup '" + sample.name + "': ";
    const std::int64_t rows = model_.batched() ? sample.batch_size : 1;
    if (rows < 1 || (model_.batched() && rows > model_.policy.max_batch_size)) {
      return invalid_argument(label + "batch_size is " + std::to_string(rows) + "; it must be 1 to max_batch_size (" +
                              std::to_string(model_.policy.max_batch_size) + ")");
    }
    std::vector<Tensor> inputs;
    if (Status status = fill(sample, rows, inputs); !status.ok()) return {status.code(), label + status.message()};
    for (std::uint32_t i = 0; i < std::max(1U, sample.count); ++i) {
      if (Status status = run(inputs, rows); !status.ok()) {
        return invalid_argument(label + "its run failed: " + status.message());
      }
    }
    return {};
  }

  // One row, a few sizes between, a whole batch: for each dynamic inner size until one runs.
  std::string by_default() {
    std::string why = "it has no input";
    for (const std::int64_t inner : MadeUp::kInnerSizes) {
      Status status = sizes(inner);
      if (status.ok()) return {};
      why = status.message();
      if (!inner_is_free()) break;
    }
    return why;
  }

  WarmupReport& report() { return report_; }

 private:
  bool inner_is_free() const {
    const std::size_t outer = model_.batched() ? 1 : 0;
    return std::ranges::any_of(model_.signature.inputs, [outer](const TensorSpec& spec) {
      return spec.any_rank ||
             std::any_of(spec.dims.begin() + static_cast<std::ptrdiff_t>(std::min(outer, spec.dims.size())),
                         spec.dims.end(), [](std::int64_t dim) { return dim < 0; });
    });
  }

  Status sizes(std::int64_t inner) {
    const std::int64_t most = model_.batched() ? model_.policy.max_batch_size : 1;
    Nanos spent = 0;
    for (std::int64_t rows = 1; rows <= most; rows = rows == most ? most + 1 : std::min(rows * 4, most)) {
      std::vector<Tensor> inputs;
      for (const TensorSpec& spec : model_.signature.inputs) {
        Tensor& tensor = inputs.emplace_back();
        if (spec.optional) continue;
        std::vector<std::int64_t> dims = spec.dims;
        for (std::int64_t& dim : dims)
          if (dim < 0) dim = inner;
        if (model_.batched()) dims[0] = rows;
        if (Status status = fill(spec, WarmupInput::Data::kRandom, dims, {}, 1, tensor); !status.ok()) return status;
      }
      for (std::uint32_t i = 0; i < kRunsOfASize; ++i) {
        if (Status status = run(inputs, rows); !status.ok()) return rows == 1 ? status : Status();
        spent += report_.runs.back().time;
      }
      // The next size has up to four times the rows, twice.
      if (spent + 8 * report_.runs.back().time > kEnough) break;
    }
    return {};
  }

  Status fill(const WarmupSample& sample, std::int64_t rows, std::vector<Tensor>& inputs) {
    inputs.assign(model_.signature.inputs.size(), Tensor());
    for (const WarmupInput& input : sample.inputs) {
      const std::optional<std::size_t> place = model_.inputs.find(input.name);
      if (!place)
        return invalid_argument("the model has no input '" + input.name + "'; it has " + model_.inputs.listed());
      const TensorSpec& spec = model_.signature.inputs[*place];
      if (input.dtype != spec.dtype) {
        return invalid_argument("input '" + input.name + "' has data_type " + std::string(dtype_name(input.dtype)) +
                                "; the model takes " + std::string(dtype_name(spec.dtype)));
      }
      std::vector<std::int64_t> dims = input.dims;
      if (model_.batched()) dims.insert(dims.begin(), rows);
      const bool fits =
          spec.any_rank ||
          (dims.size() == spec.dims.size() &&
           std::equal(dims.begin(), dims.end(), spec.dims.begin(),
                      [](std::int64_t has, std::int64_t states) { return has >= 0 && (states < 0 || has == states); }));
      if (!fits) {
        return invalid_argument("input '" + input.name + "' has dims " + Shape(input.dims).to_string() +
                                (model_.batched() ? ", without the batch dimension" : "") + "; the model takes " +
                                Shape(spec.dims).to_string());
      }
      if (Status status = fill(spec, input.data, dims, input.bytes, rows, inputs[*place]); !status.ok()) return status;
    }
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!inputs[i] && !model_.signature.inputs[i].optional)
        return invalid_argument("input '" + model_.signature.inputs[i].name + "' is missing");
    }
    return {};
  }

  // `given` is repeated `times` times.
  Status fill(const TensorSpec& spec, WarmupInput::Data data, const std::vector<std::int64_t>& dims,
              const std::string& given, std::int64_t times, Tensor& tensor) {
    const std::optional<std::size_t> elements = element_count(dims);
    const std::size_t size = std::max<std::size_t>(element_size(spec.dtype), 1);
    if (!elements || *elements > kMostBytes / size)
      return invalid_argument("input '" + spec.name + "' would be larger than 1 GiB");
    std::string bytes;
    if (data == WarmupInput::Data::kGiven) {
      const std::size_t copies = model_.batched() && times > 0 ? static_cast<std::size_t>(times) : 1;
      for (std::size_t i = 0; i < copies; ++i) bytes += given;
      const std::span<const std::byte> view(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size());
      if (spec.dtype == DType::kBytes) {
        if (Status status = check_bytes_tensor(view, *elements); !status.ok())
          return invalid_argument("the file of input '" + spec.name + "': " + status.message());
      } else if (bytes.size() != *elements * size) {
        return invalid_argument("the file of input '" + spec.name + "' has " + std::to_string(given.size()) +
                                " bytes; its dims need " + std::to_string(*elements * size / copies));
      }
    } else if (data == WarmupInput::Data::kZero) {
      bytes.assign(*elements * (spec.dtype == DType::kBytes ? sizeof(std::uint32_t) : size), '\0');
    } else {
      for (std::size_t i = 0; i < *elements; ++i) values_.append(bytes, spec.dtype);
    }
    Result<Block> block = pool_.allocate(bytes.size());
    if (!block) return block.status();
    if (!bytes.empty()) std::memcpy(block->data(), bytes.data(), bytes.size());
    tensor.dtype = spec.dtype;
    tensor.shape = Shape(dims);
    tensor.block = std::move(*block);
    tensor.data = tensor.block.data();
    tensor.size = bytes.size();
    return {};
  }

  Status run(const std::vector<Tensor>& inputs, std::int64_t rows) {
    Ticket ticket;
    ticket.state = TicketState::kRunning;
    ticket.inputs = inputs;
    ticket.rows = rows;
    ticket.wanted.assign(model_.signature.outputs.size(), 1);
    Interrupt never;
    Dispatcher::Assignment assignment;
    assignment.tickets.push_back(&ticket);
    assignment.rows = rows;
    assignment.interrupt = &never;
    execution_.run(assignment, runnable_, alone_);
    if (!ticket.status.ok()) return ticket.status;
    WarmupRun& run = report_.runs.emplace_back();
    run.rows = rows;
    run.time = alone_.time;
    for (const Tensor& input : inputs) {
      run.dtypes.push_back(input.dtype);
      run.shapes.push_back(input.shape);
    }
    return {};
  }

  const Model& model_;
  Pool& pool_;
  Execution execution_;
  Runnable runnable_;
  Alone alone_;
  MadeUp values_{1};
  WarmupReport report_;
};

}  // namespace

Result<WarmupReport> warm_up(const Model& model, const WarmupPlan& plan, Pool& pool, const Clock& clock) {
  Warmup warmup(model, pool, clock);
  std::string why_not;
  for (const WarmupSample& sample : plan.samples) {
    if (Status status = warmup.sample(sample); !status.ok()) return status;
  }
  if (plan.samples.empty() && plan.made_up) why_not = warmup.by_default();
  WarmupReport report = std::move(warmup.report());
  Nanos sum = 0;
  for (const WarmupRun& run : report.runs) sum += run.time;
  if (!why_not.empty()) {
    report.note = "not warmed up: made-up values cannot run (" + why_not + "); model_warmup can say which do";
  } else if (!report.runs.empty()) {
    report.note = "warmed up with " + std::to_string(report.runs.size()) + " runs in " +
                  std::to_string(sum / kMillisecond) + " ms";
  }
  return report;
}

}  // namespace headrace
