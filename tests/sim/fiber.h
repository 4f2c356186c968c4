// A lane's stack without a thread: the simulation switches to it and back by hand, so that the real Execution can stand
// still in the middle of a run while simulated time goes on. One thread only.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <memory>

namespace headrace::sim {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs `body` on this stack until it suspends or returns. Only when the last body has returned.
  void start(std::function<void()> body);
  // Goes on behind the suspend().
  void resume();
  // Called in the body: back to whoever started or resumed it.
  void suspend();
  bool running() const { return running_; }  // started and not returned

 private:
  static constexpr std::size_t kStack = std::size_t{512} << 10;

  static void entry(unsigned low, unsigned high);
  void run();
  void enter();

  std::unique_ptr<std::byte[]> stack_;
  std::function<void()> body_;
  ucontext_t inside_{};
  ucontext_t outside_{};
  bool running_ = false;
  // What the sanitizers want to know of a switch of stacks.
  void* outside_fake_stack_ = nullptr;
  void* inside_fake_stack_ = nullptr;
  const void* outside_bottom_ = nullptr;
  std::size_t outside_size_ = 0;
  void* thread_fiber_ = nullptr;
  void* own_fiber_ = nullptr;
};

}  // namespace headrace::sim
