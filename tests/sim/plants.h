// Bugs that can be planted between the simulated world and the dispatcher, to show that each would be caught. None of
// them is in the product's code.
#pragma once

#include <array>
#include <string_view>

#include "report.h"

namespace headrace::sim {

enum class Plant : std::uint8_t {
  kNone,
  kLostTicket,        // an answer never reaches its sink
  kDoubleCompletion,  // an answer is delivered twice
  kBatchOverLimit,    // the batcher was told twice the model's max_batch_size
  kLeakedBlock,       // a failed run keeps a block of the pool
  kMissedDeadline,    // nobody looks at deadlines while every lane is busy
  kStarvedQueue,      // one model's requests are passed on only while no other model has any
  kIdleLane,          // now and then a submission wakes no lane
  kSwappedAnswer,     // two requests of a batch get each other's rows
};

struct PlantRow {
  std::string_view name;
  Plant plant;
  Invariant breaks;
};

inline constexpr std::array<PlantRow, 9> kPlants = {{
    {"none", Plant::kNone, Invariant::kAnswered},  // must not be caught: shows that catching means something
    {"lost-ticket", Plant::kLostTicket, Invariant::kAnswered},
    {"double-completion", Plant::kDoubleCompletion, Invariant::kOnce},
    {"batch-over-limit", Plant::kBatchOverLimit, Invariant::kBatchLimit},
    {"leaked-block", Plant::kLeakedBlock, Invariant::kPoolZero},
    {"missed-deadline", Plant::kMissedDeadline, Invariant::kOnTime},
    {"starved-queue", Plant::kStarvedQueue, Invariant::kFair},
    {"idle-lane", Plant::kIdleLane, Invariant::kLaneIdle},
    {"swapped-answer", Plant::kSwappedAnswer, Invariant::kRightRows},
}};

}  // namespace headrace::sim
