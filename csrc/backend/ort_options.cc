#include "backend/ort_options.h"

#include <map>
#include <memory>
#include <string>

namespace headrace::ort {

namespace {

Failure apply(Api api, const headrace::SessionOptions& options, SessionOptions* out) {
  Failure failure = take(api, api.call<SetIntraOpNumThreads>(out, options.intra_op_threads));
  if (!failure) failure = take(api, api.call<SetInterOpNumThreads>(out, options.inter_op_threads));
  if (!failure) failure = take(api, api.call<SetSessionExecutionMode>(out, options.parallel_execution ? 1 : 0));
  if (!failure) failure = take(api, api.call<SetSessionGraphOptimizationLevel>(out, options.graph_optimization_level));
  if (!failure)
    failure = take(api, options.memory_arena ? api.call<EnableCpuMemArena>(out) : api.call<DisableCpuMemArena>(out));
  if (!failure)
    failure = take(api, options.memory_pattern ? api.call<EnableMemPattern>(out) : api.call<DisableMemPattern>(out));
  // An idle pool that spins takes the cores from the lanes and loops beside it.
  std::map<std::string, std::string> entries{{"session.intra_op.allow_spinning", "0"},
                                             {"session.inter_op.allow_spinning", "0"}};
  for (const auto& [key, value] : options.config_entries) entries[key] = value;
  for (const auto& [key, value] : entries) {
    if (failure) break;
    failure = take(api, api.call<AddSessionConfigEntry>(out, key.c_str(), value.c_str()));
  }
  return failure;
}

void* start_thread(void* starter, void (*body)(void*), void* argument) {
  return static_cast<ThreadStarter*>(starter)->start(body, argument).release();
}

void join_thread(void* thread) {
  const std::unique_ptr<StartedThread> started(static_cast<StartedThread*>(thread));
  if (started != nullptr) started->join();
}

Failure start_by(Api api, ThreadStarter* starter, SessionOptions* out) {
  if (starter == nullptr) return {};
  Failure failure = take(api, api.call<SetCustomCreateThread>(out, &start_thread));
  if (!failure) failure = take(api, api.call<SetCustomThreadOptions>(out, static_cast<void*>(starter)));
  if (!failure) failure = take(api, api.call<SetCustomJoinThread>(out, &join_thread));
  return failure;
}

}  // namespace

Failure make_options(Api api, const headrace::SessionOptions& options, ThreadStarter* threads, OptionsHandle& out) {
  Failure failure = take(api, api.call<CreateSessionOptions>(out.out()));
  if (!failure) failure = apply(api, options, out.get());
  if (!failure) failure = start_by(api, threads, out.get());
  return failure;
}

Failure use_session_memory(const Library& library, const headrace::SessionOptions& options, SessionOptions* out) {
  constexpr const char* kKey = "session.use_env_allocators";
  if (!options.memory_arena || library.session_memory() == nullptr || options.config_entries.contains(kKey)) return {};
  return take(library.api(), library.api().call<AddSessionConfigEntry>(out, kKey, "1"));
}

}  // namespace headrace::ort
