#include "report.h"

#include <cstdio>
#include <cstdlib>

namespace headrace::sim {

std::string_view name(Invariant invariant) {
  switch (invariant) {
    case Invariant::kAnswered:
      return "every request is answered";
    case Invariant::kOnce:
      return "a request is answered once";
    case Invariant::kBatchLimit:
      return "a batch keeps to max_batch_size";
    case Invariant::kPoolZero:
      return "the pool returns to zero";
    case Invariant::kOnTime:
      return "a deadline is answered on time";
    case Invariant::kFair:
      return "the one whose turn it is goes first, in order";
    case Invariant::kLaneIdle:
      return "no request waits while a lane may run it";
    case Invariant::kRightRows:
      return "an answer is the request's own rows";
    case Invariant::kOnlyGuilty:
      return "only the guilty request gets an error";
    case Invariant::kBounded:
      return "a queue is bounded";
    case Invariant::kInterrupt:
      return "a run is stopped when all of its requests are gone";
    case Invariant::kPromise:
      return "what is taken in with a target is in time";
    case Invariant::kRefusal:
      return "only what could not be in time is refused for it";
    case Invariant::kStarved:
      return "nobody is passed for ever";
    case Invariant::kShare:
      return "lane time goes by weight";
    case Invariant::kBudget:
      return "what runs needs no more than there is";
    case Invariant::kDevice:
      return "a request goes to the device that answers it first";
    case Invariant::kOneDevice:
      return "a batch is of one device";
    case Invariant::kBooks:
      return "the dispatcher's books are right";
  }
  return "?";
}

void Report::violated(Invariant invariant, const std::string& what) const {
  const auto text = std::string(name(invariant));
  const bool wanted = expect_violation && invariant == expected;
  std::printf("%s at seed %llu, %lld ns: broken: %s: %s\n",
              wanted ? ("planted bug '" + plant + "' caught").c_str() : "FAILED", static_cast<unsigned long long>(seed),
              static_cast<long long>(now != nullptr ? *now : 0), text.c_str(), what.c_str());
  if (expect_violation && !wanted) {
    std::printf("the planted bug '%s' should have broken: %s\n", plant.c_str(), std::string(name(expected)).c_str());
  }
  std::printf("replay: %s\n", replay.c_str());
  std::fflush(nullptr);
  std::_Exit(wanted ? 0 : 1);
}

void Report::say(const std::string& what) const {
  std::printf("%12lld  %s\n", static_cast<long long>(now != nullptr ? *now : 0), what.c_str());
}

bool Report::print_states() const {
  static constexpr const char* kNames[] = {
#define X(state) #state,
      HEADRACE_SIM_STATES(X)
#undef X
  };
  bool all = true;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    std::printf("%-24s %12llu\n", kNames[i], static_cast<unsigned long long>(counts_[i]));
  }
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    if (counts_[i] != 0) continue;
    all = false;
    std::printf("FAILED: no seed reached the state '%s'\n", kNames[i]);
  }
  return all;
}

}  // namespace headrace::sim
