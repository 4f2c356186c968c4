// A model's place in the dispatcher, and a lane's: what the dispatcher, its promises and its records share. Nobody else
// looks inside.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "batching/heap.h"
#include "batching/queue.h"
#include "schedule/batch_log.h"
#include "schedule/demand.h"
#include "schedule/dispatcher.h"
#include "schedule/fair_share.h"
#include "schedule/lane_share.h"

namespace headrace {

// Where a model stands among those that are ready; the least is first.
struct Rank {
  bool patient = false;  // it has no target: after those that have one
  Nanos key = kNever;    // when its turn is; of one that can wait, the tag of its fair share
  std::uint64_t sequence = kNoSequence;
  auto operator<=>(const Rank&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 sees one here
};

struct Dispatcher::Entry {
  static constexpr double kAllLanes = 1e9;
  static constexpr std::size_t kNoLimit = static_cast<std::size_t>(-1);

  Entry(std::string name, BatchingPolicy policy, int most_lanes, void* owner, Costs* known)
      : queue(std::move(name), std::move(policy)),
        max_lanes(most_lanes),
        allowed_lanes(most_lanes),
        delays(queue.policy().max_queue_delay > 0),
        unruly(queue.policy().priority_levels > 1 || queue.policy().delays_late()),
        model(owner),
        costs(known) {}

  Queue queue;
  int max_lanes;      // that run it at a time, as things are
  int allowed_lanes;  // at most
  LaneShare share;
  double most_promised = kAllLanes;     // lanes, for what waits with targets
  std::size_t most_waiting = kNoLimit;  // of these
  Nanos promised = 0;                   // their work, lane time
  bool delays;                          // a batch may wait for its queue delay
  bool unruly;                          // its order is not by time alone
  void* model;
  Costs* costs;
  ResourceRoom::Needs needs;  // of each batch
  bool outrun = false;        // Promises::see_needs
  bool lacks = false;         // a lane would run it, but for these
  bool lacks_named = false;   // then: not for cores alone
  Turn turn;                  // of its next batch, as Ready knows it
  Rank rank;                  // the same, among the models
  bool promoted = false;      // it goes before targets, this once
  FairShare::Account account;
  int number = 0;                   // in the forecast that is being made
  Nanos open_cost = 0;              // of its queue, as it was last accounted
  std::size_t counted = 0;          // and its tickets
  bool waits = false;               // the same: it has a target
  std::unique_ptr<Demand> patient;  // work of its queued tickets that have none
  Nanos queued_work = 0;            // of all of them
  bool asks_cores = false;          // the same: it waits or runs, and keeps cores busy when it runs
  int lanes = 0;                    // that run it now
  std::size_t running = 0;          // tickets that these lanes have not settled
  std::vector<Ticket*> paused;      // that wait for credit
  bool takes_turns = false;         // its requests are answered in parts: one that runs may come back to wait
  BatchLog log;
  std::uint64_t refused = 0;  // because they were predicted to be late
  bool closed = false;
  bool parked = false;
  std::uint32_t urgent_place = kNoPlace;
  std::uint32_t patient_place = kNoPlace;
  std::uint32_t timed_place = kNoPlace;
};

struct LaneState {
  std::uint32_t device = 0;
  Dispatcher::Entry* entry = nullptr;
  Nanos end = 0;           // predicted, of its batch
  double variance = 0;     // of that, with 99 of 100 runs as one deviation
  Nanos latest = 0;        // and what 99 of 100 keep
  Nanos charged = kNever;  // to the fair share of its model; kNever: nothing
  std::size_t unsettled = 0;
  std::size_t wanted = 0;  // of the unsettled, those that somebody still waits for
  Nanos started = 0;       // when it took its batch
  BatchRecord record;      // of it
  std::optional<Interrupt> interrupt;
  std::vector<Ticket*> gone;
};

}  // namespace headrace
