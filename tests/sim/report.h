// What the simulation says: the invariants by name, a failure with the command that replays it, how often each
// interesting state was reached, and (on request) what happened when.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.h"

namespace headrace::sim {

// Each has a planted bug of its own that breaks it, where the name says so in plants.h.
enum class Invariant : std::uint8_t {
  kAnswered,    // every request is answered in the end
  kOnce,        // and once only
  kBatchLimit,  // a batch has at most max_batch_size rows
  kPoolZero,    // at the end no block is in use
  kOnTime,      // at its deadline a request is answered, queued or running
  kFair,        // the batch handed out is the right one: oldest first over all models, in order, never overtaken
  kLaneIdle,    // no request waits while a lane may run it, unless the batcher named a time
  kRightRows,   // an answer is the request's own rows
  kOnlyGuilty,  // an error goes to those that caused it
  kBounded,     // a queue refuses when it is full, and only then
  kInterrupt,   // a run is asked to stop when all of its requests are gone, and only then
  kPromise,     // where costs are known exactly, what is taken in with a target is answered by then
  kRefusal,     // nothing is refused for its target that could have been answered by then with nobody else about
  kStarved,     // what waits is passed for a bounded time only
  kShare,       // models that have work all the time get lane time by their weights
  kBudget,      // what runs needs no more than there is
  kDevice,      // a request goes to the device that answers it first
  kOneDevice,   // and runs there, with none of another's
  kBooks,       // counts and results of the dispatcher agree with what was done to it
};
std::string_view name(Invariant invariant);

// clang-format off
#define HEADRACE_SIM_STATES(X) \
  X(refused_full_tickets) X(refused_full_bytes) X(refused_closed) X(refused_late) X(no_room_for_input) \
  X(cancelled_queued) X(cancelled_running) X(cancelled_too_late) X(expired_queued) X(expired_running) \
  X(all_gone_interrupt) X(run_stopped) X(run_deaf_to_stop) X(rest_gone_interrupt) X(deleted_by_lane) \
  X(batch_of_one) X(batch_gathered) X(batch_full) X(batch_aged) X(batch_preferred) X(batch_passed_old) \
  X(waited_for_delay) X(model_capped) X(all_lanes_busy) X(halved) X(halved_again) X(halved_with_gone) \
  X(innocent_saved) X(guilty_alone) X(wrong_row_count) X(pool_refused) X(unload_with_queue) \
  X(unload_with_running) X(unload_while_idle) X(loaded_again) X(zero_rows) X(runs_alone_by_config) \
  X(not_batched) X(strings) X(optional_absent) X(output_not_wanted) X(unaligned_input) X(answer_kept) \
  X(many_shapes_waiting) X(refused_full_level) X(passed_by_target) X(passed_by_level) X(passed_put_off) \
  X(turn_of_longest) \
  X(exact_world) X(two_devices) X(refused_by_forecast) X(batch_cut_short) X(promise_kept) X(lane_held) X(patience_over) \
  X(slow_world) X(fewer_lanes) \
  X(fair_world) X(part_world) X(cores_short) X(resource_short) X(part_of_the_patient) \
  X(devices_plain) X(device_slow_left_idle) X(device_slow_used) X(device_second_chance) X(device_refused) \
  X(device_promise_kept) X(device_batch_gathered)
// clang-format on

enum class State : std::uint8_t {
#define X(state) k_##state,
  HEADRACE_SIM_STATES(X)
#undef X
      kCount
};

class Report {
 public:
  std::string replay;  // the command that runs this seed alone
  std::uint64_t seed = 0;
  const Nanos* now = nullptr;  // of the seed that runs
  bool trace = false;
  bool expect_violation = false;  // a planted bug
  Invariant expected = Invariant::kAnswered;
  std::string plant;

  // Prints and ends the process: 1, or 0 when this is what a planted bug had to break.
  [[noreturn]] void violated(Invariant invariant, const std::string& what) const;
  void reached(State state) { ++counts_[static_cast<std::size_t>(state)]; }
  bool tracing() const { return trace; }
  void say(const std::string& what) const;  // a line of the trace
  // Prints the table; false, and names them, if states were never reached.
  bool print_states() const;

 private:
  std::array<std::uint64_t, static_cast<std::size_t>(State::kCount)> counts_{};
};

}  // namespace headrace::sim

#define REACHED(report, state) (report).reached(::headrace::sim::State::k_##state)
// The text is made only when something is wrong.
#define REQUIRE(report, condition, invariant, what)                                     \
  do {                                                                                  \
    if (!(condition)) (report).violated(::headrace::sim::Invariant::invariant, (what)); \
  } while (false)
#define TRACE(report, what)                     \
  do {                                          \
    if ((report).tracing()) (report).say(what); \
  } while (false)
