// The raw limit: the core alone (submit -> completion, no socket) against a tight loop over OrtRun with the same
// batches, as many threads as lanes, the same session options. Both are measured in one process, interleaved A B B A,
// and compared pair by pair.
//
//   core_limit --ort libonnxruntime.so --model mlp.onnx [--lanes N] [--pairs N] [--seconds S] [--rows R]
//              [--driver lane|ring] [--core-only 1]
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "backend/ort_library.h"
#include "engine/completions.h"
#include "engine/engine.h"

namespace {

using namespace headrace;

struct Options {
  std::string library;
  std::string model;
  int lanes = 2;
  int pairs = 6;
  double seconds = 1.0;
  std::int64_t rows = 0;   // only tickets of this size; 0: all
  std::string driver;      // only this one; empty: both
  bool core_only = false;  // no baseline: for a profiler
};

struct Rate {
  double rows_per_second = 0;
  double cpu_ns_per_row = 0;  // user + system time of the whole process
  double batch_rows = 0;
};

[[noreturn]] void fail(const std::string& text) {
  std::fprintf(stderr, "core_limit: %s\n", text.c_str());
  std::exit(1);
}

double process_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Measures `run`, which counts rows until `stop` is set.
template <class Run>
Rate measure(double seconds, Run&& run) {
  std::atomic<bool> stop{false};
  const double cpu = process_cpu_seconds();
  const Nanos start = SteadyClock::instance().now();
  std::thread timer([&] {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    stop.store(true);
  });
  const auto rows = static_cast<double>(run(stop));
  const auto elapsed = static_cast<double>(SteadyClock::instance().now() - start) * 1e-9;
  const double used = process_cpu_seconds() - cpu;
  timer.join();
  return {rows / elapsed, used / rows * 1e9, 0};
}

// The baseline: one session, `lanes` threads, each with its own input and output, both bound beforehand.
class Raw {
 public:
  explicit Raw(const Options& options) : lanes_(options.lanes) {
    Result<ort::Library*> library = ort::Library::open(options.library);
    if (!library) fail(library.status().to_string());
    library_ = *library;
    const ort::Api api = library_->api();
    ort::SessionOptions* session_options = nullptr;
    must(api.call<ort::CreateSessionOptions>(&session_options));
    must(api.call<ort::SetIntraOpNumThreads>(session_options, 1));
    must(api.call<ort::SetInterOpNumThreads>(session_options, 1));
    must(api.call<ort::CreateSession>(library_->env(), options.model.c_str(),
                                      static_cast<const ort::SessionOptions*>(session_options), &session_));
    api.call<ort::ReleaseSessionOptions>(session_options);
  }
  ~Raw() { library_->api().call<ort::ReleaseSession>(session_); }
  Raw(const Raw&) = delete;
  Raw& operator=(const Raw&) = delete;

  Rate run(const Signature& signature, std::int64_t batch, double seconds) {
    Rate rate = measure(seconds, [&](const std::atomic<bool>& stop) {
      std::atomic<std::uint64_t> rows{0};
      std::vector<std::thread> threads;
      for (int i = 0; i < lanes_; ++i) {
        threads.emplace_back([&] { rows += loop(signature, batch, stop); });
      }
      for (std::thread& thread : threads) thread.join();
      return rows.load();
    });
    rate.batch_rows = static_cast<double>(batch);
    return rate;
  }

 private:
  void must(ort::Status* status) const {
    if (ort::Failure failure = ort::take(library_->api(), status)) fail(failure.message);
  }

  std::uint64_t loop(const Signature& signature, std::int64_t batch, const std::atomic<bool>& stop) {
    const ort::Api api = library_->api();
    const auto columns_in = static_cast<std::size_t>(signature.inputs[0].dims[1]);
    const auto columns_out = static_cast<std::size_t>(signature.outputs[0].dims[1]);
    std::vector<float> in(static_cast<std::size_t>(batch) * columns_in, 0.5F);
    std::vector<float> out(static_cast<std::size_t>(batch) * columns_out);
    const std::int64_t in_dims[] = {batch, static_cast<std::int64_t>(columns_in)};
    const std::int64_t out_dims[] = {batch, static_cast<std::int64_t>(columns_out)};
    ort::Value* input = nullptr;
    ort::Value* output = nullptr;
    must(api.call<ort::CreateTensorWithDataAsOrtValue>(library_->cpu_memory(), static_cast<void*>(in.data()),
                                                       in.size() * sizeof(float), &in_dims[0], std::size_t{2},
                                                       ort::Element::kFloat, &input));
    must(api.call<ort::CreateTensorWithDataAsOrtValue>(library_->cpu_memory(), static_cast<void*>(out.data()),
                                                       out.size() * sizeof(float), &out_dims[0], std::size_t{2},
                                                       ort::Element::kFloat, &output));
    const char* in_name = signature.inputs[0].name.c_str();
    const char* out_name = signature.outputs[0].name.c_str();
    const ort::Value* inputs[] = {input};
    ort::Value* outputs[] = {output};
    std::uint64_t rows = 0;
    while (!stop.load(std::memory_order_relaxed)) {
      must(api.call<ort::Run>(session_, static_cast<const ort::RunOptions*>(nullptr), &in_name,
                              static_cast<const ort::Value* const*>(inputs), std::size_t{1}, &out_name, std::size_t{1},
                              &outputs[0]));
      rows += static_cast<std::uint64_t>(batch);
    }
    api.call<ort::ReleaseValue>(input);
    api.call<ort::ReleaseValue>(output);
    return rows;
  }

