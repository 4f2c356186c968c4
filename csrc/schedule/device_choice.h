// To which of the devices that have a model does a request go? To the one that is expected to answer it first, with all
// that waits and runs there already: the earliest finish time of list scheduling on machines of unlike speed (Gonzalez,
// Ibarra and Sahni, 1977; HEFT of Topcuoglu, Hariri and Wu, 2002, applies it to processors). So an idle slow device
// takes nothing that a busy fast one will have answered sooner, and no device stands idle while the others' queues are
// longer than its own run. Pure; the devices ask.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/clock.h"

namespace headrace {

// What there is to do on a device before a request's turn. Times are of lanes, from now on.
struct Backlog {
  Nanos running = 0;     // left of all runs in progress
  Nanos first_free = 0;  // until a lane may take it, if nothing waited; 0: one is idle
  Nanos queued = 0;      // of what waits, but for what would share its batch
  int lanes = 1;         // that work at it
  Nanos run = 0;         // of the batch that it would be in

  Nanos answered() const {
    const Nanos share = (running + queued) / std::max(lanes, 1);
    return (queued > 0 ? std::max(first_free, share) : first_free) + run;
  }
};

// What a device lets a request expect.
struct Offer {
  Nanos end = 0;      // its answer
  bool known = true;  // what a run of its shape takes there
  bool idle = false;  // nothing of the model waits or runs there
  Nanos seen = 0;     // when the last run of its shape ended there; 0: none has
};

// What was not used for so long is tried once more with a request that can wait: it may have been slow for a reason
// that is gone.
inline constexpr Nanos kTryAgain = 30 * kSecond;

// The place of the best in `offers`, of which those with a flag in `tried` are out. `waits`: the request has no target.
// The first of equals, so the order is that of preference. offers.size(): none is left.
inline std::size_t choose_device(std::span<const Offer> offers, std::span<const bool> tried, bool waits, Nanos now) {
  std::size_t best = offers.size();
  bool any_known = false;
  for (std::size_t i = 0; i < offers.size(); ++i) any_known = any_known || (!tried[i] && offers[i].known);
  for (std::size_t i = 0; i < offers.size(); ++i) {
    const Offer& offer = offers[i];
    if (tried[i]) continue;
    // One request at a time finds out.
    const bool stale = !offer.known || (offer.seen != 0 && now - offer.seen > kTryAgain);
    if (any_known && waits && stale && offer.idle) return i;
    if (any_known && !offer.known) continue;
    if (best == offers.size() || offer.end < offers[best].end) best = i;
  }
  return best;
}

}  // namespace headrace
