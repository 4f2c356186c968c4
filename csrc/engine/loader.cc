#include "engine/loader.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "memory/process_memory.h"

namespace headrace {
namespace {

constexpr int kNice = 10;  // of 0 .. 19: about a tenth of the share of a thread that serves
constexpr std::size_t kSmallest = std::size_t{256} << 10;  // of a session, whatever the measurement says

// Beside the session while it loads: the parsed file, and what the optimizer makes of it (146 to 339 MB in all were
// measured for 100 MB); where weights are to be shared, the optimized file too (303 to 535 MB).
std::size_t at_once(std::size_t weights, bool share) { return share ? 4 * weights : weights + weights / 2; }

// Before anything is known: initializers are copied out of the file, some are kept in a second order.
ModelMemory expected(const LoadNeed& need) {
  const std::size_t footprint = need.weights + need.weights / 4 + kSmallest;
  const std::size_t beside = need.tries_threads && !need.share_weights ? footprint : 0;
  return {footprint, footprint + beside + at_once(need.weights, need.share_weights)};
}

std::string mebibytes(std::size_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

// Of everything but the pool.
std::size_t held(const Pool& pool) {
  const PoolStats stats = pool.stats();
  const std::size_t pooled = stats.bytes_in_use + stats.bytes_retained + stats.bytes_waste;
  const std::size_t all = resident_bytes();
  return all > pooled ? all - pooled : 0;
}

}  // namespace

struct Loader::Residence {
  Model* model = nullptr;
  Residency::Item* item = nullptr;
  LoadNeed need;
  const std::function<Status()>* first = nullptr;  // until it is done
  Status status;
  bool measured = false;
  ResidencyStats stats;
};

// Comes back to itself, and goes.
struct Loader::Turn final : Job, CompletionSink {
  explicit Turn(Loader& of) : loader(of) { sink = this; }
  void run() noexcept override { loader.take_turn(); }
  void deliver(Completion* /*first*/, Completion* /*last*/) noexcept override { delete this; }
  Loader& loader;
};

Loader::Loader(std::size_t budget, int threads, bool measured, Pool& pool, const Clock& clock,
               std::function<void()> give_back)
    : pool_(pool),
      clock_(clock),
      give_back_(std::move(give_back)),
      threads_(std::max(threads, 1)),
      measured_(measured),
      residency_(budget, std::max(threads, 1)),
      worker_(std::max(threads, 1), static_cast<std::size_t>(std::max(threads, 1)), kNice) {}

Loader::~Loader() { close(); }

void Loader::stop() {
  MutexLock lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

void Loader::close() {
  stop();
  worker_.close();
}

std::uint64_t Loader::uses(void* residence) { return static_cast<Residence*>(residence)->model->counters.requests(); }

Status Loader::first_load(Model& model, const LoadNeed& need, const std::function<Status()>& work) {
  MutexLock lock(mutex_);
  if (need.weights > residency_.budget()) {
    return {Code::kResourceExhausted, "model '" + model.name + "' has " + mebibytes(need.weights) +
                                          " of weights; all models together may have " +
                                          mebibytes(residency_.budget()) + " (--model-memory-budget)"};
  }
  auto made = std::make_unique<Residence>();
  Residence& residence = *made;
  residence.model = &model;
  residence.need = need;
  residence.first = &work;
  residence.item = residency_.add(&residence, expected(need));
  residences_.emplace(&model, std::move(made));
  HEADRACE_CHECK(residency_.ask(residence.item, clock_.now()).ok());
  call_turn();
  while (residence.first != nullptr && (!closed_ || residence.item->state == Residency::State::kLoading)) {
    changed_.wait(mutex_);
  }
  Status status = std::exchange(residence.first, nullptr) == nullptr
                      ? residence.status
                      : Status(Code::kUnavailable, "the server is shutting down");
  if (!status.ok()) {
    residency_.remove(residence.item);
    residences_.erase(&model);
    call_turn();
  }
  return status;
}

void Loader::wanted(Dispatcher::Entry* entry) {
  Status status;
  Model* model = nullptr;
  {
    MutexLock lock(mutex_);
    const auto found = by_entry_.find(entry);
    if (found == by_entry_.end() || closed_) return;  // it is being unloaded: its end answers what waits
    model = found->second->model;
    status = residency_.ask(found->second->item, clock_.now());
    if (status.ok()) call_turn();
  }
  if (!status.ok()) refuse_waiting(*model, status);
}

void Loader::became_idle() {
  MutexLock lock(mutex_);
  residency_.became_idle();
  if (residency_.waiting() != 0) call_turn();
}

void Loader::call_turn() {
  if (closed_ || turns_ == threads_) return;  // those that are at it look again
  auto turn = std::make_unique<Turn>(*this);
  if (!worker_.submit(turn.get())) return;
  turn.release();  // its own
  ++turns_;
}

void Loader::take_turn() {
  MutexLock lock(mutex_);
  while (!closed_) {
    const Residency::Decision decision = residency_.next(&Loader::uses);
    if (decision.kind == Residency::Decision::kNothing) break;
    auto& residence = *static_cast<Residence*>(decision.item->owner);
    if (decision.kind == Residency::Decision::kEvict) {
      if (park(*residence.model)) {
        evict(residence);
      } else {
        residency_.keep(residence.item);
      }
    } else {
      if (residency_.waiting() != 0) call_turn();
      load(residence);
    }
    changed_.notify_all();
  }
  --turns_;
}

void Loader::load(Residence& residence) {
  Model& model = *residence.model;
  const bool first = residence.first != nullptr;
  if (!first && lost_interest(model)) {
    residency_.abandoned(residence.item);
    return;
  }
  const std::uint64_t begun = ++changes_begun_;
  const bool alone = changes_++ == 0;
  const std::function<Status()>* work = residence.first;
  mutex_.unlock();
  const std::size_t before = held(pool_);
  const std::size_t peak_before = resident_bytes_peak();
  const Nanos started = clock_.now();
  Status status;
  if (first) {
    status = (*work)();
  } else {
    status = open_sessions(model);
  }
  const Nanos took = clock_.now() - started;
  if (!status.ok()) drop_sessions(model);
  give_back_();  // what the load needed for a while
  std::vector<SharedMemory> shared;
  if (status.ok()) {
    model.for_each_place([&](const Model& place) {
      for (SharedMemory& memory : place.session->shared_memory()) shared.push_back(std::move(memory));
    });
  }
  std::size_t shared_bytes = 0;
  for (const SharedMemory& memory : shared) shared_bytes += memory.bytes;
  const std::size_t after = held(pool_);
  const std::size_t peak_after = resident_bytes_peak();
  // Before it may be evicted: that parks it again.
  if (status.ok() && !first) unpark(model);
  mutex_.lock();
  --changes_;
  if (status.ok()) {
    ModelMemory memory = residence.item->memory;
    if (measured_ && alone && changes_begun_ == begun) {
      // Memory of the heap that was free before shows in no later measurement, so the largest one is believed.
      const std::size_t fresh = shared_bytes - residency_.shared_already(shared);
      const std::size_t more = std::max(after > before + fresh ? after - before - fresh : 0, kSmallest);
      memory.footprint = residence.measured ? std::max(memory.footprint, more) : more;
      memory.peak = memory.footprint + shared_bytes + at_once(residence.need.weights, !shared.empty());
      // A trial of threads is not repeated.
      const bool again = !first || !residence.need.tries_threads;
      if (again && peak_after > peak_before && peak_after > before) memory.peak = peak_after - before;
      residence.measured = true;
    } else if (!residence.measured) {
      LoadNeed own = residence.need;
      own.weights -= std::min(own.weights, shared_bytes);
      memory.footprint = expected(own).footprint;
    }
    memory.peak = std::max(memory.peak, memory.footprint + shared_bytes);
    memory.shared = std::move(shared);
    ++loads_;
    ++residence.stats.loads;
    residence.stats.load_time = took;
    residence.stats.load_time_sum += took;
    residency_.loaded(residence.item, std::move(memory), took, uses(&residence));
    for (const Dispatcher::Entry* entry : model.entries()) by_entry_[entry] = &residence;
  } else {
    ++failures_;
    const std::string words =
        "model '" + model.name + "' version " + model.version_text + " could not be loaded again: " + status.message();
    residency_.failed(residence.item, words, clock_.now());
    if (!first) {
      mutex_.unlock();
      refuse_waiting(model, {Code::kUnavailable, words});
      mutex_.lock();
    }
  }
  if (first) {
    residence.status = std::move(status);
    residence.first = nullptr;
  }
}

bool Loader::park(Model& model) {
  std::vector<const Model*> parked;
  bool all = true;
  model.for_each_place([&](const Model& place) {
    all = all && devices_->on(place.device).park(place.entry);
    if (all) parked.push_back(&place);
  });
  if (all) return true;
  for (const Model* place : parked) devices_->on(place->device).unpark(place->entry);
  return false;
}

void Loader::unpark(Model& model) {
  model.for_each_place([&](const Model& place) { devices_->on(place.device).unpark(place.entry); });
}

bool Loader::lost_interest(Model& model) {
  bool all = true;
  model.for_each_place([&](const Model& place) { all = devices_->on(place.device).lost_interest(place.entry) && all; });
  return all;
}

void Loader::refuse_waiting(Model& model, const Status& status) {
  model.for_each_place([&](const Model& place) { devices_->on(place.device).refuse_waiting(place.entry, status); });
}

Status Loader::open_sessions(Model& model) {
  Status status;
  model.for_each_place([&](Model& place) {
    if (!status.ok()) return;
    Result<std::unique_ptr<Session>> session = place.open_session();
    status = session.status();
    if (!session) return;
    place.session = std::move(*session);
    place.runnable.session = place.session.get();
  });
  return status;
}

void Loader::drop_sessions(Model& model) {
  model.for_each_place([](Model& place) {
    place.runnable.session = nullptr;
    place.session.reset();
  });
}

void Loader::evict(Residence& residence) {
  Model& model = *residence.model;
  ++changes_;
  ++changes_begun_;
  mutex_.unlock();
  drop_sessions(model);
  give_back_();
  mutex_.lock();
  --changes_;
  ++evictions_;
  ++residence.stats.evictions;
  residency_.evicted(residence.item);
}

void Loader::retire(Model& model) {
  MutexLock lock(mutex_);
  for (const Dispatcher::Entry* entry : model.entries()) by_entry_.erase(entry);
  // Looked up again after each wait: of two who retire a model at once, one finds it gone.
  auto found = residences_.find(&model);
  while (found != residences_.end() && (found->second->item->state == Residency::State::kLoading ||
                                        found->second->item->state == Residency::State::kEvicting)) {
    changed_.wait(mutex_);
    found = residences_.find(&model);
  }
  if (found == residences_.end()) return;
  Residence& residence = *found->second;
  residency_.retire(residence.item);
  for (const Dispatcher::Entry* entry : model.entries()) by_entry_.erase(entry);
  ++changes_;
  ++changes_begun_;
  lock.unlock();
  drop_sessions(model);
  pool_.trim();
  give_back_();
  lock.lock();
  --changes_;
  residency_.remove(residence.item);
  residences_.erase(&model);
  changed_.notify_all();
  call_turn();
}

LoaderStats Loader::stats() const {
  MutexLock lock(mutex_);
  LoaderStats stats;
  stats.budget = residency_.budget();
  stats.bytes = residency_.bytes();
  stats.bytes_peak = residency_.bytes_peak();
  stats.resident = residency_.resident();
  stats.waiting = residency_.waiting();
  stats.loading = static_cast<std::size_t>(residency_.loading());
  stats.asleep = residency_.size() - stats.resident - stats.loading;
  stats.loads = loads_;
  stats.failures = failures_;
  stats.evictions = evictions_;
  stats.misses = devices_->parked_arrivals();
  return stats;
}

ResidencyStats Loader::stats(const Model& model) const {
  MutexLock lock(mutex_);
  const auto found = residences_.find(&model);
  if (found == residences_.end()) return {};
  ResidencyStats stats = found->second->stats;
  const Residency::Item& item = *found->second->item;
  stats.asleep = item.state != Residency::State::kResident && item.state != Residency::State::kEvicting;
  stats.footprint = residency_.part(&item);
  stats.peak = item.memory.peak;
  return stats;
}

}  // namespace headrace
