// The whole core seen from outside: load, unload, publish, submit, cancel, drain, snapshot. Deep, few calls.
//
// Thread-safe. load, unload, drain and close block: never on an event loop.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "backend/registry.h"
#include "engine/catalog.h"
#include "engine/loader.h"
#include "engine/model.h"
#include "engine/shared_regions.h"
#include "engine/thread_planner.h"
#include "engine/warmup.h"
#include "memory/budget.h"
#include "memory/pool.h"
#include "schedule/scheduler.h"
#include "schedule/thread_starter.h"
#include "schedule/worker.h"

namespace headrace {

struct EngineOptions {
  int lanes = 1;
  int cores = 0;  // that compute threads may use, lanes included; 0: as many as there are lanes
  PoolOptions pool;
  std::size_t inflight_bytes = std::size_t{1} << 30;  // request messages, whole process
  std::size_t max_message_bytes = std::size_t{64} << 20;
  std::size_t model_memory = ~std::size_t{0};  // of sessions, and of their loads
  int load_threads = 4;                        // loads at one time
  bool measure_memory = true;                  // false: sessions are taken to need what their files let expect
  std::size_t max_shared_regions = 0;          // of clients' shared memory; 0: they may name none
  std::string onnxruntime_library;             // "": not installed
  std::vector<ResourceNeed> resources;         // so many there are; Resources::set says more
  bool learns_costs = true;                    // false: nothing is predicted, to measure what that is worth
  Clock* clock = nullptr;                      // null: the steady clock
  // Backends that are there before any is opened by name: for tests that bring their own.
  std::map<std::string, std::shared_ptr<Backend>> backends;
};

// One of the devices on which a model is to have a session.
struct DeviceSpec {
  std::vector<Provider> providers;  // best first; none: the CPU
  int max_lanes = 0;                // of the device's, that run the model at one time; 0: as many as do it good
};

struct ModelSpec {
  std::string name;
  std::int64_t version = 1;
  std::string backend;     // "onnxruntime"
  std::string model_file;  // absolute
  std::string model_dir;   // what the file refers to must lie in here
  SessionOptions session;
  // In order of preference; none: a single one, by the session's providers and max_lanes.
  std::vector<DeviceSpec> devices;
  BatchingPolicy batching;
  // False: a probe decides whether the model can be batched; `batching` then says how, if it can.
  bool batching_decided = false;
  WarmupPlan warmup;
  std::vector<std::string> ragged_inputs;  // allow_ragged_batch: may be padded, if a probe finds the same answers
  bool decoupled = false;                  // config.pbtxt says that it may answer more than once
  int max_lanes = 0;                       // that run it at one time; 0: all
  double weight = 1;                       // of lane time, where models without targets compete
  std::vector<ResourceNeed> resources;     // of a batch; a device of 0 or more: of the one that the model runs on
  std::map<std::string, std::vector<std::string>> labels;  // of classes, by output
};

struct ModelSnapshot {
  std::string name;
  std::int64_t version = 0;
  ModelStats stats;
  std::int64_t last_inference_ms = 0;  // since the epoch; 0: never
  Scheduler::Depth depth;
  ResidencyStats residency;
};

struct Snapshot {
  PoolStats pool;
  std::map<std::string, PoolStats> staging;  // page-locked memory, by device
  std::size_t inflight_bytes = 0;
  std::size_t inflight_bytes_peak = 0;
  std::size_t tickets = 0;
  int lanes = 0;
  int lanes_busy = 0;
  LoaderStats loader;
  std::vector<ModelSnapshot> models;
};

struct LogLine {
  LogLevel level;
  std::string where;
  std::string message;
};

class Engine {
 public:
  explicit Engine(const EngineOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Opens the backend if need be. The status is open_backend's.
  Result<std::shared_ptr<Backend>> backend(const std::string& name);
  Result<std::shared_ptr<Model>> load(const ModelSpec& spec);
  // New requests get UNAVAILABLE, queued ones too (with `finish` they are served first: publish a catalog without the
  // model before, or there may be no end); waits for the running ones, then frees the session and gives the memory
  // back. A second call for the same model only waits.
  void unload(const std::shared_ptr<Model>& model, bool finish = false);

  // To be called every few seconds: memory that is kept and was not needed since the last call goes back to the system,
  // and whatever is free once nothing was asked in between. A worker does it.
  void give_back();

  void publish(std::shared_ptr<const Catalog> catalog);
  std::shared_ptr<const Catalog> catalog() const;
  // Changes with every publish: a loop compares it before it asks for the catalog again.
  std::uint64_t catalog_edition() const { return catalog_edition_.load(std::memory_order_acquire); }

  // See Devices. The caller has set sink, device and model (Model::address), inputs, wanted, rows, deadline and
  // time.received.
  void submit(Ticket* first) { devices_->submit(first); }
  void cancel(Ticket* ticket, const Status& status) { devices_->cancel(ticket, status); }
  void give_credit(Ticket* ticket, std::uint32_t parts) { devices_->give_credit(ticket, parts); }
  bool drain(Nanos time) { return devices_->wait_idle(time); }
  // Ends lanes and worker; what is queued is answered UNAVAILABLE, what runs is asked to stop. Idempotent.
  void close();

  // Of one place of a model: the model's own, or a twin's.
  Scheduler::Report schedule_of(const Model& place) const { return devices_->on(place.device).report(place.entry); }
  const Devices& devices() const { return *devices_; }

  Snapshot snapshot() const;
  std::vector<LogLine> take_log(std::size_t most);  // the oldest

  Pool& pool() { return pool_; }
  InflightBudget& budget() { return budget_; }
  SharedRegions& shared_regions() { return shared_regions_; }
  std::size_t max_message_bytes() const { return options_.max_message_bytes; }
  Worker& worker() { return *worker_; }
  int lanes() const { return devices_->cpu().lanes(); }
  const Clock& clock() const { return devices_->cpu().clock(); }

 private:
  static constexpr std::size_t kMaxLogLines = 1024;
  static constexpr int kWorkerThreads = 1;
  static constexpr std::size_t kMaxJobs = 1024;

  static void log(void* engine, LogLevel level, std::string_view where, std::string_view message);
  static bool sweep_later(void* engine);
  struct GiveBackJob;
  void give_back_now();
  // Of the runtimes and the heap; `all`: whatever is not in use, otherwise what has not been lately.
  void give_back_of_runtimes(bool all);
  Status decide_batching(const ModelSpec& spec, Model& model);
  std::vector<std::shared_ptr<Backend>> opened_backends() const;
  // Models of other names are served, or being loaded.
  bool has_company(const std::string& name) const;
  Result<std::shared_ptr<Model>> load_new(const ModelSpec& spec);
  // Session, signature, batching, warm-up and entry: what a version's first load is.
  Status make(const ModelSpec& spec, const std::shared_ptr<Backend>& backend, Model& model);
  // The same on each of the spec's devices.
  Status make_places(const ModelSpec& spec, const std::shared_ptr<Backend>& backend, Model& model);
  // Whose lanes serve a model with such a session.
  Result<std::uint8_t> lanes_for(const ModelSpec& spec, const Placement& placement);
  static Status decide_decoupled(const ModelSpec& spec, Model& model);
  Status decide_padding(const ModelSpec& spec, Model& model);

  const EngineOptions options_;
  Pool pool_;
  InflightBudget budget_;
  SharedRegions shared_regions_;
  NormalThreads threads_;  // of sessions
  mutable Mutex log_mutex_;
  std::deque<LogLine> log_ HEADRACE_GUARDED_BY(log_mutex_);
  Mutex backends_mutex_;  // held while a runtime is opened: it is opened once, and no loop waits for it
  std::map<std::string, std::shared_ptr<Backend>> backends_ HEADRACE_GUARDED_BY(backends_mutex_);
  mutable Mutex mutex_;  // held for a look-up only: loops take it
  std::vector<std::shared_ptr<Model>> models_ HEADRACE_GUARDED_BY(mutex_);
  std::vector<std::string> loading_ HEADRACE_GUARDED_BY(mutex_);  // names
  std::vector<std::shared_ptr<Backend>> opened_
      HEADRACE_GUARDED_BY(mutex_);  // for who will not wait while one is opened
  std::shared_ptr<const Catalog> catalog_ HEADRACE_GUARDED_BY(mutex_);
  std::atomic<std::uint64_t> catalog_edition_{0};
  std::unique_ptr<Loader> loader_;  // the scheduler tells it of what sleeps
  std::unique_ptr<Devices> devices_;
  ThreadPlanner thread_planner_;
  // Of the worker's thread.
  std::uint64_t allocations_seen_ = 0;
  bool at_rest_ = false;
  std::unique_ptr<Worker> worker_;
};

}  // namespace headrace
