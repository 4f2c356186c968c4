#include "engine/probe.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "engine/made_up.h"

namespace headrace {

namespace {

constexpr std::int64_t kRows = 4;
constexpr int kTries = 4;  // replacements of each row before "the answer does not change" is believed

// The rows of one input, each as its bytes.
using Rows = std::vector<std::string>;

struct Trial {
  std::vector<Shape> shapes;  // per input, dimension 0 included
  std::vector<Rows> rows;     // per input
};

class Probe {
 public:
  Probe(Session& session, Pool& pool, std::uint64_t seed)
      : session_(session), signature_(session.signature()), pool_(pool), values_(seed) {}

  ProbeResult run() {
    if (auto reason = no_candidate()) return {false, *reason};
    Status status;
    for (const std::int64_t inner : MadeUp::kInnerSizes) {
      Trial trial = make_trial(inner);
      std::vector<Tensor> base;
      status = answer(trial, kRows, base);
      if (status.ok()) return judge(trial, base);
      if (!inner_is_free()) break;
    }
    return {false, "a probe with four rows of made-up values cannot run (" + status.message() + ")"};
  }

 private:
  std::optional<std::string> no_candidate() const {
    if (signature_.inputs.empty()) return "it has no input";
    if (signature_.outputs.empty()) return "it has no output";
    for (const auto* specs : {&signature_.inputs, &signature_.outputs}) {
      const std::string kind = specs == &signature_.inputs ? "input '" : "output '";
      for (const TensorSpec& spec : *specs) {
        if (spec.any_rank) return kind + spec.name + "' states no shape";
        if (spec.dims.empty()) return kind + spec.name + "' is a scalar";
        if (spec.dims[0] >= 0)
          return kind + spec.name + "' has the fixed first dimension " + std::to_string(spec.dims[0]);
        for (std::size_t d = 1; d < spec.symbols.size(); ++d)
          if (!spec.symbols[d].empty() && spec.symbols[d] == spec.symbols[0])
            return kind + spec.name + "' has the batch dimension '" + spec.symbols[0] + "' as an inner one too";
      }
    }
    return std::nullopt;
  }

  bool inner_is_free() const {
    return std::any_of(signature_.inputs.begin(), signature_.inputs.end(), [](const TensorSpec& spec) {
      return std::any_of(spec.dims.begin() + 1, spec.dims.end(), [](std::int64_t dim) { return dim < 0; });
    });
  }

  std::size_t row_elements(const Trial& trial, std::size_t input) const {
    return element_count(trial.shapes[input].dims().subspan(1)).value_or(0);
  }

  Trial make_trial(std::int64_t inner) {
    Trial trial;
    for (const TensorSpec& spec : signature_.inputs) {
      std::vector<std::int64_t> dims = spec.dims;
      for (std::int64_t& dim : dims)
        if (dim < 0) dim = inner;
      dims[0] = kRows;
      trial.shapes.emplace_back(dims);
      trial.rows.emplace_back();
      for (std::int64_t row = 0; row < kRows; ++row)
        trial.rows.back().push_back(make_row(trial, trial.shapes.size() - 1, 1.0F, nullptr));
    }
    return trial;
  }

  std::string make_row(const Trial& trial, std::size_t input, float scale, const std::string* replaces) {
    const DType dtype = signature_.inputs[input].dtype;
    const std::size_t size = element_size(dtype);
    std::string bytes;
    for (std::size_t i = 0; i < row_elements(trial, input); ++i) {
      std::optional<bool> other;
      if (replaces != nullptr && size != 0) other = (*replaces)[i * size] != 0;
      values_.append(bytes, dtype, scale, other);
    }
    return bytes;
  }

