#include "world.h"

#include <algorithm>

namespace headrace::sim {

namespace {

constexpr std::uint64_t kTurnEvery = 16;

}  // namespace

World::Placement::Placement(World& world, const ModelPlan& model_plan, int model_index)
    : plan(model_plan),
      model(model_index),
      oracle(model_plan, world.scenario_,
             world.plant_ == Plant::kCheapCosts  ? 66
             : world.plant_ == Plant::kDearCosts ? 500
                                                 : 100),
      world_(world) {
  runnable.session = this;
  runnable.batched = plan.batched();
  runnable.output_names = {"echo", "strings"};
  runnable.observer = &world;
}

World::World(std::uint64_t seed, Plant plant, Report& report, Fibers& fibers)
    : report_(report),
      plant_(plant),
      random_(seed),
      plant_random_(~seed),
      scenario_(Scenario::make(random_)),
      pool_(PoolOptions{scenario_.pool_cap, scenario_.pool_cap / 4, {}}),
      dispatcher_(scenario_.lanes, plant == Plant::kWrongDevice ? std::vector<std::uint32_t>() : scenario_.devices),
      loaded_(scenario_.models.size(), nullptr),
      ever_loaded_(scenario_.models.size(), false),
      arrivals_left_(scenario_.requests) {
  report_.now = &clock_.time;
  requests_.reserve(static_cast<std::size_t>(scenario_.requests));
  for (int i = 0; i < scenario_.lanes; ++i) {
    lanes_.push_back(std::make_unique<Lane>(i, pool_, clock_, *fibers[static_cast<std::size_t>(i)]));
    lanes_.back()->world = this;
  }
  if (scenario_.room.cores > 0) dispatcher_.set_cores(scenario_.room.cores);
  if (scenario_.room.named > 0) dispatcher_.set_resource("named", kEverywhere, scenario_.room.named);
  reference_.set_room(scenario_.room);
  for (int i = 0; i < static_cast<int>(scenario_.models.size()); ++i) load(i);
  at(0, Kind::kArrivals);
  const Nanos horizon = scenario_.gap * scenario_.requests / scenario_.burst + 1;
  for (int i = 0; i < scenario_.unloads; ++i) {
    at(random_.between(0, horizon), Kind::kUnload, static_cast<int>(random_.below(loaded_.size())));
  }
}

World::~World() { report_.now = nullptr; }

void World::at(Nanos time, Kind kind, int what, std::uint64_t which) {
  events_.push_back({time, event_order_++, kind, what, which});
  std::push_heap(events_.begin(), events_.end(), std::greater<>());
}

Nanos World::next_time() const {
  Nanos time = events_.empty() ? kNever : events_.front().time;
  time = std::min(time, dispatcher_.next_deadline());
  const bool idle = std::any_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return !lane->placement; });
  return idle ? std::min(time, named_) : time;
}

void World::run() {
  for (Nanos time = next_time(); time != kNever; time = next_time()) {
    REQUIRE(report_, time >= clock_.time, kOnTime, "the dispatcher names a time that has passed");
    clock_.time = time;
    bool wake_lanes = true;
    if (!events_.empty() && events_.front().time == time) {
      std::pop_heap(events_.begin(), events_.end(), std::greater<>());
      const Event event = events_.back();
      events_.pop_back();
      step(event);
      wake_lanes = plant_ != Plant::kIdleLane || event.kind != Kind::kArrivals || !plant_random_.chance(20);
    }
    // Which of the lanes that end at one moment takes first is the forecast's to say.
    if (scenario_.exact && !events_.empty() && events_.front().time == time) {
      named_ = kNever;
      continue;
    }
    settle_moment(wake_lanes);
    check_moment();
  }
  check_end();
}

