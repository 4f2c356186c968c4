// What the lanes will do with all that is queued, played through on predicted times by the rules of the dispatcher and
// the queues: who of those with a target will be late? It is how a request is refused at the door (admission control by
// simulating the schedule, as Clockwork does: Gujarati et al., OSDI 2020) and how a batch is kept from delaying what
// was promised. Pure; its memory is used again and again.
//
// With independent batches and one order for all, a batch starts when the first lane is free of what goes before it
// (Graham, "Bounds on multiprocessing timing anomalies", 1969), so what comes last in that order delays nothing before
// it. Deviations of a lane's runs are taken as independent: their squares add.
//
// Exact where costs are, but for what it does not play: queue delays that another arrival ends early, trials of sizes,
// and the turns that keep low priority levels alive. Of what is not known for sure the typical time is counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "batching/queue.h"
#include "schedule/resources.h"

namespace headrace {

class Forecast {
 public:
  static constexpr std::size_t kAllTickets = static_cast<std::size_t>(-1);
  struct Result {
    std::size_t late = 0;     // tickets with a target that are answered after it
    bool asked_late = false;  // the one that was asked for among them
    Nanos asked_end = 0;      // and when its batch ends, with 99 of 100 runs
  };

  // resources: as they are used now; null: there are none.
  void begin(Nanos now, const ResourceRoom* resources = nullptr);
  // Queued tickets of a model that `lanes` lanes run now; returns its number. queue: null where it is not played.
  int add_model(const Queue* queue, int lanes, int max_lanes, const ResourceRoom::Needs& needs = {});
  // A batch of this model is played although it has no target.
  void once(int model) { models_[static_cast<std::size_t>(model)].once = true; }
  // In the order in which idle lanes are offered work. model: which it runs until `end`, with that variance; -1: none.
  void add_lane(std::uint32_t device, int model, Nanos end, double variance);
  // Before all others the lane takes the first `tickets` of the model's group with this line.
  void take_first(int lane, int model, const Slot* line, std::size_t tickets);

  // Or it takes nothing until the next lane is free; when that is (kNever: no other lane is busy, and it may take).
  Nanos hold(int lane);

  // joins_before: ExtentRule's, of every batch. What came later without a target does not overtake either: no lane
  // takes it while one with a target stands before it whose model has all the lanes that it may have. It ends once
  // more than `most` tickets have started.
  Result run(std::uint64_t joins_before, const Ticket* asked = nullptr, std::size_t most = kAllTickets);

 private:
  struct Model {
    int lanes;
    int max_lanes;
    std::size_t groups_begin;
    std::size_t groups_end;
    const ResourceRoom::Needs* needs;  // null: none
    bool lacks;                        // something of these, in its turn
    bool lacks_named;                  // and not cores alone
    std::size_t targets;               // of its tickets that are left: without any it is not played
    bool once;                         // but for one batch
  };
  struct Lane {
    std::uint32_t device;
    int model;
    Nanos free;
    double variance;
  };
  struct Group {
    WaitingGroup waiting;
    std::size_t taken = 0;
    std::size_t targets = 0;  // of those that are left
    bool empty() const { return taken == waiting.slots.size(); }
    const OrderKey& key() const { return waiting.slots[taken].key; }
  };

  Group* next(Nanos now, std::uint64_t joins_before, int& model);
  bool overtakes(const Group& group) const;
  Nanos next_event(Nanos now) const;
  void release(Nanos now);
  void start(Lane& lane, int model, Group& group, std::size_t tickets, Nanos now, const Ticket* asked, Result& result);

  Group* first_in_order(Nanos now, int& model);
  bool must_wait(Model& model) const;

  Nanos now_ = 0;
  ResourceRoom room_;
  bool needs_ = false;  // a model has some
  std::vector<Model> models_;
  std::vector<Lane> lanes_;
  std::vector<Group> groups_;
  std::vector<WaitingGroup> waiting_;
  std::size_t targets_left_ = 0;
  Result forced_;  // of take_first
};

}  // namespace headrace