  int lanes_;
  ort::Library* library_ = nullptr;
  ort::Session* session_ = nullptr;
};

// A sink that submits again at once, on the lane that answered: the core without any thread beside its lanes.
class Resubmit final : public CompletionSink {
 public:
  Resubmit(Engine& engine, std::int64_t rows, std::size_t flight, const std::atomic<bool>& stop)
      : engine_(engine), rows_(static_cast<std::uint64_t>(rows)), stop_(stop), out_(flight) {}

  void deliver(Completion* first, Completion* last) noexcept override {
    std::uint64_t done = 0;
    std::size_t gone = 0;
    Ticket* chain = nullptr;
    for (Completion* completion = first; completion != nullptr;) {
      auto* ticket = static_cast<Ticket*>(completion);
      completion = completion == last ? nullptr : completion->next;
      if (!ticket->status.ok()) fail(ticket->status.to_string());
      done += rows_;
      if (stop_.load(std::memory_order_relaxed)) {
        ++gone;
        continue;
      }
      prepare(*ticket);
      ticket->next = std::exchange(chain, ticket);
    }
    done_.fetch_add(done, std::memory_order_relaxed);
    if (chain != nullptr) engine_.submit(chain);
    if (gone != 0) {
      out_.fetch_sub(gone);
      out_.notify_one();
    }
  }
  std::uint64_t wait() {
    for (std::size_t out = out_.load(); out != 0; out = out_.load()) out_.wait(out);
    return done_.load();
  }
  static void prepare(Ticket& ticket) {
    ticket.state = TicketState::kNew;
    for (Tensor& output : ticket.outputs) output.clear();
    ticket.time = Timeline{};
    ticket.time.received = 1;
  }

 private:
  Engine& engine_;
  const std::uint64_t rows_;
  const std::atomic<bool>& stop_;
  std::atomic<std::size_t> out_;
  std::atomic<std::uint64_t> done_{0};
};

// Who takes the answers and submits again.
enum class Driver { kLane, kRing };

class Core {
 public:
  Core(const Options& options, std::int64_t max_batch_size) {
    EngineOptions engine_options;
    engine_options.lanes = options.lanes;
    engine_options.onnxruntime_library = options.library;
    engine_ = std::make_unique<Engine>(engine_options);
    ModelSpec spec;
    spec.name = "mlp";
    spec.backend = "onnxruntime";
    spec.model_file = options.model;
    spec.model_dir = options.model.substr(0, options.model.rfind('/'));
    spec.batching_decided = true;
    spec.batching.max_batch_size = max_batch_size;
    spec.batching.dynamic_batching = true;
    Result<std::shared_ptr<Model>> model = engine_->load(spec);
    if (!model) fail(model.status().to_string());
    model_ = *model;
  }
  ~Core() {
    engine_->unload(model_);
    model_.reset();
  }
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  const Signature& signature() const { return model_->signature; }

  // `flight` tickets of `rows` rows each are always in flight, submitted again by the lane that answered them, or by
  // one thread behind a completion ring, as an event loop does.
  Rate run(std::int64_t rows, std::size_t flight, double seconds, Driver driver) {
    CompletionRing ring;
    std::vector<std::unique_ptr<Ticket>> tickets;
    const auto columns = static_cast<std::size_t>(model_->signature.inputs[0].dims[1]);
    for (std::size_t i = 0; i < flight; ++i) {
      auto ticket = std::make_unique<Ticket>();
      const std::size_t bytes = static_cast<std::size_t>(rows) * columns * sizeof(float);
      Result<Block> block = engine_->pool().allocate(bytes);
      if (!block) fail(block.status().to_string());
      std::vector<float> values(static_cast<std::size_t>(rows) * columns, 0.5F);
      std::memcpy(block->data(), values.data(), bytes);
      Tensor tensor;
      tensor.dtype = DType::kFp32;
      tensor.shape = Shape{rows, static_cast<std::int64_t>(columns)};
      tensor.data = block->data();
      tensor.size = bytes;
      tensor.block = std::move(*block);
      ticket->inputs.push_back(std::move(tensor));
      ticket->wanted = {1};
      ticket->rows = rows;
      ticket->sink = &ring;
      ticket->model = model_->entry;
      tickets.push_back(std::move(ticket));
    }
    const ModelStats before = model_->counters.read();
    Rate rate = measure(seconds, [&](const std::atomic<bool>& stop) {
      Resubmit resubmit(*engine_, rows, flight, stop);
      Ticket* chain = nullptr;
      for (auto& ticket : tickets) {
        Resubmit::prepare(*ticket);
        if (driver == Driver::kLane) ticket->sink = &resubmit;
        ticket->next = std::exchange(chain, ticket.get());
      }
      engine_->submit(chain);
      if (driver == Driver::kLane) return resubmit.wait();
      std::size_t out = flight;
      std::uint64_t done = 0;
      while (out != 0) {
        ring.wait(1000);
        chain = nullptr;
        for (Completion* completion = ring.take(); completion != nullptr;) {
          auto* ticket = static_cast<Ticket*>(completion);
          completion = completion->next;
          __builtin_prefetch(completion, 1);
          if (!ticket->status.ok()) fail(ticket->status.to_string());
          done += static_cast<std::uint64_t>(rows);
          if (stop.load(std::memory_order_relaxed)) {
            --out;
            continue;
          }
          Resubmit::prepare(*ticket);
          ticket->next = std::exchange(chain, ticket);
        }
        if (chain != nullptr) engine_->submit(chain);
      }
      return done;
    });
    const ModelStats after = model_->counters.read();
    rate.batch_rows = static_cast<double>(after.inference_count - before.inference_count) /
                      static_cast<double>(after.execution_count - before.execution_count);
    return rate;
  }

