// What tests of schedule, engine and front share: a session whose runs can be held, failed by the value of a row,
// counted and stopped; and a sink that keeps what it is given.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/sync.h"
#include "batching/request.h"
#include "memory/pool.h"

namespace headrace::testing {

// Starved of processors a test of a second may take a minute; one that hangs ends here with a message.
inline std::chrono::steady_clock::time_point patience() {
  return std::chrono::steady_clock::now() + std::chrono::minutes(4);
}

using Values = std::vector<std::int32_t>;

inline Values values_of(const Tensor& tensor) {
  Values values(tensor.size / sizeof(std::int32_t));
  if (tensor.size != 0) std::memcpy(values.data(), tensor.data, tensor.size);
  return values;
}

inline Tensor int32_tensor(Pool& pool, Shape shape, const Values& values) {
  Tensor tensor;
  tensor.dtype = DType::kInt32;
  tensor.shape = std::move(shape);
  tensor.size = values.size() * sizeof(std::int32_t);
  auto block = pool.allocate(tensor.size);
  EXPECT_TRUE(block.ok());
  tensor.block = std::move(*block);
  tensor.data = tensor.block.data();
  if (tensor.size != 0) std::memcpy(tensor.block.data(), values.data(), tensor.size);
  return tensor;
}

// What the test's thread and the runs in progress share.
class Trial {
 public:
  // Runs that begin from now on wait for let_go(), or for their interrupt.
  void hold() {
    MutexLock lock(mutex_);
    held_ = true;
  }
  void let_go() {
    MutexLock lock(mutex_);
    held_ = false;
    changed_.notify_all();
  }
  // A run with such a row fails.
  void fail_on(std::int32_t value, Status status = internal_error("a bad row")) {
    MutexLock lock(mutex_);
    bad_[value] = std::move(status);
  }
  // False: a run that is told to stop goes on.
  void obey_interrupts(bool obey) {
    MutexLock lock(mutex_);
    obey_ = obey;
  }
  // Called at the start of each run on its lane, with the rows it was given and no lock held.
  void on_run(std::function<void(const Values&)> call) {
    MutexLock lock(mutex_);
    on_run_ = std::move(call);
  }
  // An output that the session gives with the wrong number of rows.
  void lose_a_row(bool lose) {
    MutexLock lock(mutex_);
    lose_a_row_ = lose;
  }

  void await_inside(int runs) {
    MutexLock lock(mutex_);
    const auto limit = patience();
    while (inside_ < runs && std::chrono::steady_clock::now() < limit) changed_.wait_until(mutex_, limit);
    ASSERT_GE(inside_, runs);
  }
  std::vector<Values> runs() const {
    MutexLock lock(mutex_);
    return runs_;
  }
  int interrupted() const {
    MutexLock lock(mutex_);
    return interrupted_;
  }
  int most_inside() const {
    MutexLock lock(mutex_);
    return most_inside_;
  }
  int sessions() const {
    MutexLock lock(mutex_);
    return sessions_;
  }

 private:
  friend class TrialSession;

  // Of one run, under the trial's mutex.
  struct Stop {
    Trial* trial;
    bool asked = false;
    static void ask(void* context) {
      auto* self = static_cast<Stop*>(context);
      MutexLock lock(self->trial->mutex_);
      self->asked = true;
      self->trial->changed_.notify_all();
    }
  };

  // The whole of a run but its outputs.
  Status run(const Values& rows, Interrupt* interrupt) {
    std::function<void(const Values&)> call;
    {
      MutexLock lock(mutex_);
      runs_.push_back(rows);
      most_inside_ = std::max(most_inside_, ++inside_);
      call = on_run_;
      changed_.notify_all();
    }
    if (call) call(rows);
    Stop stop{this};
    if (interrupt != nullptr) interrupt->arm(&Stop::ask, &stop);
    Status status;
    {
      MutexLock lock(mutex_);
      while (held_ && !(obey_ && stop.asked)) changed_.wait(mutex_);
      const bool stopped = held_;
      --inside_;
      for (const std::int32_t row : rows) {
        if (const auto bad = bad_.find(row); bad != bad_.end()) status = bad->second;
      }
      if (stopped) {
        ++interrupted_;
        status = {Code::kCancelled, "stopped"};
      }
      changed_.notify_all();
    }
    if (interrupt != nullptr) interrupt->disarm();
    return status;
  }

