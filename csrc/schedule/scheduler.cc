#include "schedule/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace headrace {
namespace {

// To their sinks, runs of one sink at a time. No lock is held.
void deliver(TicketChain chain) {
  auto* first = static_cast<Completion*>(chain.first);
  while (first != nullptr) {
    CompletionSink* sink = static_cast<Ticket*>(first)->sink;
    Completion* last = first;
    while (last != chain.last && static_cast<Ticket*>(last->next)->sink == sink) last = last->next;
    Completion* next = last == chain.last ? nullptr : last->next;
    sink->deliver(first, last);
    first = next;
  }
}

void set_status(TicketChain chain, const Status& status) {
  for (Completion* link = chain.first; link != nullptr; link = link == chain.last ? nullptr : link->next) {
    static_cast<Ticket*>(link)->status = status;
  }
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, Pool& pool)
    : clock_(options.clock != nullptr ? *options.clock : SteadyClock::instance()),
      pool_(pool),
      dispatcher_(options.lanes, options.devices),
      listener_(options.listener) {
  HEADRACE_CHECK(options.lanes > 0);
  for (int i = 0; i < options.lanes; ++i) lanes_.push_back(std::make_unique<Lane>());
  for (int i = 0; i < options.lanes; ++i) {
    lanes_[static_cast<std::size_t>(i)]->thread = std::thread([this, i] { run_lane(i); });
  }
  timer_ = std::thread([this] { run_timer(); });
}

Scheduler::~Scheduler() { stop({Code::kUnavailable, "the server is shutting down"}); }

Dispatcher::Entry* Scheduler::add(const std::string& name, const BatchingPolicy& policy, int max_lanes,
                                  const Runnable* runnable, const Share& share) {
  MutexLock lock(mutex_);
  Dispatcher::Entry* entry =
      dispatcher_.add(name, policy, max_lanes, const_cast<Runnable*>(runnable), runnable->costs, share);
  entries_.push_back(entry);
  return entry;
}

Status Scheduler::can_have(const Share& share) const {
  MutexLock lock(mutex_);
  return dispatcher_.can_have(share);
}

void Scheduler::set_resource(const std::string& name, int device, std::uint32_t count) {
  Lane* lane = nullptr;
  {
    MutexLock lock(mutex_);
    dispatcher_.set_resource(name, device, count);
    lane = wake_for_work(clock_.now());
  }
  if (lane != nullptr) lane->wake.notify_one();
}

void Scheduler::set_cores(std::uint32_t count) {
  Lane* lane = nullptr;
  {
    MutexLock lock(mutex_);
    dispatcher_.set_cores(count);
    lane = wake_for_work(clock_.now());
  }
  if (lane != nullptr) lane->wake.notify_one();
}

void Scheduler::wait_empty(const Dispatcher::Entry* entry) {
  MutexLock lock(mutex_);
  ++watchers_;
  while (dispatcher_.unserved(entry) != 0) quiet_.wait(mutex_);
  --watchers_;
}

void Scheduler::close_entry(Dispatcher::Entry* entry, const Status& status) {
  TicketChain chain;
  {
    MutexLock lock(mutex_);
    chain = dispatcher_.close(entry);
    set_status(chain, status);
    leaving(chain);
  }
  deliver_early(chain);
  MutexLock lock(mutex_);
  ++watchers_;
  while (!dispatcher_.idle(entry)) quiet_.wait(mutex_);
  --watchers_;
}

bool Scheduler::park(Dispatcher::Entry* entry) {
  MutexLock lock(mutex_);
  std::erase(found_busy_, entry);
  if (dispatcher_.park(entry)) return true;
  found_busy_.push_back(entry);
  return false;
}

void Scheduler::unpark(Dispatcher::Entry* entry) {
  Lane* lane = nullptr;
  {
    MutexLock lock(mutex_);
    std::erase(asked_for_, entry);
    dispatcher_.unpark(entry);
    lane = wake_for_work(clock_.now());
  }
  if (lane != nullptr) lane->wake.notify_one();
}

void Scheduler::refuse_waiting(Dispatcher::Entry* entry, const Status& status) {
  TicketChain chain;
  {
    MutexLock lock(mutex_);
    std::erase(asked_for_, entry);
    chain = dispatcher_.empty_queue(entry);
    set_status(chain, status);
    leaving(chain);
  }
  deliver_early(chain);
}

bool Scheduler::lost_interest(Dispatcher::Entry* entry) {
  MutexLock lock(mutex_);
  if (dispatcher_.queued(entry) != 0) return false;
  std::erase(asked_for_, entry);
  return true;
}

std::uint64_t Scheduler::parked_arrivals() const {
  MutexLock lock(mutex_);
  return parked_arrivals_;
}

bool Scheduler::idle_after_all(const Dispatcher::Entry* entry) {
  return !found_busy_.empty() && dispatcher_.idle(entry) && std::erase(found_busy_, entry) != 0;
}

bool Scheduler::any_idle_after_all() {
  const std::size_t before = found_busy_.size();
  for (std::size_t i = found_busy_.size(); i-- > 0;) {
    if (dispatcher_.idle(found_busy_[i])) found_busy_.erase(found_busy_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return found_busy_.size() != before;
}

void Scheduler::erase(Dispatcher::Entry* entry) {
  MutexLock lock(mutex_);
  std::erase(entries_, entry);
  std::erase(asked_for_, entry);
  std::erase(found_busy_, entry);
  dispatcher_.erase(entry);
}

Scheduler::Lane* Scheduler::wake_for_work(Nanos now) {
  // A lane on its way is enough: it wakes the next one if there is more than it takes.
  if (waking_ != 0 || idle_.empty()) return nullptr;
  if (!dispatcher_.work_for_idle_lane(now)) {
    Nanos look = kNever;
    for (const int index : idle_) look = std::min(look, lanes_[static_cast<std::size_t>(index)]->ask_again);
    if (!dispatcher_.work_for_idle_lane(look - 1)) return nullptr;
  }
  auto found = idle_.rbegin();
  if (holding_ > 0) {
    found = std::find_if(found, idle_.rend(), [this](int i) { return !lanes_[static_cast<std::size_t>(i)]->holds; });
    if (found == idle_.rend()) return nullptr;
  }
  Lane* lane = lanes_[static_cast<std::size_t>(*found)].get();
  idle_.erase(std::next(found).base());
  lane->asleep = false;
  ++waking_;
  return lane;
}

void Scheduler::end_holds() {
  if (holding_ == 0) return;
  for (auto& lane : lanes_) lane->holds = false;
  holding_ = 0;
}

void Scheduler::leaving(TicketChain chain) {
  in_flight_ -= chain.count;
  delivering_ += chain.count;
}

void Scheduler::deliver_early(TicketChain chain) {
  if (chain.first == nullptr) return;
  const std::size_t count = chain.count;
  deliver(chain);
  MutexLock lock(mutex_);
  delivering_ -= count;
  if (watchers_ != 0) quiet_.notify_all();
  const bool told = any_idle_after_all();
  lock.unlock();
  if (told) listener_->became_idle();
}

Offer Scheduler::offer(const Dispatcher::Entry* entry, const Ticket& ticket) const {
  MutexLock lock(mutex_);
  return dispatcher_.offer(entry, ticket, clock_.now());
}

void Scheduler::submit(Ticket* first) {
  const TicketChain refused = try_submit(first);
  if (refused.first != nullptr) deliver(refused);
}

TicketChain Scheduler::try_submit(Ticket* first) {
  TicketChain refused;
  Lane* lane = nullptr;
  bool timer = false;
  std::vector<Dispatcher::Entry*> wanted;
  {
    MutexLock lock(mutex_);
    const Nanos now = clock_.now();
    bool accepted = false;
    for (Ticket* ticket = first; ticket != nullptr;) {
      auto* next = static_cast<Ticket*>(ticket->next);
      auto* entry = static_cast<Dispatcher::Entry*>(ticket->model);
      Status status = stopping_ ? stop_status_ : dispatcher_.submit(entry, ticket, now);
      if (status.ok()) {
        ++in_flight_;
        accepted = true;
        if (Dispatcher::parked(entry)) {
          ++parked_arrivals_;
          if (std::find(asked_for_.begin(), asked_for_.end(), entry) == asked_for_.end()) {
            asked_for_.push_back(entry);
            wanted.push_back(entry);
          }
        }
      } else {
        ticket->status = std::move(status);
        ticket->state = TicketState::kDone;
        refused.append(ticket);
      }
      ticket = next;
    }
    if (accepted) {
      end_holds();
      lane = wake_for_work(now);
    }
    const Nanos deadline = dispatcher_.next_deadline();
    if (deadline < timer_time_) {
      timer_time_ = deadline;
      timer = true;
    }
  }
  if (lane != nullptr) lane->wake.notify_one();
  if (timer) timer_wake_.notify_one();
  for (Dispatcher::Entry* entry : wanted) listener_->wanted(entry);
  return refused;
}

void Scheduler::cancel(Ticket* ticket, const Status& status) {
  TicketChain chain;
  Lane* lane = nullptr;
  {
    MutexLock lock(mutex_);
    if (!dispatcher_.cancel(ticket, status)) return;
    chain.append(ticket);
    leaving(chain);
    end_holds();
    lane = wake_for_work(0);  // without it those behind it may make a preferred batch
  }
  if (lane != nullptr) lane->wake.notify_one();
  deliver_early(chain);
}

void Scheduler::still_running(std::span<Ticket* const> tickets, std::vector<Ticket*>& out) {
  MutexLock lock(mutex_);
  dispatcher_.still_running(tickets, out);
}

TicketChain Scheduler::settle(Dispatcher::Entry* entry, std::span<Ticket* const> tickets) {
  MutexLock lock(mutex_);
  TicketChain chain = dispatcher_.settle(entry, tickets);
  leaving(chain);
  if (chain.first != nullptr) lanes_[chain.first->lane]->delivering += chain.count;
  return chain;
}

std::optional<std::uint32_t> Scheduler::claim_part(Ticket* ticket) {
  MutexLock lock(mutex_);
  return dispatcher_.claim_part(ticket);
}

TicketChain Scheduler::end_turn(Dispatcher::Entry* entry, Ticket* ticket) {
  MutexLock lock(mutex_);
  const TicketChain chain = dispatcher_.end_turn(entry, ticket);
  leaving(chain);
  if (chain.first != nullptr) lanes_[chain.first->lane]->delivering += chain.count;
  return chain;
}

void Scheduler::give_credit(Ticket* ticket, std::uint32_t parts) {
  Lane* lane = nullptr;
  {
    MutexLock lock(mutex_);
    if (!dispatcher_.give_credit(ticket, parts)) return;
    end_holds();
    lane = wake_for_work(clock_.now());
  }
  if (lane != nullptr) lane->wake.notify_one();
}

void Scheduler::answer(TicketChain chain) { deliver(chain); }

void Scheduler::run_lane(int index) {
  Lane& lane = *lanes_[static_cast<std::size_t>(index)];
  Execution execution(index, pool_, clock_);
  Dispatcher::Assignment assignment;
  mutex_.lock();
  while (!stopping_) {
    const Nanos now = clock_.now();
    if (dispatcher_.next_deadline() <= now) {
      // What is late never reaches the runtime, even if the timer thread has not come to it yet.
      answer_expired(now);
      continue;
    }
    dispatcher_.take(index, now, assignment);
    if (assignment.entry == nullptr) {
      lane.asleep = true;
      lane.ask_again = assignment.ask_again;
      // It leaves work to another, which may be asleep too.
      lane.holds = dispatcher_.work_for_idle_lane(now);
      if (lane.holds) ++holding_;
      Lane* other = lane.holds ? wake_for_work(now) : nullptr;
      idle_.push_back(index);
      if (other != nullptr) other->wake.notify_one();
      while (lane.asleep && !stopping_ && clock_.now() < assignment.ask_again) {
        clock_.wait_until(lane.wake, mutex_, assignment.ask_again);
      }
      if (lane.asleep) {
        lane.asleep = false;
        std::erase(idle_, index);
        if (std::exchange(lane.holds, false)) --holding_;
      } else if (!stopping_) {
        --waking_;
      }
      continue;
    }
    lane.interrupt = assignment.interrupt;
    const auto* runnable = static_cast<const Runnable*>(Dispatcher::model(assignment.entry));
    Lane* next = wake_for_work(now);
    mutex_.unlock();
    if (next != nullptr) next->wake.notify_one();
    const bool whole = execution.run(assignment, *runnable, *this);
    mutex_.lock();
    const Nanos ended = clock_.now();
    if (whole && runnable->costs != nullptr) {
      runnable->costs->record(assignment.cost_key, assignment.cost_rows, ended - now, ended);
    }
    lane.interrupt = nullptr;
    delivering_ -= std::exchange(lane.delivering, 0);
    const Dispatcher::Entry* entry = assignment.entry;
    dispatcher_.release(index, assignment, ended);
    const bool told = idle_after_all(entry);
    if (watchers_ != 0) quiet_.notify_all();
    if (told || !assignment.gone.empty()) {
      mutex_.unlock();
      assignment.drop_gone();
      if (told) listener_->became_idle();
      mutex_.lock();
    }
  }
  mutex_.unlock();
}

void Scheduler::answer_expired(Nanos now) {
  const TicketChain chain = dispatcher_.expire(now);
  leaving(chain);
  end_holds();
  Lane* lane = wake_for_work(now);
  mutex_.unlock();
  if (lane != nullptr) lane->wake.notify_one();
  deliver_early(chain);
  mutex_.lock();
}

void Scheduler::run_timer() {
  mutex_.lock();
  while (!stopping_) {
    if (const Nanos now = clock_.now(); dispatcher_.next_deadline() <= now) {
      answer_expired(now);
      continue;
    }
    timer_time_ = dispatcher_.next_deadline();
    clock_.wait_until(timer_wake_, mutex_, timer_time_);
  }
  mutex_.unlock();
}

bool Scheduler::wait_idle(Nanos time) {
  MutexLock lock(mutex_);
  ++watchers_;
  while (in_flight_ + delivering_ != 0 && clock_.now() < time) clock_.wait_until(quiet_, mutex_, time);
  --watchers_;
  return in_flight_ + delivering_ == 0;
}

void Scheduler::stop(const Status& status) {
  TicketChain chain;
  {
    MutexLock lock(mutex_);
    if (!stopping_) {
      stopping_ = true;
      stop_status_ = status;
      for (Dispatcher::Entry* entry : entries_) chain.append(dispatcher_.close(entry));
      set_status(chain, status);
      leaving(chain);
      for (auto& lane : lanes_) {
        if (lane->interrupt != nullptr) lane->interrupt->request();
        lane->asleep = false;
      }
      idle_.clear();
    }
  }
  for (auto& lane : lanes_) lane->wake.notify_all();
  timer_wake_.notify_all();
  deliver_early(chain);
  MutexLock joining(join_mutex_);
  for (auto& lane : lanes_) {
    if (lane->thread.joinable()) lane->thread.join();
  }
  if (timer_.joinable()) timer_.join();
  // Another thread may have been first, and still be telling those that were queued.
  MutexLock lock(mutex_);
  ++watchers_;
  while (delivering_ != 0) quiet_.wait(mutex_);
  --watchers_;
}

Scheduler::Depth Scheduler::depth(const Dispatcher::Entry* entry) const {
  MutexLock lock(mutex_);
  return {dispatcher_.queued(entry), dispatcher_.queued_bytes(entry), dispatcher_.running(entry)};
}

Scheduler::Report Scheduler::report(const Dispatcher::Entry* entry) const {
  MutexLock lock(mutex_);
  Report report;
  report.log = Dispatcher::log(entry);
  report.refused_early = Dispatcher::refused_early(entry);
  report.lanes = dispatcher_.running_lanes(entry);
  report.lanes_now = Dispatcher::lanes_now(entry);
  report.span = dispatcher_.span();
  report.cores = dispatcher_.cores();
  report.cores_used = dispatcher_.cores_used();
  report.resources = dispatcher_.resources(entry);
  report.now = clock_.now();
  const CostModel* costs = static_cast<const Runnable*>(Dispatcher::model(entry))->costs;
  if (costs == nullptr) return report;
  for (const CostKey& key : costs->keys()) {
    const CostCurve& curve = *costs->curve(key);
    report.curves.push_back({key, curve.points(), curve.runs(), curve.spread(), curve.best_rows()});
  }
  return report;
}

std::size_t Scheduler::in_flight() const {
  MutexLock lock(mutex_);
  return in_flight_;
}

int Scheduler::busy_lanes() const {
  MutexLock lock(mutex_);
  return dispatcher_.busy_lanes();
}

}  // namespace headrace
