#include "device_world.h"

#include <algorithm>
#include <string>

namespace headrace::sim {

CostEstimate DeviceWorld::RunCosts::predict(const CostKey& /*key*/, std::int64_t rows) const {
  const Nanos told = time(rows) * percent_ / 100;
  return {told, told, true, true, 0};
}

std::int64_t DeviceWorld::RunCosts::best_rows(const CostKey& /*key*/, std::int64_t most, Nanos span) const {
  if (span == kNever) return most;
  std::int64_t rows = 1;
  while (rows < most && time(rows + 1) <= span / 2) ++rows;
  return rows;
}

std::int64_t DeviceWorld::RunCosts::most_rows_within(const CostKey& key, Nanos within, std::int64_t most) const {
  std::int64_t rows = 0;
  while (rows < most && predict(key, rows + 1).high <= within) ++rows;
  return rows;
}

DeviceWorld::DeviceWorld(std::uint64_t seed, Plant plant, Report& report)
    : report_(report), plant_(plant), random_(seed ^ 0xdeb1ceU), plant_random_(~seed) {
  report_.now = &now_;
  plain_ = random_.chance(25) && plant_ != Plant::kSwappedSpeeds;
  left_ = static_cast<int>(random_.between(20, 300));
  burst_ = static_cast<int>(random_.between(1, 16));
  gap_ = random_.between(1, 400) * kMicrosecond;
  target_percent_ = plain_ || random_.chance(30) ? 0 : static_cast<int>(random_.between(5, 100));
  for (std::size_t d = 0; d < kDevices; ++d) {
    devices_[d].lanes = plain_ ? 1 : static_cast<int>(random_.between(1, 3));
    devices_[d].dispatcher = std::make_unique<Dispatcher>(devices_[d].lanes);
    for (int i = 0; i < devices_[d].lanes; ++i) {
      lanes_.push_back(std::make_unique<Lane>());
      lanes_.back()->device = d;
      lanes_.back()->index = i;
    }
  }
  models_.resize(plain_ ? 1 : static_cast<std::size_t>(random_.between(1, 3)));
  for (Model& model : models_) {
    BatchingPolicy policy;
    policy.max_queue_size = 4096;
    policy.dynamic_batching = !plain_;
    model.max_batch = plain_ ? 1 : std::int64_t{1} << random_.between(0, 4);
    policy.max_batch_size = model.max_batch;
    policy.patience = 2 * kMillisecond;
    // The one starts sooner, the other is faster by the row; or it is the faster in everything.
    const Nanos fixed = random_.between(1'000, 200'000);
    const Nanos row = random_.between(10, 40'000);
    const int slower = static_cast<int>(random_.between(100, 1500));
    const int start = random_.chance(30) ? static_cast<int>(random_.between(10, 100)) : slower;
    for (std::size_t d = 0; d < kDevices; ++d) {
      const bool slow = (d == 1) != (plant_ == Plant::kSwappedSpeeds);
      const bool really = d == 1;
      const auto make = [&](bool slow_one) {
        return std::make_unique<RunCosts>(slow_one ? fixed * start / 100 : fixed, slow_one ? row * slower / 100 : row,
                                          100);
      };
      model.costs[d] = make(really);
      if (slow != really) swapped_.push_back(make(slow));
      Costs* told = slow != really ? swapped_.back().get() : model.costs[d].get();
      const int most = plain_ ? 1 : static_cast<int>(random_.between(1, devices_[d].lanes));
      TRACE(report_, "model of batches of " + std::to_string(model.max_batch) + " on device " + std::to_string(d) +
                         ": " + std::to_string(most) + " of " + std::to_string(devices_[d].lanes) +
                         " lanes, a row takes " + std::to_string(model.costs[d]->time(1)));
      model.entry[d] = devices_[d].dispatcher->add("m", policy, most, &model, told);
    }
  }
}

DeviceWorld::~DeviceWorld() { report_.now = nullptr; }

void DeviceWorld::run() {
  for (Nanos time = next_time(); time != kNever; time = next_time()) {
    now_ = time;
    for (auto& lane : lanes_) {
      if (lane->busy && lane->end == now_) finish(*lane);
    }
    for (Device& device : devices_) {
      REQUIRE(report_, device.dispatcher->expire(now_).first == nullptr, kPromise, "a request is not in time");
    }
    // The lanes take after each: what comes at one moment comes one after the other.
    if (left_ > 0 && next_arrival_ == now_) arrive();
    give_work();
  }
  check_end();
}

Nanos DeviceWorld::next_time() const {
  Nanos time = left_ > 0 ? next_arrival_ : kNever;
  bool idle = false;
  for (const auto& lane : lanes_) {
    if (lane->busy) time = std::min(time, lane->end);
    idle = idle || !lane->busy;
  }
  for (const Device& device : devices_) time = std::min(time, device.dispatcher->next_deadline());
  return idle ? std::min(time, ask_again_) : time;
}

void DeviceWorld::arrive() {
  const auto count = static_cast<int>(random_.between(1, burst_));
  for (int i = 0; i < count && left_ > 0; ++i, --left_) {
    send(random_.below(models_.size()));
    give_work();
  }
  next_arrival_ = now_ + random_.between(1, gap_);
}

bool DeviceWorld::idle(std::size_t device) const {
  for (const Model& model : models_) {
    if (!devices_[device].dispatcher->idle(model.entry[device])) return false;
  }
  return true;
}

// Of a plain world: what is in front of it on each device, and its own run.
Nanos DeviceWorld::earliest_end(const Request& request) const {
  Nanos best = kNever;
  for (const auto& lane : lanes_) {
    const Nanos run = models_[request.model].costs[lane->device]->time(1);
    Nanos free = lane->busy ? lane->end : now_;
    for (const auto& other : requests_) {
      if (other->device == lane->device && !other->taken) free += run;
    }
    best = std::min(best, free + run);
  }
  return best;
}

std::size_t DeviceWorld::choose(const Request& request, const std::array<bool, kDevices>& tried) {
  std::array<Offer, kDevices> offers;
  for (std::size_t d = 0; d < kDevices; ++d) {
    const Model& model = models_[request.model];
    offers[d] = devices_[d].dispatcher->offer(model.entry[d], request.ticket, now_);
    if (plant_ == Plant::kBlindChoice) offers[d].end = now_ + model.costs[d]->time(request.ticket.rows);
    if (!idle(d) || plant_ == Plant::kSwappedSpeeds) continue;
    REQUIRE(report_, plant_ == Plant::kBlindChoice || offers[d].end == now_ + model.costs[d]->time(request.ticket.rows),
            kBooks, "an idle device offers another time than its run");
  }
  if (plant_ == Plant::kFirstDevice && !tried[0]) return 0;
  const std::size_t chosen = choose_device(offers, tried, request.target == kNever, now_);
  const std::size_t other = 1 - chosen;
  if (!tried[other] && idle(other) && !idle(chosen)) REACHED(report_, device_slow_left_idle);
  if (models_[request.model].costs[chosen]->time(1) > models_[request.model].costs[other]->time(1))
    REACHED(report_, device_slow_used);
  return chosen;
}

void DeviceWorld::check_refusal(const Request& request, const std::array<bool, kDevices>& asked) const {
  REQUIRE(report_, request.target != kNever, kRefusal, "it has no target");
  REACHED(report_, device_refused);
  for (std::size_t d = 0; d < kDevices; ++d) {
    REQUIRE(report_, asked[d], kRefusal, "device " + std::to_string(d) + " was not asked");
    const Nanos run = models_[request.model].costs[d]->time(request.ticket.rows);
    REQUIRE(report_, !idle(d) || now_ + run >= request.target || plant_ == Plant::kSwappedSpeeds, kRefusal,
            "device " + std::to_string(d) + " is idle and would have taken " + std::to_string(run) + " ns of " +
                std::to_string(request.target - now_));
  }
}

void DeviceWorld::send(std::size_t model) {
  requests_.push_back(std::make_unique<Request>());
  Request& request = *requests_.back();
  Ticket& ticket = request.ticket;
  request.model = model;
  request.came = ticket.time.received = now_;
  ticket.rows = random_.between(1, models_[model].max_batch);
  ticket.cookie_call = requests_.size() - 1;
  if (random_.chance(target_percent_))
    request.target = ticket.deadline = now_ + random_.between(2, 4000) * kMicrosecond;
  if (plain_) request.best = earliest_end(request);
  std::array<bool, kDevices> tried{};
  for (std::size_t left = kDevices; left > 0; --left) {
    const std::size_t chosen = choose(request, tried);
    tried[chosen] = true;
    const bool mixed = plant_ == Plant::kMixedDevices && plant_random_.chance(5);
    const std::size_t handed = mixed ? 1 - chosen : chosen;
    const Status status = devices_[handed].dispatcher->submit(models_[model].entry[handed], &ticket, now_);
    TRACE(report_, "request " + std::to_string(ticket.cookie_call) + ", " + std::to_string(ticket.rows) +
                       " rows, to device " + std::to_string(chosen) +
                       (request.target == kNever ? "" : " by " + std::to_string(request.target)) + ": " +
                       status.to_string());
    if (status.ok()) {
      request.device = chosen;
      if (left < kDevices) REACHED(report_, device_second_chance);
      return;
    }
    REQUIRE(report_, status.code() == Code::kDeadlineExceeded, kBounded, status.to_string());
    if (plant_ == Plant::kNoSecondChance) break;
  }
  check_refusal(request, tried);
}

void DeviceWorld::give_work() {
  ask_again_ = kNever;
  for (auto& lane : lanes_) {
    if (lane->busy) continue;
    Dispatcher& dispatcher = *devices_[lane->device].dispatcher;
    dispatcher.take(lane->index, now_, lane->assignment);
    if (lane->assignment.entry == nullptr) {
      check_idle(lane->device, lane->assignment.ask_again);
      ask_again_ = std::min(ask_again_, lane->assignment.ask_again);
      continue;
    }
    check_batch(*lane);
    const auto& model = *static_cast<const Model*>(Dispatcher::model(lane->assignment.entry));
    lane->busy = true;
    lane->end = now_ + model.costs[lane->device]->time(lane->assignment.rows);
  }
}

// A lane that gets nothing: nothing waits there that may have one more lane, or it is kept for somebody.
void DeviceWorld::check_idle(std::size_t device, Nanos ask_again) const {
  if (ask_again != kNever) return;
  for (const Model& model : models_) {
    const Dispatcher& dispatcher = *devices_[device].dispatcher;
    const int most = Dispatcher::lanes_now(model.entry[device]);
    REQUIRE(report_,
            dispatcher.queued(model.entry[device]) == 0 || dispatcher.running_lanes(model.entry[device]) >= most,
            kLaneIdle, "a request waits on device " + std::to_string(device));
  }
}

void DeviceWorld::check_batch(const Lane& lane) {
  const auto& tickets = lane.assignment.tickets;
  std::int64_t rows = 0;
  Nanos first = kNever;
  for (const Ticket* ticket : tickets) {
    Request& request = *requests_[ticket->cookie_call];
    REQUIRE(report_, request.device == lane.device, kOneDevice,
            "request " + std::to_string(ticket->cookie_call) + " was sent to device " + std::to_string(request.device) +
                " and runs on device " + std::to_string(lane.device));
    REQUIRE(report_, !request.taken, kOnce, "request " + std::to_string(ticket->cookie_call) + " runs twice");
    request.taken = true;
    rows += ticket->rows;
    first = std::min(first, request.came);
  }
  const auto& model = *static_cast<const Model*>(Dispatcher::model(lane.assignment.entry));
  TRACE(report_, "batch of " + std::to_string(rows) + " rows on device " + std::to_string(lane.device) + ", lane " +
                     std::to_string(lane.index) + ", from request " + std::to_string(tickets.front()->cookie_call) +
                     ": " + std::to_string(model.costs[lane.device]->time(rows)) + " ns");
  REQUIRE(report_, rows == lane.assignment.rows && rows <= model.max_batch, kBatchLimit,
          std::to_string(rows) + " rows");
  if (tickets.size() > 1) REACHED(report_, device_batch_gathered);
  const Request& taken = *requests_[tickets.front()->cookie_call];
  for (const auto& other : requests_) {
    if (other->taken || other->device != lane.device || other->model != taken.model) continue;
    REQUIRE(report_, first <= other->came + 2 * kMillisecond, kStarved,
            "request " + std::to_string(other->ticket.cookie_call) +
                " is passed by those that came after its patience was over");
  }
}

void DeviceWorld::finish(Lane& lane) {
  Dispatcher& dispatcher = *devices_[lane.device].dispatcher;
  const TicketChain chain = dispatcher.settle(lane.assignment.entry, lane.assignment.tickets);
  REQUIRE(report_, chain.count == lane.assignment.tickets.size(), kBooks, "a request was answered before its run");
  for (const Ticket* ticket : lane.assignment.tickets) {
    Request& request = *requests_[ticket->cookie_call];
    REQUIRE(report_, request.answered == kNever, kOnce, "request " + std::to_string(ticket->cookie_call) + " again");
    request.answered = now_;
    REQUIRE(report_, request.target == kNever || now_ <= request.target, kPromise,
            "request " + std::to_string(ticket->cookie_call) + " is answered " + std::to_string(now_ - request.target) +
                " ns after its target");
    if (request.target != kNever) REACHED(report_, device_promise_kept);
    if (!plain_) continue;
    REACHED(report_, devices_plain);
    REQUIRE(report_, request.answered == request.best, kDevice,
            "request " + std::to_string(ticket->cookie_call) + " is answered " +
                std::to_string(request.answered - request.best) + " ns after the earliest that a device could");
  }
  dispatcher.release(lane.index, lane.assignment, now_);
  lane.busy = false;
}

void DeviceWorld::check_end() const {
  for (const auto& request : requests_) {
    REQUIRE(report_, request->device == kNowhere || request->answered != kNever, kAnswered,
            "request " + std::to_string(request->ticket.cookie_call) + " never got its answer");
  }
}

}  // namespace headrace::sim
