// The rules of batching and fairness said once more, as naively as can be: every question is answered by looking at
// every waiting request. The simulation compares each decision of the real dispatcher with this.
#pragma once

#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "batching/queue.h"

namespace headrace::sim {

struct Waiting {
  std::uint64_t id = 0;  // grows with arrival, over all models
  Nanos since = 0;
  std::int64_t rows = 0;
  int shape = 0;  // equal: may share a batch
  std::size_t bytes = 0;
};

struct Pick {
  int model = -1;  // none is due
  std::vector<std::uint64_t> ids;
  std::int64_t rows = 0;
  bool preferred = false;   // cut at a preferred size
  bool aged = false;        // due because its oldest has waited its delay
  bool full = false;        // closed by a ticket that does not fit, or exactly full
  bool passed_old = false;  // an older request of the model waits on
};

class Reference {
 public:
  int add(const BatchingPolicy& policy, int max_lanes);
  void close(int model) { models_[static_cast<std::size_t>(model)].waiting.clear(); }
  // Empty when there is room for `bytes` more; else why not.
  enum class Room { kYes, kTooMany, kTooManyBytes };
  Room room(int model, std::size_t bytes) const;
  void join(int model, const Waiting& request);
  void leave(int model, std::uint64_t id);  // cancelled, expired or taken
  void lane(int model, int change) { models_[static_cast<std::size_t>(model)].lanes += change; }

  Pick next(Nanos now) const;        // what a free lane has to get
  Nanos next_time(Nanos now) const;  // when nothing is due: when something will be
  bool capped(Nanos now) const;      // a model has a batch due and all the lanes it may have
  std::size_t waiting(int model) const { return models_[static_cast<std::size_t>(model)].waiting.size(); }
  std::size_t bytes(int model) const;

 private:
  struct Model {
    BatchingPolicy policy;
    int max_lanes = 1;
    int lanes = 0;
    std::vector<Waiting> waiting;  // in order of arrival
    bool batched() const { return policy.dynamic_batching && policy.max_batch_size > 0; }
  };
  using Group = std::vector<Waiting>;

  static std::vector<Group> groups(const Model& model);
  static bool preferred(const Model& model, std::int64_t rows);
  static bool aged(const Model& model, const Group& group, Nanos now);
  static bool due(const Model& model, const Group& group, Nanos now);
  static Pick batch(const Model& model, const Group& group, Nanos now);

  std::vector<Model> models_;
};

}  // namespace headrace::sim
