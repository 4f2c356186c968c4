// Mutex, lock and condition variable with Clang's thread-safety annotations
// (https://clang.llvm.org/docs/ThreadSafetyAnalysis.html). The order of all mutexes is in docs/concurrency.md.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define HEADRACE_ANNOTATION(x) __attribute__((x))
#else
#define HEADRACE_ANNOTATION(x)
#endif

#define HEADRACE_CAPABILITY(name) HEADRACE_ANNOTATION(capability(name))
#define HEADRACE_SCOPED HEADRACE_ANNOTATION(scoped_lockable)
#define HEADRACE_GUARDED_BY(x) HEADRACE_ANNOTATION(guarded_by(x))
#define HEADRACE_PT_GUARDED_BY(x) HEADRACE_ANNOTATION(pt_guarded_by(x))
#define HEADRACE_REQUIRES(...) HEADRACE_ANNOTATION(requires_capability(__VA_ARGS__))
#define HEADRACE_EXCLUDES(...) HEADRACE_ANNOTATION(locks_excluded(__VA_ARGS__))
#define HEADRACE_ACQUIRE(...) HEADRACE_ANNOTATION(acquire_capability(__VA_ARGS__))
#define HEADRACE_RELEASE(...) HEADRACE_ANNOTATION(release_capability(__VA_ARGS__))
#define HEADRACE_NO_THREAD_SAFETY_ANALYSIS HEADRACE_ANNOTATION(no_thread_safety_analysis)

namespace headrace {

class HEADRACE_CAPABILITY("mutex") Mutex {
 public:
  // What a mutex guards here takes a microsecond or two; glibc's adaptive kind looks again that long before it sleeps,
  // and a sleep and a wake-up cost several.
#if defined(PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP)
  Mutex() { *mutex_.native_handle() = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP; }
#else
  Mutex() = default;
#endif
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;
  void lock() HEADRACE_ACQUIRE() { mutex_.lock(); }
  void unlock() HEADRACE_RELEASE() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class HEADRACE_SCOPED MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) HEADRACE_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() HEADRACE_RELEASE() {
    if (held_) mutex_.unlock();
  }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;
  void unlock() HEADRACE_RELEASE() {
    mutex_.unlock();
    held_ = false;
  }
  void lock() HEADRACE_ACQUIRE() {
    mutex_.lock();
    held_ = true;
  }

 private:
  Mutex& mutex_;
  bool held_ = true;
};

// The caller holds the mutex across wait and has it again after. Spurious wake-ups happen.
class CondVar {
 public:
  void notify_one() { condition_.notify_one(); }
  void notify_all() { condition_.notify_all(); }

  void wait(Mutex& mutex) HEADRACE_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }

  template <class TimePoint>
  void wait_until(Mutex& mutex, TimePoint time) HEADRACE_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait_until(lock, time);
    lock.release();
  }

 private:
  std::condition_variable condition_;
};

}  // namespace headrace
