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
  kCheapCosts,        // the dispatcher is told that runs take two thirds of their time
  kDearCosts,         // the dispatcher is told that runs take five times their time
  kWrongDevice,       // the dispatcher takes the slow lanes for fast ones
  kEndlessPatience,   // requests without a target let all others pass
  kLostPriority,      // every request is of the default level
  kNoPart,            // requests of one model, which have no targets, let those with targets pass for ever
  kLostWeight,        // every model has the weight 1
  kHiddenCores,       // the dispatcher is told of half of the cores that a batch keeps busy
  kHiddenResource,    // a model does not say that it needs the resource
  kFirstDevice,       // every request goes to the first device
  kBlindChoice,       // the choice between devices does not see what waits there
  kMixedDevices,      // now and then a request is handed to the device that it was not sent to
  kNoSecondChance,    // what one device refuses is offered to no other
  kSwappedSpeeds,     // each device is taken for the other
};

struct PlantRow {
  std::string_view name;
  Plant plant;
  Invariant breaks;
};

// Those of DeviceWorld.
constexpr bool of_devices(Plant plant) { return plant >= Plant::kFirstDevice; }

inline constexpr std::array<PlantRow, 23> kPlants = {{
    {"none", Plant::kNone, Invariant::kAnswered},  // must not be caught: shows that catching means something
    {"lost-ticket", Plant::kLostTicket, Invariant::kAnswered},
    {"double-completion", Plant::kDoubleCompletion, Invariant::kOnce},
    {"batch-over-limit", Plant::kBatchOverLimit, Invariant::kBatchLimit},
    {"leaked-block", Plant::kLeakedBlock, Invariant::kPoolZero},
    {"missed-deadline", Plant::kMissedDeadline, Invariant::kOnTime},
    {"starved-queue", Plant::kStarvedQueue, Invariant::kFair},
    {"idle-lane", Plant::kIdleLane, Invariant::kLaneIdle},
    {"swapped-answer", Plant::kSwappedAnswer, Invariant::kRightRows},
    {"cheap-costs", Plant::kCheapCosts, Invariant::kPromise},
    {"dear-costs", Plant::kDearCosts, Invariant::kRefusal},
    {"wrong-device", Plant::kWrongDevice, Invariant::kPromise},
    {"endless-patience", Plant::kEndlessPatience, Invariant::kStarved},
    {"lost-priority", Plant::kLostPriority, Invariant::kFair},
    {"no-part", Plant::kNoPart, Invariant::kStarved},
    {"lost-weight", Plant::kLostWeight, Invariant::kShare},
    {"hidden-cores", Plant::kHiddenCores, Invariant::kBudget},
    {"hidden-resource", Plant::kHiddenResource, Invariant::kBudget},
    {"first-device", Plant::kFirstDevice, Invariant::kDevice},
    {"blind-choice", Plant::kBlindChoice, Invariant::kDevice},
    {"mixed-devices", Plant::kMixedDevices, Invariant::kOneDevice},
    {"no-second-chance", Plant::kNoSecondChance, Invariant::kRefusal},
    {"swapped-speeds", Plant::kSwappedSpeeds, Invariant::kPromise},
}};

}  // namespace headrace::sim
