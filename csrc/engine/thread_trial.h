// How many compute threads should one run of a model have? Found out by short runs when the model is loaded, before it
// takes traffic; thread_choice judges what they show.
//
// Each plan is measured against the best one before it, in rounds that take turns, so that whatever else the machine
// does meanwhile falls on both; the loser's session goes before the next one is made. All of it happens on threads of
// the lowest priority, a round only starts while no request is in flight, and one that takes far too long is stopped.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/error.h"
#include "engine/sample.h"
#include "engine/thread_choice.h"
#include "memory/pool.h"

namespace headrace {

struct ThreadDecision {
  ThreadPlan plan;
  std::string reason;                 // one clause, without a full stop
  std::vector<ThreadFigures> trials;  // what was measured, in order
  bool final = true;                  // false: nothing could be measured now, and a later load may try again
};

struct ThreadTrialOptions {
  std::vector<ThreadPlan> plans;            // fewest threads first; the first one's session is there
  std::int64_t max_rows = 1;                // of a batch
  Nanos time = 300 * kMillisecond;          // of measuring, in all; a slow model's two rounds may take longer
  std::function<bool()> busy;               // requests are in flight
  bool in_company = false;                  // other models run on the same cores
  const Clock* clock = nullptr;             // that runs are measured by; null: the steady one
  Nanos patience = 200 * kMillisecond;      // to wait, in all, for a server that is busy
  Nanos shortest_run = 300 * kMicrosecond;  // of the larger batch: below, more threads cannot pay
  Nanos longest_run = kSecond;              // of one row: above, nothing is tried
};

// The session of `plan`, made on the thread that asks.
using SessionSource = std::function<Result<std::unique_ptr<Session>>(const ThreadPlan& plan)>;

// `first`: the session of the first plan. Sessions of the others come from `source` and are gone when this returns: the
// caller makes the chosen one anew, since compute threads keep the priority of the thread that has started them.
ThreadDecision try_threads(Session& first, const SessionSource& source, Pool& pool, const ThreadTrialOptions& options);

}  // namespace headrace