void World::step(const Event& event) {
  switch (event.kind) {
    case Kind::kArrivals:
      return arrive();
    case Kind::kCancel:
      return cancel(requests_[event.which]);
    case Kind::kUnload:
      return unload(event.what);
    case Kind::kLoad:
      return load(event.what);
    case Kind::kResume: {
      Lane& lane = *lanes_[static_cast<std::size_t>(event.what)];
      if (lane.epoch == event.which) go_on(lane, false);
      return;
    }
    case Kind::kDrop: {
      const auto kept = kept_.find(event.which);
      if (kept->second->references.fetch_sub(1) == 1) delete kept->second;
      kept_.erase(kept);
      return;
    }
  }
}

void World::arrive() {
  const auto count = static_cast<int>(random_.between(1, scenario_.burst));
  for (int i = 0; i < count && arrivals_left_ > 0; ++i, --arrivals_left_) {
    submit(static_cast<int>(random_.below(loaded_.size())));
  }
  if (arrivals_left_ > 0) at(clock_.time + random_.between(0, scenario_.gap), Kind::kArrivals);
}

// Hands a ticket to the dispatcher and holds its answer against what the bounds say.
void World::submit(int model) {
  Placement* placement = loaded_[static_cast<std::size_t>(model)];
  if (placement == nullptr) return;  // the catalog has no such model: not the dispatcher's business
  Request& request = requests_.emplace_back();
  request.id = requests_.size() - 1;
  request.model = model;
  request.placement = placement->reference;
  std::unique_ptr<Ticket> ticket = make_ticket(request, placement->plan, scenario_.exact, pool_, random_, report_);
  if (ticket == nullptr) {
    REACHED(report_, no_room_for_input);
    return;
  }
  ticket->sink = this;
  ticket->cookie_call = request.id;
  ticket->time.received = clock_.time;
  if (random_.chance(scenario_.deadline_percent)) {
    request.deadline = clock_.time + (random_.chance(2) ? 0 : random_.between(1, scenario_.deadline));
  }
  if (plant_ == Plant::kNoPart && model == 0) request.deadline = kNever;
  ticket->deadline = request.deadline;
  const BatchingPolicy& policy = placement->plan.policy;
  if (policy.priority_levels > 0) ticket->priority = static_cast<std::uint32_t>(random_.between(0, 6));
  const std::uint32_t level = policy.level_of(ticket->priority);
  if (plant_ == Plant::kLostPriority) ticket->priority = 0;
  Nanos put_off = kNever;
  if (policy.queue_of(level).timeout_action == TimeoutAction::kDelay) {
    ticket->timeout = policy.timeout_of(level, kNever);
    if (ticket->timeout != kNever) put_off = clock_.time + ticket->timeout;
  }
  request.since = clock_.time;
  request.last_batch = placement->batches + kTurnEvery * (reference_.waiting(placement->reference) + 2);
  request.target = request.deadline;
  if (policy.latency_objective != kNever) {
    request.target = std::min(request.target, clock_.time + policy.latency_objective);
  }
  if (plant_ == Plant::kNoPart && model == 0) request.target = kNever;
  request.ticket = ticket.get();

  const Reference::Room room = reference_.room(request.placement, request.bytes, level);
  const Status status = hand_over(request, *placement);
  TRACE(report_, "request " + std::to_string(request.id) + " for " + placement->plan.name + ", " +
                     std::to_string(request.rows) + " rows, shape " + std::to_string(request.shape) + ": " +
                     (status.ok() ? "queued" : status.to_string()));
  if (status.ok()) {
    REQUIRE(report_, room == Reference::Room::kYes, kBounded, "taken in although the queue was full");
    REQUIRE(report_, !placement->closed, kBooks, "taken in by a closed model");
    static_cast<void>(ticket.release());
    request.stage = Stage::kQueued;
    ++unanswered_;
    if (request.deadline != kNever) deadlines_.emplace(request.deadline, request.id);
    reference_.join(request.placement,
                    {request.id, clock_.time, request.rows, request.shape, request.bytes, level, request.target,
                     plant_ == Plant::kEndlessPatience ? kNever - clock_.time : policy.patience, put_off});
    if (random_.chance(scenario_.cancel_percent)) {
      request.cancel_planned = true;
      at(clock_.time + random_.between(0, scenario_.cancel), Kind::kCancel, 0, request.id);
    }
    return;
  }
  REQUIRE(report_, ticket->state == TicketState::kNew && ticket->references == 1, kBooks, "a refusal left its mark");
  request.ticket = nullptr;
  if (placement->closed) {
    REQUIRE(report_, status.code() == Code::kUnavailable, kBooks, status.to_string());
    REACHED(report_, refused_closed);
  } else if (request.deadline <= clock_.time) {
    REQUIRE(report_, status.code() == Code::kDeadlineExceeded, kBooks, status.to_string());
    REACHED(report_, refused_late);
  } else if (scenario_.exact && status.code() == Code::kDeadlineExceeded) {
    check_refusal(request, *placement);
  } else {
    REQUIRE(report_, room != Reference::Room::kYes, kBounded, "refused although there is room: " + status.to_string());
    REQUIRE(report_, status.code() == Code::kResourceExhausted, kBounded, status.to_string());
    if (room == Reference::Room::kTooMany) REACHED(report_, refused_full_tickets);
    if (room == Reference::Room::kTooManyBytes) REACHED(report_, refused_full_bytes);
    if (room == Reference::Room::kTooManyOfLevel) REACHED(report_, refused_full_level);
  }
}

