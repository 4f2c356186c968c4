// What a runtime must offer: load a model into a Session, and run one batch on it, synchronously, on the calling lane.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/sync.h"
#include "memory/pool.h"
#include "memory/tensor.h"

namespace headrace {

struct TensorSpec {
  std::string name;
  DType dtype = DType::kInvalid;
  std::vector<std::int64_t> dims;    // as the model states them, batch dimension included; -1 where any size goes
  std::vector<std::string> symbols;  // per dimension: the model's name for it, "" if it has none
  bool optional = false;             // an input with a default (ONNX: also an initializer)
  bool any_rank = false;             // the model states no shape at all: `dims` is empty and any shape goes
};

struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::map<std::string, std::string> metadata;  // the model's own: producer, domain, description, custom keys
};

// A device's way into a runtime that is asked for, with the runtime's own options.
struct Provider {
  std::string name;  // "cuda", "tensorrt"
  std::map<std::string, std::string> options;
  // False: a default, that is taken where the runtime has it and not missed where it was built without.
  bool asked_for = true;
};

// Where a session really runs.
struct Placement {
  std::string provider = "cpu";  // the first of its providers
  std::string note;              // why it is not the one that was asked for; "" where it is
  bool operator==(const Placement&) const = default;
};

struct SessionOptions {
  int intra_op_threads = 1;  // compute threads of one run, the calling lane included; 0: the engine finds the best
  int inter_op_threads = 1;
  bool parallel_execution = false;    // ExecutionMode: parallel instead of sequential
  int graph_optimization_level = 99;  // 0 none, 1 basic, 2 extended, 3 layout, 99 all
  bool memory_arena = true;
  bool memory_pattern = true;
  std::map<std::string, std::string> config_entries;  // runtime's own session configuration, passed through
  std::vector<Provider> providers;                    // best first; the CPU is always the last
  bool strict_providers = false;                      // what is asked for and cannot be had is an error
  Signature stated;  // what the configuration says of a file that does not say it of itself (a TensorRT plan)
  // Weights are shared with other sessions that have equal ones. Such a load takes twice as long, and more memory while
  // it goes on. Only on the CPU; where it cannot be done, they are not.
  bool share_weights = false;
};

// Asks a run in progress to stop. The scheduler calls request(); the backend arms it around its run.
class Interrupt {
 public:
  using Hook = void (*)(void* context);

  void request() HEADRACE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    requested_ = true;
    if (hook_ != nullptr) hook_(context_);
  }
  bool requested() const HEADRACE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return requested_;
  }
  // Calls hook(context) when a stop is asked for, at once if it already was. disarm() returns after any call of it.
  void arm(Hook hook, void* context) HEADRACE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    hook_ = hook;
    context_ = context;
    if (requested_) hook_(context_);
  }
  void disarm() HEADRACE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    hook_ = nullptr;
  }

 private:
  mutable Mutex mutex_;
  bool requested_ HEADRACE_GUARDED_BY(mutex_) = false;
  Hook hook_ HEADRACE_GUARDED_BY(mutex_) = nullptr;
  void* context_ HEADRACE_GUARDED_BY(mutex_) = nullptr;
};

// One batch. Inputs stand in the signature's order (an absent optional one has dtype kInvalid); their data is aligned
// to the element's size at least. `wanted` has one flag per output of the signature.
struct BatchRun {
  std::span<const Tensor> inputs;
  std::span<const std::uint8_t> wanted;
  Pool* pool = nullptr;
  Interrupt* interrupt = nullptr;  // may be null
  int lane = 0;                    // 0 .. lanes-1: lets a session keep something per lane
  // Filled by run: one tensor per output of the signature, in pooled blocks; kInvalid where not wanted.
  std::vector<Tensor> outputs;
};

// A run that answers more than once. It may outlive its session; what it needs of it, it shares with it.
class PartRun {
 public:
  virtual ~PartRun() = default;
  // The next answer, as run() would give it; `last`: none follows. A last one without outputs only says so. Errors as
  // run()'s: they are the last answer.
  virtual Status next(BatchRun& batch, bool& last) = 0;
};

// Memory of a session that others may hold as well: counted once, by its id.
struct SharedMemory {
  std::uint64_t id = 0;  // never that of other memory of the process
  std::size_t bytes = 0;
};

// Thread-safe: lanes call run at the same time. A session that is destroyed has no run in progress.
class Session {
 public:
  virtual ~Session() = default;
  virtual const Signature& signature() const = 0;
  virtual Placement placement() const { return {}; }
  virtual std::vector<SharedMemory> shared_memory() const { return {}; }
  // Where batches for the next run of the calling thread are best gathered; null: the caller's own pool is as good. It
  // may have no room while that has. Valid as long as the session; blocks of it outlive both.
  virtual Pool* staging() const { return nullptr; }
  // INVALID_ARGUMENT: the runtime blames the inputs. CANCELLED: the interrupt stopped it. RESOURCE_EXHAUSTED: no
  // memory under the cap. Anything else is INTERNAL with the runtime's own words.
  virtual Status run(BatchRun& batch) = 0;
  // Whether it answers a request any number of times, by begin(). Its run() is for warm-up and probes.
  virtual bool decoupled() const { return false; }
  // Of one request. The inputs stay as long as what it returns.
  virtual Result<std::unique_ptr<PartRun>> begin(BatchRun& batch);
};

// Starts the threads that a runtime wants for its sessions. Null: there can be no more.
class StartedThread {
 public:
  virtual ~StartedThread() = default;
  virtual void join() = 0;
};
class ThreadStarter {
 public:
  virtual ~ThreadStarter() = default;
  virtual std::unique_ptr<StartedThread> start(void (*body)(void*), void* argument) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;  // "onnxruntime", as config.pbtxt's `backend` says it
  virtual std::string version() const = 0;    // the runtime's own version, "" if it has none
  // Whether SessionOptions::intra_op_threads changes how long a run takes.
  virtual bool scales_with_threads() const { return false; }
  // Memory that sessions have kept and not needed since the last call goes back to the system; `all`: whatever they do
  // not need now. Thread-safe, beside runs too; it may take milliseconds.
  virtual void give_back(bool all) { static_cast<void>(all); }
  // Memory that sessions have for staging, by device: "gpu 0". Sessions of other backends may share it.
  virtual std::map<std::string, PoolStats> staging() const { return {}; }
  // Bytes of the model's weights on disk: what a load is expected to need memory for. Errors as load's.
  virtual Result<std::uint64_t> weight_bytes(const std::string& model_file, const std::string& model_dir);
  // `model_file` is an absolute path; what it refers to (external data) must lie in `model_dir` after resolving links.
  // NOT_FOUND, INVALID_ARGUMENT (names the file and the runtime's words), UNIMPLEMENTED (cannot be served, and what to
  // do).
  virtual Result<std::unique_ptr<Session>> load(const std::string& model_file, const std::string& model_dir,
                                                const SessionOptions& options) = 0;
};

// A runtime's own log line, handed up to whoever wants it. Called on any thread; must not block.
enum class LogLevel : std::uint8_t { kVerbose = 0, kInfo = 1, kWarning = 2, kError = 3, kFatal = 4 };
using LogSink = void (*)(void* context, LogLevel level, std::string_view where, std::string_view message);

}  // namespace headrace
