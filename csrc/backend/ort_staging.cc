#include "backend/ort_staging.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <utility>

#include "backend/ort_library.h"

namespace headrace::ort {

namespace {

constexpr std::uint32_t kHasReserve = 18;  // the first version of an allocator with it

class SessionAllocator final : public MemorySource {
 public:
  explicit SessionAllocator(Api api) : allocator_(api) {}

  Failure open(Api api, const Session* session, const MemoryKind& kind, int gpu) {
    Owned<MemoryInfo, ReleaseMemoryInfo> memory(api);
    Failure failure =
        take_status(api, api.call<CreateMemoryInfo>(kind.name, kDeviceAllocator, gpu, kind.type, memory.out()));
    if (failure) return failure;
    return take_status(
        api, api.call<CreateAllocator>(session, static_cast<const MemoryInfo*>(memory.get()), allocator_.out()));
  }

  // An allocator of the runtime throws what its device says.
  void* take(std::size_t bytes) noexcept override {
    if (refused_.load(std::memory_order_relaxed)) return nullptr;
    void* data = nullptr;
    try {
      Allocator* from = allocator_.get();
      const bool reserves = from->version >= kHasReserve && from->reserve != nullptr;
      data = reserves ? from->reserve(from, bytes) : from->alloc(from, bytes);
    } catch (...) {
      data = nullptr;
    }
    if (data != nullptr && reinterpret_cast<std::uintptr_t>(data) % Pool::kAlignment != 0) {
      release(data);
      data = nullptr;
    }
    if (data == nullptr) refused_.store(true, std::memory_order_relaxed);
    return data;
  }

  void give_back(void* data) noexcept override {
    release(data);
    refused_.store(false, std::memory_order_relaxed);
  }

 private:
  static Failure take_status(Api api, Status* status) { return ort::take(api, status); }

  void release(void* data) noexcept {
    try {
      allocator_.get()->free(allocator_.get(), data);
    } catch (...) {
      // The device is lost, and its memory with it: the runs that go on say so.
      refused_.store(true, std::memory_order_relaxed);
    }
  }

  Owned<Allocator, ReleaseAllocator> allocator_;
  std::atomic<bool> refused_{false};  // it is not asked again until something has come back: asking is slow
};

// -1: the provider runs on none.
int gpu_of(std::span<const Provider> providers, std::string_view provider) {
  if (provider != "cuda" && provider != "tensorrt") return -1;
  for (const Provider& each : providers) {
    const auto number = each.options.find("device_id");
    if (each.name == provider && number != each.options.end()) return std::atoi(number->second.c_str());
  }
  return 0;
}

}  // namespace

std::shared_ptr<Pool> Staging::of(int gpu, const Session* session, std::size_t bytes, std::string& why,
                                  const MemoryKind& kind) {
  {
    const MutexLock lock(mutex_);
    if (std::shared_ptr<Pool> pool = pools_[gpu].lock(); pool != nullptr) return pool;
  }
  auto source = std::make_shared<SessionAllocator>(api_);
  Failure failure = source->open(api_, session, kind, gpu);  // which may log, so no mutex is held
  // Some releases know one such memory for all GPUs, under the number 0.
  if (failure && gpu != 0 && !source->open(api_, session, kind, 0)) failure = {};
  if (failure) {
    why = "the runtime has no allocator of page-locked memory for GPU " + std::to_string(gpu) + ": " + failure.message;
    return nullptr;
  }
  auto made = std::make_shared<Pool>(PoolOptions{.cap = bytes, .retain = bytes, .source = std::move(source)});
  const MutexLock lock(mutex_);
  std::weak_ptr<Pool>& held = pools_[gpu];
  if (std::shared_ptr<Pool> pool = held.lock(); pool != nullptr) return pool;  // another load was first
  held = made;
  return made;
}

std::map<int, std::shared_ptr<Pool>> Staging::pools() const {
  const MutexLock lock(mutex_);
  std::map<int, std::shared_ptr<Pool>> alive;
  for (const auto& [gpu, held] : pools_)
    if (std::shared_ptr<Pool> pool = held.lock(); pool != nullptr) alive[gpu] = std::move(pool);
  return alive;
}

void Staging::give_back(bool all) {
  for (const auto& [gpu, pool] : pools()) {
    if (all) {
      pool->trim();
    } else {
      pool->give_back_unused();
    }
  }
}

std::map<std::string, PoolStats> Staging::stats() const {
  std::map<std::string, PoolStats> all;
  for (const auto& [gpu, pool] : pools()) all["gpu " + std::to_string(gpu)] = pool->stats();
  return all;
}

std::shared_ptr<Pool> staging_for(Library& library, const Session* session, std::span<const Provider> providers,
                                  std::string_view provider, std::size_t bytes) {
  const int gpu = gpu_of(providers, provider);
  if (gpu < 0 || bytes == 0) return nullptr;
  std::string why;
  std::shared_ptr<Pool> pool = library.staging().of(gpu, session, bytes, why);
  if (pool == nullptr) library.say(LogLevel::kWarning, "staging", why + "; copies go through ordinary memory");
  return pool;
}

}  // namespace headrace::ort
