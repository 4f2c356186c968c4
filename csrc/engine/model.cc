#include "engine/model.h"

#include <map>

#include "batching/shape_groups.h"

namespace headrace {

NameIndex::NameIndex(const std::vector<TensorSpec>& specs) {
  for (const TensorSpec& spec : specs) {
    if (specs.size() > kFew) places_.emplace(spec.name, names_.size());
    names_.push_back(spec.name);
  }
}

std::optional<std::size_t> NameIndex::find(std::string_view name) const {
  if (names_.size() <= kFew) {
    for (std::size_t i = 0; i < names_.size(); ++i) {
      if (names_[i] == name) return i;
    }
    return std::nullopt;
  }
  const auto place = places_.find(name);
  if (place == places_.end()) return std::nullopt;
  return place->second;
}

std::string NameIndex::listed() const {
  std::string text;
  for (const std::string& name : names_) text.append(text.empty() ? "'" : ", '").append(name).append("'");
  return text;
}

void Model::complete() {
  version_text = std::to_string(version);
  inputs = NameIndex(signature.inputs);
  outputs = NameIndex(signature.outputs);
  std::map<std::string, int> numbers;
  symbol_places.clear();
  for (const TensorSpec& input : signature.inputs) {
    std::vector<int>& row = symbol_places.emplace_back(input.dims.size(), -1);
    for (std::size_t d = 0; d < input.dims.size() && d < input.symbols.size(); ++d) {
      if (input.dims[d] >= 0 || input.symbols[d].empty()) continue;
      row[d] = numbers.emplace(input.symbols[d], static_cast<int>(numbers.size())).first->second;
    }
  }
  symbols = numbers.size();
  runnable.session = session.get();
  runnable.batched = batched();
  runnable.padding = policy.padding;
  runnable.output_names.clear();
  for (const TensorSpec& output : signature.outputs) runnable.output_names.push_back(output.name);
  runnable.output_labels = output_labels;
  runnable.observer = counts != nullptr ? counts : &counters;
  runnable.costs = costs.get();
}

void Model::learn_from_warmup() {
  if (costs == nullptr) return;
  std::vector<Tensor> given;
  for (const WarmupRun& run : warmup_runs) {
    given.assign(run.dtypes.size(), {});
    for (std::size_t i = 0; i < given.size(); ++i) {
      given[i].dtype = run.dtypes[i];
      given[i].shape = run.shapes[i];
    }
    const bool gathers = batched() && policy.dynamic_batching;
    costs->record_warmup({0, gathers ? shape_hash(given, policy.padding) : 0}, batched() ? run.rows : 1, run.time);
  }
}

}  // namespace headrace