  // Runs the first `rows` rows of the trial.
  Status answer(const Trial& trial, std::int64_t rows, std::vector<Tensor>& outputs) const {
    std::vector<Tensor> inputs;
    for (std::size_t i = 0; i < trial.rows.size(); ++i) {
      std::string bytes;
      for (std::int64_t row = 0; row < rows; ++row) bytes += trial.rows[i][static_cast<std::size_t>(row)];
      Result<Block> block = pool_.allocate(bytes.size());
      if (!block) return block.status();
      if (!bytes.empty()) std::memcpy(block->data(), bytes.data(), bytes.size());
      Tensor tensor;
      tensor.dtype = signature_.inputs[i].dtype;
      tensor.shape = trial.shapes[i];
      tensor.shape.set(0, rows);
      tensor.block = std::move(*block);
      tensor.data = tensor.block.data();
      tensor.size = bytes.size();
      inputs.push_back(std::move(tensor));
    }
    const std::vector<std::uint8_t> wanted(signature_.outputs.size(), 1);
    BatchRun batch;
    batch.inputs = inputs;
    batch.wanted = wanted;
    batch.pool = &pool_;
    Status status = session_.run(batch);
    outputs = std::move(batch.outputs);
    return status;
  }

  std::optional<std::string> wrong_rows(const std::vector<Tensor>& outputs, std::int64_t rows) const {
    for (std::size_t i = 0; i < outputs.size(); ++i)
      if (outputs[i].shape.rank() == 0 || outputs[i].shape[0] != rows)
        return "output '" + signature_.outputs[i].name + "' has shape " + outputs[i].shape.to_string() + " for " +
               std::to_string(rows) + (rows == 1 ? " row" : " rows");
    return std::nullopt;
  }

  // The bytes of each row of an output that has kRows rows.
  static std::vector<std::string_view> split(const Tensor& tensor) {
    std::vector<std::string_view> rows;
    const std::size_t elements = element_count(tensor.shape.dims().subspan(1)).value_or(0);
    const auto* bytes = reinterpret_cast<const char*>(tensor.data);
    std::size_t offset = 0;
    for (std::int64_t row = 0; row < kRows; ++row) {
      const std::size_t end = tensor.dtype == DType::kBytes ? skip_strings(tensor.bytes(), offset, elements)
                                                            : offset + elements * element_size(tensor.dtype);
      rows.emplace_back(bytes + offset, end - offset);
      offset = end;
    }
    return rows;
  }

  ProbeResult judge(Trial& trial, const std::vector<Tensor>& base) {
    if (auto reason = wrong_rows(base, kRows)) return {false, *reason};
    std::vector<Tensor> one;
    if (Status status = answer(trial, 1, one); !status.ok())
      return {false, "it runs with four rows but not with one (" + status.message() + ")"};
    if (auto reason = wrong_rows(one, 1)) return {false, *reason};

    bool changed = false;
    for (int attempt = 0; attempt < kTries && !changed; ++attempt) {
      for (std::size_t row = 0; row < kRows; ++row) {
        Trial other = trial;
        for (std::size_t i = 0; i < other.rows.size(); ++i) {
          // Larger than the rest, so that a scale taken over the whole batch is sure to move.
          const std::string* replaces = attempt % 2 == 0 ? &trial.rows[i][row] : nullptr;
          other.rows[i][row] = make_row(trial, i, 3.0F, replaces);
        }
        std::vector<Tensor> answers;
        if (Status status = answer(other, kRows, answers); !status.ok())
          return {false, "a probe with one row replaced cannot run (" + status.message() + ")"};
        if (auto reason = wrong_rows(answers, kRows)) return {false, *reason};
        for (std::size_t i = 0; i < answers.size(); ++i) {
          const std::string name = signature_.outputs[i].name;
          if (!std::ranges::equal(answers[i].shape.dims(), base[i].shape.dims()))
            return {false, "the shape of output '" + name + "' depends on the values of the batch"};
          const auto before = split(base[i]);
          const auto after = split(answers[i]);
          for (std::size_t k = 0; k < kRows; ++k) {
            if (before[k] == after[k]) continue;
            if (k != row) return {false, "one row's values change another row's '" + name + "'"};
            changed = true;
          }
        }
      }
    }
    if (!changed) return {false, "a probe's answers do not depend on its values, so nothing can be said of its rows"};
    return {true, "a probe found that its rows do not depend on each other"};
  }

  Session& session_;
  const Signature& signature_;
  Pool& pool_;
  MadeUp values_;
};

}  // namespace

ProbeResult probe_batching(Session& session, Pool& pool, std::uint64_t seed) {
  return Probe(session, pool, seed).run();
}

}  // namespace headrace
