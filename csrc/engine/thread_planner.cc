#include "engine/thread_planner.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "engine/engine.h"

namespace headrace {

namespace {

// Whatever a decision depends on; "" when the file cannot be looked at. A file that was written again is another one.
std::string key_of(const ModelSpec& spec, bool in_company) {
  struct stat file {};
  if (::stat(spec.model_file.c_str(), &file) != 0) return {};
  std::string key = spec.backend + '\n' + spec.model_file + '\n';
  const auto add = [&key](auto number) { key += std::to_string(number) + ' '; };
  add(file.st_dev);
  add(file.st_ino);
  add(file.st_size);
  add(file.st_mtim.tv_sec);
  add(file.st_mtim.tv_nsec);
  add(spec.session.graph_optimization_level);
  add(spec.session.memory_arena ? 1 : 0);
  add(spec.session.memory_pattern ? 1 : 0);
  add(spec.session.share_weights ? 1 : 0);
  add(spec.batching_decided ? 1 : 0);
  add(spec.batching.dynamic_batching ? 1 : 0);
  add(spec.batching.max_batch_size);
  add(spec.max_lanes);
  add(in_company ? 1 : 0);
  for (const auto& [name, value] : spec.session.config_entries) key += '\n' + name + '=' + value;
  for (const Provider& provider : spec.session.providers) {
    key += '\n' + provider.name;
    for (const auto& [name, value] : provider.options) key += ' ' + name + '=' + value;
  }
  return key;
}

}  // namespace

// One trial at a time: two would measure each other.
class ThreadPlanner::Turn {
 public:
  explicit Turn(ThreadPlanner& planner) : planner_(planner) {
    MutexLock lock(planner_.mutex_);
    while (planner_.trying_) planner_.tried_.wait(planner_.mutex_);
    planner_.trying_ = true;
  }
  ~Turn() {
    MutexLock lock(planner_.mutex_);
    planner_.trying_ = false;
    planner_.tried_.notify_one();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  ThreadPlanner& planner_;
};

ThreadPlanner::ThreadPlanner(int cores, int lanes, Pool& pool, const Clock& clock, std::function<bool()> busy,
                             std::function<bool(const std::string&)> company)
    : cores_(cores), lanes_(lanes), pool_(pool), clock_(clock), busy_(std::move(busy)), company_(std::move(company)) {}

std::vector<ThreadPlan> ThreadPlanner::plans(const ModelSpec& spec) const {
  const SessionOptions& session = spec.session;
  if (session.intra_op_threads == 0 && !session.parallel_execution) return thread_plans(cores_, lanes_, spec.max_lanes);
  const int inter = session.parallel_execution ? std::max(session.inter_op_threads, 1) : 1;
  const int threads = std::max(session.intra_op_threads, 1);
  const int most = spec.max_lanes > 0 ? std::min(spec.max_lanes, lanes_) : lanes_;
  return {{threads, std::clamp(cores_ / (threads * inter), 1, most)}};
}

ThreadDecision ThreadPlanner::before(const ModelSpec& spec, const Backend& backend) const {
  ThreadDecision decision;
  decision.final = true;
  decision.plan = plans(spec).front();
  if (!backend.scales_with_threads()) {
    decision.reason = "its backend has no compute threads";
  } else if (spec.session.intra_op_threads != 0 || spec.session.parallel_execution) {
    decision.reason = "as configured";
  } else {
    const std::string key = key_of(spec, company_(spec.name));
    MutexLock lock(mutex_);
    if (const auto found = kept_.find(key); found != kept_.end()) {
      decision = found->second;
      decision.reason += " (when it was loaded before)";
    } else {
      decision.final = false;
    }
  }
  return decision;
}

Status ThreadPlanner::settle(const ModelSpec& spec, Backend& backend, Model& model) {
  if (model.threads.final) return {};
  if (model.session->placement().provider != "cpu") {
    model.threads.final = true;
    model.threads.reason = "it runs on a device of its own";
    return {};
  }
  ThreadTrialOptions options;
  options.plans = plans(spec);
  options.max_rows = model.policy.dynamic_batching ? model.policy.max_batch_size : 1;
  options.busy = busy_;
  options.clock = &clock_;
  options.in_company = company_(spec.name);
  const std::string key = key_of(spec, options.in_company);
  const ThreadPlan first = options.plans.front();
  const Turn turn(*this);
  model.threads = try_threads(
      *model.session, [&](const ThreadPlan& plan) { return load(backend, spec, plan); }, pool_, options);
  if (model.threads.final) {
    MutexLock lock(mutex_);
    if (kept_.size() >= kMostKept) kept_.erase(kept_.begin());
    if (!key.empty()) kept_[key] = model.threads;
  }
  if (model.threads.plan == first) return {};
  model.session.reset();  // before the other one is made: there are never more than two
  Result<std::unique_ptr<Session>> session = load(backend, spec, model.threads.plan);
  if (!session) return session.status();
  model.session = std::move(*session);
  return {};
}

Result<std::unique_ptr<Session>> ThreadPlanner::load(Backend& backend, const ModelSpec& spec, const ThreadPlan& plan) {
  SessionOptions options = spec.session;
  options.intra_op_threads = plan.threads;
  return backend.load(spec.model_file, spec.model_dir, options);
}

}  // namespace headrace
