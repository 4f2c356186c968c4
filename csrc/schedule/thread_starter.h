// Starts threads that others are to use, from a thread of its own: a new thread inherits the priority of the one that
// starts it, and the compute threads of a session must not stand behind because it was loaded by one that does.
#pragma once

#include <memory>
#include <thread>

#include "backend/backend.h"
#include "base/sync.h"

namespace headrace {

class NormalThreads final : public ThreadStarter {
 public:
  NormalThreads();
  ~NormalThreads() override;
  NormalThreads(const NormalThreads&) = delete;
  NormalThreads& operator=(const NormalThreads&) = delete;

  std::unique_ptr<StartedThread> start(void (*body)(void*), void* argument) override;

 private:
  struct Order {
    void (*body)(void*) = nullptr;
    void* argument = nullptr;
    std::unique_ptr<StartedThread> made;
    bool done = false;
  };
  void work();

  Mutex mutex_;
  CondVar changed_;
  Order* order_ HEADRACE_GUARDED_BY(mutex_) = nullptr;  // one at a time
  bool closed_ HEADRACE_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace headrace
