// The ONNX Runtime library in this process: opened once for each path, with one environment whose log goes to the sinks
// of those who opened it, never to stderr.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/ort_abi.h"
#include "backend/ort_memory.h"
#include "backend/ort_shared_weights.h"
#include "backend/ort_staging.h"
#include "base/error.h"
#include "base/sync.h"

namespace headrace::ort {

// Owner of an object of the runtime: released by the slot Release.
template <class T, class Release>
class Owned {
 public:
  explicit Owned(Api api) : api_(api) {}
  Owned(Owned&& other) noexcept : api_(other.api_), object_(std::exchange(other.object_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(api_, other.api_);
    std::swap(object_, other.object_);
    return *this;
  }
  ~Owned() { reset(); }
  T* get() const { return object_; }
  T** out() {  // for a function that makes the object
    reset();
    return &object_;
  }
  void reset() {
    if (object_ != nullptr) api_.call<Release>(std::exchange(object_, nullptr));
  }

 private:
  Api api_;
  T* object_ = nullptr;
};

struct Failure {
  Error code = Error::kOk;
  std::string message;  // the runtime's own words, on one line
  explicit operator bool() const { return code != Error::kOk; }
};
// Takes the status over and releases it.
Failure take(Api api, Status* status);

struct LogReceiver {
  LogSink sink = nullptr;
  void* context = nullptr;
};

class Library {
 public:
  // FAILED_PRECONDITION: no library there, or one that is too old; names the package that provides it.
  // A library stays open, with its environment, until the process ends: the runtime keeps one environment a process,
  // with the logger of whoever made it first, and its exit handlers must find their code.
  static Result<Library*> open(const std::string& path);
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  Api api() const { return api_; }
  const Env* env() const { return env_.get(); }
  const MemoryInfo* cpu_memory() const { return cpu_memory_.get(); }
  Allocator* allocator() const { return allocator_; }  // the runtime's own: it frees what it gave out
  const std::string& version() const { return version_; }
  // Of sessions that are made with use_session_memory; null: this runtime takes no memory from outside.
  SessionMemory* session_memory() const { return session_memory_.get(); }
  SharedWeights& weights() const { return *weights_; }
  Staging& staging() const { return *staging_; }
  // Of sessions' memory and of staging: as Backend's.
  void give_back(bool all);

  // Every receiver gets every line from now on, until it is removed. remove_receiver returns after any call of it.
  void add_receiver(const LogReceiver* receiver) HEADRACE_EXCLUDES(mutex_);
  void remove_receiver(const LogReceiver* receiver) HEADRACE_EXCLUDES(mutex_);
  // A line of our own, among the runtime's.
  void say(LogLevel level, std::string_view where, std::string_view message) HEADRACE_EXCLUDES(mutex_);

 private:
  explicit Library(Api api);
  ::headrace::Status start();
  static void log(void* context, LogSeverity severity, const char* category, const char* log_id,
                  const char* code_location, const char* message);

  Api api_;
  std::string version_;
  Owned<Env, ReleaseEnv> env_;
  Owned<MemoryInfo, ReleaseMemoryInfo> cpu_memory_;
  Allocator* allocator_ = nullptr;  // belongs to the runtime
  Owned<MemoryInfo, ReleaseMemoryInfo> plain_memory_;
  std::unique_ptr<SessionMemory> session_memory_;
  std::unique_ptr<SharedWeights> weights_;
  std::unique_ptr<Staging> staging_;
  Mutex mutex_;
  std::vector<const LogReceiver*> receivers_ HEADRACE_GUARDED_BY(mutex_);
};

}  // namespace headrace::ort
