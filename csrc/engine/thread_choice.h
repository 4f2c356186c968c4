// How many compute threads should one run of a model have, and how many lanes may then run it side by side? The pure
// half: which ways are worth a trial, and which of two is the better one by its figures. No session, thread or clock.
//
// Many requests at once are served best by as many runs as cores, each with one thread: nothing waits for anything. But
// such runs share caches and memory bandwidth, and a request alone leaves the other cores idle. So the way with the
// best throughput under load is taken, and of those that are as good as it the one that answers a lone request first.
//
// Where other models are served, a run that takes several cores also waits until so many are free at once: for the
// longest run of them all. No trial shows that, so there a way with fewer lanes must be better by far.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"

namespace headrace {

// threads x lanes never exceeds the cores.
struct ThreadPlan {
  int threads = 1;  // of one run, the lane included
  int lanes = 1;    // that run the model at one time
  bool operator==(const ThreadPlan&) const = default;
};

// What a trial measured of one plan, with all of its lanes busy.
struct ThreadFigures {
  ThreadPlan plan;
  std::int64_t rows = 1;     // of the larger batch
  double rate_one = 0;       // rows/s with batches of one row
  double rate_rows = 0;      // rows/s with batches of `rows` rows
  Nanos alone = 0;           // time of a run of one row with nothing beside it
  int rounds = 0;            // that the figures are medians of
  double best_rate() const;  // rows/s
};

// Plans to try, fewest threads first; the first has one. `lanes`: of the process; `max_lanes`: those that the model may
// use, 0 for all of them. At most four: on many cores the numbers of threads grow in larger steps.
std::vector<ThreadPlan> thread_plans(int cores, int lanes, int max_lanes);

struct ThreadVerdict {
  bool takes_over = false;  // the challenger is the better one
  bool go_on = false;       // even more threads may be better still
};
// `challenger` has more threads than `champion`. `in_company`: other models run on the same cores.
ThreadVerdict judge(const ThreadFigures& champion, const ThreadFigures& challenger, bool in_company);

double median(std::vector<double> values);  // 0 of none

}  // namespace headrace
