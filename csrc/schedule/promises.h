// Targets are promises: a ticket is taken in only if it and all that were taken in before it will be in time, and a
// batch is only as large as leaves it so. Pure; the dispatcher asks.
//
// Two ways to know. The first takes constant time: earliest deadline first keeps every target if the work that goes
// before each, and its own, ends before it (the processor demand of Baruah, Rosier and Howell, 1990), and a batch
// starts when the first lane is free of what goes before it (Graham, 1969). The work is kept as sums by time
// (demand.h), every batch counted as the dearest. A ticket is promised its target if all that may go before it ends
// before that; if it goes before others, those must keep their time by the same reckoning, or what it adds must fit
// into the least slack among them. The second plays the schedule through (forecast.h). It sees more, costs time for
// every queued ticket, and is asked only where the first says no and few are queued: with more than kMostPlayed, what
// the first does not promise is refused.
//
// Where time alone does not say what goes first (priority levels; who may be outrun, see see_needs()) all that waits
// counts as if it went first. What was promised by time before somebody came who may be outrun rests on forecasts then.
//
// What rests on a forecast is `tight` while it is queued. Only then do batches ask for forecasts too.
//
// Models without a target in their queue go after those with one, so what waits there is not counted, but for one batch
// of a model that is due all the same (ready.h): newcomers leave room for it, and it goes once it harms no promise.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "batching/haste.h"
#include "schedule/demand.h"
#include "schedule/device_choice.h"
#include "schedule/entry.h"
#include "schedule/forecast.h"
#include "schedule/lane_claims.h"

namespace headrace {

class Promises {
 public:
  static constexpr std::size_t kMostPlayed = 128;  // queued tickets

  Promises(const std::vector<LaneState>& lanes, const std::vector<std::unique_ptr<Dispatcher::Entry>>& entries,
           const ResourceRoom& resources)
      : lanes_(lanes), entries_(entries), resources_(resources) {}

  // The ticket has just been pushed, as the newest. Refused (DEADLINE_EXCEEDED): it is no longer in its queue.
  // due: a model that may go before all those with targets, once; null: none.
  Status admit(Dispatcher::Entry& entry, Ticket* ticket, Dispatcher::Entry* due, Nanos now);
  // What the ticket, which is in no queue, may expect here.
  Offer offer(const Dispatcher::Entry& entry, const Ticket& ticket, Nanos now) const;
  // A model without targets goes before those with some. False: it would harm promises now. Room for one batch of it is
  // left from then on.
  bool may_go_first(int lane, Dispatcher::Entry& entry, Nanos now);
  // How the lane may take the entry's next batch without making anybody late that would not be late otherwise.
  // hold_until is set where it should take none: where another lane will be free before the one that only it can keep
  // its promise to.
  TakeOptions before_take(int lane, Dispatcher::Entry& entry, Nanos now, Nanos& hold_until);
  // Now and then: what batches and lanes are allowed follows what was seen of arrivals. The models whose lanes changed.
  const std::vector<Dispatcher::Entry*>& follow(Nanos now);
  void after_take(Dispatcher::Entry& entry, const Batch& batch);
  // The ticket left its queue, in a batch or by itself.
  void left(Ticket& ticket, bool in_batch);
  // A run of the entry ended so much later than was to be expected of it; below 0: earlier.
  void ended(Dispatcher::Entry& entry, Nanos took, Nanos late);
  // An idle entry has come, or is no more.
  void see_needs();
  // The entry's queue is not what it was; after left() of those who did.
  void account(Dispatcher::Entry& entry);
  // How soon those who came lately wanted their answers.
  const Haste& haste() const { return haste_; }
  // What waited for the entry while it was parked counts from now on.
  void unparked(Dispatcher::Entry& entry, Nanos now);

 private:
  // Promised by the first way. Of the tickets of about one queue's passing, the least slack; two generations of them,
  // so that what is long gone counts no more.
  struct Generation {
    std::size_t tickets = 0;
    Nanos slack = kNever;
  };
  // The models that wait or run, by the cores that a batch of theirs keeps busy.
  class Cores {
   public:
    std::uint32_t most() const { return most_; }
    void add(std::uint32_t cores) {
      if (cores >= models_.size()) models_.resize(cores + 1);
      ++models_[cores];
      most_ = std::max(most_, cores);
    }
    void remove(std::uint32_t cores) {
      --models_[cores];
      while (most_ > 0 && models_[most_] == 0) --most_;
    }

