// Loop: what it notes of requests that a sampler took.
#include <algorithm>
#include <iterator>
#include <utility>

#include "front/loop.h"

namespace headrace {

void Loop::begin_trace(Ticket& ticket, const TraceSampler& sampler) {
  ticket.trace = sampler.id();
  if (!sampler.wants().tensors) return;
  TraceEntry& entry = traced_[&ticket];
  entry.times = sampler.wants().times;
  entry.tensors.emplace();
  entry.tensors->add(ticket.inputs, false, kMaxTracedBytes - traced_bytes_);
  traced_bytes_ += entry.tensors->bytes;
}

void Loop::trace_outputs(const Ticket& ticket, std::span<const Tensor> outputs) {
  const auto found = traced_.find(&ticket);
  if (found == traced_.end()) return;
  TracedTensors& tensors = *found->second.tensors;
  const std::size_t before = tensors.bytes;
  tensors.add(outputs, true, kMaxTracedBytes - traced_bytes_);
  traced_bytes_ += tensors.bytes - before;
}

void Loop::end_trace(const Ticket& ticket) {
  const auto& model = *static_cast<const Model*>(ticket.cookie_model);
  if (traces_.size() >= kMaxTraces) {
    if (traces_.front().tensors) traced_bytes_ -= traces_.front().tensors->bytes;
    traces_.pop_front();
    ++traces_dropped_;
  }
  TraceEntry& entry = traces_.emplace_back();
  if (const auto found = traced_.find(&ticket); found != traced_.end()) {
    entry = std::move(found->second);
    traced_.erase(found);
    for (TracedTensor& tensor : entry.tensors->tensors) {
      tensor.name = (tensor.output ? model.signature.outputs : model.signature.inputs)[tensor.place].name;
    }
  }
  entry.sampler = ticket.trace;
  entry.model = model.name;
  entry.version = model.version_text;
  entry.request_id = ticket.id;
  entry.time = ticket.time;
  entry.ended = engine_->clock().now();
}

std::pair<std::vector<TraceEntry>, std::uint64_t> Loop::take_traces(std::size_t most) {
  std::size_t bytes = 0;
  auto end = traces_.begin();
  for (std::size_t taken = 0; taken < most && end != traces_.end() && bytes < kTracedBytesPerTake; ++taken, ++end) {
    if (end->tensors) bytes += end->tensors->bytes;
  }
  traced_bytes_ -= bytes;
  std::vector<TraceEntry> entries(std::make_move_iterator(traces_.begin()), std::make_move_iterator(end));
  traces_.erase(traces_.begin(), end);
  return {std::move(entries), std::exchange(traces_dropped_, 0)};
}

}  // namespace headrace
