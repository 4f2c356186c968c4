#include "backend/ort_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <map>

namespace headrace::ort {

namespace {

constexpr const char* kRemedy = "pip install headrace[cpu] (or headrace[gpu])";

// Words of the runtime span lines, and a status is one sentence.
std::string one_line(const char* text) {
  std::string line;
  for (const char* p = text; *p != '\0'; ++p) {
    const bool space = *p == ' ' || *p == '\n' || *p == '\r' || *p == '\t';
    if (!space) {
      line += *p;
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  if (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

::headrace::Status unusable(std::string message) { return {Code::kFailedPrecondition, std::move(message)}; }

}  // namespace

Failure take(Api api, Status* status) {
  if (status == nullptr) return {};
  Failure failure{api.call<GetErrorCode>(status), one_line(api.call<GetErrorMessage>(status))};
  api.call<ReleaseStatus>(status);
  return failure;
}

Library::Library(Api api) : api_(api), env_(api), cpu_memory_(api), plain_memory_(api) {}

::headrace::Status Library::start() {
  Failure failure = take(api_, api_.call<CreateEnvWithCustomLogger>(&Library::log, static_cast<void*>(this),
                                                                    LogSeverity::kWarning, "headrace", env_.out()));
  if (!failure) failure = take(api_, api_.call<DisableTelemetryEvents>(env()));
  if (!failure)
    failure = take(api_, api_.call<CreateCpuMemoryInfo>(kArenaAllocator, kDefaultMemory, cpu_memory_.out()));
  if (!failure)
    failure = take(api_, api_.call<CreateCpuMemoryInfo>(kDeviceAllocator, kDefaultMemory, plain_memory_.out()));
  if (!failure) failure = take(api_, api_.call<GetAllocatorWithDefaultOptions>(&allocator_));
  if (failure) return internal_error("ONNX Runtime does not start: " + failure.message);
  session_memory_ = std::make_unique<SessionMemory>(plain_memory_.get());
  if (take(api_, api_.call<RegisterAllocator>(env_.get(), session_memory_->allocator()))) session_memory_.reset();
  weights_ = std::make_unique<SharedWeights>(api_, cpu_memory());
  staging_ = std::make_unique<Staging>(api_);
  return {};
}

Result<Library*> Library::open(const std::string& path) {
  static Mutex mutex;
  static std::map<std::string, Library*>& opened = *new std::map<std::string, Library*>;

  if (path.empty()) return unusable(std::string("ONNX Runtime is not installed: ") + kRemedy + ".");
  const MutexLock lock(mutex);
  if (const auto found = opened.find(path); found != opened.end()) return found->second;

  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr)
    return unusable("ONNX Runtime cannot be opened: " + std::string(::dlerror()) + ". Reinstall it: " + kRemedy + ".");
  using GetApiBase = const ApiBase* (*)();
  const auto get_base = reinterpret_cast<GetApiBase>(::dlsym(handle, "OrtGetApiBase"));
  if (get_base == nullptr)
    return unusable(path + " is not ONNX Runtime (it exports no OrtGetApiBase): " + kRemedy + ".");
  const ApiBase* base = get_base();
  const std::string version = base->get_version_string();
  const Api api(base->get_api(kApiVersion));
  if (!api)
    return unusable("ONNX Runtime " + version + " at " + path + " does not offer API version " +
                    std::to_string(kApiVersion) + " (releases from 1." + std::to_string(kApiVersion) +
                    " on do): " + kRemedy + ".");
  std::unique_ptr<Library> library(new Library(api));
  library->version_ = version;
  ::headrace::Status started = library->start();
  if (!started.ok()) return started;
  return opened[path] = library.release();
}

void Library::add_receiver(const LogReceiver* receiver) {
  const MutexLock lock(mutex_);
  receivers_.push_back(receiver);
}

void Library::remove_receiver(const LogReceiver* receiver) {
  const MutexLock lock(mutex_);
  std::erase(receivers_, receiver);
}

void Library::give_back(bool all) {
  staging_->give_back(all);
  if (session_memory_ == nullptr) return;
  if (all) {
    session_memory_->runs().trim();
  } else {
    session_memory_->runs().give_back_unused();
  }
}

void Library::say(LogLevel level, std::string_view where, std::string_view message) {
  const MutexLock lock(mutex_);
  for (const LogReceiver* receiver : receivers_) receiver->sink(receiver->context, level, where, message);
}

void Library::log(void* context, LogSeverity severity, const char* category, const char* log_id,
                  const char* code_location, const char* message) {
  static_cast<void>(category);
  static_cast<void>(log_id);
  static_cast<Library*>(context)->say(static_cast<LogLevel>(severity), code_location, message);
}

}  // namespace headrace::ort
