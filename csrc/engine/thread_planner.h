// Which threads a model's session is made with: those that its configuration names, those that an earlier load of the
// same file found, or those that a trial finds now.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "base/error.h"
#include "base/sync.h"
#include "engine/thread_trial.h"
#include "memory/pool.h"

namespace headrace {

struct Model;
struct ModelSpec;

// Thread-safe.
class ThreadPlanner {
 public:
  // `busy`: requests are in flight. `company`: models of other names are served, or being loaded.
  ThreadPlanner(int cores, int lanes, Pool& pool, const Clock& clock, std::function<bool()> busy,
                std::function<bool(const std::string& name)> company);

  // Before the model is loaded: the plan to make its session with.
  ThreadDecision before(const ModelSpec& spec, const Backend& backend) const;
  // After: where nothing is decided yet, a trial decides, and the model gets the session of the best plan. `model` has
  // its session, its policy and what before() has said.
  Status settle(const ModelSpec& spec, Backend& backend, Model& model);

  static Result<std::unique_ptr<Session>> load(Backend& backend, const ModelSpec& spec, const ThreadPlan& plan);

 private:
  class Turn;
  static constexpr std::size_t kMostKept = 4096;

  std::vector<ThreadPlan> plans(const ModelSpec& spec) const;

  const int cores_;
  const int lanes_;
  Pool& pool_;
  const Clock& clock_;
  const std::function<bool()> busy_;
  const std::function<bool(const std::string&)> company_;
  mutable Mutex mutex_;
  CondVar tried_;
  bool trying_ HEADRACE_GUARDED_BY(mutex_) = false;
  std::map<std::string, ThreadDecision> kept_ HEADRACE_GUARDED_BY(mutex_);  // by file, options and company
};

}  // namespace headrace
