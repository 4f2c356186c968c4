// Page-locked memory for what is copied to a GPU and back. The device reaches it by itself, so that a copy is one
// asynchronous transfer on the run's stream, and lets copies and runs of other streams go on beside it; from other
// memory the driver copies to a page-locked buffer of its own first, on the lane.
//
// A GPU has one pool, of an allocator that the runtime has made for one of its sessions. The runtime's own arena would
// keep what it has once had, so each block is taken past it (`reserve`). The allocator is kept by the pool and its
// blocks: an answer may be on its way to a socket when the session is gone.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "backend/backend.h"
#include "backend/ort_abi.h"
#include "base/sync.h"
#include "memory/pool.h"

namespace headrace::ort {

class Library;

// Of the runtime's memories: CudaPinned, wherever it is not for a test.
struct MemoryKind {
  const char* name = "CudaPinned";
  int type = kCpuOutputMemory;
};

// One library's. Thread-safe.
class Staging {
 public:
  explicit Staging(Api api) : api_(api) {}
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // The pool of GPU `gpu`, as long as somebody holds it; if nobody does a new one of `bytes`, of this session's
  // allocator. Null: it cannot be had, and `why` is one clause.
  std::shared_ptr<Pool> of(int gpu, const Session* session, std::size_t bytes, std::string& why,
                           const MemoryKind& kind = {}) HEADRACE_EXCLUDES(mutex_);
  // As Backend's.
  void give_back(bool all) HEADRACE_EXCLUDES(mutex_);
  std::map<std::string, PoolStats> stats() const HEADRACE_EXCLUDES(mutex_);  // "gpu 0"

 private:
  std::map<int, std::shared_ptr<Pool>> pools() const HEADRACE_EXCLUDES(mutex_);

  const Api api_;
  mutable Mutex mutex_;
  std::map<int, std::weak_ptr<Pool>> pools_ HEADRACE_GUARDED_BY(mutex_);  // by the GPU's number
};

// For a session that was placed on `provider`: the pool of its GPU. Null: the provider is the CPU's, or there is none,
// which the library's log says. Then everything lies in ordinary memory.
std::shared_ptr<Pool> staging_for(Library& library, const Session* session, std::span<const Provider> providers,
                                  std::string_view provider, std::size_t bytes);

}  // namespace headrace::ort