 private:
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<Model> model_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

void compare(const Options& options, Raw& raw, Core& core, std::int64_t rows, std::size_t flight, std::int64_t batch,
             Driver driver) {
  std::vector<double> ratios;
  std::vector<double> extra;
  Rate last_core;
  Rate last_raw;
  for (int pair = 0; pair < options.pairs; ++pair) {
    const bool core_first = pair % 2 == 0;
    if (core_first) last_core = core.run(rows, flight, options.seconds, driver);
    if (!options.core_only) last_raw = raw.run(core.signature(), batch, options.seconds);
    if (!core_first) last_core = core.run(rows, flight, options.seconds, driver);
    ratios.push_back(last_core.rows_per_second / last_raw.rows_per_second);
    extra.push_back(last_core.cpu_ns_per_row - last_raw.cpu_ns_per_row);
  }
  const auto [low, high] = std::minmax_element(ratios.begin(), ratios.end());
  const auto [extra_low, extra_high] = std::minmax_element(extra.begin(), extra.end());
  std::printf(
      "%-4s %6ld rows a ticket, %4zu in flight | batch %7.1f vs %5ld | %10.0f vs %10.0f rows/s | ratio %.3f "
      "(%.3f..%.3f) | "
      "CPU/row %+7.0f ns (%+.0f..%+.0f), baseline %.0f ns\n",
      driver == Driver::kLane ? "lane" : "ring", static_cast<long>(rows), flight, last_core.batch_rows,
      static_cast<long>(batch), last_core.rows_per_second, last_raw.rows_per_second, median(ratios), *low, *high,
      median(extra), *extra_low, *extra_high, last_raw.cpu_ns_per_row);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--ort") {
      options.library = argv[i + 1];
    } else if (flag == "--model") {
      options.model = argv[i + 1];
    } else if (flag == "--lanes") {
      options.lanes = std::atoi(argv[i + 1]);
    } else if (flag == "--pairs") {
      options.pairs = std::atoi(argv[i + 1]);
    } else if (flag == "--seconds") {
      options.seconds = std::atof(argv[i + 1]);
    } else if (flag == "--rows") {
      options.rows = std::atol(argv[i + 1]);
    } else if (flag == "--driver") {
      options.driver = argv[i + 1];
    } else if (flag == "--core-only") {
      options.core_only = std::atoi(argv[i + 1]) != 0;
    } else {
      fail("unknown option " + flag);
    }
  }
  if (options.library.empty() || options.model.empty()) fail("--ort and --model are needed");
  Raw raw(options);
  std::printf(
      "%d lanes, 1 compute thread each; %d pairs of %.1f s; median of the pairs' ratios (min..max)\n"
      "lane: the lane that answered submits again; ring: one thread behind a completion ring does, as an event loop "
      "would\n",
      options.lanes, options.pairs, options.seconds);
  // Enough in flight for every lane to find a full batch, and for the next one to wait behind it.
  const auto lanes = static_cast<std::size_t>(options.lanes);
  for (const auto& [max_batch_size, sizes] : {std::pair{1024L, std::vector<std::int64_t>{64, 256, 1024}}, {32L, {1}}}) {
    Core core(options, max_batch_size);
    for (const std::int64_t rows : sizes) {
      if (options.rows != 0 && options.rows != rows) continue;
      const std::size_t flight = 3 * lanes * static_cast<std::size_t>(max_batch_size / rows);
      for (const Driver driver : {Driver::kLane, Driver::kRing}) {
        if (!options.driver.empty() && (options.driver == "lane") != (driver == Driver::kLane)) continue;
        compare(options, raw, core, rows, flight, max_batch_size, driver);
      }
    }
  }
  return 0;
}
