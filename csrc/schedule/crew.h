// A few threads for work of the moment that must not be in anybody's way: each does one piece of it, at the lowest
// priority, and ends. Threads that they start (a runtime's compute threads) have that priority for good.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/sync.h"

namespace headrace {

// The calling thread gives way to every other from now on. There is no way back without privileges.
void lower_priority();

class Crew {
 public:
  // Runs piece(0) .. piece(threads - 1) side by side: none begins before every thread is there. Where the system has
  // fewer threads to give, the last pieces are left out.
  Crew(int threads, std::function<void(int)> piece);
  ~Crew();  // waits until all have ended
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // True when all pieces have ended, false when `time` of the steady clock came first.
  bool wait_until(Nanos time);

 private:
  void work(int index);

  const std::function<void(int)> piece_;
  Mutex mutex_;
  CondVar changed_;
  int missing_ HEADRACE_GUARDED_BY(mutex_);  // threads that are not there yet
  int at_work_ HEADRACE_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace headrace
