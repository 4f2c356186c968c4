#include "engine/stats.h"

#include <algorithm>

namespace headrace {

void ModelCounters::ran(const RunRecord& record) noexcept {
  const auto tickets = static_cast<std::uint64_t>(record.tickets);
  const auto times = static_cast<Nanos>(record.tickets);
  const Nanos input = record.infer_start - record.started;
  const Nanos infer = record.infer_end - record.infer_start;
  const Nanos output = record.finished - record.infer_end;
  MutexLock lock(mutex_);
  if (!record.ok) {
    stats_.fail.add(tickets, record.total_ns);
    return;
  }
  // Rows of callers that left while it ran were computed too, but nobody got them: Triton counts what was inferred.
  stats_.inference_count += static_cast<std::uint64_t>(std::max<std::int64_t>(record.rows, 0));
  stats_.execution_count += 1;
  stats_.last_inference = record.finished;
  stats_.success.add(tickets, record.total_ns);
  stats_.queue.add(tickets, record.queue_ns);
  stats_.compute_input.add(tickets, input * times);
  stats_.compute_infer.add(tickets, infer * times);
  stats_.compute_output.add(tickets, output * times);
  BatchStats& batch = stats_.batches[record.rows];
  batch.compute_input.add(1, input);
  batch.compute_infer.add(1, infer);
  batch.compute_output.add(1, output);
}

void ModelCounters::answered(const ResponseRecord& record) noexcept {
  const std::size_t place = std::min(record.number, ModelStats::kMostResponses - 1);
  const Nanos total = record.compute_infer + record.compute_output;
  MutexLock lock(mutex_);
  if (stats_.responses.size() <= place) stats_.responses.resize(place + 1);
  ResponseStats& stats = stats_.responses[place];
  switch (record.kind) {
    case ResponseKind::kSuccess:
      stats.compute_infer.add(1, record.compute_infer);
      stats.compute_output.add(1, record.compute_output);
      stats.success.add(1, total);
      break;
    case ResponseKind::kFail:
      stats.fail.add(1, total);
      break;
    case ResponseKind::kEmpty:
      stats.empty_response.add(1, total);
      break;
    case ResponseKind::kCancel:
      stats.cancel.add(1, total);
      break;
  }
}

void ModelCounters::unserved(Code code, bool queued, Nanos total) {
  MutexLock lock(mutex_);
  DurationStats& kind = code == Code::kCancelled ? stats_.cancel : (queued ? stats_.fail : stats_.reject);
  kind.add(1, total);
}

std::uint64_t ModelCounters::requests() const {
  MutexLock lock(mutex_);
  return stats_.success.count + stats_.fail.count;
}

ModelStats ModelCounters::read() const {
  MutexLock lock(mutex_);
  return stats_;
}

}  // namespace headrace
