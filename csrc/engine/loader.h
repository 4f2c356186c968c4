// Loads and evicts sessions on threads of its own, as Residency decides: first loads, which somebody waits for, and
// loads of versions that sleep, which queued tickets wait for. Its threads have low priority, so that loading and
// warming up do not delay what is served.
//
// Thread-safe. wanted and became_idle never wait for a load.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>

#include "base/clock.h"
#include "base/error.h"
#include "base/sync.h"
#include "engine/model.h"
#include "engine/residency.h"
#include "memory/pool.h"
#include "schedule/scheduler.h"
#include "schedule/worker.h"

namespace headrace {

// What Engine::snapshot says of it.
struct LoaderStats {
  std::size_t budget = 0;
  std::size_t bytes = 0;  // footprints, and peaks of what loads
  std::size_t bytes_peak = 0;
  std::size_t resident = 0;
  std::size_t asleep = 0;
  std::size_t waiting = 0;  // loads that wait for their turn or for room
  std::size_t loading = 0;
  std::uint64_t loads = 0;
  std::uint64_t failures = 0;
  std::uint64_t evictions = 0;
  std::uint64_t misses = 0;  // requests that found their version asleep
};

struct ResidencyStats {  // of one version
  bool asleep = false;
  std::size_t footprint = 0;
  std::size_t peak = 0;
  std::uint64_t loads = 0;
  std::uint64_t evictions = 0;
  Nanos load_time = 0;      // of the last load
  Nanos load_time_sum = 0;  // of all
};

// What a first load is expected to need memory for.
struct LoadNeed {
  std::size_t weights = 0;     // bytes of the model's files
  bool share_weights = false;  // with other sessions
  bool tries_threads = false;  // two sessions for a while
};

class Loader final : public ParkingListener {
 public:
  // `measured` false: sessions are taken to need what their files let expect. `give_back` returns memory that the
  // runtimes keep for runs and do not use now: what only a session that ended, or a load, has needed.
  Loader(std::size_t budget, int threads, bool measured, Pool& pool, const Clock& clock,
         std::function<void()> give_back);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;
  void attach(Devices& devices) { devices_ = &devices; }

  // Runs `work` (which makes the model's session and entry, and whatever is to be tried on them) when there is room for
  // it; returns its status.
  Status first_load(Model& model, const LoadNeed& need, const std::function<Status()>& work);
  // The model's entry is closed: frees the session, waiting for a load of it to end. Idempotent.
  void retire(Model& model);
  // Loads that wait are refused, and none is begun.
  void stop();
  // That, and returns when those that run have ended.
  void close();

  LoaderStats stats() const;
  ResidencyStats stats(const Model& model) const;

  void wanted(Dispatcher::Entry* entry) override;
  void became_idle() override;

 private:
  struct Residence;
  struct Turn;

  // Does what there is to do, until there is nothing.
  void take_turn();
  void call_turn() HEADRACE_REQUIRES(mutex_);
  void load(Residence& residence) HEADRACE_REQUIRES(mutex_);
  void evict(Residence& residence) HEADRACE_REQUIRES(mutex_);
  static std::uint64_t uses(void* residence);
  // All places of a model, or none.
  bool park(Model& model);
  void unpark(Model& model);
  bool lost_interest(Model& model);
  void refuse_waiting(Model& model, const Status& status);
  static Status open_sessions(Model& model);
  static void drop_sessions(Model& model);

  Pool& pool_;
  const Clock& clock_;
  const std::function<void()> give_back_;
  const int threads_;
  const bool measured_;
  Devices* devices_ = nullptr;
  mutable Mutex mutex_;
  CondVar changed_;  // a load or an eviction has ended
  Residency residency_ HEADRACE_GUARDED_BY(mutex_);
  std::unordered_map<const Model*, std::unique_ptr<Residence>> residences_ HEADRACE_GUARDED_BY(mutex_);
  std::unordered_map<const Dispatcher::Entry*, Residence*> by_entry_ HEADRACE_GUARDED_BY(mutex_);
  int turns_ HEADRACE_GUARDED_BY(mutex_) = 0;
  // Changes of memory now, and begun so far: a load is measured where it was the only one.
  int changes_ HEADRACE_GUARDED_BY(mutex_) = 0;
  std::uint64_t changes_begun_ HEADRACE_GUARDED_BY(mutex_) = 0;
  std::uint64_t loads_ HEADRACE_GUARDED_BY(mutex_) = 0;
  std::uint64_t failures_ HEADRACE_GUARDED_BY(mutex_) = 0;
  std::uint64_t evictions_ HEADRACE_GUARDED_BY(mutex_) = 0;
  bool closed_ HEADRACE_GUARDED_BY(mutex_) = false;
  Worker worker_;
};

}  // namespace headrace
