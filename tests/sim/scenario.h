// What a seed makes up: models with their policies and their runtime's moods, and requests whose every value says whose
// it is, so that a swapped row shows.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "batching/queue.h"
#include "batching/request.h"
#include "memory/pool.h"
#include "random.h"
#include "reference.h"
#include "report.h"

namespace headrace::sim {

struct ModelPlan {
  std::string name;
  BatchingPolicy policy;
  int max_lanes = 1;
  double weight = 1;
  Needs needs;
  int shapes = 1;
  bool strings = false;      // a second input, of strings, that a request may leave out
  int guilty_percent = 0;    // requests that make every run fail that holds them
  std::int64_t fragile = 0;  // a run of more rows fails; 0: none does
  bool deaf = false;         // does not hear a stop
  Nanos run_fixed = 0;
  Nanos run_row = 0;
  std::int64_t knee = 0;  // rows from which each further one takes twice as long; 0: none
  int slow_percent = 0;

  Nanos run_time(std::int64_t rows, int slowness) const {
    const std::int64_t beyond = knee > 0 && rows > knee ? rows - knee : 0;
    return (run_fixed + run_row * (rows + beyond)) * slowness / 100;
  }

  bool batched() const { return policy.max_batch_size > 0; }  // dimension 0 is the batch
};

struct Scenario {
  int lanes = 1;
  std::size_t pool_cap = 0;
  std::vector<ModelPlan> models;
  int requests = 0;
  int burst = 1;
  Nanos gap = 0;  // most, between bursts
  int deadline_percent = 0;
  Nanos deadline = 0;  // most, after arrival
  int cancel_percent = 0;
  Nanos cancel = 0;  // most, after arrival
  int unloads = 0;
  int keep_percent = 0;  // answers that their caller holds on to for a while
  // The dispatcher is told exactly what runs cost, and nothing else delays them: then what it takes in is in time.
  bool exact = false;
  // So slow that the dispatcher follows what it sees of arrivals many times.
  bool slow = false;
  // All comes at once and nothing has a target: lane time has to go by weight.
  bool fair = false;
  // Every model but the first has targets, and they are too many: the first has to get its part.
  bool part = false;
  Needs room;                          // 0: as much as anybody likes
  std::vector<std::uint32_t> devices;  // of the lanes
  std::vector<int> device_slowness;    // in per cent of the fastest's time

  int slowness(std::uint32_t device) const { return device_slowness[device]; }

  static Scenario make(Random& random);
};

enum class Guilt : std::uint8_t { kNone, kFails, kWrongRows };

enum class Stage : std::uint8_t { kRefused, kQueued, kRunning, kAnswered };

// The world's own record of a request.
struct Request {
  std::uint64_t id = 0;
  int model = 0;      // in the scenario
  int placement = 0;  // of the model in the reference: another after each load
  std::int64_t rows = 1;
  std::int64_t width = 1;
  int shape = 0;
  bool with_strings = false;
  bool wants_echo = true;
  std::size_t bytes = 0;
  Guilt guilt = Guilt::kNone;
  Nanos deadline = kNever;
  Nanos since = 0;
  Nanos target = kNever;         // the earlier of its deadline and its model's objective
  std::uint64_t last_batch = 0;  // of its model by which it has its turn, where turns are what keeps it alive
  Stage stage = Stage::kRefused;
  bool cancel_planned = false;
  bool cancelled = false;
  int lane = -1;
  Ticket* ticket = nullptr;  // until it is answered
};

inline constexpr std::size_t kEcho = 0;     // output 0: input 0, every value one higher
inline constexpr std::size_t kStrings = 1;  // output 1: input 1 as it is
// In a value of a guilty request.
inline constexpr std::int64_t kFailsFlag = std::int64_t{1} << 60;
inline constexpr std::int64_t kWrongRowsFlag = std::int64_t{1} << 61;

// A request of this model and its ticket; null when the pool has no room for its inputs.
std::unique_ptr<Ticket> make_ticket(Request& request, const ModelPlan& plan, bool exact, Pool& pool, Random& random,
                                    Report& report);
// What is wrong with the answer's outputs; empty when they are the request's own rows.
std::optional<std::string> wrong_rows(const Request& request, const ModelPlan& plan, const Ticket& ticket);

}  // namespace headrace::sim