   private:
    std::vector<std::size_t> models_;
    std::uint32_t most_ = 0;
  };
  struct Refusal {
    const Dispatcher::Entry* entry = nullptr;
    std::uint64_t shape = 0;
    Nanos when = 0;
    std::int64_t rows = 0;
    Nanos end = 0;
  };

  std::size_t targets() const { return tight_ + old_.tickets + young_.tickets; }
  Nanos slack() const { return std::min(old_.slack, young_.slack); }
  void spend(Nanos work);
  void note_haste(const Dispatcher::Entry& entry, const Ticket& ticket, Nanos now);
  void claim(Nanos step, Nanos now);
  bool set_lanes(Dispatcher::Entry& entry, int lanes);
  void recount(Nanos now);
  void account_cores(Dispatcher::Entry& entry);
  void rest_on_forecasts();
  bool unlike_lanes() const;
  void count(Dispatcher::Entry& entry, Ticket& ticket, Nanos now);
  void uncount(Dispatcher::Entry& entry, Ticket& ticket);
  void set_urgent(Dispatcher::Entry& entry);
  Nanos end_of(const Dispatcher::Entry& entry, Nanos work, Nanos batch, Nanos now) const;
  bool later_keep_time(const Dispatcher::Entry& entry, Nanos from, Nanos room, Nanos now) const;
  bool played(Dispatcher::Entry& entry, Ticket* ticket, const Dispatcher::Entry* due, Nanos now, bool& taken_out,
              Forecast::Result& result);
  static Nanos gathering(const Dispatcher::Entry& entry, const Ticket& ticket, Nanos now);
  bool leaves_in_time(Dispatcher::Entry& entry, Ticket* ticket, const Dispatcher::Entry* due, Nanos now,
                      bool& taken_out, Forecast::Result& result);
  void begin_forecast(Nanos now, const Dispatcher::Entry* besides = nullptr);
  std::size_t late_after(int lane, Dispatcher::Entry& entry, const TakeOptions& options, std::uint64_t joins_before,
                         Nanos now);
  bool over_share(const Dispatcher::Entry& entry, const Ticket& ticket, Nanos now) const;
  static Status over_share_refusal(const Dispatcher::Entry& entry, Nanos target, Nanos now);
  static Status refusal(const Dispatcher::Entry& entry, const Ticket& ticket, Nanos target,
                        const Forecast::Result& result, Nanos now);

  const std::vector<LaneState>& lanes_;
  const std::vector<std::unique_ptr<Dispatcher::Entry>>& entries_;
  const ResourceRoom& resources_;
  Forecast forecast_;
  Demand demand_;
  Haste haste_;
  Nanos follow_last_ = -kSecond;  // when it was last looked at
  Nanos busy_ = 0;                // time of lanes since then
  double busy_share_ = 0;
  LaneClaims claims_;
  std::vector<Dispatcher::Entry*> followed_;
  Nanos queued_work_ = 0;    // of all queued tickets, as far as it is known
  std::size_t counted_ = 0;  // tickets of all queues, whose work is known
  // Of models with a target in their queue:
  Nanos open_cost_ = 0;      // of their queues
  std::size_t queued_ = 0;   // tickets in them
  std::size_t waiting_ = 0;  // the models
  std::size_t narrow_ = 0;   // of these, those that may not have all lanes
  std::size_t needy_ = 0;    // those that need named resources
  std::size_t outrun_ = 0;   // those that others may outrun
  Cores cores_;              // that those keep busy which wait or run
  std::size_t unruly_ = 0;   // and those whose order is not by time alone
  Generation old_;
  Generation young_;
  std::uint64_t young_from_ = 0;    // sequence
  std::size_t tight_ = 0;           // promised by a forecast
  std::uint64_t tight_before_ = 0;  // sequence
  Nanos dearest_ = 0;               // batch of theirs
  Nanos latest_ = 0;                // of the targets promised, as they stand in the order
  bool plan_holds_ = false;         // the last forecast saw everybody in time, and nothing has changed since
  std::uint64_t next_sequence_ = 0;
  std::uint64_t promised_before_ = 0;  // sequence: what came before may join batches, and all with a target is in time
  Refusal last_refusal_;               // holds while nothing leaves
};

}  // namespace headrace
