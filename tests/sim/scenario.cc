#include "scenario.h"

#include <cstring>

#include "base/check.h"

namespace headrace::sim {

namespace {

std::int64_t value_of(const Request& request, std::int64_t row, std::int64_t column) {
  std::int64_t value = (static_cast<std::int64_t>(request.id) << 24) | (row << 8) | column;
  if (request.guilt == Guilt::kFails) value |= kFailsFlag;
  if (request.guilt == Guilt::kWrongRows) value |= kWrongRowsFlag;
  return value;
}

// Strings of several lengths, none included.
void append_string(std::string& bytes, const Request& request, std::int64_t row, std::int64_t column) {
  std::string text;
  if ((row + column) % 3 != 0) text = std::to_string(value_of(request, row, column));
  const auto size = static_cast<std::uint32_t>(text.size());
  char prefix[4];
  std::memcpy(prefix, &size, 4);
  bytes.append(prefix, 4).append(text);
}

std::string string_rows(const Request& request) {
  std::string bytes;
  for (std::int64_t row = 0; row < request.rows; ++row) {
    for (std::int64_t column = 0; column < 2; ++column) append_string(bytes, request, row, column);
  }
  return bytes;
}

ModelPlan make_model(Random& random, int index) {
  ModelPlan plan;
  plan.name = "m" + std::to_string(index);
  BatchingPolicy& policy = plan.policy;
  const int kind = static_cast<int>(random.between(0, 9));
  policy.dynamic_batching = kind > 1;
  policy.max_batch_size = kind == 0 ? 0 : std::int64_t{1} << random.between(0, 5);
  if (random.chance(50)) policy.max_queue_delay = random.between(1, 400) * kMicrosecond;
  if (random.chance(40)) {
    for (std::int64_t rows = 1; rows <= policy.max_batch_size; ++rows) {
      if (random.chance(rows == policy.max_batch_size ? 50 : 20)) policy.preferred_batch_sizes.push_back(rows);
    }
  }
  if (random.chance(25)) policy.max_queue_size = static_cast<std::size_t>(random.between(1, 12));
  if (random.chance(15)) policy.max_queue_bytes = static_cast<std::size_t>(random.between(64, 2048));
  if (random.chance(25)) {
    policy.priority_levels = static_cast<std::uint32_t>(random.between(1, 5));
    policy.default_priority_level = static_cast<std::uint32_t>(random.between(1, policy.priority_levels));
    for (std::uint32_t level = 1; level <= policy.priority_levels; ++level) {
      if (random.chance(60)) continue;
      QueuePolicy& queue = policy.level_queue[level];
      if (random.chance(40)) queue.max_queue_size = static_cast<std::size_t>(random.between(1, 12));
      if (random.chance(40)) queue.timeout_action = TimeoutAction::kDelay;
      if (random.chance(50)) queue.default_timeout = random.between(20, 3000) * kMicrosecond;
    }
  } else if (random.chance(10)) {
    policy.timeout_action = TimeoutAction::kDelay;
    policy.default_timeout = random.between(20, 3000) * kMicrosecond;
  }
  // One that is sent to the back may make those before it a preferred size. That is seen when the queue is next looked
  // at, which the reference does not say.
  if (policy.delays_late() && policy.max_queue_delay > 0) policy.preferred_batch_sizes.clear();
  if (random.chance(20)) policy.latency_objective = random.between(20, 3000) * kMicrosecond;
  plan.max_lanes = static_cast<int>(random.between(1, 3));
  plan.weight = static_cast<double>(random.between(1, 40)) / 10;
  plan.shapes = random.chance(40) ? 1 : static_cast<int>(random.between(2, random.chance(20) ? 60 : 5));
  plan.strings = random.chance(25);
  plan.guilty_percent = random.chance(60) ? 0 : static_cast<int>(random.between(1, 30));
  if (random.chance(15)) plan.fragile = random.between(1, 16);
  plan.deaf = random.chance(30);
  plan.run_fixed = random.between(0, 200) * kMicrosecond;
  plan.run_row = random.between(0, 10) * kMicrosecond;
  plan.slow_percent = random.chance(30) ? static_cast<int>(random.between(1, 20)) : 0;
  return plan;
}

// Nothing but what the forecast plays through.
void make_exact(Random& random, ModelPlan& plan, bool levels) {
  BatchingPolicy& policy = plan.policy;
  policy.max_queue_delay = 0;
  if (!levels) {
    policy.priority_levels = 0;
    policy.level_queue.clear();
    policy.timeout_action = TimeoutAction::kReject;
  }
  plan.guilty_percent = plan.slow_percent = 0;
  plan.fragile = 0;
  plan.run_fixed = random.between(1'000, 300'000);
  plan.run_row = random.between(10, 50'000);
  if (random.chance(30)) plan.knee = random.between(1, 16);
}

// Batches need cores, and perhaps something that they share.
void make_needs(Random& random, Scenario& made) {
  made.room.cores = static_cast<std::uint32_t>(random.between(1, 4));
  made.room.named = static_cast<std::uint32_t>(random.between(1, 2));
  for (ModelPlan& plan : made.models) {
    plan.needs.cores = static_cast<std::uint32_t>(random.between(0, made.room.cores));
    if (random.chance(40)) plan.needs.named = static_cast<std::uint32_t>(random.between(1, made.room.named));
  }
}

// Models that all have work from the beginning, and every lane is for all of them.
void make_fair(Random& random, Scenario& made) {
  made.fair = made.exact = true;
  made.pool_cap = std::size_t{64} << 20;
  made.room = {};
  made.requests = 320;
  made.burst = 40;
  made.gap = 0;
  made.deadline_percent = made.cancel_percent = made.unloads = 0;
  made.devices.assign(static_cast<std::size_t>(made.lanes), 0);
  for (ModelPlan& plan : made.models) {
    make_exact(random, plan, false);
    plan.policy.latency_objective = kNever;
    plan.policy.max_queue_size = 4096;
    plan.policy.max_queue_bytes = std::size_t{64} << 20;
    plan.max_lanes = made.lanes;
    plan.needs = {};
  }
}

void make_part(Random& random, Scenario& made) {
  make_fair(random, made);
  made.fair = made.exact = false;
  made.part = true;
  made.gap = 100 * kMicrosecond;
  for (ModelPlan& plan : made.models) {
    plan.policy.dynamic_batching = false;
    plan.policy.patience = made.models.front().policy.patience / 10;
    plan.policy.latency_objective = &plan == made.models.data() ? kNever : kSecond;
    plan.policy.preferred_batch_sizes.clear();
    plan.run_fixed = random.between(50, 200) * kMicrosecond;
    plan.run_row = 1;
  }
}

// The dispatcher follows what it sees of arrivals every 50 ms: at this pace that is often.
void make_slow(Random& random, Scenario& made) {
  made.slow = true;
  const Nanos times = random.between(20, 200);
  made.gap *= times;
  made.deadline *= times;
  for (ModelPlan& plan : made.models) {
    plan.policy.patience *= times;
    if (plan.policy.latency_objective != kNever) plan.policy.latency_objective *= times;
    plan.run_fixed *= times;
    plan.run_row *= times;
  }
}

}  // namespace

Scenario Scenario::make(Random& random) {
  Scenario made;
  made.lanes = static_cast<int>(random.between(1, 4));
  made.pool_cap = random.chance(12) ? static_cast<std::size_t>(random.between(1, 16)) << 10 : std::size_t{64} << 20;
  const int models = static_cast<int>(random.between(1, 4));
  for (int i = 0; i < models; ++i) made.models.push_back(make_model(random, i));
  made.requests = static_cast<int>(random.between(20, 320));
  made.burst = static_cast<int>(random.between(1, 24));
  made.gap = random.between(1, 400) * kMicrosecond;
  made.deadline_percent = random.chance(70) ? static_cast<int>(random.between(5, 80)) : 0;
  made.deadline = random.between(20, 3000) * kMicrosecond;
  made.cancel_percent = random.chance(60) ? static_cast<int>(random.between(2, 60)) : 0;
  made.cancel = random.between(20, 3000) * kMicrosecond;
  made.unloads = random.chance(30) ? static_cast<int>(random.between(1, 4)) : 0;
  made.keep_percent = random.chance(50) ? 10 : 0;
  const Nanos patience = random.between(100, 5000) * kMicrosecond;  // one for all: else who comes later may go first
  for (ModelPlan& plan : made.models) plan.policy.patience = patience;
  made.devices.assign(static_cast<std::size_t>(made.lanes), 0);
  made.device_slowness = {100, static_cast<int>(random.between(100, 400))};
  if (random.chance(35)) {
    made.exact = true;
    made.pool_cap = std::size_t{64} << 20;
    made.cancel_percent = made.unloads = 0;
    made.deadline_percent = static_cast<int>(random.between(5, 100));
    // A lower level that is promised a time may be passed by a higher one that comes later.
    for (ModelPlan& plan : made.models) make_exact(random, plan, false);
    if (made.lanes > 1 && random.chance(50)) {
      for (int i = static_cast<int>(random.between(1, made.lanes - 1)); i < made.lanes; ++i) {
        made.devices[static_cast<std::size_t>(i)] = 1;
      }
    }
  }
  if (random.chance(50)) make_needs(random, made);
  if (random.chance(6)) make_fair(random, made);
  if (random.chance(6)) make_part(random, made);
  if (made.exact && !made.fair && random.chance(40)) make_slow(random, made);
  return made;
}

std::unique_ptr<Ticket> make_ticket(Request& request, const ModelPlan& plan, bool exact, Pool& pool, Random& random,
                                    Report& report) {
  const std::int64_t most = plan.policy.max_batch_size;
  if (plan.batched()) request.rows = random.chance(60) ? 1 : random.between(random.chance(5) && !exact ? 0 : 1, most);
  const int width = static_cast<int>(random.below(static_cast<std::size_t>(plan.shapes)));
  request.width = width + 1;
  request.with_strings = plan.strings && random.chance(70);
  request.wants_echo = !request.with_strings || random.chance(80);
  request.shape = width * 2 + (request.with_strings ? 1 : 0);
  if (random.chance(plan.guilty_percent) && request.rows > 0) {
    request.guilt = plan.batched() && random.chance(30) ? Guilt::kWrongRows : Guilt::kFails;
  }

  auto ticket = std::make_unique<Ticket>();
  ticket->rows = request.rows;
  ticket->wanted = {request.wants_echo, request.with_strings};
  ticket->inputs.resize(plan.strings ? 2 : 1);
  const auto count = static_cast<std::size_t>(request.rows * request.width);
  // A body does not lie where its element would like to: gather copies it then.
  const std::size_t offset = random.chance(20) ? 4 : 0;
  Result<Block> block = pool.allocate(count * 8 + offset);
  if (!block.ok()) return nullptr;
  if (offset != 0) REACHED(report, unaligned_input);
  std::byte* data = block->data() + offset;
  for (std::int64_t row = 0, at = 0; row < request.rows; ++row) {
    for (std::int64_t column = 0; column < request.width; ++column, ++at) {
      const std::int64_t value = value_of(request, row, column);
      std::memcpy(data + at * 8, &value, 8);
    }
  }
  ticket->inputs[0] = {Shape{request.rows, request.width}, DType::kInt64, *block, data, count * 8};
  request.bytes = count * 8;
  if (request.with_strings) {
    const std::string bytes = string_rows(request);
    block = pool.allocate(bytes.size());
    if (!block.ok()) return nullptr;
    std::memcpy(block->data(), bytes.data(), bytes.size());
    ticket->inputs[1] = {Shape{request.rows, 2}, DType::kBytes, *block, block->data(), bytes.size()};
    request.bytes += bytes.size();
    REACHED(report, strings);
  } else if (plan.strings) {
    REACHED(report, optional_absent);
  }
  if (request.rows == 0) REACHED(report, zero_rows);
  if (!request.wants_echo) REACHED(report, output_not_wanted);
  return ticket;
}

std::optional<std::string> wrong_rows(const Request& request, const ModelPlan&, const Ticket& ticket) {
  const std::string who = "request " + std::to_string(request.id) + ": ";
  if (ticket.outputs.size() != 2) return who + std::to_string(ticket.outputs.size()) + " outputs";
  const Tensor& echo = ticket.outputs[kEcho];
  const Tensor& strings = ticket.outputs[kStrings];
  if (static_cast<bool>(echo) != request.wants_echo) return who + "output 0 is there though not wanted, or not there";
  if (static_cast<bool>(strings) != request.with_strings) return who + "output 1 is there though not wanted, or not";
  if (echo) {
    if (echo.dtype != DType::kInt64 || !(echo.shape == Shape{request.rows, request.width})) {
      return who + "output 0 is of shape " + echo.shape.to_string();
    }
    const auto count = static_cast<std::size_t>(request.rows * request.width);
    if (echo.size != count * 8) return who + "output 0 has " + std::to_string(echo.size) + " bytes";
    for (std::int64_t row = 0, at = 0; row < request.rows; ++row) {
      for (std::int64_t column = 0; column < request.width; ++column, ++at) {
        std::int64_t value = 0;
        std::memcpy(&value, echo.data + at * 8, 8);
        if (value == value_of(request, row, column) + 1) continue;
        return who + "row " + std::to_string(row) + " is of request " + std::to_string((value - 1) >> 24 & 0xffffff);
      }
    }
  }
  if (strings) {
    const std::string expected = string_rows(request);
    if (!(strings.shape == Shape{request.rows, 2}) || strings.size != expected.size() ||
        std::memcmp(strings.data, expected.data(), expected.size()) != 0) {
      return who + "output 1 is not its own strings";
    }
  }
  return std::nullopt;
}

}  // namespace headrace::sim
