// One loaded model version: what admission, scheduling and statistics know of it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "backend/backend.h"
#include "batching/queue.h"
#include "engine/stats.h"
#include "engine/thread_trial.h"
#include "schedule/devices.h"
#include "schedule/execution.h"

namespace headrace {

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

// Names of tensors -> places in the signature. Few names are compared one by one, many are hashed.
class NameIndex {
 public:
  NameIndex() = default;
  explicit NameIndex(const std::vector<TensorSpec>& specs);
  std::optional<std::size_t> find(std::string_view name) const;
  std::string listed() const;  // "'a', 'b'": for error texts

 private:
  static constexpr std::size_t kFew = 8;
  std::vector<std::string> names_;
  std::unordered_map<std::string, std::size_t, StringHash, std::equal_to<>> places_;
};

// One run before the version took traffic. A first run of a size also allocates: the fastest says what it costs.
struct WarmupRun {
  std::int64_t rows = 0;
  Nanos time = 0;             // in the runtime
  std::vector<DType> dtypes;  // of the inputs, in the signature's order; kInvalid where one was left out
  std::vector<Shape> shapes;  // batch dimension included
};

struct Model {
  std::string name;
  std::int64_t version = 0;
  std::string version_text;
  std::string backend;
  Signature signature;
  NameIndex inputs;
  NameIndex outputs;
  BatchingPolicy policy;                                // max_batch_size 0: not batched
  std::string batching_reason;                          // one sentence
  std::vector<WarmupRun> warmup_runs;                   // in the order in which they were run
  std::string warmup_note;                              // one clause; "" where none was asked for
  std::vector<std::vector<std::string>> output_labels;  // of classes; none, or one list for each output
  Placement placement;                                  // where its session really runs
  ThreadDecision threads;                               // of a run, and the lanes that may run it side by side
  Share share;                                          // what a batch needs while it runs
  bool decoupled = false;                               // answers a request any number of times
  int max_lanes = 0;                                    // as it was asked for; 0: as many as the cores are enough for
  // Dimensions under one symbol must agree: for each dimension of each input, the place of its symbol in a list of
  // `symbols` values, or -1.
  std::vector<std::vector<int>> symbol_places;
  std::size_t symbols = 0;

  std::unique_ptr<CostModel> costs;  // the scheduler's; null: it does not learn
  Runnable runnable;
  ModelCounters counters;
  ModelCounters* counts = nullptr;  // where its runs are counted; null: here
  Dispatcher::Entry* entry = nullptr;
  std::uint8_t device = kCpuLanes;  // whose lanes serve it
  // The same version on further devices: each with a session, costs and an entry of its own. They count as this one.
  std::vector<std::unique_ptr<Model>> twins;
  Places places;                     // where it may be served, where that is more than one
  std::unique_ptr<Session> session;  // gone after unload, and while it sleeps
  std::function<Result<std::unique_ptr<Session>>()> open_session;  // the same again, for when it is wanted

  // A request of it, for Devices.
  void address(Ticket& ticket) {
    ticket.device = places.empty() ? device : kAnyDevice;
    ticket.model = places.empty() ? static_cast<void*>(entry) : &places;
  }
  // This one and its twins.
  template <class Each>
  void for_each_place(Each each) {
    each(*this);
    for (const auto& twin : twins) each(*twin);
  }
  template <class Each>
  void for_each_place(Each each) const {
    each(*this);
    for (const auto& twin : twins) each(static_cast<const Model&>(*twin));
  }
  std::vector<Dispatcher::Entry*> entries() const {  // of all places
    std::vector<Dispatcher::Entry*> all;
    for_each_place([&all](const Model& place) { all.push_back(place.entry); });
    return all;
  }

  bool batched() const { return policy.max_batch_size > 0; }
  // Fills what follows from name, version, signature and policy.
  void complete();
  // Its warm-up runs tell what runs cost, until others do.
  void learn_from_warmup();
};

}  // namespace headrace
