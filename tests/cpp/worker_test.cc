#include "schedule/worker.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace headrace {
namespace {

struct Task final : Job {
  explicit Task(std::function<void()> work = [] {}) : work_(std::move(work)) {}
  void run() noexcept override { work_(); }
  std::function<void()> work_;
};

class Sink final : public CompletionSink {
 public:
  void deliver(Completion* first, Completion* last) noexcept override {
    EXPECT_EQ(first, last);
    EXPECT_EQ(first->kind, CompletionKind::kJob);
    MutexLock lock(mutex_);
    jobs_.push_back(static_cast<Job*>(first));
    changed_.notify_all();
  }
  std::vector<Job*> await(std::size_t count) {
    MutexLock lock(mutex_);
    while (jobs_.size() < count) changed_.wait(mutex_);
    return jobs_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<Job*> jobs_;
};

// Lets a job wait until the test opens it, and the test until the job is there.
class Gate {
 public:
  void pass() {
    MutexLock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    while (!open_) changed_.wait(mutex_);
  }
  void await(int jobs) {
    MutexLock lock(mutex_);
    while (waiting_ < jobs) changed_.wait(mutex_);
  }
  void open() {
    MutexLock lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int waiting_ = 0;
  bool open_ = false;
};

TEST(Worker, RunsJobsInOrderAndHandsThemBack) {
  Sink sink;
  std::vector<int> order;
  std::vector<std::unique_ptr<Task>> tasks;
  Worker worker(1, 100);
  for (int i = 0; i < 20; ++i) {
    tasks.push_back(std::make_unique<Task>([&order, i] { order.push_back(i); }));
    tasks.back()->sink = &sink;
    ASSERT_TRUE(worker.submit(tasks.back().get()));
  }
  const std::vector<Job*> jobs = sink.await(20);
  for (std::size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(order[i], static_cast<int>(i));
    EXPECT_EQ(jobs[i], tasks[i].get());
    EXPECT_TRUE(jobs[i]->ran);
  }
}

TEST(Worker, AFullQueueRefusesAtOnceAndTheJobStaysTheCallers) {
  Sink sink;
  Gate gate;
  Task held([&gate] { gate.pass(); });
  Task waiting;
  Task refused;
  for (Task* task : {&held, &waiting, &refused}) task->sink = &sink;
  Worker worker(1, 1);
  ASSERT_TRUE(worker.submit(&held));
  gate.await(1);
  EXPECT_EQ(worker.waiting(), 0U) << "a running job waits no more";
  ASSERT_TRUE(worker.submit(&waiting));
  EXPECT_EQ(worker.waiting(), 1U);
  EXPECT_FALSE(worker.submit(&refused));
  gate.open();
  EXPECT_EQ(sink.await(2), (std::vector<Job*>{&held, &waiting}));
  worker.close();
  EXPECT_EQ(sink.await(2).size(), 2U);
  EXPECT_FALSE(refused.ran);
}

TEST(Worker, CloseHandsBackWhatWaitsBeforeTheRunningOneHasEnded) {
  Sink sink;
  Gate gate;
  Task held([&gate] { gate.pass(); });
  Task first;
  Task second;
  for (Task* task : {&held, &first, &second}) task->sink = &sink;
  Worker worker(1, 10);
  ASSERT_TRUE(worker.submit(&held));
  gate.await(1);
  ASSERT_TRUE(worker.submit(&first));
  ASSERT_TRUE(worker.submit(&second));
  std::thread closer([&worker] { worker.close(); });
  EXPECT_EQ(sink.await(2), (std::vector<Job*>{&first, &second}));
  EXPECT_FALSE(first.ran);
  EXPECT_FALSE(second.ran);
  gate.open();
  closer.join();
  EXPECT_EQ(sink.await(3).back(), &held);
  EXPECT_TRUE(held.ran);
  Task late;
  late.sink = &sink;
  EXPECT_FALSE(worker.submit(&late));
}

TEST(Worker, ThreadsCloseItTogetherAndEachReturnsWhenItIsOver) {
  Sink sink;
  Gate gate;
  std::atomic<bool> over = false;
  Task held([&] {
    gate.pass();
    over = true;
  });
  held.sink = &sink;
  Worker worker(2, 10);
  ASSERT_TRUE(worker.submit(&held));
  gate.await(1);
  std::vector<std::thread> closers;
  for (int i = 0; i < 4; ++i) {
    closers.emplace_back([&] {
      worker.close();
      EXPECT_TRUE(over);
    });
  }
  gate.open();
  for (std::thread& closer : closers) closer.join();
  worker.close();
}

TEST(Worker, SeveralThreadsRunSeveralJobsAtOnce) {
  Sink sink;
  Gate gate;
  Task first([&gate] { gate.pass(); });
  Task second([&gate] { gate.pass(); });
  first.sink = second.sink = &sink;
  Worker worker(2, 10);
  ASSERT_TRUE(worker.submit(&first));
  ASSERT_TRUE(worker.submit(&second));
  gate.await(2);
  gate.open();
  EXPECT_EQ(sink.await(2).size(), 2U);
}

TEST(Worker, EveryJobOfManyProducersComesBackOnceAlsoWhileItCloses) {
  static constexpr int kProducers = 4;
  static constexpr int kJobs = 500;
  Sink sink;
  std::atomic<int> ran = 0;
  std::atomic<std::size_t> accepted = 0;
  std::vector<std::unique_ptr<Task>> tasks;
  for (int i = 0; i < kProducers * kJobs; ++i) {
    tasks.push_back(std::make_unique<Task>([&ran] { ++ran; }));
    tasks.back()->sink = &sink;
  }
  Worker worker(2, 64);
  std::vector<std::thread> producers;
  for (std::size_t p = 0; p < kProducers; ++p) {
    producers.emplace_back([&, p] {
      for (std::size_t i = 0; i < kJobs; ++i) {
        if (worker.submit(tasks[p * kJobs + i].get())) ++accepted;
      }
    });
  }
  std::thread closer([&] {
    sink.await(50);  // at least 64 are accepted, however slow the workers are
    worker.close();
  });
  for (std::thread& producer : producers) producer.join();
  closer.join();
  const std::vector<Job*> jobs = sink.await(accepted);
  EXPECT_EQ(jobs.size(), accepted);
  int marked = 0;
  for (const Job* job : jobs) marked += job->ran ? 1 : 0;
  EXPECT_EQ(marked, ran);
}

}  // namespace
}  // namespace headrace
