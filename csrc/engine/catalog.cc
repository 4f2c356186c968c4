#include "engine/catalog.h"

#include <utility>

namespace headrace {

void Catalog::add(const std::string& name, const std::string& version, std::shared_ptr<Model> model) {
  names_[name][version] = Target{std::move(model), ""};
}

void Catalog::add_unavailable(const std::string& name, const std::string& version, const std::string& reason) {
  names_[name][version] = Target{nullptr, reason};
}

Result<Model*> Catalog::resolve(std::string_view name, std::string_view version) const {
  const auto found = names_.find(name);
  if (found == names_.end()) {
    return Status(Code::kNotFound, "model '" + std::string(name) + "' is not in the model repository");
  }
  const auto target = found->second.find(version);
  if (target == found->second.end()) {
    std::string listed;
    for (const auto& [known, served] : found->second) {
      if (!known.empty() && served.model != nullptr) listed.append(listed.empty() ? "" : ", ").append(known);
    }
    return Status(Code::kNotFound, "model '" + std::string(name) + "' has no version '" + std::string(version) +
                                       "'; it serves: " + (listed.empty() ? "none" : listed));
  }
  if (target->second.model == nullptr) {
    return Status(Code::kUnavailable, "model '" + std::string(name) + "' is not available: " + target->second.reason);
  }
  return target->second.model.get();
}

}  // namespace headrace
