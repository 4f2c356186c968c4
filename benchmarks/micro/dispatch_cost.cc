// What the dispatcher costs for each ticket: submit, and its part of take, settle and release; no thread, lock or
// clock.
//
//   dispatch_cost [--tickets N] [--repeat N] [--only WORDS]
//
// One line a case: nanoseconds for a ticket that was taken in (the median of the repeats) and for one that was refused.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "batching/cost_model.h"
#include "schedule/dispatcher.h"

namespace {

using namespace headrace;

struct Case {
  const char* name;
  bool costs;
  Nanos deadline;         // from its arrival on; kNever: none
  std::size_t standing;   // tickets that stand in the queue all the time
  std::size_t in_flight;  // submitted between two batches
  std::size_t models = 1;
};

double now_ns() { return static_cast<double>(std::chrono::steady_clock::now().time_since_epoch().count()); }

constexpr std::int64_t kMaxRows = 32;
constexpr Nanos kFixed = 200'000;
constexpr Nanos kRow = 20'000;

struct Cost {
  double accepted = 0;
  double refused = 0;
  double share = 0;  // of the submitted that were refused
};

Cost measure(const Case& of, std::size_t tickets) {
  Dispatcher dispatcher(1);
  BatchingPolicy policy;
  policy.dynamic_batching = true;
  policy.max_batch_size = kMaxRows;
  std::vector<std::unique_ptr<CostModel>> costs;
  std::vector<Dispatcher::Entry*> entries;
  for (std::size_t m = 0; m < of.models; ++m) {
    costs.push_back(std::make_unique<CostModel>(kMaxRows));
    entries.push_back(
        dispatcher.add("m" + std::to_string(m), policy, 1, nullptr, of.costs ? costs.back().get() : nullptr));
  }
  std::vector<std::unique_ptr<Ticket>> all;
  std::vector<Ticket*> spare;
  for (std::size_t i = 0; i < of.standing + of.in_flight + kMaxRows; ++i) {
    all.push_back(std::make_unique<Ticket>());
    all.back()->inputs.resize(1);
    all.back()->inputs[0].dtype = DType::kFp32;
    all.back()->inputs[0].shape = Shape{1, 8};
    spare.push_back(all.back().get());
  }
  Nanos now = 1;
  Dispatcher::Assignment assignment;
  std::size_t refused = 0;
  std::size_t accepted = 0;
  std::size_t turn = 0;
  double refusing = 0;
  const auto submit = [&](Nanos deadline) {
    Ticket* ticket = spare.back();
    ticket->deadline = deadline == kNever ? kNever : now + deadline;
    ticket->time.received = now;
    const double begun = now_ns();
    if (dispatcher.submit(entries[turn++ % entries.size()], ticket, now).ok()) {
      spare.pop_back();
      ++accepted;
      return true;
    }
    refusing += now_ns() - begun;
    ++refused;
    return false;
  };
  const auto run = [&] {
    dispatcher.take(0, now, assignment);
    if (assignment.entry == nullptr) return;
    const Nanos time = kFixed + kRow * assignment.rows;
    now += time;
    if (of.costs) {
      auto* model =
          costs[static_cast<std::size_t>(std::find(entries.begin(), entries.end(), assignment.entry) - entries.begin())]
              .get();
      model->record(assignment.cost_key, assignment.cost_rows, time, now);
    }
    for (Ticket* ticket : assignment.tickets) spare.push_back(ticket);
    dispatcher.settle(assignment.entry, assignment.tickets);
    for (Ticket* ticket : assignment.tickets) ticket->state = TicketState::kNew;
    dispatcher.release(0, assignment, now);
    dispatcher.expire(now);
  };
  if (of.costs) {  // learnt before
    for (std::size_t m = 0; m < of.models; ++m) {
      for (int i = 0; i < 64; ++i) {
        for (std::size_t rows = 1; rows <= 32; rows *= 2) {
          for (std::size_t r = 0; r < rows; ++r) {
            turn = m;
            submit(kNever);
          }
          run();
        }
      }
    }
  }
  for (std::size_t i = 0; i < of.standing; ++i) submit(of.deadline);
  accepted = refused = 0;
  refusing = 0;
  const double begun = now_ns();
  while (accepted + refused < tickets) {
    for (std::size_t i = 0; i < of.in_flight; ++i) submit(of.deadline);
    run();
    // Callers whose deadline passes leave, as in the server.
    while (spare.size() < of.in_flight) run();
  }
  const double spent = now_ns() - begun;
  Cost cost;
  cost.accepted = accepted == 0 ? 0 : (spent - refusing) / static_cast<double>(accepted);
  cost.refused = refused == 0 ? 0 : refusing / static_cast<double>(refused);
  cost.share = static_cast<double>(refused) / static_cast<double>(refused + accepted);
  while (dispatcher.queued(entries[0]) > 0 || entries.size() > 1) {
    bool any = false;
    for (Dispatcher::Entry* entry : entries) any = any || dispatcher.queued(entry) > 0;
    if (!any) break;
    run();
  }
  return cost;
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t tickets = 200'000;
  int repeat = 5;
  const char* only = "";
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--tickets") == 0) tickets = static_cast<std::size_t>(std::atoll(argv[i + 1]));
    if (std::strcmp(argv[i], "--only") == 0) only = argv[i + 1];
    if (std::strcmp(argv[i], "--repeat") == 0) repeat = std::max(1, std::atoi(argv[i + 1]));
  }
  constexpr Nanos kFar = 10 * kSecond;
  const Case cases[] = {
      {"no costs, no deadline, 1 at a time", false, kNever, 0, 1},
      {"no costs, no deadline, 32 at a time", false, kNever, 0, 32},
      {"no costs, deadline 10 s, 1 at a time", false, kFar, 0, 1},
      {"no costs, deadline 10 s, 32 at a time", false, kFar, 0, 32},
      {"costs, no deadline, 1 at a time", true, kNever, 0, 1},
      {"costs, no deadline, 32 at a time", true, kNever, 0, 32},
      {"costs, no deadline, 32 at a time, 3000 wait, 3000 models", true, kNever, 3000, 32, 3000},
      {"costs, deadline 10 s, 1 at a time", true, kFar, 0, 1},
      {"costs, deadline 10 s, 32 at a time", true, kFar, 0, 32},
      {"costs, deadline 10 s, 32 at a time, 1024 wait", true, kFar, 1024, 32},
      {"costs, deadline 10 s, 32 at a time, 1024 wait, 3 models", true, kFar, 1024, 32, 3},
      {"costs, deadline 30 ms, load 1", true, 30 * kMillisecond, 2048, 32},
      {"costs, deadline 30 ms, load 4", true, 30 * kMillisecond, 2048, 128},
      {"costs, deadline 5 ms, load 4", true, 5 * kMillisecond, 2048, 128},
      {"costs, deadline 30 ms, load 4, 3 models", true, 30 * kMillisecond, 2048, 128, 3},
  };
  for (const Case& each : cases) {
    if (std::strstr(each.name, only) == nullptr) continue;
    std::vector<double> accepted;
    Cost last;
    for (int i = 0; i < repeat; ++i) {
      last = measure(each, each.standing > 100 ? tickets / 4 : tickets);
      accepted.push_back(last.accepted);
    }
    std::sort(accepted.begin(), accepted.end());
    std::printf("%-58s %8.0f ns", each.name, accepted[accepted.size() / 2]);
    if (last.share > 0) std::printf("   refused %3.0f %%, %6.0f ns each", 100 * last.share, last.refused);
    std::printf("\n");
  }
  return 0;
}