  mutable Mutex mutex_;
  CondVar changed_;
  bool held_ HEADRACE_GUARDED_BY(mutex_) = false;
  bool obey_ HEADRACE_GUARDED_BY(mutex_) = true;
  bool lose_a_row_ HEADRACE_GUARDED_BY(mutex_) = false;
  int inside_ HEADRACE_GUARDED_BY(mutex_) = 0;
  int most_inside_ HEADRACE_GUARDED_BY(mutex_) = 0;
  int interrupted_ HEADRACE_GUARDED_BY(mutex_) = 0;
  int sessions_ HEADRACE_GUARDED_BY(mutex_) = 0;
  std::map<std::int32_t, Status> bad_ HEADRACE_GUARDED_BY(mutex_);
  std::vector<Values> runs_ HEADRACE_GUARDED_BY(mutex_);
  std::function<void(const Values&)> on_run_ HEADRACE_GUARDED_BY(mutex_);
};

// x: INT32[-1, width] -> y = 2 x, z = -x.
class TrialSession final : public Session {
 public:
  explicit TrialSession(Trial& trial, std::int64_t width = 1, Placement placement = {})
      : trial_(trial), placement_(std::move(placement)) {
    signature_.inputs.push_back({"x", DType::kInt32, {-1, width}, {"rows", ""}});
    signature_.outputs.push_back({"y", DType::kInt32, {-1, width}, {"rows", ""}});
    signature_.outputs.push_back({"z", DType::kInt32, {-1, width}, {"rows", ""}});
    MutexLock lock(trial_.mutex_);
    ++trial_.sessions_;
  }
  ~TrialSession() override {
    MutexLock lock(trial_.mutex_);
    --trial_.sessions_;
    EXPECT_EQ(inside_.load(), 0) << "a session goes after its runs";
  }
  const Signature& signature() const override { return signature_; }
  Placement placement() const override { return placement_; }

  Status run(BatchRun& batch) override {
    const Inside inside(inside_);
    const Tensor& x = batch.inputs[0];
    const Values rows = values_of(x);
    if (Status status = trial_.run(rows, batch.interrupt); !status.ok()) return status;
    bool lose = false;
    {
      MutexLock lock(trial_.mutex_);
      lose = trial_.lose_a_row_;
    }
    batch.outputs.assign(2, Tensor());
    for (std::size_t i = 0; i < 2; ++i) {
      if (batch.wanted[i] == 0) continue;
      Values out(rows.size());
      std::transform(rows.begin(), rows.end(), out.begin(),
                     [i](std::int32_t value) { return i == 0 ? 2 * value : -value; });
      Shape shape = x.shape;
      if (lose && !out.empty()) {
        out.pop_back();
        shape.set(0, shape[0] - 1);
      }
      Result<Block> block = batch.pool->allocate(out.size() * sizeof(std::int32_t));
      if (!block) return block.status();
      Tensor& tensor = batch.outputs[i];
      tensor.dtype = DType::kInt32;
      tensor.shape = shape;
      tensor.block = std::move(*block);
      tensor.data = tensor.block.data();
      tensor.size = out.size() * sizeof(std::int32_t);
      if (tensor.size != 0) std::memcpy(tensor.block.data(), out.data(), tensor.size);
    }
    return {};
  }

 private:
  // One run of this session, however it ends. Other sessions of the trial may be running meanwhile.
  struct Inside {
    explicit Inside(std::atomic<int>& runs) : count(runs) { ++count; }
    ~Inside() { --count; }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;
    std::atomic<int>& count;
  };

  Trial& trial_;
  const Placement placement_;
  Signature signature_;
  std::atomic<int> inside_{0};
};

// Loads a TrialSession whatever the file, on the first provider that is asked for; "absent" is not there. A file called
// "broken" fails.
class TrialBackend final : public Backend {
 public:
  explicit TrialBackend(Trial& trial) : trial_(trial) {}
  std::string_view name() const override { return "trial"; }
  std::string version() const override { return "1"; }
  Result<std::unique_ptr<Session>> load(const std::string& model_file, const std::string&,
                                        const SessionOptions& options) override {
    if (model_file == "broken") return invalid_argument("the file is broken");
    Placement placement;
    if (!options.providers.empty()) placement.provider = options.providers.front().name;
    if (placement.provider == "absent") placement = {"cpu", "there is no such device"};
    return std::unique_ptr<Session>(std::make_unique<TrialSession>(trial_, 1, placement));
  }

