#include "fiber.h"

#include <cstdint>
#include <utility>

#include "base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#define HEADRACE_SIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HEADRACE_SIM_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define HEADRACE_SIM_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HEADRACE_SIM_TSAN 1
#endif
#endif

#ifdef HEADRACE_SIM_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef HEADRACE_SIM_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace headrace::sim {

namespace {

// Before and after each switch; nothing in a plain build.
void leaving([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* bottom, [[maybe_unused]] std::size_t size,
             [[maybe_unused]] void* to) {
#ifdef HEADRACE_SIM_ASAN
  __sanitizer_start_switch_fiber(fake_stack, bottom, size);
#endif
#ifdef HEADRACE_SIM_TSAN
  __tsan_switch_to_fiber(to, 0);
#endif
}

void arrived([[maybe_unused]] void* fake_stack, [[maybe_unused]] const void** bottom,
             [[maybe_unused]] std::size_t* size) {
#ifdef HEADRACE_SIM_ASAN
  __sanitizer_finish_switch_fiber(fake_stack, bottom, size);
#endif
}

}  // namespace

Fiber::Fiber() : stack_(std::make_unique_for_overwrite<std::byte[]>(kStack)) {}

Fiber::~Fiber() { HEADRACE_CHECK(!running_); }

void Fiber::entry(unsigned low, unsigned high) {
  reinterpret_cast<Fiber*>((std::uintptr_t{high} << 32) | std::uintptr_t{low})->run();
}

void Fiber::run() {
  arrived(nullptr, &outside_bottom_, &outside_size_);
  body_();
  running_ = false;
  leaving(nullptr, outside_bottom_, outside_size_, thread_fiber_);
  setcontext(&outside_);
}

void Fiber::enter() {
#ifdef HEADRACE_SIM_TSAN
  thread_fiber_ = __tsan_get_current_fiber();
#endif
  leaving(&outside_fake_stack_, stack_.get(), kStack, own_fiber_);
  swapcontext(&outside_, &inside_);
  arrived(outside_fake_stack_, nullptr, nullptr);
#ifdef HEADRACE_SIM_TSAN
  // Its record of calls never returns from run(): a body more, and it would only grow.
  if (!running_) __tsan_destroy_fiber(own_fiber_);
#endif
}

void Fiber::start(std::function<void()> body) {
  HEADRACE_CHECK(!running_);
  body_ = std::move(body);
  running_ = true;
#ifdef HEADRACE_SIM_TSAN
  own_fiber_ = __tsan_create_fiber(0);
#endif
  getcontext(&inside_);
  inside_.uc_stack.ss_sp = stack_.get();
  inside_.uc_stack.ss_size = kStack;
  inside_.uc_link = nullptr;
  const auto self = reinterpret_cast<std::uintptr_t>(this);
  // makecontext passes ints, so a pointer travels in two.
  makecontext(&inside_, reinterpret_cast<void (*)()>(&Fiber::entry), 2, static_cast<unsigned>(self),
              static_cast<unsigned>(self >> 32));
  enter();
}

void Fiber::resume() {
  HEADRACE_CHECK(running_);
  enter();
}

void Fiber::suspend() {
  leaving(&inside_fake_stack_, outside_bottom_, outside_size_, thread_fiber_);
  swapcontext(&inside_, &outside_);
  arrived(inside_fake_stack_, &outside_bottom_, &outside_size_);
}

}  // namespace headrace::sim
