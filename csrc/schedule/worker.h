// A few threads for what must not run on an event loop: inflating, converting large typed contents. Bounded: a full
// queue is a refusal, not a wait.
#pragma once

#include <cstddef>
#include <deque>
#include <thread>
#include <vector>

#include "base/sync.h"
#include "batching/request.h"

namespace headrace {

// A piece of work. Its completion (kind kJob) is delivered to `sink` when run() is over, or when the worker closes
// first.
struct Job : Completion {
  Job() { kind = CompletionKind::kJob; }
  virtual ~Job() = default;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  virtual void run() noexcept = 0;

  CompletionSink* sink = nullptr;
  bool ran = false;  // false in the sink's hands: the worker was closed before its turn came
};

class Worker {
 public:
  // `niceness`: 0, or how far its threads stand behind all others, as nice(1) counts it; threads that they start
  // inherit it.
  Worker(int threads, std::size_t max_jobs, int niceness = 0);
  ~Worker() { close(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // False when max_jobs are waiting, or after close; the job is then still the caller's.
  [[nodiscard]] bool submit(Job* job);
  // Hands the waiting jobs back unrun, lets the running ones end, joins the threads. Idempotent, from any thread but
  // the worker's own: each call returns when the threads have ended.
  void close();
  std::size_t waiting() const;

 private:
  void work(int niceness);

  const std::size_t max_jobs_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<Job*> jobs_ HEADRACE_GUARDED_BY(mutex_);
  bool closed_ HEADRACE_GUARDED_BY(mutex_) = false;
  Mutex join_mutex_;  // the threads are joined once
  std::vector<std::thread> threads_ HEADRACE_GUARDED_BY(join_mutex_);
};

}  // namespace headrace
