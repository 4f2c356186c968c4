#include "schedule/worker.h"

#include <sys/resource.h>
#include <unistd.h>

namespace headrace {

namespace {

// Best effort: without it they share the cores with the rest.
void stand_behind(int niceness) {
#if defined(__linux__)
  // There, a priority is a thread's own.
  if (niceness != 0) static_cast<void>(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), niceness));
#else
  static_cast<void>(niceness);
#endif
}

}  // namespace

Worker::Worker(int threads, std::size_t max_jobs, int niceness) : max_jobs_(max_jobs) {
  MutexLock lock(join_mutex_);
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this, niceness] { work(niceness); });
}

bool Worker::submit(Job* job) {
  {
    MutexLock lock(mutex_);
    if (closed_ || jobs_.size() >= max_jobs_) return false;
    jobs_.push_back(job);
  }
  changed_.notify_one();
  return true;
}

void Worker::close() {
  std::deque<Job*> unrun;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    unrun.swap(jobs_);
  }
  changed_.notify_all();
  for (Job* job : unrun) job->sink->deliver(job, job);
  MutexLock lock(join_mutex_);
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

std::size_t Worker::waiting() const {
  MutexLock lock(mutex_);
  return jobs_.size();
}

void Worker::work(int niceness) {
  stand_behind(niceness);
  mutex_.lock();
  while (true) {
    while (jobs_.empty() && !closed_) changed_.wait(mutex_);
    if (jobs_.empty()) break;
    Job* job = jobs_.front();
    jobs_.pop_front();
    mutex_.unlock();
    job->run();
    job->ran = true;
    job->sink->deliver(job, job);
    mutex_.lock();
  }
  mutex_.unlock();
}

}  // namespace headrace
