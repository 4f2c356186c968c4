#include "schedule/crew.h"

#include <sys/resource.h>
#include <unistd.h>

#include <system_error>
#include <utility>

namespace headrace {

namespace {
constexpr int kLowest = 19;
}

void lower_priority() {
  // Linux keeps a nice value for each thread. That it cannot be lowered never happens, and would only cost fairness.
  static_cast<void>(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kLowest));
}

Crew::Crew(int threads, std::function<void(int)> piece)
    : piece_(std::move(piece)), missing_(threads), at_work_(threads) {
  threads_.reserve(static_cast<std::size_t>(threads));
  try {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error&) {  // the system has no more threads: fewer do it
    MutexLock lock(mutex_);
    const int lacking = threads - static_cast<int>(threads_.size());
    missing_ -= lacking;
    at_work_ -= lacking;
    changed_.notify_all();
  }
}

Crew::~Crew() {
  for (std::thread& thread : threads_) thread.join();
}

void Crew::work(int index) {
  lower_priority();
  {
    MutexLock lock(mutex_);
    if (--missing_ == 0) changed_.notify_all();
    while (missing_ != 0) changed_.wait(mutex_);
  }
  piece_(index);
  MutexLock lock(mutex_);
  if (--at_work_ == 0) changed_.notify_all();
}

bool Crew::wait_until(Nanos time) {
  SteadyClock& clock = SteadyClock::instance();
  MutexLock lock(mutex_);
  while (at_work_ != 0 && clock.now() < time) clock.wait_until(changed_, mutex_, time);
  return at_work_ == 0;
}

}  // namespace headrace