void World::check_refusal(const Request& request, const Placement& placement) {
  REACHED(report_, refused_by_forecast);
  REQUIRE(report_, request.target != kNever, kRefusal, "it has no target");
  if (unanswered_ > 0) return;
  const Nanos time = placement.plan.run_time(request.rows, scenario_.slowness(scenario_.devices.front()));
  REQUIRE(report_, clock_.time + time >= request.target, kRefusal,
          "request " + std::to_string(request.id) + " would have taken " + std::to_string(time) + " ns of " +
              std::to_string(request.target - clock_.time));
}

Status World::hand_over(Request& request, Placement& placement) {
  if (plant_ == Plant::kStarvedQueue && !scenario_.fair && request.model == 0 && loaded_.size() > 1 &&
      request.deadline == kNever && placement.plan.policy.max_queue_delay == 0 &&
      placement.plan.policy.max_queue_size > 12 && !placement.closed) {
    withheld_.push_back(request.id);
    return Status();
  }
  return dispatcher_.submit(placement.entry, request.ticket, clock_.time);
}

void World::release_withheld() {
  for (const std::uint64_t id : withheld_) {
    Placement* placement = loaded_[static_cast<std::size_t>(requests_[id].model)];
    HEADRACE_CHECK(dispatcher_.submit(placement->entry, requests_[id].ticket, clock_.time).ok());
  }
  withheld_.clear();
}

void World::cancel(Request& request) {
  release_withheld();
  if (request.stage == Stage::kAnswered) {
    REACHED(report_, cancelled_too_late);
    const auto kept = kept_.find(request.id);
    if (kept == kept_.end()) return;
    REQUIRE(report_, !dispatcher_.cancel(kept->second, Status(Code::kCancelled, "by the caller")), kOnce,
            "request " + std::to_string(request.id) + " is cancelled after its answer");
    return;
  }
  TRACE(report_, "cancel " + std::to_string(request.id));
  request.cancelled = true;
  Ticket* ticket = request.ticket;
  REQUIRE(report_, dispatcher_.cancel(ticket, Status(Code::kCancelled, "by the caller")), kBooks,
          "request " + std::to_string(request.id) + " cannot be cancelled");
  ended_early(request, false);
  TicketChain chain;
  chain.append(ticket);
  hand_out(chain);
}

