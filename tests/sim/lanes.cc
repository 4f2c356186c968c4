// What a lane of the simulated world does: takes a batch, stands in the runtime while time goes on, answers.
#include <algorithm>
#include <cstring>

#include "world.h"

namespace headrace::sim {

std::size_t World::wanted(const Lane& lane) const {
  return static_cast<std::size_t>(std::count_if(lane.unsettled.begin(), lane.unsettled.end(), [this](std::uint64_t id) {
    return requests_[id].stage == Stage::kRunning;
  }));
}

// A lane is kept free for one that is promised a time: then the dispatcher names another.
bool World::held() const { return scenario_.exact && named_ > clock_.time && named_ != kNever; }

// How many lanes a model may have is the dispatcher's to say, up to its bound. It has counted the batch that it has
// just handed out.
void World::follow_lanes() {
  for (const Placement* placement : loaded_) {
    if (placement == nullptr) continue;
    const int lanes = Dispatcher::lanes_now(placement->entry);
    REQUIRE(report_, lanes >= 1 && lanes <= placement->plan.max_lanes, kBooks, "lanes: " + std::to_string(lanes));
    if (lanes < placement->plan.max_lanes) REACHED(report_, fewer_lanes);
    reference_.allow(placement->reference, lanes);
  }
}

// An idle lane takes until it stands in the runtime or there is nothing left.
void World::give_work(Lane& lane) {
  while (lane.placement == nullptr) {
    dispatcher_.take(lane.index, clock_.time, lane.assignment);
    follow_lanes();
    const std::vector<Pick> picks = reference_.picks(clock_.time);
    if (lane.assignment.entry == nullptr) {
      if (!withheld_.empty()) {
        release_withheld();
        continue;
      }
      named_ = lane.assignment.ask_again;
      const auto waits = std::find_if(picks.begin(), picks.end(), [](const Pick& pick) { return pick.certain; });
      if (waits != picks.end() && held()) {
        REACHED(report_, lane_held);
        return;
      }
      REQUIRE(report_, waits == picks.end(), kLaneIdle,
              "a free lane gets nothing while request " + std::to_string(waits->ids.front()) + " waits");
      if (!picks.empty()) {
        REACHED(report_, resource_short);
        return;
      }
      REQUIRE(report_, named_ == reference_.next_time(clock_.time), kLaneIdle,
              "the time to ask again is " + std::to_string(named_) + ", and should be " +
                  std::to_string(reference_.next_time(clock_.time)));
      return;
    }
    check_batch(lane, picks);
    lane.placement = static_cast<Placement*>(Dispatcher::model(lane.assignment.entry));
    lane.halvings = 0;
    lane.unsettled.clear();
    for (const Ticket* ticket : lane.assignment.tickets) {
      Request& request = request_of(ticket);
      reference_.leave(request.placement, request.id);
      request.stage = Stage::kRunning;
      request.lane = lane.index;
      lane.unsettled.push_back(request.id);
    }
    if (scenario_.fair) check_shares(*lane.placement, lane.assignment.rows);
    reference_.took(lane.placement->reference);
    reference_.lane(lane.placement->reference, +1);
    check_budget();
    go_on(lane, true);
  }
}

void World::check_batch(const Lane& lane, const std::vector<Pick>& picks) {
  const auto& tickets = lane.assignment.tickets;
  const auto* placement = static_cast<Placement*>(Dispatcher::model(lane.assignment.entry));
  const BatchingPolicy& policy = placement->plan.policy;
  std::int64_t rows = 0;
  std::string who = placement->plan.name + " on lane " + std::to_string(lane.index) + ":";
  for (const Ticket* ticket : tickets) {
    rows += ticket->rows;
    who += " " + std::to_string(ticket->cookie_call);
    REQUIRE(report_, ticket->state == TicketState::kRunning, kBooks, who + " is not RUNNING");
  }
  TRACE(report_, "batch of " + who);
  REQUIRE(report_, !placement->plan.batched() || rows <= policy.max_batch_size, kBatchLimit,
          std::to_string(rows) + " rows for " + who);
  REQUIRE(report_, rows == lane.assignment.rows, kBooks, "the batch's rows are not its tickets' rows");
  const auto found = std::find_if(picks.begin(), picks.end(),
                                  [placement](const Pick& each) { return each.model == placement->reference; });
  REQUIRE(report_, found != picks.end(), kFair, "nothing is due of this model, yet a lane got " + who);
  const Pick& pick = *found;
  check_turn(pick, picks, who);
  check_starving(lane);
  // What is known of costs may close a batch early.
  const bool cut = scenario_.exact && !tickets.empty() && tickets.size() < pick.ids.size();
  if (cut) REACHED(report_, batch_cut_short);
  const auto last = pick.ids.begin() + static_cast<std::ptrdiff_t>(cut ? tickets.size() : pick.ids.size());
  const bool same = std::equal(tickets.begin(), tickets.end(), pick.ids.begin(), last,
                               [](const Ticket* ticket, std::uint64_t id) { return ticket->cookie_call == id; });
  REQUIRE(report_, same, kFair,
          "request " + std::to_string(pick.ids.front()) + " (and " + std::to_string(pick.ids.size() - 1) +
              " more) should have gone instead of " + who);
  if (tickets.size() == 1) REACHED(report_, batch_of_one);
  if (tickets.size() > 1) REACHED(report_, batch_gathered);
  if (pick.full) REACHED(report_, batch_full);
  if (pick.aged) REACHED(report_, batch_aged);
  if (pick.preferred) REACHED(report_, batch_preferred);
  if (pick.passed_old) REACHED(report_, batch_passed_old);
  if (pick.by_target) REACHED(report_, passed_by_target);
  if (pick.by_level) REACHED(report_, passed_by_level);
  if (pick.was_put_off) REACHED(report_, passed_put_off);
  if (pick.turn) REACHED(report_, turn_of_longest);
  std::set<int> shapes;
  for (const Request& request : requests_) {
    if (request.stage == Stage::kQueued && request.placement == placement->reference) shapes.insert(request.shape);
  }
  if (shapes.size() > 4) REACHED(report_, many_shapes_waiting);
}

// Who has a target goes first, earliest first; who can wait goes when nobody else can, or as one that has waited too
// long.
void World::check_turn(const Pick& pick, const std::vector<Pick>& picks, const std::string& who) {
  const bool hidden = plant_ == Plant::kHiddenCores || plant_ == Plant::kHiddenResource;
  REQUIRE(report_, pick.fits || hidden, kBudget, "what it needs is not there for " + who);
  for (const Pick& other : picks) {
    if (other.model == pick.model || hidden) continue;
    if (!other.fits && pick.fits) REACHED(report_, cores_short);
    if (!other.certain || !other.urgent) continue;
    if (!pick.urgent) {
      REQUIRE(report_, pick.overdue, kFair,
              "request " + std::to_string(other.ids.front()) + ", which has a target, should have gone before " + who);
      REACHED(report_, part_of_the_patient);
      continue;
    }
    const bool earlier = other.when != pick.when ? other.when < pick.when : other.ids.front() < pick.ids.front();
    REQUIRE(report_, !earlier, kFair,
            "request " + std::to_string(other.ids.front()) + " should have gone before " + who);
  }
  // One that can wait, and has waited too long, is passed by those with targets for a bounded time only.
  Nanos bound = kNever;
  if (scenario_.part) {
    REACHED(report_, part_world);
    for (const ModelPlan& plan : scenario_.models) bound = std::min(bound, plan.policy.patience);
    for (const ModelPlan& plan : scenario_.models) bound += 20 * plan.run_time(plan.policy.max_batch_size, 100);
  }
  std::map<int, Nanos> still;
  for (const Pick& other : picks) {
    if (other.model == pick.model || other.urgent || !other.overdue || !other.certain || !pick.urgent) continue;
    const auto before = overdue_.find(other.model);
    const Nanos since = before == overdue_.end() ? clock_.time : before->second;
    REQUIRE(report_, clock_.time - since <= bound, kStarved,
            "request " + std::to_string(other.ids.front()) + " is passed by those with targets for ever");
    still.emplace(other.model, since);
  }
  overdue_ = std::move(still);
}

// The theorem of start-time fair queueing, of models that have had work all the time.
void World::check_shares(Placement& placement, std::int64_t rows) {
  const auto largest = [](const Placement& each) {
    return static_cast<double>(each.plan.run_time(std::max<std::int64_t>(each.plan.policy.max_batch_size, 1), 100)) /
           each.plan.weight;
  };
  placement.served += static_cast<double>(placement.plan.run_time(rows, 100)) / placement.plan.weight;
  for (const Placement* other : loaded_) {
    if (other == &placement || reference_.waiting(other->reference) == 0) continue;
    const double bound = static_cast<double>(scenario_.lanes + 1) * (largest(placement) + largest(*other));
    REQUIRE(report_, placement.served - other->served <= bound + 1000, kShare,
            placement.plan.name + " has got " + std::to_string(placement.served - other->served) + " ns more than " +
                other->plan.name + " by their weights, and " + std::to_string(bound) + " are allowed");
  }
}

void World::check_budget() {
  Needs used;
  int runs = 0;
  for (const auto& lane : lanes_) {
    if (lane->placement == nullptr) continue;
    const Needs& needs = lane->placement->plan.needs;
    used.cores += needs.cores;
    used.named += needs.named;
    ++runs;
  }
  const Needs& room = scenario_.room;
  REQUIRE(report_, runs < 2 || room.cores == 0 || used.cores <= room.cores, kBudget,
          std::to_string(used.cores) + " cores are busy of " + std::to_string(room.cores));
  REQUIRE(report_, used.named <= room.named, kBudget,
          std::to_string(used.named) + " of the resource are in use of " + std::to_string(room.named));
}

// Once a request has lost its patience nobody of its model goes before it who came after that; of a model with turns,
// so many batches at most.
void World::check_starving(const Lane& lane) {
  const Request& first = request_of(lane.assignment.tickets.front());
  auto* taken = static_cast<Placement*>(Dispatcher::model(lane.assignment.entry));
  ++taken->batches;
  for (const Request& request : requests_) {
    if (request.stage != Stage::kQueued || request.id == first.id) continue;
    const Placement& placement = *placements_[static_cast<std::size_t>(request.placement)];
    const BatchingPolicy& policy = placement.plan.policy;
    const bool turns = policy.priority_levels > 1 || policy.delays_late();
    if (turns && &placement == taken && policy.max_queue_delay == 0) {
      REQUIRE(report_, taken->batches <= request.last_batch, kStarved,
              "request " + std::to_string(request.id) + " is passed by one batch of its model after another");
    }
    if (turns || first.since <= request.since + policy.patience) continue;
    if (&placement != taken) continue;
    if (!reference_.could_run(request.placement, request.id, clock_.time)) continue;
    REQUIRE(report_, false, kStarved,
            "request " + std::to_string(request.id) + " is passed by " + std::to_string(first.id) +
                ", which came after its patience was over");
  }
  const Placement& placement = *placements_[static_cast<std::size_t>(first.placement)];
  if (first.since + placement.plan.policy.patience < clock_.time) REACHED(report_, patience_over);
}

// On with the lane's execution, until it stands in the runtime again or is through.
void World::go_on(Lane& lane, bool start) {
  if (start) {
    lane.fiber.start([this, &lane] { lane.execution.run(lane.assignment, lane.placement->runnable, *this); });
  } else {
    lane.fiber.resume();
  }
  if (lane.fiber.running()) return;
  REQUIRE(report_, lane.unsettled.empty(), kBooks, "a batch ended with unsettled requests");
  Placement& placement = *lane.placement;
  dispatcher_.release(lane.index, lane.assignment, clock_.time);
  for (const Ticket* gone : lane.assignment.gone) {
    if (gone->references == 1) REACHED(report_, deleted_by_lane);
  }
  if (random_.chance(50)) lane.assignment.drop_gone();  // or the next take does
  lane.placement = nullptr;
  reference_.lane(placement.reference, -1);
  erase_if_idle(placement);
}

void World::stop_asked(void* context) {
  Lane& lane = *static_cast<Lane*>(context);
  lane.world->at(lane.world->clock_.time + kMicrosecond, Kind::kResume, lane.index, ++lane.epoch);
}

Status World::run_model(Placement& placement, BatchRun& batch) {
  Lane& lane = *lanes_[static_cast<std::size_t>(batch.lane)];
  const ModelPlan& plan = placement.plan;
  Nanos duration = plan.run_time(batch.inputs[0].shape[0],
                                 scenario_.slowness(scenario_.devices[static_cast<std::size_t>(lane.index)]));
  if (random_.chance(plan.slow_percent)) duration *= 20;
  at(clock_.time + duration, Kind::kResume, lane.index, ++lane.epoch);
  if (!plan.deaf) batch.interrupt->arm(&World::stop_asked, &lane);
  lane.fiber.suspend();
  ++lane.epoch;
  if (!plan.deaf) batch.interrupt->disarm();
  const bool stopped = batch.interrupt->requested();
  if (stopped && plan.deaf) REACHED(report_, run_deaf_to_stop);
  if (stopped && !plan.deaf) {
    REACHED(report_, run_stopped);
    return {Code::kCancelled, "stopped"};
  }
  Status status = compute(plan, batch);
  if (!status.ok()) {
    batch.outputs.clear();
    if (plant_ == Plant::kLeakedBlock && plant_random_.chance(20)) {
      Result<Block> block = pool_.allocate(64);
      if (block.ok()) leaked_.push_back(*block);
    }
  }
  return status;
}

// Input 0 plus one, input 1 as it is; what is wrong with a request is written in its values.
Status World::compute(const ModelPlan& plan, BatchRun& batch) {
  const Tensor& echo = batch.inputs[0];
  std::int64_t rows = echo.shape[0];
  const std::size_t count = echo.size / 8;
  std::int64_t flags = 0;
  std::vector<std::int64_t> values(count);
  if (count > 0) std::memcpy(values.data(), echo.data, echo.size);
  for (std::int64_t& value : values) flags |= value++;
  REQUIRE(report_, reinterpret_cast<std::uintptr_t>(echo.data) % 8 == 0, kBooks, "an input is not aligned");
  REQUIRE(report_, !plan.batched() || rows <= plan.policy.max_batch_size, kBatchLimit, std::to_string(rows) + " rows");
  if ((flags & kFailsFlag) != 0) return {Code::kInvalidArgument, "a guilty request"};
  if (plan.fragile > 0 && rows > plan.fragile) return internal_error("too many rows for this device");

  batch.outputs.resize(2);
  if (batch.wanted[kEcho] != 0) {
    const std::int64_t width = echo.shape[1];
    if ((flags & kWrongRowsFlag) != 0) {
      REACHED(report_, wrong_row_count);
      --rows;
    }
    const auto bytes = static_cast<std::size_t>(rows * width) * 8;
    Result<Block> block = pool_.allocate(bytes);
    if (!block.ok()) return block.status();
    if (bytes > 0) std::memcpy(block->data(), values.data(), bytes);
    batch.outputs[kEcho] = {Shape{rows, width}, DType::kInt64, *block, block->data(), bytes};
  }
  if (batch.wanted[kStrings] != 0) {
    const Tensor& strings = batch.inputs[1];
    Result<Block> block = pool_.allocate(strings.size);
    if (!block.ok()) return block.status();
    if (strings.size > 0) std::memcpy(block->data(), strings.data, strings.size);
    Shape shape = strings.shape;
    if ((flags & kWrongRowsFlag) != 0) shape.set(0, shape[0] + 1);
    batch.outputs[kStrings] = {std::move(shape), DType::kBytes, *block, block->data(), strings.size};
  }
  return Status();
}

void World::still_running(std::span<Ticket* const> tickets, std::vector<Ticket*>& out) {
  dispatcher_.still_running(tickets, out);
  Lane& lane = *lanes_[tickets.front()->lane];
  if (lane.halvings++ > 0) REACHED(report_, halved_again);
  REACHED(report_, halved);
  if (out.size() < tickets.size()) REACHED(report_, halved_with_gone);
}

TicketChain World::settle(Dispatcher::Entry* entry, std::span<Ticket* const> tickets) {
  Lane& lane = *lanes_[tickets.front()->lane];
  std::vector<std::uint64_t> expected;
  for (const Ticket* ticket : tickets) {
    const Request& request = request_of(ticket);
    if (request.stage == Stage::kRunning) expected.push_back(request.id);
    std::erase(lane.unsettled, request.id);
  }
  const TicketChain chain = dispatcher_.settle(entry, tickets);
  std::size_t at_index = 0;
  for (Completion* link = chain.first; link != nullptr; link = link == chain.last ? nullptr : link->next) {
    const std::uint64_t id = static_cast<Ticket*>(link)->cookie_call;
    REQUIRE(report_, at_index < expected.size() && expected[at_index] == id, kBooks,
            "request " + std::to_string(id) + " is settled out of turn");
    ++at_index;
  }
  REQUIRE(report_, at_index == expected.size() && chain.count == at_index, kBooks, "a settled request is not answered");
  if (wanted(lane) == 0 && !lane.unsettled.empty()) {
    REQUIRE(report_, lane.assignment.interrupt->requested(), kInterrupt, "the rest is gone and nobody stops the run");
    REACHED(report_, rest_gone_interrupt);
  }
  return chain;
}

void World::answer(TicketChain chain) {
  if (plant_ == Plant::kSwappedAnswer) swap_two(chain);
  TicketChain rest;
  for (Completion* link = chain.first; link != nullptr;) {
    Completion* next = link == chain.last ? nullptr : link->next;
    auto* ticket = static_cast<Ticket*>(link);
    const Request& request = request_of(ticket);
    const bool lost = plant_ == Plant::kLostTicket && request.deadline == kNever && !request.cancel_planned &&
                      plant_random_.chance(5);
    if (!lost) rest.append(ticket);
    if (plant_ == Plant::kDoubleCompletion && plant_random_.chance(5)) {
      ticket->references.fetch_add(1);
      deliver(ticket, ticket);
    }
    link = next;
  }
  hand_out(rest);
}

void World::swap_two(TicketChain chain) {
  for (Completion* link = chain.first; link != nullptr && link != chain.last; link = link->next) {
    auto* a = static_cast<Ticket*>(link);
    auto* b = static_cast<Ticket*>(link->next);
    if (!a->status.ok() || a->rows != b->rows || a->wanted != b->wanted || !plant_random_.chance(5)) continue;
    a->outputs.swap(b->outputs);
    return;
  }
}

void World::ran(const RunRecord& record) noexcept {
  const bool ordered = record.started <= record.infer_start && record.infer_start <= record.infer_end &&
                       record.infer_end <= record.finished && record.finished == clock_.time;
  REQUIRE(report_, ordered, kBooks, "the times of a run are out of order");
}

void World::hand_out(TicketChain chain) {
  if (chain.first != nullptr) deliver(chain.first, chain.last);
}

void World::deliver(Completion* first, Completion* last) noexcept {
  for (Completion* link = first; link != nullptr;) {
    Completion* next = link == last ? nullptr : link->next;
    completed(static_cast<Ticket*>(link));
    link = next;
  }
}

// A ticket has left the dispatcher before its batch ended, or before it had one.
void World::ended_early(Request& request, bool by_deadline) {
  if (request.stage == Stage::kQueued) {
    reference_.leave(request.placement, request.id);
    if (by_deadline) REACHED(report_, expired_queued);
    if (!by_deadline) REACHED(report_, cancelled_queued);
    return;
  }
  if (by_deadline) REACHED(report_, expired_running);
  if (!by_deadline) REACHED(report_, cancelled_running);
  const Lane& lane = *lanes_[static_cast<std::size_t>(request.lane)];
  if (wanted(lane) == 1) {  // it was the last one
    REQUIRE(report_, lane.assignment.interrupt->requested(), kInterrupt, "all are gone and nobody stops the run");
    REACHED(report_, all_gone_interrupt);
  }
}

void World::completed(Ticket* ticket) {
  Request& request = request_of(ticket);
  TRACE(report_, "answer to " + std::to_string(request.id) + ": " + ticket->status.to_string());
  REQUIRE(report_, request.stage == Stage::kQueued || request.stage == Stage::kRunning, kOnce,
          "request " + std::to_string(request.id) + " again: " + ticket->status.to_string());
  REQUIRE(report_, ticket->state == TicketState::kDone, kBooks, "an answered ticket is not DONE");
  if (scenario_.exact && request.target != kNever) {
    REQUIRE(report_, ticket->status.ok() && clock_.time <= request.target, kPromise,
            "request " + std::to_string(request.id) + " is answered " + std::to_string(clock_.time - request.target) +
                " ns after its target: " + ticket->status.to_string());
    REACHED(report_, promise_kept);
  }
  check_status(request, *ticket);
  request.stage = Stage::kAnswered;
  request.ticket = nullptr;
  if (request.deadline != kNever) deadlines_.erase({request.deadline, request.id});
  --unanswered_;
  if (random_.chance(scenario_.keep_percent)) {
    REACHED(report_, answer_kept);
    kept_.emplace(request.id, ticket);
    at(clock_.time + random_.between(0, 2000) * kMicrosecond, Kind::kDrop, 0, request.id);
  } else if (ticket->references.fetch_sub(1) == 1) {
    delete ticket;
  }
}

void World::check_status(const Request& request, const Ticket& ticket) {
  const Placement& placement = *placements_[static_cast<std::size_t>(request.placement)];
  const ModelPlan& plan = placement.plan;
  const std::string who = "request " + std::to_string(request.id) + ": " + ticket.status.to_string();
  const bool guilty = request.guilt != Guilt::kNone || (plan.fragile > 0 && request.rows > plan.fragile);
  switch (ticket.status.code()) {
    case Code::kOk: {
      REQUIRE(report_, !guilty, kOnlyGuilty, who + " though it makes every run fail");
      const auto wrong = wrong_rows(request, plan, ticket);
      REQUIRE(report_, !wrong, kRightRows, *wrong);
      const Timeline& time = ticket.time;
      REQUIRE(report_,
              time.received <= time.queued && time.queued <= time.started && time.started <= time.infer_start &&
                  time.infer_start <= time.infer_end && time.finished == clock_.time &&
                  ticket.batch_rows >= request.rows,
              kBooks, who + ": its time line is out of order");
      if (lanes_[static_cast<std::size_t>(request.lane)]->halvings > 0) REACHED(report_, innocent_saved);
      return;
    }
    case Code::kCancelled:
      REQUIRE(report_, request.cancelled, kOnlyGuilty, who);
      return;
    case Code::kDeadlineExceeded:
      REQUIRE(report_, request.deadline <= clock_.time, kOnTime, who + " before its time");
      return;
    case Code::kUnavailable:
      REQUIRE(report_, placement.closed && request.stage == Stage::kQueued, kOnlyGuilty, who);
      return;
    case Code::kResourceExhausted:
      REQUIRE(report_, pool_.stats().refusals > 0, kOnlyGuilty, who);
      REACHED(report_, pool_refused);
      return;
    default:
      REQUIRE(report_, guilty, kOnlyGuilty, who);
      REACHED(report_, guilty_alone);
      return;
  }
}

}  // namespace headrace::sim
