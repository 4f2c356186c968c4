#include "engine/catalog.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

namespace headrace {

void Catalog::add(const std::string& name, const std::string& version, std::shared_ptr<Model> model) {
  names_[name][version] = Target{std::move(model), ""};
}

void Catalog::add_unavailable(const std::string& name, const std::string& version, const std::string& reason) {
  names_[name][version] = Target{nullptr, reason};
}

void Catalog::trace(const std::string& name, std::shared_ptr<TraceSampler> sampler) {
  samplers_[name] = std::move(sampler);
}

TraceSampler* Catalog::sampler(std::string_view name) const {
  if (samplers_.empty()) return nullptr;
  auto found = samplers_.find(name);
  if (found == samplers_.end()) found = samplers_.find(std::string_view());
  return found == samplers_.end() ? nullptr : found->second.get();
}

Result<Model*> Catalog::resolve(std::string_view name, std::string_view version) const {
  const auto found = names_.find(name);
  if (found == names_.end()) {
    return Status(Code::kNotFound, "model '" + std::string(name) + "' is not in the model repository");
  }
  const auto target = found->second.find(version);
  if (target == found->second.end()) {
    std::vector<std::string_view> served;
    for (const auto& [known, row] : found->second) {
      if (!known.empty() && row.model != nullptr) served.push_back(known);
    }
    const auto as_numbers = [](std::string_view text) { return std::pair(text.size(), text); };
    std::sort(served.begin(), served.end(),
              [&](std::string_view a, std::string_view b) { return as_numbers(a) < as_numbers(b); });
    std::string listed;
    for (const std::string_view known : served) listed.append(listed.empty() ? "" : ", ").append(known);
    return Status(Code::kNotFound, "model '" + std::string(name) + "' has no version '" + std::string(version) +
                                       "'; it serves: " + (listed.empty() ? "none" : listed));
  }
  if (target->second.model == nullptr) {
    return Status(Code::kUnavailable, "model '" + std::string(name) + "' is not available: " + target->second.reason);
  }
  return target->second.model.get();
}

}  // namespace headrace
