// One seed: simulated time, arrivals, cancels, loads and unloads around the real Dispatcher, the real Execution on
// fibers for lanes, the real assembly and a real Pool. The runtime is made up. After every event all invariants that
// can be seen at that moment are checked.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/check.h"
#include "fiber.h"
#include "memory/pool.h"
#include "oracle.h"
#include "plants.h"
#include "reference.h"
#include "report.h"
#include "scenario.h"
#include "schedule/dispatcher.h"
#include "schedule/execution.h"

namespace headrace::sim {

class SimulatedClock final : public Clock {
 public:
  Nanos now() const override { return time; }
  void wait_until(CondVar&, Mutex&, Nanos) override { HEADRACE_CHECK(false && "nobody waits in a simulation"); }
  Nanos time = 0;
};

using Fibers = std::vector<std::unique_ptr<Fiber>>;  // one a lane, used by seed after seed

class World final : private Ledger, private CompletionSink, private RunObserver {
 public:
  World(std::uint64_t seed, Plant plant, Report& report, Fibers& fibers);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  void run();

 private:
  enum class Kind : std::uint8_t { kArrivals, kCancel, kUnload, kLoad, kResume, kDrop };
  struct Event {
    Nanos time;
    std::uint64_t order;  // of events of one time
    Kind kind;
    int what = 0;             // model or lane
    std::uint64_t which = 0;  // request, or the lane's epoch
    bool operator>(const Event& other) const { return std::pair(time, order) > std::pair(other.time, other.order); }
  };

  // A model from load to unload.
  class Placement final : public Session {
   public:
    Placement(World& world, const ModelPlan& plan, int model);
    const Signature& signature() const override { return signature_; }
    Status run(BatchRun& batch) override { return world_.run_model(*this, batch); }

    const ModelPlan& plan;
    const int model;
    int reference = -1;
    Dispatcher::Entry* entry = nullptr;
    Runnable runnable;
    Oracle oracle;
    std::uint64_t batches = 0;
    double served = 0;  // lane time over weight, in a fair world
    bool closed = false;

   private:
    World& world_;
    Signature signature_;
  };

  struct Lane {
    Lane(int number, Pool& pool, const Clock& clock, Fiber& stack)
        : index(number), fiber(stack), execution(number, pool, clock) {}
    const int index;
    Fiber& fiber;
    Execution execution;
    Dispatcher::Assignment assignment;
    Placement* placement = nullptr;        // null: idle
    std::vector<std::uint64_t> unsettled;  // requests of the batch
    std::uint64_t epoch = 0;               // a resume of an earlier one is stale
    int halvings = 0;                      // of this batch
    World* world = nullptr;
  };

  // world.cc: what happens when
  void at(Nanos time, Kind kind, int what = 0, std::uint64_t which = 0);
  void step(const Event& event);
  void arrive();
  void submit(int model);
  Status hand_over(Request& request, Placement& placement);
  void release_withheld();
  void check_refusal(const Request& request, const Placement& placement);
  void cancel(Request& request);
  void load(int model);
  void unload(int model);
  void erase_if_idle(Placement& placement);
  void settle_moment(bool wake_lanes);
  void check_moment();
  void check_end();
  Nanos next_time() const;

  // lanes.cc: what a lane does
  void follow_lanes();
  void give_work(Lane& lane);
  void check_batch(const Lane& lane, const std::vector<Pick>& picks);
  void check_turn(const Pick& pick, const std::vector<Pick>& picks, const std::string& who);
  void check_shares(Placement& placement, std::int64_t rows);
  void check_budget();
  bool held() const;
  void check_starving(const Lane& lane);
  void go_on(Lane& lane, bool start);
  Status run_model(Placement& placement, BatchRun& batch);
  Status compute(const ModelPlan& plan, BatchRun& batch);
  static void stop_asked(void* lane);
  void still_running(std::span<Ticket* const> tickets, std::vector<Ticket*>& out) override;
  TicketChain settle(Dispatcher::Entry* entry, std::span<Ticket* const> tickets) override;
  void answer(TicketChain chain) override;
  void ran(const RunRecord& record) noexcept override;
  void hand_out(TicketChain chain);
  void deliver(Completion* first, Completion* last) noexcept override;
  void completed(Ticket* ticket);
  void check_status(const Request& request, const Ticket& ticket);
  void swap_two(TicketChain chain);
  void ended_early(Request& request, bool by_deadline);
  std::size_t wanted(const Lane& lane) const;
  Request& request_of(const Ticket* ticket) { return requests_[ticket->cookie_call]; }

  Report& report_;
  const Plant plant_;
  SimulatedClock clock_;
  Random random_;
  Random plant_random_;
  const Scenario scenario_;
  Pool pool_;
  std::vector<Block> leaked_;  // by a planted bug
  Dispatcher dispatcher_;
  Reference reference_;
  std::vector<Event> events_;  // a heap, the earliest in front
  std::uint64_t event_order_ = 0;
  std::vector<Request> requests_;
  std::set<std::pair<Nanos, std::uint64_t>> deadlines_;  // of unanswered requests
  std::size_t unanswered_ = 0;
  std::map<std::uint64_t, Ticket*> kept_;  // answers that their caller still holds
  std::vector<std::uint64_t> withheld_;    // by a planted bug
  std::vector<std::unique_ptr<Placement>> placements_;
  std::vector<Placement*> loaded_;  // by model; null: not loaded
  std::vector<bool> ever_loaded_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  int arrivals_left_ = 0;
  std::size_t first_lane_ = 0;
  Nanos named_ = kNever;  // by the last take() that had nothing
  std::map<int, Nanos>
      overdue_;  // of the models that can wait: since when one was passed though it had waited too long
};

}  // namespace headrace::sim