void World::load(int model) {
  const auto slot = static_cast<std::size_t>(model);
  const ModelPlan& plan = scenario_.models[slot];
  if (ever_loaded_[slot]) REACHED(report_, loaded_again);
  ever_loaded_[slot] = true;
  placements_.push_back(std::make_unique<Placement>(*this, plan, model));
  Placement& placement = *placements_.back();
  BatchingPolicy policy = plan.policy;
  if (plant_ == Plant::kEndlessPatience) policy.patience = kNever;
  if (plant_ == Plant::kNoPart && model == 0) policy.patience = policy.latency_objective = kNever;
  placement.reference = reference_.add(policy, plan.max_lanes, plan.needs);
  if (plant_ == Plant::kBatchOverLimit && policy.max_queue_delay == 0) policy.max_batch_size *= 2;
  Costs* costs = scenario_.exact ? &placement.oracle : nullptr;
  if (costs != nullptr) REACHED(report_, exact_world);
  if (scenario_.slow) REACHED(report_, slow_world);
  if (scenario_.devices.back() != 0) REACHED(report_, two_devices);
  Share share{plant_ == Plant::kLostWeight ? 1 : plan.weight, plan.needs.cores, {}};
  if (plant_ == Plant::kHiddenCores) share.cores /= 2;
  if (plan.needs.named > 0 && plant_ != Plant::kHiddenResource) {
    share.needs.push_back({"named", kEverywhere, plan.needs.named});
  }
  placement.entry = dispatcher_.add(plan.name, policy, plan.max_lanes, &placement, costs, share);
  if (scenario_.fair) REACHED(report_, fair_world);
  loaded_[slot] = &placement;
  if (plan.batched() && !plan.policy.dynamic_batching) REACHED(report_, runs_alone_by_config);
  if (!plan.batched()) REACHED(report_, not_batched);
  TRACE(report_, "load " + plan.name + ": batches of " + std::to_string(plan.policy.max_batch_size) + ", delay " +
                     std::to_string(plan.policy.max_queue_delay) + ", lanes " + std::to_string(plan.max_lanes) +
                     ", cores " + std::to_string(plan.needs.cores) + " of " + std::to_string(scenario_.room.cores) +
                     ", named " + std::to_string(plan.needs.named) + " of " + std::to_string(scenario_.room.named) +
                     ", weight " + std::to_string(plan.weight));
}

void World::unload(int model) {
  Placement* placement = loaded_[static_cast<std::size_t>(model)];
  if (placement == nullptr || placement->closed) return;
  release_withheld();
  const std::size_t queued = reference_.waiting(placement->reference);
  const std::size_t running = dispatcher_.running(placement->entry);
  if (queued > 0) REACHED(report_, unload_with_queue);
  if (running > 0) REACHED(report_, unload_with_running);
  if (queued + running == 0) REACHED(report_, unload_while_idle);
  TRACE(report_, "unload " + placement->plan.name + " with " + std::to_string(queued) + " queued");
  placement->closed = true;
  const TicketChain chain = dispatcher_.close(placement->entry);
  REQUIRE(report_, chain.count == queued, kAnswered,
          "an unload answers " + std::to_string(chain.count) + " of " + std::to_string(queued) + " queued requests");
  reference_.close(placement->reference);
  hand_out(chain);
  erase_if_idle(*placement);
}

void World::erase_if_idle(Placement& placement) {
  if (!placement.closed || placement.entry == nullptr || !dispatcher_.idle(placement.entry)) return;
  dispatcher_.erase(placement.entry);
  placement.entry = nullptr;
  loaded_[static_cast<std::size_t>(placement.model)] = nullptr;
  at(clock_.time + random_.between(0, 500) * kMicrosecond, Kind::kLoad, placement.model);
}

// What the scheduler's threads do until nothing is left to do at this moment.
void World::settle_moment(bool wake_lanes) {
  const bool any_idle = std::any_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return !lane->placement; });
  if (plant_ != Plant::kMissedDeadline || any_idle) {
    const TicketChain late = dispatcher_.expire(clock_.time);
    for (Completion* link = late.first; link != nullptr; link = link == late.last ? nullptr : link->next) {
      ended_early(request_of(static_cast<Ticket*>(link)), true);
    }
    hand_out(late);
  }
  if (!wake_lanes) return;
  first_lane_ = scenario_.exact ? 0 : random_.below(lanes_.size());
  for (std::size_t i = 0; i < lanes_.size(); ++i) give_work(*lanes_[(first_lane_ + i) % lanes_.size()]);
}

