// Engine, Model, Catalog.
#include <algorithm>
#include <utility>

#include "bindings/bindings.h"

namespace headrace::bindings {
namespace {

// "device": below 0 is a whole server's.
std::vector<ResourceNeed> make_resources(const py::list& rows) {
  std::vector<ResourceNeed> resources;
  for (const py::handle each : rows) {
    const auto row = py::cast<py::dict>(each);
    resources.push_back({required<std::string>(row, "name"), std::max(required<int>(row, "device"), kEverywhere),
                         required<std::uint32_t>(row, "count")});
  }
  return resources;
}

EngineHandle make_engine(py::dict limits, int lanes, int cores, const std::string& onnxruntime_library,
                         std::size_t model_memory, int load_threads, bool learn, const py::list& resources) {
  if (lanes < 1 || cores < 1) raise(invalid_argument("lanes and cores must be at least 1"));
  EngineOptions options;
  options.lanes = lanes;
  options.cores = cores;
  options.pool.cap = required<std::size_t>(limits, "pool_bytes");
  options.pool.retain = required<std::size_t>(limits, "pool_retain_bytes");
  options.inflight_bytes = required<std::size_t>(limits, "process_inflight_bytes");
  options.max_message_bytes = required<std::size_t>(limits, "max_message_bytes");
  options.max_shared_regions = required<std::size_t>(limits, "max_shared_regions");
  options.onnxruntime_library = onnxruntime_library;
  options.learns_costs = learn;
  options.model_memory = model_memory;
  options.load_threads = load_threads;
  options.resources = make_resources(resources);
  return {std::make_shared<Engine>(options), std::move(limits)};
}

QueuePolicy make_level_queue(const py::dict& given) {
  QueuePolicy queue;
  if (optional(given, "delay_late", false)) queue.timeout_action = TimeoutAction::kDelay;
  const auto timeout = optional<Nanos>(given, "default_timeout_ns", 0);
  if (timeout > 0) queue.default_timeout = timeout;
  queue.allow_timeout_override = optional(given, "allow_timeout_override", false);
  queue.max_queue_size = optional<std::size_t>(given, "max_queue_size", 0);
  return queue;
}

// What the configuration says of a file that does not say it of itself.
std::vector<TensorSpec> make_stated(const py::dict& stated, const char* key) {
  std::vector<TensorSpec> specs;
  for (const py::handle each : optional(stated, key, py::list())) {
    const auto row = py::cast<py::dict>(each);
    TensorSpec& spec = specs.emplace_back();
    spec.name = required<std::string>(row, "name");
    spec.dtype = parse_dtype(required<std::string>(row, "datatype")).value_or(DType::kInvalid);
    spec.dims = required<std::vector<std::int64_t>>(row, "shape");
    spec.symbols.resize(spec.dims.size());
  }
  return specs;
}

std::vector<Provider> make_providers(const py::list& rows) {
  std::vector<Provider> providers;
  for (const py::handle row : rows) {
    const auto provider = py::cast<py::dict>(row);
    providers.push_back({required<std::string>(provider, "name"),
                         required<std::map<std::string, std::string>>(provider, "options"),
                         required<bool>(provider, "asked_for")});
  }
  return providers;
}

ModelSpec make_spec(const py::dict& session, const py::dict& batching) {
  ModelSpec spec;
  SessionOptions& s = spec.session;
  s.intra_op_threads = optional(session, "intra_op_threads", 0);
  s.inter_op_threads = optional(session, "inter_op_threads", s.inter_op_threads);
  s.parallel_execution = optional(session, "parallel_execution", s.parallel_execution);
  s.graph_optimization_level = optional(session, "graph_optimization_level", s.graph_optimization_level);
  s.memory_arena = optional(session, "memory_arena", s.memory_arena);
  s.memory_pattern = optional(session, "memory_pattern", s.memory_pattern);
  s.config_entries = optional(session, "config_entries", s.config_entries);
  s.share_weights = optional(session, "share_weights", false);
  s.strict_providers = optional(session, "strict_providers", false);
  s.providers = make_providers(optional(session, "providers", py::list()));
  for (const py::handle each : optional(session, "devices", py::list())) {
    const auto device = py::cast<py::dict>(each);
    spec.devices.push_back(
        {make_providers(required<py::list>(device, "providers")), required<int>(device, "max_lanes")});
  }
  const auto stated = optional(session, "stated", py::dict());
  s.stated.inputs = make_stated(stated, "inputs");
  s.stated.outputs = make_stated(stated, "outputs");
  BatchingPolicy& b = spec.batching;
  spec.batching_decided = optional(batching, "decided", false);
  b.max_batch_size = optional<std::int64_t>(batching, "max_batch_size", 0);
  b.dynamic_batching = optional(batching, "dynamic_batching", false);
  b.preferred_batch_sizes = optional(batching, "preferred_batch_sizes", b.preferred_batch_sizes);
  b.max_queue_delay = optional<Nanos>(batching, "max_queue_delay_ns", 0);
  b.max_queue_size = optional(batching, "max_queue_size", b.max_queue_size);
  b.max_queue_bytes = optional(batching, "max_queue_bytes", b.max_queue_bytes);
  b.preserve_ordering = optional(batching, "preserve_ordering", false);
  const auto timeout = optional<Nanos>(batching, "default_timeout_ns", 0);
  if (timeout > 0) b.default_timeout = timeout;
  b.allow_timeout_override = optional(batching, "allow_timeout_override", false);
  if (optional(batching, "delay_late", false)) b.timeout_action = TimeoutAction::kDelay;
  const auto objective = optional<Nanos>(batching, "latency_objective_ns", 0);
  if (objective > 0) b.latency_objective = objective;
  b.priority_levels = optional<std::uint32_t>(batching, "priority_levels", 0);
  b.default_priority_level = optional<std::uint32_t>(batching, "default_priority_level", 0);
  for (const auto& [level, queue] : optional(batching, "level_queues", std::map<std::uint32_t, py::dict>())) {
    b.level_queue[level] = make_level_queue(queue);
  }
  spec.decoupled = optional(batching, "decoupled", false);
  spec.ragged_inputs = optional(batching, "ragged_inputs", spec.ragged_inputs);
  spec.max_lanes = optional(batching, "max_lanes", 0);
  spec.weight = optional(batching, "weight", 1.0);
  spec.resources = make_resources(optional(batching, "resources", py::list()));
  return spec;
}

WarmupPlan make_warmup(const py::dict& warmup) {
  WarmupPlan plan;
  plan.made_up = optional(warmup, "made_up", false);
  if (!warmup.contains("samples")) return plan;
  for (const py::handle& each : warmup["samples"]) {
    const auto from = py::cast<py::dict>(each);
    WarmupSample& sample = plan.samples.emplace_back();
    sample.name = required<std::string>(from, "name");
    sample.batch_size = optional<std::int64_t>(from, "batch_size", 1);
    sample.count = optional<std::uint32_t>(from, "count", 1);
    for (const py::handle& value : from["inputs"]) {
      const auto row = py::cast<py::dict>(value);
      WarmupInput& input = sample.inputs.emplace_back();
      input.name = required<std::string>(row, "name");
      input.dtype = parse_dtype(required<std::string>(row, "datatype")).value_or(DType::kInvalid);
      input.dims = required<std::vector<std::int64_t>>(row, "dims");
      const auto data = required<std::string>(row, "data");
      input.data = data == "given"    ? WarmupInput::Data::kGiven
                   : data == "random" ? WarmupInput::Data::kRandom
                                      : WarmupInput::Data::kZero;
      input.bytes = optional<std::string>(row, "bytes", "");
    }
  }
  return plan;
}

py::dict duration(const DurationStats& stats) {
  py::dict row;
  row["count"] = stats.count;
  row["ns"] = stats.ns;
  return row;
}

py::dict model_stats(const ModelSnapshot& model) {
  py::dict row;
  row["name"] = model.name;
  row["version"] = model.version;
  row["inference_count"] = model.stats.inference_count;
  row["execution_count"] = model.stats.execution_count;
  row["last_inference_ms"] = model.last_inference_ms;
  row["success"] = duration(model.stats.success);
  row["fail"] = duration(model.stats.fail);
  row["cancel"] = duration(model.stats.cancel);
  row["reject"] = duration(model.stats.reject);
  row["queue"] = duration(model.stats.queue);
  row["compute_input"] = duration(model.stats.compute_input);
  row["compute_infer"] = duration(model.stats.compute_infer);
  row["compute_output"] = duration(model.stats.compute_output);
  py::list batches;
  for (const auto& [size, stats] : model.stats.batches) {
    py::dict batch;
    batch["batch_size"] = size;
    batch["compute_input"] = duration(stats.compute_input);
    batch["compute_infer"] = duration(stats.compute_infer);
    batch["compute_output"] = duration(stats.compute_output);
    batches.append(batch);
  }
  row["batch_stats"] = batches;
  py::list responses;
  for (const ResponseStats& stats : model.stats.responses) {
    py::dict response;
    response["compute_infer"] = duration(stats.compute_infer);
    response["compute_output"] = duration(stats.compute_output);
    response["success"] = duration(stats.success);
    response["fail"] = duration(stats.fail);
    response["empty_response"] = duration(stats.empty_response);
    response["cancel"] = duration(stats.cancel);
    responses.append(response);
  }
  row["response_stats"] = responses;
  row["queued"] = model.depth.queued;
  row["queued_bytes"] = model.depth.queued_bytes;
  row["running"] = model.depth.running;
  row["asleep"] = model.residency.asleep;
  row["footprint_bytes"] = model.residency.footprint;
  row["peak_bytes"] = model.residency.peak;
  row["loads"] = model.residency.loads;
  row["evictions"] = model.residency.evictions;
  row["load_ns"] = model.residency.load_time;
  row["load_ns_sum"] = model.residency.load_time_sum;
  return row;
}

py::dict pool_stats(const PoolStats& stats) {
  py::dict row;
  row["cap"] = stats.cap;
  row["bytes_in_use"] = stats.bytes_in_use;
  row["bytes_in_use_peak"] = stats.bytes_in_use_peak;
  row["bytes_retained"] = stats.bytes_retained;
  row["bytes_waste"] = stats.bytes_waste;
  row["blocks_in_use"] = stats.blocks_in_use;
  row["allocations"] = stats.allocations;
  row["reuses"] = stats.reuses;
  row["refusals"] = stats.refusals;
  return row;
}

py::dict snapshot(const EngineHandle& self) {
  Snapshot data;
  {
    py::gil_scoped_release release;
    data = self.engine->snapshot();
  }
  py::dict staging;
  for (const auto& [device, stats] : data.staging) staging[device.c_str()] = pool_stats(stats);
  py::dict loader;
  loader["budget"] = data.loader.budget;
  loader["bytes"] = data.loader.bytes;
  loader["bytes_peak"] = data.loader.bytes_peak;
  loader["resident"] = data.loader.resident;
  loader["asleep"] = data.loader.asleep;
  loader["waiting"] = data.loader.waiting;
  loader["loading"] = data.loader.loading;
  loader["loads"] = data.loader.loads;
  loader["failures"] = data.loader.failures;
  loader["evictions"] = data.loader.evictions;
  loader["misses"] = data.loader.misses;
  py::list models;
  for (const ModelSnapshot& model : data.models) models.append(model_stats(model));
  py::dict all;
  all["pool"] = pool_stats(data.pool);
  all["staging"] = staging;
  all["loader"] = loader;
  all["inflight_bytes"] = data.inflight_bytes;
  all["inflight_bytes_peak"] = data.inflight_bytes_peak;
  all["tickets"] = data.tickets;
  all["lanes"] = data.lanes;
  all["lanes_busy"] = data.lanes_busy;
  all["models"] = models;
  return all;
}

py::list tensor_infos(const std::vector<TensorSpec>& specs) {
  py::list rows;
  for (const TensorSpec& spec : specs) {
    py::dict row;
    row["name"] = spec.name;
    row["datatype"] = std::string(dtype_name(spec.dtype));
    row["shape"] = spec.dims;
    row["optional"] = spec.optional;
    rows.append(row);
  }
  return rows;
}

py::list thread_trials(const ModelHandle& self) {
  py::list rows;
  for (const ThreadFigures& figures : self.model->threads.trials) {
    py::dict row;
    row["threads"] = figures.plan.threads;
    row["lanes"] = figures.plan.lanes;
    row["batch_size"] = figures.rows;
    row["rate_of_one"] = figures.rate_one;
    row["rate_of_batch"] = figures.rate_rows;
    row["alone_ns"] = figures.alone;
    row["rounds"] = figures.rounds;
    rows.append(row);
  }
  return rows;
}

}  // namespace

void bind_engine(py::module_& module) {
  py::class_<ModelHandle>(module, "Model")
      .def_property_readonly("name", [](const ModelHandle& self) { return self.model->name; })
      .def_property_readonly("version", [](const ModelHandle& self) { return self.model->version; })
      .def_property_readonly("backend", [](const ModelHandle& self) { return self.model->backend; })
      .def_property_readonly("inputs",
                             [](const ModelHandle& self) { return tensor_infos(self.model->signature.inputs); })
      .def_property_readonly("outputs",
                             [](const ModelHandle& self) { return tensor_infos(self.model->signature.outputs); })
      .def_property_readonly("metadata", [](const ModelHandle& self) { return self.model->signature.metadata; })
      .def_property_readonly("max_batch_size",
                             [](const ModelHandle& self) { return self.model->policy.max_batch_size; })
      .def_property_readonly("dynamic_batching",
                             [](const ModelHandle& self) { return self.model->policy.dynamic_batching; })
      .def_property_readonly("batching_reason", [](const ModelHandle& self) { return self.model->batching_reason; })
      .def_property_readonly("warmup_note", [](const ModelHandle& self) { return self.model->warmup_note; })
      .def_property_readonly("intra_op_threads",
                             [](const ModelHandle& self) { return self.model->threads.plan.threads; })
      .def_property_readonly("lanes", [](const ModelHandle& self) { return self.model->threads.plan.lanes; })
      .def_property_readonly("threads_reason", [](const ModelHandle& self) { return self.model->threads.reason; })
      .def_property_readonly("thread_trials", &thread_trials)
      .def_property_readonly("provider", [](const ModelHandle& self) { return self.model->placement.provider; })
      .def_property_readonly("providers",
                             [](const ModelHandle& self) {
                               std::vector<std::string> all;
                               std::as_const(*self.model).for_each_place([&](const Model& place) {
                                 all.push_back(place.placement.provider);
                               });
                               return all;
                             })
      .def_property_readonly("provider_note", [](const ModelHandle& self) { return self.model->placement.note; })
      .def_property_readonly("max_lanes", [](const ModelHandle& self) { return self.model->max_lanes; });

  py::class_<SamplerHandle>(module, "TraceSampler")
      .def(py::init([](std::uint64_t id, std::uint64_t rate, std::int64_t count, bool times, bool tensors) {
             if (id == 0 || rate == 0) throw py::value_error("id and rate must be 1 or more");
             return SamplerHandle{std::make_shared<TraceSampler>(id, rate, count, TraceWants{times, tensors})};
           }),
           py::arg("id"), py::arg("rate"), py::arg("count"), py::arg("times"), py::arg("tensors"))
      .def_property_readonly("remaining", [](const SamplerHandle& self) { return self.sampler->remaining(); });

  py::class_<CatalogHandle>(module, "Catalog")
      .def(py::init<>())
      .def("add",
           [](CatalogHandle& self, const std::string& name, const std::string& version, const ModelHandle& model) {
             self.engine = model.engine;
             self.catalog->add(name, version, model.model);
           })
      .def(
          "trace",
          [](CatalogHandle& self, const std::string& name, const SamplerHandle* sampler) {
            self.catalog->trace(name, sampler == nullptr ? nullptr : sampler->sampler);
          },
          py::arg("name"), py::arg("sampler").none(true))
      .def("add_unavailable", [](CatalogHandle& self, const std::string& name, const std::string& version,
                                 const std::string& reason) { self.catalog->add_unavailable(name, version, reason); });

  py::class_<EngineHandle>(module, "Engine")
      .def(py::init(&make_engine), py::kw_only(), py::arg("limits"), py::arg("lanes"), py::arg("cores"),
           py::arg("onnxruntime_library"), py::arg("model_memory") = EngineOptions().model_memory,
           py::arg("load_threads") = EngineOptions().load_threads, py::arg("learn") = true,
           py::arg("resources") = py::list())
      .def("backend_version", [](const EngineHandle& self,
                                 const std::string& name) { return take(self.engine->backend(name))->version(); })
      .def(
          "load",
          [](const EngineHandle& self, const std::string& name, std::int64_t version, const std::string& backend,
             const std::string& model_file, const std::string& model_dir, const py::dict& session,
             const py::dict& batching, std::map<std::string, std::vector<std::string>> labels, const py::dict& warmup) {
            ModelSpec spec = make_spec(session, batching);
            spec.name = name;
            spec.version = version;
            spec.backend = backend;
            spec.model_file = model_file;
            spec.model_dir = model_dir;
            spec.labels = std::move(labels);
            spec.warmup = make_warmup(warmup);
            Result<std::shared_ptr<Model>> model = [&] {
              py::gil_scoped_release release;
              return self.engine->load(spec);
            }();
            return ModelHandle{self.engine, take(std::move(model))};
          },
          py::kw_only(), py::arg("name"), py::arg("version"), py::arg("backend"), py::arg("model_file"),
          py::arg("model_dir"), py::arg("session"), py::arg("batching"),
          py::arg("labels") = std::map<std::string, std::vector<std::string>>(), py::arg("warmup") = py::dict())
      .def(
          "unload",
          [](const EngineHandle& self, const ModelHandle& model, bool finish) {
            py::gil_scoped_release release;
            self.engine->unload(model.model, finish);
          },
          py::arg("model"), py::kw_only(), py::arg("finish") = false)
      .def("publish",
           [](const EngineHandle& self, CatalogHandle& catalog) {
             // The handle gets an empty one: what is published never changes.
             std::shared_ptr<Catalog> published = std::exchange(catalog.catalog, std::make_shared<Catalog>());
             py::gil_scoped_release release;  // the old one goes now, and models with it
             self.engine->publish(std::move(published));
           })
      .def("give_back", [](const EngineHandle& self) { self.engine->give_back(); })
      .def("register_shared_memory",
           [](const EngineHandle& self, const std::string& name, const std::string& key, std::uint64_t offset,
              std::uint64_t bytes) { check(self.engine->shared_regions().add(name, key, offset, bytes)); })
      .def("unregister_shared_memory",
           [](const EngineHandle& self, const std::string& name) { self.engine->shared_regions().remove(name); })
      .def("unregister_all_shared_memory", [](const EngineHandle& self) { self.engine->shared_regions().clear(); })
      .def("shared_memory",
           [](const EngineHandle& self) {
             py::list rows;
             for (const auto& region : self.engine->shared_regions().all()) {
               rows.append(py::make_tuple(region->name(), region->key(), region->offset(), region->bytes()));
             }
             return rows;
           })
      .def("snapshot", &snapshot)
      .def("schedule", &schedule_view, py::arg("model"), py::pos_only())
      .def(
          "take_log",
          [](const EngineHandle& self, std::size_t most) {
            py::list lines;
            for (const LogLine& line : self.engine->take_log(most)) {
              lines.append(py::make_tuple(static_cast<int>(line.level), line.where, line.message));
            }
            return lines;
          },
          py::pos_only())
      .def("drain",
           [](const EngineHandle& self, double seconds) {
             constexpr double kLongest = 1e9;  // seconds: 31 years
             if (!(seconds >= 0)) throw py::value_error("seconds must be 0 or more");
             const auto nanos = static_cast<Nanos>(std::min(seconds, kLongest) * 1e9);
             py::gil_scoped_release release;
             return self.engine->drain(self.engine->clock().now() + nanos);
           })
      .def("close", [](const EngineHandle& self) {
        py::gil_scoped_release release;
        self.engine->close();
      });
}

}  // namespace headrace::bindings
