#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/padding_probe.h"
#include "engine/probe.h"
#include "memory/process_memory.h"

namespace headrace {
namespace {

constexpr int kGpuLanes = 4;  // of a GPU, at least
// Of a model there, where its configuration does not say: each has a stream of the runtime's, so one's gathering and
// copies go on while the other's batch runs.
constexpr int kLanesOnGpu = 2;
// Page-locked memory for each GPU: this part of the pool's bytes beside them, and never more than that.
constexpr std::size_t kStagingPart = 8;
constexpr std::size_t kMostStaging = std::size_t{512} << 20;

// Gives the pool's waste back on the worker's thread. Comes back to itself, and goes.
struct SweepJob final : Job, CompletionSink {
  explicit SweepJob(Pool& of) : pool(of) { sink = this; }
  void run() noexcept override { pool.sweep(); }
  void deliver(Completion* /*first*/, Completion* /*last*/) noexcept override {
    if (!ran) pool.sweep();  // the worker was closed first
    delete this;
  }
  Pool& pool;
};

// Of a GPU; 0 for the CPU, whose resources are counted with the first GPU's, as Triton does.
int number_of_gpu(const ModelSpec& spec, const Placement& placement) {
  for (const Provider& provider : spec.session.providers) {
    const auto number = provider.options.find("device_id");
    if (provider.name == placement.provider && number != provider.options.end()) {
      return std::atoi(number->second.c_str());
    }
  }
  return 0;
}

// What a batch of the model needs while it runs. A lane that waits for a GPU keeps no core busy.
Share share_of(const ModelSpec& spec, const Model& model) {
  Share share;
  share.weight = spec.weight;
  if (model.placement.provider == "cpu") {
    const int side_by_side = spec.session.parallel_execution ? std::max(spec.session.inter_op_threads, 1) : 1;
    share.cores = static_cast<std::uint32_t>(std::max(model.threads.plan.threads, 1) * side_by_side);
  }
  const int device = number_of_gpu(spec, model.placement);
  share.needs = spec.resources;
  for (ResourceNeed& need : share.needs) {
    if (need.device != kEverywhere) need.device = device;
  }
  return share;
}

}  // namespace

Engine::Engine(const EngineOptions& options)
    : options_(options),
      pool_(options.pool),
      budget_(options.inflight_bytes, options.max_message_bytes),
      shared_regions_(options.max_shared_regions),
      backends_(options.backends),
      catalog_(std::make_shared<const Catalog>()),
      loader_(std::make_unique<Loader>(options.model_memory, options.load_threads, options.measure_memory, pool_,
                                       options.clock != nullptr ? *options.clock : SteadyClock::instance(),
                                       [this] { give_back_of_runtimes(true); })),
      devices_(std::make_unique<Devices>(SchedulerOptions{options.lanes, options.clock, {}, loader_.get()}, pool_)),
      thread_planner_(
          options.cores > 0 ? options.cores : options.lanes, options.lanes, pool_, devices_->cpu().clock(),
          [this] { return devices_->in_flight() != 0; }, [this](const std::string& name) { return has_company(name); }),
      worker_(std::make_unique<Worker>(kWorkerThreads, kMaxJobs)) {
  loader_->attach(*devices_);
  for (const auto& [name, backend] : backends_) opened_.push_back(backend);
  Scheduler& cpu = devices_->cpu();
  cpu.set_cores(static_cast<std::uint32_t>(options.cores > 0 ? options.cores : options.lanes));
  for (const ResourceNeed& each : options.resources) cpu.set_resource(each.name, each.device, each.count);
  pool_.on_waste(&Engine::sweep_later, this);
}

bool Engine::sweep_later(void* engine) {
  auto& self = *static_cast<Engine*>(engine);
  auto job = std::make_unique<SweepJob>(self.pool_);
  if (!self.worker_->submit(job.get())) return false;
  job.release();  // its own
  return true;
}

// Comes back to itself, and goes.
struct Engine::GiveBackJob final : Job, CompletionSink {
  explicit GiveBackJob(Engine& of) : engine(of) { sink = this; }
  void run() noexcept override { engine.give_back_now(); }
  void deliver(Completion* /*first*/, Completion* /*last*/) noexcept override { delete this; }
  Engine& engine;
};

void Engine::give_back() {
  auto job = std::make_unique<GiveBackJob>(*this);
  if (worker_->submit(job.get())) job.release();  // its own
}

void Engine::give_back_now() {
  const std::uint64_t allocations = pool_.stats().allocations;
  const bool quiet = std::exchange(allocations_seen_, allocations) == allocations && devices_->in_flight() == 0;
  if (quiet && at_rest_) return;  // it is all back
  at_rest_ = quiet;
  if (quiet) {
    pool_.trim();
  } else {
    pool_.give_back_unused();
  }
  give_back_of_runtimes(quiet);
}

std::vector<std::shared_ptr<Backend>> Engine::opened_backends() const {
  MutexLock lock(mutex_);
  return opened_;
}

void Engine::give_back_of_runtimes(bool all) {
  for (const std::shared_ptr<Backend>& backend : opened_backends()) backend->give_back(all);
  if (all) release_heap();
}

Engine::~Engine() {
  close();
  pool_.on_waste(nullptr, nullptr);  // the worker goes before the pool does
  std::shared_ptr<const Catalog> catalog;
  std::vector<std::shared_ptr<Model>> models;
  {
    MutexLock lock(mutex_);
    catalog.swap(catalog_);
    models.swap(models_);
  }
  // Models leave the dispatcher as they go, so they go before the scheduler does.
}

Result<std::shared_ptr<Backend>> Engine::backend(const std::string& name) {
  MutexLock lock(backends_mutex_);
  std::shared_ptr<Backend>& opened = backends_[name];
  if (opened == nullptr) {
    BackendOptions options;
    options.onnxruntime_library = options_.onnxruntime_library;
    options.threads = &threads_;
    options.log_sink = &Engine::log;
    options.log_context = this;
    options.staging_bytes = std::min(options_.pool.cap / kStagingPart, kMostStaging);
    Result<std::shared_ptr<Backend>> result = open_backend(name, options);
    if (!result) {
      backends_.erase(name);
      return result.status();
    }
    opened = std::move(*result);
    const MutexLock listed(mutex_);
    opened_.push_back(opened);
  }
  return opened;
}

Status Engine::decide_batching(const ModelSpec& spec, Model& model) {
  model.policy = spec.batching;
  if (!spec.batching_decided) {
    const ProbeResult probe = probe_batching(*model.session, pool_);
    if (probe.batchable) {
      model.batching_reason = "no config says; " + probe.reason + "; max_batch_size " +
                              std::to_string(model.policy.max_batch_size) + " and dynamic batching by default";
    } else {
      model.policy.max_batch_size = 0;
      model.policy.dynamic_batching = false;
      model.batching_reason = "not batched: " + probe.reason;
    }
    return {};
  }
  if (model.policy.max_batch_size <= 0) {
    model.policy.max_batch_size = 0;
    model.policy.dynamic_batching = false;
    model.batching_reason = "not batched: config.pbtxt sets max_batch_size: 0, so shapes are the model's own";
    return {};
  }
  const std::string max = std::to_string(model.policy.max_batch_size);
  for (const auto* specs : {&model.signature.inputs, &model.signature.outputs}) {
    for (const TensorSpec& tensor : *specs) {
      if (!tensor.dims.empty() && tensor.dims[0] < 0) continue;
      const std::string shape =
          tensor.any_rank       ? "has no shape in the model"
          : tensor.dims.empty() ? "is a scalar"
                                : "has shape " + Shape(tensor.dims).to_string() + ", whose first dimension is fixed";
      return {Code::kFailedPrecondition, "config.pbtxt sets max_batch_size: " + max + ", but '" + tensor.name + "' " +
                                             shape +
                                             "; set max_batch_size: 0, or export the model with a dynamic batch "
                                             "dimension"};
    }
  }
  model.batching_reason = "config.pbtxt sets max_batch_size: " + max +
                          (model.policy.dynamic_batching ? " and dynamic_batching"
                                                         : " without dynamic_batching, so each request runs alone");
  return {};
}

Status Engine::decide_decoupled(const ModelSpec& spec, Model& model) {
  model.decoupled = model.session->decoupled();
  if (model.decoupled == spec.decoupled) {
    if (!model.decoupled) return {};
    model.policy.dynamic_batching = false;  // each of its answers is one request's
    model.batching_reason += "; a decoupled model's requests run alone";
    return {};
  }
  return {Code::kFailedPrecondition,
          spec.decoupled ? "config.pbtxt sets model_transaction_policy.decoupled, and a model of backend '" +
                               spec.backend + "' answers each request once; leave it out"
                         : "the model answers a request any number of times; config.pbtxt must say "
                           "model_transaction_policy { decoupled: true }"};
}

Status Engine::decide_padding(const ModelSpec& spec, Model& model) {
  std::vector<bool> allowed(model.signature.inputs.size(), false);
  const NameIndex inputs(model.signature.inputs);
  for (const std::string& name : spec.ragged_inputs) {
    const std::optional<std::size_t> place = inputs.find(name);
    if (!place) {
      return {Code::kFailedPrecondition, "config.pbtxt sets allow_ragged_batch for input '" + name +
                                             "', which the model lacks; its inputs are: " + inputs.listed()};
    }
    allowed[*place] = true;
  }
  if (!model.batched() || !model.policy.dynamic_batching) {
    if (!spec.ragged_inputs.empty()) model.batching_reason += "; allow_ragged_batch has no effect";
    return {};
  }
  PaddingProbe probe = probe_padding(*model.session, pool_, allowed);
  model.policy.padding = std::move(probe.padding);
  if (!probe.reason.empty()) model.batching_reason += "; " + probe.reason;
  return {};
}

bool Engine::has_company(const std::string& name) const {
  MutexLock lock(mutex_);
  return std::any_of(models_.begin(), models_.end(), [&](const auto& model) { return model->name != name; }) ||
         std::any_of(loading_.begin(), loading_.end(), [&](const std::string& other) { return other != name; });
}

Result<std::shared_ptr<Model>> Engine::load(const ModelSpec& spec) {
  {
    MutexLock lock(mutex_);
    loading_.push_back(spec.name);
  }
  Result<std::shared_ptr<Model>> model = load_new(spec);
  MutexLock lock(mutex_);
  loading_.erase(std::find(loading_.begin(), loading_.end(), spec.name));
  if (model) models_.push_back(*model);
  return model;
}

Result<std::shared_ptr<Model>> Engine::load_new(const ModelSpec& spec) {
  Result<std::shared_ptr<Backend>> opened = backend(spec.backend);
  if (!opened) return opened.status();
  // The dispatcher's entry goes with the last reference: a stale catalog may still submit, and is then refused.
  std::shared_ptr<Model> model(new Model, [this](Model* gone) {
    gone->for_each_place([this](const Model& place) {
      if (place.entry != nullptr) devices_->on(place.device).erase(place.entry);
    });
    delete gone;
  });
  model->name = spec.name;
  model->version = spec.version;
  model->backend = spec.backend;
  Result<std::uint64_t> weights = (*opened)->weight_bytes(spec.model_file, spec.model_dir);
  if (!weights) return weights.status();
  const LoadNeed need{static_cast<std::size_t>(*weights), spec.session.share_weights,
                      !thread_planner_.before(spec, **opened).final};
  Status status = loader_->first_load(*model, need, [&] { return make_places(spec, *opened, *model); });
  if (!status.ok()) return status;
  return model;
}

Status Engine::make(const ModelSpec& spec, const std::shared_ptr<Backend>& backend, Model& model) {
  const ThreadDecision threads = thread_planner_.before(spec, *backend);
  Result<std::unique_ptr<Session>> session = ThreadPlanner::load(*backend, spec, threads.plan);
  if (!session) return session.status();
  model.session = std::move(*session);
  model.signature = model.session->signature();
  model.max_lanes = spec.max_lanes;
  if (!spec.labels.empty()) {
    for (const TensorSpec& output : model.signature.outputs) {
      const auto found = spec.labels.find(output.name);
      model.output_labels.push_back(found == spec.labels.end() ? std::vector<std::string>() : found->second);
    }
  }
  if (Status status = decide_batching(spec, model); !status.ok()) return status;
  if (Status status = decide_decoupled(spec, model); !status.ok()) return status;
  if (Status status = decide_padding(spec, model); !status.ok()) return status;
  model.threads = threads;
  if (Status status = thread_planner_.settle(spec, *backend, model); !status.ok()) return status;
  if (options_.learns_costs && !model.decoupled) {
    model.costs = std::make_unique<CostModel>(std::max<std::int64_t>(model.policy.max_batch_size, 1));
  }
  model.placement = model.session->placement();
  model.share = share_of(spec, model);
  Result<std::uint8_t> lanes = lanes_for(spec, model.placement);
  if (!lanes) return lanes.status();
  model.device = *lanes;
  Scheduler& scheduler = devices_->on(model.device);
  if (model.device != kCpuLanes) {
    const int wanted = spec.max_lanes > 0 ? spec.max_lanes : kLanesOnGpu;
    model.threads.plan = {1, std::min(wanted, scheduler.lanes())};
  }
  if (Status status = scheduler.can_have(model.share); !status.ok()) return status;
  model.complete();
  Result<WarmupReport> warmed = warm_up(model, spec.warmup, pool_, clock());
  if (!warmed) return warmed.status();
  model.warmup_runs = std::move(warmed->runs);
  model.learn_from_warmup();
  model.warmup_note = std::move(warmed->note);
  model.open_session = [backend, spec, plan = model.threads.plan] { return ThreadPlanner::load(*backend, spec, plan); };
  model.entry = scheduler.add(spec.name, model.policy, model.threads.plan.lanes, &model.runnable, model.share);
  return {};
}

Result<std::uint8_t> Engine::lanes_for(const ModelSpec& spec, const Placement& placement) {
  // What the whole server has once is counted in one place.
  const bool shares = std::any_of(spec.resources.begin(), spec.resources.end(),
                                  [](const ResourceNeed& need) { return need.device == kEverywhere; });
  if (placement.provider == "cpu" || shares) return kCpuLanes;
  const int gpu = number_of_gpu(spec, placement);
  Result<std::uint8_t> number = devices_->lanes_of("gpu " + std::to_string(gpu), std::max(spec.max_lanes, kGpuLanes));
  if (!number) return number;
  for (const ResourceNeed& each : options_.resources) {
    if (each.device == kEverywhere || each.device == gpu)
      devices_->on(*number).set_resource(each.name, each.device, each.count);
  }
  return number;
}

Status Engine::make_places(const ModelSpec& spec, const std::shared_ptr<Backend>& backend, Model& model) {
  if (spec.devices.empty()) return make(spec, backend, model);
  for (const DeviceSpec& device : spec.devices) {
    ModelSpec one = spec;
    one.session.providers = device.providers;
    one.max_lanes = device.max_lanes;
    if (model.entry == nullptr) {
      if (Status status = make(one, backend, model); !status.ok()) return status;
      continue;
    }
    auto twin = std::make_unique<Model>();
    twin->name = model.name;
    twin->version = model.version;
    twin->backend = model.backend;
    twin->counts = &model.counters;
    // What a request may look like is one thing for all places.
    one.batching = model.policy;
    one.batching_decided = true;
    if (Status status = make(one, backend, *twin); !status.ok()) return status;
    model.twins.push_back(std::move(twin));
  }
  // A device that cannot be had has fallen back to the CPU, and may have met another there: one of them is enough.
  const auto dropped = [&](const Model& place, const Model& other) {
    if (place.device != other.device) return false;
    const std::string& note = place.placement.note.empty() ? other.placement.note : place.placement.note;
    if (model.placement.note.find(note) == std::string::npos)
      model.placement.note += (model.placement.note.empty() ? "" : "; ") + note;
    return true;
  };
  for (std::size_t i = 0; i < model.twins.size();) {
    Model& twin = *model.twins[i];
    bool twice = dropped(model, twin);
    for (std::size_t j = 0; j < i && !twice; ++j) twice = dropped(*model.twins[j], twin);
    if (!twice) {
      ++i;
      continue;
    }
    Scheduler& scheduler = devices_->on(twin.device);
    scheduler.close_entry(twin.entry, {Code::kUnavailable, "it has other lanes"});
    scheduler.erase(twin.entry);
    model.twins.erase(model.twins.begin() + static_cast<std::ptrdiff_t>(i));
  }
  if (model.twins.empty()) return {};
  model.for_each_place([&model](const Model& place) { model.places.push_back({place.device, place.entry}); });
  return {};
}

void Engine::unload(const std::shared_ptr<Model>& model, bool finish) {
  if (finish) {
    model->for_each_place([this](const Model& place) { devices_->on(place.device).wait_empty(place.entry); });
  }
  {
    MutexLock lock(mutex_);
    std::erase(models_, model);
  }
  const Status gone(Code::kUnavailable, "model '" + model->name + "' version " + model->version_text + " was unloaded");
  model->for_each_place([&](const Model& place) { devices_->on(place.device).close_entry(place.entry, gone); });
  loader_->retire(*model);
}

void Engine::publish(std::shared_ptr<const Catalog> catalog) {
  {
    MutexLock lock(mutex_);
    catalog_.swap(catalog);
    catalog_edition_.fetch_add(1, std::memory_order_release);
  }
  // The old one, and perhaps models with it, goes outside the lock.
}

std::shared_ptr<const Catalog> Engine::catalog() const {
  MutexLock lock(mutex_);
  return catalog_;
}

void Engine::close() {
  worker_->close();
  loader_->stop();
  devices_->stop({Code::kUnavailable, "the server is shutting down"});
  loader_->close();
}

Snapshot Engine::snapshot() const {
  Snapshot snapshot;
  snapshot.pool = pool_.stats();
  snapshot.inflight_bytes = budget_.charged();
  snapshot.inflight_bytes_peak = budget_.peak();
  snapshot.tickets = devices_->in_flight();
  snapshot.lanes = devices_->lanes();
  snapshot.lanes_busy = devices_->busy_lanes();
  snapshot.loader = loader_->stats();
  std::vector<std::shared_ptr<Model>> models;
  {
    MutexLock lock(mutex_);
    models = models_;
  }
  for (const std::shared_ptr<Backend>& backend : opened_backends()) snapshot.staging.merge(backend->staging());
  using std::chrono::duration_cast;
  using std::chrono::milliseconds;
  const std::int64_t wall_ms = duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  const Nanos now = clock().now();
  for (const std::shared_ptr<Model>& model : models) {
    ModelSnapshot& row = snapshot.models.emplace_back();
    row.name = model->name;
    row.version = model->version;
    row.stats = model->counters.read();
    model->for_each_place([&](const Model& place) {
      const Scheduler::Depth depth = devices_->on(place.device).depth(place.entry);
      row.depth.queued += depth.queued;
      row.depth.queued_bytes += depth.queued_bytes;
      row.depth.running += depth.running;
    });
    row.residency = loader_->stats(*model);
    if (row.stats.last_inference != 0)
      row.last_inference_ms = wall_ms - (now - row.stats.last_inference) / kMillisecond;
  }
  return snapshot;
}

void Engine::log(void* engine, LogLevel level, std::string_view where, std::string_view message) {
  auto* self = static_cast<Engine*>(engine);
  MutexLock lock(self->log_mutex_);
  if (self->log_.size() >= kMaxLogLines) self->log_.pop_front();
  self->log_.push_back({level, std::string(where), std::string(message)});
}

std::vector<LogLine> Engine::take_log(std::size_t most) {
  MutexLock lock(log_mutex_);
  const auto end = log_.begin() + static_cast<std::ptrdiff_t>(std::min(most, log_.size()));
  std::vector<LogLine> lines(std::make_move_iterator(log_.begin()), std::make_move_iterator(end));
  log_.erase(log_.begin(), end);
  return lines;
}

}  // namespace headrace