 private:
  Trial& trial_;
};

// What became of one ticket.
struct Answer {
  std::uint64_t call = 0;  // its cookie_call
  Status status;
  std::vector<Values> outputs;  // empty where not wanted
  Timeline time;
  std::int64_t batch_rows = 0;
};

// Keeps a copy of each answer and gives the submitter's reference up.
class Answers final : public CompletionSink {
 public:
  void deliver(Completion* first, Completion* last) noexcept override {
    for (Completion* link = first; link != nullptr;) {
      Completion* next = link == last ? nullptr : link->next;
      auto* ticket = static_cast<Ticket*>(link);
      Answer answer{ticket->cookie_call, ticket->status, {}, ticket->time, ticket->batch_rows};
      for (const Tensor& output : ticket->outputs) answer.outputs.push_back(values_of(output));
      ticket->outputs.clear();
      EXPECT_EQ(link->kind, CompletionKind::kFinal);
      if (ticket->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete ticket;
      MutexLock lock(mutex_);
      answers_.push_back(std::move(answer));
      link = next;
    }
    MutexLock lock(mutex_);
    ++deliveries_;
    changed_.notify_all();
  }

  void await(std::size_t count) {
    MutexLock lock(mutex_);
    const auto limit = patience();
    while (answers_.size() < count && std::chrono::steady_clock::now() < limit) changed_.wait_until(mutex_, limit);
    ASSERT_GE(answers_.size(), count);
  }
  std::vector<Answer> all() const {
    MutexLock lock(mutex_);
    return answers_;
  }
  std::size_t size() const {
    MutexLock lock(mutex_);
    return answers_.size();
  }
  int deliveries() const {
    MutexLock lock(mutex_);
    return deliveries_;
  }
  // The one answer to this call.
  Answer of(std::uint64_t call) const {
    MutexLock lock(mutex_);
    Answer found;
    int count = 0;
    for (const Answer& answer : answers_) {
      if (answer.call != call) continue;
      found = answer;
      ++count;
    }
    EXPECT_EQ(count, 1) << "call " << call << " has one FINAL";
    return found;
  }

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<Answer> answers_ HEADRACE_GUARDED_BY(mutex_);
  int deliveries_ HEADRACE_GUARDED_BY(mutex_) = 0;
};

// Makes tickets for one pool and one sink, and looks at all of them at the end: each had one FINAL, and nobody but the
// test holds it any more.
class Tickets {
 public:
  Tickets(Pool& pool, CompletionSink& sink) : pool_(pool), sink_(sink) {}

  // Calls are numbered from 0.
  Ticket* make(const Values& rows, void* entry, Nanos now, Nanos deadline = kNever) {
    auto* ticket = new Ticket;
    ticket->references.store(2);  // one is the test's own
    ticket->sink = &sink_;
    ticket->cookie_call = made_.size();
    ticket->inputs.push_back(int32_tensor(pool_, {static_cast<std::int64_t>(rows.size()), 1}, rows));
    ticket->wanted = {1, 1};
    ticket->rows = static_cast<std::int64_t>(rows.size());
    ticket->model = entry;
    ticket->time.received = now;
    ticket->deadline = deadline;
    made_.push_back(ticket);
    return ticket;
  }
  static Ticket* chain(const std::vector<Ticket*>& tickets) {
    for (std::size_t i = 0; i < tickets.size(); ++i)
      tickets[i]->next = i + 1 < tickets.size() ? tickets[i + 1] : nullptr;
    return tickets.front();
  }
  std::size_t made() const { return made_.size(); }
  Ticket* at(std::uint64_t call) const { return made_[call]; }

  // Once every thread that may hold one has ended.
  void finish(const Answers& answers) {
    const std::vector<Answer> all = answers.all();
    std::vector<int> finals(made_.size(), 0);
    for (const Answer& answer : all) {
      ASSERT_LT(answer.call, finals.size());
      ++finals[answer.call];
    }
    for (std::size_t i = 0; i < finals.size(); ++i) EXPECT_EQ(finals[i], 1) << "call " << i << " has one FINAL";
    for (Ticket* ticket : made_) {
      EXPECT_EQ(ticket->references.load(), 1U) << "call " << ticket->cookie_call;
      EXPECT_EQ(ticket->heap_index, kNotInHeap);
      delete ticket;
    }
    made_.clear();
  }

 private:
  Pool& pool_;
  CompletionSink& sink_;
  std::vector<Ticket*> made_;
};

}  // namespace headrace::testing