void World::check_moment() {
  const bool idle = std::any_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return !lane->placement; });
  const std::vector<Pick> picks = reference_.picks(clock_.time);
  const auto any = [&picks](bool Pick::*what) {
    return std::any_of(picks.begin(), picks.end(), [what](const Pick& pick) { return pick.*what; });
  };
  if (idle) {
    REQUIRE(report_, !any(&Pick::certain) || held(), kLaneIdle, "a request waits");
    if (named_ != kNever) REACHED(report_, waited_for_delay);
    if (reference_.capped(clock_.time)) REACHED(report_, model_capped);
  } else if (!picks.empty()) {
    REACHED(report_, all_lanes_busy);
  }
  if (withheld_.empty()) {
    const bool work = dispatcher_.work_for_idle_lane(clock_.time);
    // What has just become due by time may find that it lacks something.
    // And one that a timeout has sent to the back keeps others from it until a lane looks again: when a run ends.
    const bool sent_back =
        scenario_.room.cores > 0 && std::any_of(scenario_.models.begin(), scenario_.models.end(),
                                                [](const ModelPlan& plan) { return plan.policy.delays_late(); });
    REQUIRE(report_, work ? !picks.empty() : sent_back || !any(&Pick::certain), kLaneIdle,
            "work_for_idle_lane is wrong");
  }
  REQUIRE(report_, deadlines_.empty() || deadlines_.begin()->first > clock_.time, kOnTime,
          "request " + std::to_string(deadlines_.begin()->second) + " is not answered");
  for (const Placement* placement : loaded_) {
    if (placement == nullptr || !withheld_.empty()) continue;
    const std::size_t queued = dispatcher_.queued(placement->entry);
    REQUIRE(report_, queued == reference_.waiting(placement->reference), kBooks, "queued: " + std::to_string(queued));
    REQUIRE(report_, queued <= placement->plan.policy.max_queue_size, kBounded, "queued: " + std::to_string(queued));
    REQUIRE(report_, dispatcher_.queued_bytes(placement->entry) == reference_.bytes(placement->reference), kBooks,
            "queued bytes");
  }
  int busy = 0;
  for (const auto& lane : lanes_) {
    if (lane->placement == nullptr) continue;
    ++busy;
    const bool stopped = lane->assignment.interrupt->requested();
    REQUIRE(report_, stopped == (wanted(*lane) == 0), kInterrupt,
            "lane " + std::to_string(lane->index) + (stopped ? " is stopped" : " is not stopped"));
  }
  REQUIRE(report_, dispatcher_.busy_lanes() == busy, kBooks, "busy lanes");
}

void World::check_end() {
  for (const Request& request : requests_) {
    REQUIRE(report_, request.stage == Stage::kRefused || request.stage == Stage::kAnswered, kAnswered,
            "request " + std::to_string(request.id) + " never got its answer");
  }
  REQUIRE(report_, unanswered_ == 0 && deadlines_.empty() && kept_.empty(), kBooks, "the simulation's own books");
  for (Placement* placement : loaded_) {
    if (placement == nullptr) continue;
    REQUIRE(report_, dispatcher_.idle(placement->entry) && dispatcher_.close(placement->entry).first == nullptr, kBooks,
            "a model is not idle at the end");
    dispatcher_.erase(placement->entry);
  }
  const PoolStats stats = pool_.stats();
  REQUIRE(report_, stats.blocks_in_use == 0 && stats.bytes_in_use == 0, kPoolZero,
          std::to_string(stats.blocks_in_use) + " blocks, " + std::to_string(stats.bytes_in_use) + " bytes in use");
}

}  // namespace headrace::sim
