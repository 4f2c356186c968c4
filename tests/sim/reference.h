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
  std::uint32_t level = 0;
  Nanos target = kNever;
  Nanos patience = kPatience;
  Nanos put_off = kNever;  // when a timeout sends it behind its level's others
};

// What a model's batch needs while it runs.
struct Needs {
  std::uint32_t cores = 0;
  std::uint32_t named = 0;  // of one resource that all share
};

// The next batch of a model that has a lane to run on.
struct Pick {
  int model = -1;
  bool urgent = false;   // a request with a target waits in the model
  Nanos when = kNever;   // its turn among the urgent ones
  bool overdue = false;  // its first request has lost its patience
  bool fits = false;     // what it needs is free
  bool certain = false;  // and nobody who may go before it waits for that
  std::vector<std::uint64_t> ids;
  std::int64_t rows = 0;
  bool preferred = false;   // cut at a preferred size
  bool aged = false;        // due because its oldest has waited its delay
  bool full = false;        // closed by a ticket that does not fit, or exactly full
  bool passed_old = false;  // an older request of the model waits on
  bool by_target = false;   // it passed an older one of its own shape
  bool by_level = false;    // the same, because of its level
  bool turn = false;        // the longest waiting one's, though others go before it
  bool was_put_off = false;
};

class Reference {
 public:
  int add(const BatchingPolicy& policy, int max_lanes, const Needs& needs);
  void set_room(const Needs& room) { room_ = room; }
  void close(int model) { models_[static_cast<std::size_t>(model)].waiting.clear(); }
  // Empty when there is room for `bytes` more; else why not.
  enum class Room { kYes, kTooMany, kTooManyBytes, kTooManyOfLevel };
  Room room(int model, std::size_t bytes, std::uint32_t level) const;
  void join(int model, const Waiting& request);
  void leave(int model, std::uint64_t id);  // cancelled, expired or taken
  void took(int model);                     // a batch of it
  void lane(int model, int change);
  void allow(int model, int lanes) { models_[static_cast<std::size_t>(model)].max_lanes = lanes; }

  std::vector<Pick> picks(Nanos now) const;                      // what a free lane may get, one a model
  Nanos next_time(Nanos now) const;                              // when nothing is due: when something will be
  bool could_run(int model, std::uint64_t id, Nanos now) const;  // a free lane may take the batch that it is in
  bool capped(Nanos now) const;  // a model has a batch due and all the lanes it may have
  std::size_t waiting(int model) const { return models_[static_cast<std::size_t>(model)].waiting.size(); }
  std::size_t bytes(int model) const;

 private:
  struct Model {
    BatchingPolicy policy;
    int max_lanes = 1;
    Needs needs;
    int lanes = 0;
    int batches = 0;               // since the last one that the longest waiting began
    std::vector<Waiting> waiting;  // in order of arrival
    bool turns() const { return policy.priority_levels > 1 || policy.delays_late(); }
    bool batched() const { return policy.dynamic_batching && policy.max_batch_size > 0; }
  };
  using Group = std::vector<Waiting>;

  static bool before(const Waiting& a, const Waiting& b, Nanos now);
  static std::vector<Group> groups(const Model& model, Nanos now);
  static const Waiting& oldest(const Group& group);
  static bool preferred(const Model& model, std::int64_t rows);
  static bool aged(const Model& model, const Group& group, Nanos now);
  static bool due(const Model& model, const Group& group, Nanos now);
  static Pick batch(const Model& model, const Group& group, Nanos now);
  static Pick own(const Model& model, Nanos now);
  bool fits_cores(const Needs& needs) const;
  bool fits_named(const Needs& needs) const;
  bool may_keep(const Pick& first, const Pick& second) const;

  Needs room_;  // 0: as much as anybody likes
  Needs used_;
  std::vector<Model> models_;
};

}  // namespace headrace::sim
