// What the scheduler has learnt of a model, and why its last batches were closed, as a dict.
#include <cinttypes>
#include <cstdio>
#include <utility>
#include <vector>

#include "bindings/bindings.h"

namespace headrace::bindings {
namespace {

std::int64_t microseconds(Nanos time) { return time / kMicrosecond; }

py::object microseconds_or_none(Nanos time) {
  if (time == kNever) return py::none();
  return py::int_(microseconds(time));
}

const char* name_of(TimeoutAction action) { return action == TimeoutAction::kDelay ? "DELAY" : "REJECT"; }

py::dict queue_view(const QueuePolicy& queue) {
  py::dict row;
  row["timeout_action"] = name_of(queue.timeout_action);
  row["default_timeout_us"] = microseconds_or_none(queue.default_timeout);
  row["allow_timeout_override"] = queue.allow_timeout_override;
  row["max_queue_size"] = queue.max_queue_size;
  return row;
}

py::dict policy_view(const BatchingPolicy& policy) {
  py::dict row;
  row["dynamic_batching"] = policy.dynamic_batching;
  row["max_batch_size"] = policy.max_batch_size;
  row["preferred_batch_sizes"] = policy.preferred_batch_sizes;
  row["max_queue_delay_us"] = microseconds(policy.max_queue_delay);
  row["max_queue_size"] = policy.max_queue_size;
  row["max_queue_bytes"] = policy.max_queue_bytes;
  row["preserve_ordering"] = policy.preserve_ordering;
  row["latency_objective_us"] = microseconds_or_none(policy.latency_objective);
  row["priority_levels"] = policy.priority_levels;
  row["default_priority_level"] = policy.default_priority_level;
  row["default_queue"] = queue_view({policy.timeout_action, policy.default_timeout, policy.allow_timeout_override, 0});
  py::dict levels;
  for (const auto& [level, queue] : policy.level_queue) levels[py::str(std::to_string(level))] = queue_view(queue);
  row["priority_queues"] = levels;
  return row;
}

py::dict curve_view(const Scheduler::Curve& curve) {
  py::dict row;
  row["device"] = curve.key.device;
  char shape[17];
  std::snprintf(shape, sizeof shape, "%016" PRIx64, curve.key.shape);
  row["shape"] = shape;
  row["runs"] = curve.runs;
  row["best_rows"] = curve.best_rows;
  row["spread"] = curve.spread;
  py::list points;
  for (const CostPoint& point : curve.points) {
    py::dict each;
    each["rows"] = point.rows;
    each["us"] = point.nanos / 1e3;
    each["runs"] = point.runs;
    points.append(each);
  }
  row["points"] = points;
  return row;
}

py::dict batch_view(const BatchRecord& batch, Nanos now) {
  py::dict row;
  row["number"] = batch.number;
  row["closed"] = std::string(closed_name(batch.why));
  row["lane"] = batch.lane;
  row["requests"] = batch.tickets;
  row["rows"] = batch.rows;
  row["waited_us"] = microseconds(batch.waited);
  row["predicted_us"] = batch.predicted > 0 ? py::object(py::int_(microseconds(batch.predicted))) : py::none();
  row["took_us"] = microseconds(batch.took);
  row["age_us"] = microseconds(now - batch.started);
  return row;
}

py::dict resource_view(const Resources::View& resource) {
  py::dict row;
  row["name"] = resource.name;
  row["device"] = resource.device == kEverywhere ? py::object(py::none()) : py::object(py::int_(resource.device));
  row["server"] = resource.count;
  row["of_a_batch"] = resource.need;
  row["used"] = resource.used;
  return row;
}

py::list curves_view(const Scheduler::Report& report) {
  py::list curves;
  for (const Scheduler::Curve& curve : report.curves) curves.append(curve_view(curve));
  return curves;
}

py::dict batches_view(const Scheduler::Report& report) {
  py::dict closed;
  for (std::size_t i = 0; i < kClosedReasons; ++i) {
    closed[py::str(std::string(closed_name(static_cast<Closed>(i))))] = report.log.reasons()[i];
  }
  py::dict batches;
  batches["count"] = report.log.batches();
  batches["closed"] = closed;
  py::list last;
  for (const BatchRecord& batch : report.log.last()) last.append(batch_view(batch, report.now));
  batches["last"] = last;
  return batches;
}

py::dict lanes_view(const Engine& engine, const Model& place, const Scheduler::Report& report) {
  py::dict lanes;
  lanes["server"] = engine.devices().on(place.device).lanes();
  lanes["most"] = place.threads.plan.lanes;
  lanes["now"] = report.lanes_now;
  lanes["running"] = report.lanes;
  return lanes;
}

// One of the devices that have the model.
py::dict place_view(const Engine& engine, const Model& place, const Scheduler::Report& report,
                    const Scheduler::Depth& depth) {
  py::dict row;
  row["device"] = engine.devices().name(place.device);
  row["provider"] = place.placement.provider;
  row["note"] = place.placement.note;
  row["lanes"] = lanes_view(engine, place, report);
  row["compute_threads"] = place.threads.plan.threads;
  row["waiting"] = depth.queued;
  row["running"] = depth.running;
  row["cost_curves"] = curves_view(report);
  row["batches"] = batches_view(report);
  row["refused_by_prediction"] = report.refused_early;
  return row;
}

}  // namespace

py::dict schedule_view(const EngineHandle& self, const ModelHandle& model) {
  const Engine& engine = *self.engine;
  std::vector<const Model*> places;
  std::vector<Scheduler::Report> reports;
  std::vector<Scheduler::Depth> depths;
  {
    py::gil_scoped_release release;
    std::as_const(*model.model).for_each_place([&](const Model& place) {
      places.push_back(&place);
      reports.push_back(engine.schedule_of(place));
      depths.push_back(engine.devices().on(place.device).depth(place.entry));
    });
  }
  const Scheduler::Report& report = reports.front();
  py::dict all;
  all["learning"] = model.model->costs != nullptr;
  all["policy"] = policy_view(model.model->policy);
  all["lanes"] = lanes_view(engine, *model.model, report);
  all["weight"] = model.model->share.weight;
  all["answers_wanted_within_us"] = microseconds_or_none(report.span);
  all["compute_threads"] = model.model->threads.plan.threads;
  py::dict cores;
  cores["server"] = report.cores;
  cores["of_a_batch"] = model.model->share.cores;
  cores["used"] = report.cores_used;
  all["cores"] = cores;
  py::list resources;
  for (const Resources::View& resource : report.resources) resources.append(resource_view(resource));
  all["resources"] = resources;
  all["cost_curves"] = curves_view(report);
  all["batches"] = batches_view(report);
  all["refused_by_prediction"] = report.refused_early;
  py::list devices;
  for (std::size_t i = 0; i < places.size(); ++i) {
    devices.append(place_view(engine, *places[i], reports[i], depths[i]));
  }
  all["devices"] = devices;
  return all;
}

}  // namespace headrace::bindings
