#include "schedule/devices.h"

#include <algorithm>
#include <span>

#include "base/check.h"

namespace headrace {

Devices::Devices(const SchedulerOptions& options, Pool& pool) : options_(options), pool_(pool) {
  MutexLock lock(mutex_);
  names_.emplace_back("cpu");
  owned_.push_back(std::make_unique<Scheduler>(options_, pool_));
  schedulers_[kCpuLanes].store(owned_.back().get(), std::memory_order_release);
  count_.store(1, std::memory_order_release);
}

Result<std::uint8_t> Devices::lanes_of(std::string_view name, int lanes) {
  MutexLock lock(mutex_);
  const auto found = std::find(names_.begin(), names_.end(), name);
  if (found != names_.end()) return static_cast<std::uint8_t>(found - names_.begin());
  if (names_.size() == kMost) {
    return Status(Code::kResourceExhausted, "there are lanes of " + std::to_string(kMost) +
                                                " devices already, which is the most: " + std::string(name) +
                                                " cannot be one more; name fewer in instance_group.gpus");
  }
  SchedulerOptions options = options_;
  options.lanes = lanes;
  options.devices.clear();
  const std::size_t number = names_.size();
  owned_.push_back(std::make_unique<Scheduler>(options, pool_));
  if (stopped_) owned_.back()->stop(stop_status_);
  names_.emplace_back(name);
  schedulers_[number].store(owned_.back().get(), std::memory_order_release);
  count_.store(number + 1, std::memory_order_release);
  return static_cast<std::uint8_t>(number);
}

std::string Devices::name(std::uint8_t device) const {
  MutexLock lock(mutex_);
  return names_[device];
}

void Devices::submit_apart(Ticket* first) {
  struct Chain {
    Ticket* first = nullptr;
    Ticket* last = nullptr;
  };
  std::array<Chain, kMost> chains;
  while (first != nullptr) {
    Ticket* ticket = first;
    first = static_cast<Ticket*>(ticket->next);
    ticket->next = nullptr;
    if (ticket->device == kAnyDevice) {
      submit_to_best(ticket);
      continue;
    }
    Chain& chain = chains[ticket->device];
    if (chain.first == nullptr) {
      chain.first = ticket;
    } else {
      chain.last->next = ticket;
    }
    chain.last = ticket;
  }
  for (std::size_t i = 0; i < count(); ++i) {
    if (chains[i].first != nullptr) on(static_cast<std::uint8_t>(i)).submit(chains[i].first);
  }
}

void Devices::submit_to_best(Ticket* ticket) {
  const Places& places = *static_cast<const Places*>(ticket->model);
  HEADRACE_CHECK(!places.empty() && places.size() <= kMost);
  std::array<Offer, kMost> offers;
  std::array<bool, kMost> tried{};
  for (std::size_t i = 0; i < places.size(); ++i) offers[i] = on(places[i].device).offer(places[i].entry, *ticket);
  const Nanos now = cpu().clock().now();
  // A model's latency objective is a target as well; whoever refuses for it has looked.
  const bool waits = ticket->deadline == kNever;
  Status status;
  for (std::size_t left = places.size(); left > 0; --left) {
    const std::size_t best = choose_device(std::span(offers.data(), places.size()), tried, waits, now);
    tried[best] = true;
    ticket->device = places[best].device;
    ticket->model = places[best].entry;
    if (on(places[best].device).try_submit(ticket).first == nullptr) return;
    // What the first choice says is what the caller is told.
    if (status.ok()) status = std::move(ticket->status);
    ticket->status = Status();
    if (left > 1) ticket->state = TicketState::kNew;
  }
  ticket->status = std::move(status);
  ticket->sink->deliver(ticket, ticket);
}

bool Devices::wait_idle(Nanos time) {
  bool idle = true;
  for (std::size_t i = 0; i < count(); ++i) idle = on(static_cast<std::uint8_t>(i)).wait_idle(time) && idle;
  return idle;
}

void Devices::stop(const Status& status) {
  {
    MutexLock lock(mutex_);
    if (!stopped_) stop_status_ = status;
    stopped_ = true;
  }
  for (std::size_t i = 0; i < count(); ++i) on(static_cast<std::uint8_t>(i)).stop(status);
}

std::size_t Devices::in_flight() const {
  std::size_t all = 0;
  for (std::size_t i = 0; i < count(); ++i) all += on(static_cast<std::uint8_t>(i)).in_flight();
  return all;
}

int Devices::lanes() const {
  int all = 0;
  for (std::size_t i = 0; i < count(); ++i) all += on(static_cast<std::uint8_t>(i)).lanes();
  return all;
}

int Devices::busy_lanes() const {
  int all = 0;
  for (std::size_t i = 0; i < count(); ++i) all += on(static_cast<std::uint8_t>(i)).busy_lanes();
  return all;
}

std::uint64_t Devices::parked_arrivals() const {
  std::uint64_t all = 0;
  for (std::size_t i = 0; i < count(); ++i) all += on(static_cast<std::uint8_t>(i)).parked_arrivals();
  return all;
}

}  // namespace headrace
