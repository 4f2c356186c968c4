// A runtime whose runs take a time that depends on their rows and the session's threads, by a clock that they move.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "backend/backend.h"
#include "base/clock.h"

namespace headrace::testing {

struct Runtime {
  ManualClock clock{kSecond};
  std::function<Nanos(int threads, std::int64_t rows)> cost;
  std::map<int, int> loads;  // sessions made, by threads
  int sessions = 0;          // that there are
  int most_sessions = 0;
  int runs = 0;
  Status run_status;
  int no_session_of = 0;  // threads of which no session can be made
};

class ThreadedSession final : public Session {
 public:
  ThreadedSession(Runtime& runtime, int threads) : runtime_(runtime), threads_(threads) {
    TensorSpec spec;
    spec.name = "x";
    spec.dtype = DType::kFp32;
    spec.dims = {-1, 2};
    spec.symbols = {"batch", ""};
    signature_.inputs = {spec};
    spec.name = "y";
    signature_.outputs = {spec};
    ++runtime_.loads[threads];
    runtime_.most_sessions = std::max(runtime_.most_sessions, ++runtime_.sessions);
  }
  ~ThreadedSession() override { --runtime_.sessions; }
  ThreadedSession(const ThreadedSession&) = delete;
  ThreadedSession& operator=(const ThreadedSession&) = delete;

  const Signature& signature() const override { return signature_; }
  Status run(BatchRun& batch) override {
    ++runtime_.runs;
    runtime_.clock.advance(runtime_.cost(threads_, batch.inputs[0].shape[0]));
    batch.outputs.assign(1, batch.inputs[0]);
    return runtime_.run_status;
  }

 private:
  Runtime& runtime_;
  const int threads_;
  Signature signature_;
};

class ThreadedBackend final : public Backend {
 public:
  explicit ThreadedBackend(Runtime& runtime) : runtime_(runtime) {}
  std::string_view name() const override { return "threaded"; }
  std::string version() const override { return ""; }
  bool scales_with_threads() const override { return true; }
  Result<std::unique_ptr<Session>> load(const std::string& /*model_file*/, const std::string& /*model_dir*/,
                                        const SessionOptions& options) override {
    if (options.intra_op_threads == runtime_.no_session_of) return Status(Code::kResourceExhausted, "no memory");
    return std::unique_ptr<Session>(std::make_unique<ThreadedSession>(runtime_, options.intra_op_threads));
  }

 private:
  Runtime& runtime_;
};

}  // namespace headrace::testing
