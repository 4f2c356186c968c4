// The routing snapshot: name and version -> model, immutable once published. Python builds it (that is policy); the
// data plane asks it one question.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/error.h"
#include "engine/model.h"
#include "engine/trace.h"

namespace headrace {

class Catalog {
 public:
  // `version` "" is what a request without a version gets. A second add of the same name and version replaces the
  // first.
  void add(const std::string& name, const std::string& version, std::shared_ptr<Model> model);
  // Requests for it get UNAVAILABLE with this reason.
  void add_unavailable(const std::string& name, const std::string& version, const std::string& reason);

  // Requests of this model are traced as the sampler says (null: not); "" is for all models that are not named.
  void trace(const std::string& name, std::shared_ptr<TraceSampler> sampler);

  // Null: no request of this model is traced.
  TraceSampler* sampler(std::string_view name) const;

  // NOT_FOUND: the name or the version is unknown. UNAVAILABLE: known, and not to be had now.
  Result<Model*> resolve(std::string_view name, std::string_view version) const;

 private:
  struct Target {
    std::shared_ptr<Model> model;  // null: unavailable
    std::string reason;
  };
  using Versions = std::map<std::string, Target, std::less<>>;
  std::unordered_map<std::string, Versions, StringHash, std::equal_to<>> names_;
  std::map<std::string, std::shared_ptr<TraceSampler>, std::less<>> samplers_;
};

}  // namespace headrace
