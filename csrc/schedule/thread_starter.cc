#include "schedule/thread_starter.h"

#include <system_error>
#include <utility>

namespace headrace {
namespace {

class Started final : public StartedThread {
 public:
  Started(void (*body)(void*), void* argument) : thread_(body, argument) {}
  void join() override { thread_.join(); }

 private:
  std::thread thread_;
};

}  // namespace

NormalThreads::NormalThreads() : thread_([this] { work(); }) {}

NormalThreads::~NormalThreads() {
  {
    MutexLock lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

std::unique_ptr<StartedThread> NormalThreads::start(void (*body)(void*), void* argument) {
  Order order{body, argument, nullptr, false};
  MutexLock lock(mutex_);
  while (order_ != nullptr) changed_.wait(mutex_);
  order_ = &order;
  changed_.notify_all();
  while (!order.done) changed_.wait(mutex_);
  return std::move(order.made);
}

void NormalThreads::work() {
  MutexLock lock(mutex_);
  while (true) {
    while (order_ == nullptr && !closed_) changed_.wait(mutex_);
    if (order_ == nullptr) return;
    try {
      order_->made = std::make_unique<Started>(order_->body, order_->argument);
    } catch (const std::system_error&) {  // the system has no more threads: null says so
    }
    order_->done = true;
    order_ = nullptr;
    changed_.notify_all();
  }
}

}  // namespace headrace
