// The lanes of every device: each has a Scheduler of its own, with its queues, promises, fair shares and costs. The
// first is the CPU's, and there from the beginning; a GPU's comes with the first model that has a session there.
//
// A model that has sessions on several devices has a place on each. A request for it goes to the device that is
// expected to answer it first (device_choice.h); if that one cannot promise it its time, or has no room, to the next
// best. From then on it is that device's alone, so what a device has promised depends on nobody else. Where all models
// have one place, a request costs one comparison more.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/sync.h"
#include "schedule/scheduler.h"

namespace headrace {

inline constexpr std::uint8_t kCpuLanes = 0;      // the device of a ticket whose model runs on the CPU's
inline constexpr std::uint8_t kAnyDevice = 0xff;  // of one whose `model` is Places

struct Place {
  std::uint8_t device = kCpuLanes;
  Dispatcher::Entry* entry = nullptr;
};
using Places = std::vector<Place>;  // in order of preference

class Devices {
 public:
  static constexpr std::size_t kMost = 16;

  // `options`: of the CPU's lanes. Those of another device have as many as it is made with, and its clock and listener.
  Devices(const SchedulerOptions& options, Pool& pool);
  Devices(const Devices&) = delete;
  Devices& operator=(const Devices&) = delete;

  // The number of the device with this name ("gpu 0"), whose lanes begin now if it is new. RESOURCE_EXHAUSTED: there
  // are kMost already.
  Result<std::uint8_t> lanes_of(std::string_view name, int lanes);
  Scheduler& on(std::uint8_t device) const { return *schedulers_[device].load(std::memory_order_acquire); }
  Scheduler& cpu() const { return on(kCpuLanes); }
  std::size_t count() const { return count_.load(std::memory_order_acquire); }
  std::string name(std::uint8_t device) const;

  // As Scheduler's. Each ticket has its `device` set, and with kAnyDevice its `model` to Places that outlive the call.
  void submit(Ticket* first) {
    if (count() == 1) return cpu().submit(first);
    submit_apart(first);
  }
  void cancel(Ticket* ticket, const Status& status) { on(ticket->device).cancel(ticket, status); }
  void give_credit(Ticket* ticket, std::uint32_t parts) { on(ticket->device).give_credit(ticket, parts); }
  bool wait_idle(Nanos time);
  void stop(const Status& status);
  std::size_t in_flight() const;
  int lanes() const;
  int busy_lanes() const;
  std::uint64_t parked_arrivals() const;

 private:
  void submit_apart(Ticket* first);
  void submit_to_best(Ticket* ticket);

  const SchedulerOptions options_;
  Pool& pool_;
  mutable Mutex mutex_;
  bool stopped_ HEADRACE_GUARDED_BY(mutex_) = false;
  Status stop_status_ HEADRACE_GUARDED_BY(mutex_);
  std::vector<std::string> names_ HEADRACE_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Scheduler>> owned_ HEADRACE_GUARDED_BY(mutex_);
  std::array<std::atomic<Scheduler*>, kMost> schedulers_{};
  std::atomic<std::size_t> count_{0};
};

}  // namespace headrace
