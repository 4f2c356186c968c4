#include "front/loop.h"

#include <algorithm>
#include <ctime>
#include <functional>
#include <utility>

#include "base/check.h"
#include "front/connection.h"
#include "front/decode_job.h"
#include "front/http_connection.h"

namespace headrace {
namespace {

std::uint32_t slot_of(std::uint64_t id) { return static_cast<std::uint32_t>(id); }
std::uint32_t generation_of(std::uint64_t id) { return static_cast<std::uint32_t>(id >> 32); }

Nanos thread_cpu_time() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<Nanos>(time.tv_sec) * kSecond + time.tv_nsec;
}

// The lane that ran a ticket has its lines in its own core's cache; they come over while the one before is handled.
void fetch_early(const Completion* completion) {
  if (completion == nullptr || completion->kind != CompletionKind::kFinal) return;
  const auto* bytes = reinterpret_cast<const std::byte*>(static_cast<const Ticket*>(completion));
  for (std::size_t at = 64; at < sizeof(Ticket); at += 64) __builtin_prefetch(bytes + at);
}

}  // namespace

Loop::Step::Step(Loop& loop) : loop_(loop) {
  loop_.work_.begin();
  ++loop_.step_number_;
  if (loop_.options_.measure_steps) start_ = thread_cpu_time();
}

Loop::Step::~Step() {
  if (loop_.options_.measure_steps) loop_.max_step_ = std::max(loop_.max_step_, thread_cpu_time() - start_);
}

Loop::Loop(std::shared_ptr<Engine> engine, LoopOptions options)
    : engine_(std::move(engine)),
      options_(std::move(options)),
      methods_(options_.methods.begin(), options_.methods.end()),
      streams_(options_.streams.begin(), options_.streams.end()),
      read_buffer_(std::make_unique<std::byte[]>(kReadBytes)),
      grpc_headers_(options_.grpc_headers),
      http_headers_(options_.http_headers) {}

Loop::~Loop() {
  close();
  for (Ticket* ticket : spare_tickets_) delete ticket;
}

Endpoint::Endpoint(Loop& loop, std::uint64_t id, std::uint64_t token, std::string peer)
    : loop_(loop), id_(id), token_(token), peer_(std::move(peer)), now_(loop.engine().clock().now()) {}

std::pair<std::uint64_t, Loop::Slot*> Loop::take_slot() {
  std::uint32_t slot = 0;
  if (free_slots_.empty()) {
    slot = static_cast<std::uint32_t>(slots_.size());
    slots_.emplace_back();
  } else {
    slot = free_slots_.back();
    free_slots_.pop_back();
  }
  Slot& entry = slots_[slot];
  return {(static_cast<std::uint64_t>(entry.generation) << 32) | slot, &entry};
}

std::uint64_t Loop::open(Slot& slot, std::unique_ptr<Endpoint> endpoint) {
  slot.endpoint = std::move(endpoint);
  ++open_connections_;
  arm_timer(*slot.endpoint);
  return slot.endpoint->id();
}

std::uint64_t Loop::connect(std::uint64_t token, std::string peer) {
  const auto [id, slot] = take_slot();
  return open(*slot, std::make_unique<Connection>(*this, id, token, std::move(peer)));
}

std::uint64_t Loop::connect_http(std::uint64_t token, std::string peer) {
  const auto [id, slot] = take_slot();
  return open(*slot, std::make_unique<HttpConnection>(*this, id, token, std::move(peer)));
}

Endpoint* Loop::endpoint(std::uint64_t id) {
  if (slot_of(id) >= slots_.size()) return nullptr;
  Slot& entry = slots_[slot_of(id)];
  return entry.generation == generation_of(id) ? entry.endpoint.get() : nullptr;
}

Connection* Loop::find(std::uint64_t id) { return static_cast<Connection*>(endpoint(id)); }

HttpConnection* Loop::find_http(std::uint64_t id) { return static_cast<HttpConnection*>(endpoint(id)); }

void Loop::disconnect(std::uint64_t id) {
  if (endpoint(id) == nullptr) return;
  Slot& entry = slots_[slot_of(id)];
  // Its end cancels what it still has in flight; what has been staged must be known to the engine by then.
  flush();
  entry.endpoint.reset();
  ++entry.generation;
  free_slots_.push_back(slot_of(id));
  --open_connections_;
}

CatalogHold& Loop::catalog() {
  const std::uint64_t edition = engine_->catalog_edition();
  if (catalogs_.empty() || catalogs_.back().edition != edition) {
    catalogs_.push_back({engine_->catalog(), edition, 0});
    for (auto hold = catalogs_.begin(); std::next(hold) != catalogs_.end();) {
      hold = hold->tickets == 0 ? catalogs_.erase(hold) : std::next(hold);
    }
  }
  return catalogs_.back();
}

bool Loop::settled() {
  catalog();
  flush();
  return std::all_of(catalogs_.begin(), std::prev(catalogs_.end()),
                     [](const CatalogHold& hold) { return hold.jobs == 0; });
}

Ticket* Loop::new_ticket() {
  if (spare_tickets_.empty()) return new Ticket;
  Ticket* ticket = spare_tickets_.back();
  spare_tickets_.pop_back();
  ticket->references.store(1, std::memory_order_relaxed);
  return ticket;
}

void Loop::recycle(Ticket* ticket) {
  // Somebody else's reference (a batch that still runs with its rows) frees it later.
  if (ticket->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  static constexpr std::size_t kSpareTickets = 4096;
  if (spare_tickets_.size() >= kSpareTickets) {
    delete ticket;
    return;
  }
  ticket->clear();
  spare_tickets_.push_back(ticket);
}

void Loop::stage(Ticket* ticket, CatalogHold& hold, Model& model) {
  ticket->sink = &ring_;
  ticket->cookie_held = -1;
  ticket->cookie_model = &model;
  ticket->cookie_hold = &hold;
  ticket->next = nullptr;
  TraceSampler* sampler = hold.catalog->sampler(model.name);
  if (sampler != nullptr && sampler->sample()) begin_trace(*ticket, *sampler);
  ++hold.tickets;
  ++outstanding_;
  if (staged_last_ == nullptr) {
    staged_first_ = ticket;
  } else {
    staged_last_->next = ticket;
  }
  staged_last_ = ticket;
}

void Loop::flush() {
  if (staged_first_ == nullptr) return;
  Ticket* first = std::exchange(staged_first_, nullptr);
  staged_last_ = nullptr;
  engine_->submit(first);
}

bool Loop::submit_job(LoopJob* job) {
  job->sink = &ring_;
  if (!engine_->worker().submit(job)) return false;
  ++job->hold->jobs;
  ++outstanding_;
  return true;
}

void Loop::complete(Completion* completion, std::vector<Endpoint*>& touched) {
  if (completion->kind == CompletionKind::kPart) {
    complete_part(static_cast<Part*>(completion), touched);
    return;
  }
  --outstanding_;
  if (completion->kind == CompletionKind::kJob) {
    std::unique_ptr<LoopJob> job(static_cast<LoopJob*>(completion));
    if (Endpoint* found = endpoint(job->endpoint_id); found != nullptr) {
      found->finish_job(*job);
      if (!std::exchange(found->touched_, true)) touched.push_back(found);
    }
    --job->hold->tickets;
    --job->hold->jobs;
    return;
  }
  auto* ticket = static_cast<Ticket*>(completion);
  auto* model = static_cast<Model*>(ticket->cookie_model);
  if (ticket->time.finished == 0) {
    model->counters.unserved(ticket->status.code(), ticket->time.queued != 0,
                             engine_->clock().now() - ticket->time.received);
  }
  if (ticket->trace != 0) trace_outputs(*ticket, ticket->outputs);  // the answer may take them
  if (Endpoint* found = endpoint(ticket->cookie_slot); found != nullptr) {
    found->finish_ticket(*ticket);
    if (!std::exchange(found->touched_, true)) touched.push_back(found);
  }
  ticket->answered = true;
  if (ticket->trace != 0) end_trace(*ticket);
  --static_cast<CatalogHold*>(ticket->cookie_hold)->tickets;
  recycle(ticket);
}

void Loop::complete_part(Part* completion, std::vector<Endpoint*>& touched) {
  const std::unique_ptr<Part> part(completion);
  ring_.part_handled();
  Ticket* ticket = part->ticket;
  if (Endpoint* found = endpoint(ticket->cookie_slot); found != nullptr && !ticket->answered) {
    ++ticket->parts_taken;
    if (ticket->trace != 0) trace_outputs(*ticket, part->outputs);
    found->take_part(*part);
    if (!std::exchange(found->touched_, true)) touched.push_back(found);
  }
  recycle(ticket);
}

void Loop::drain(std::vector<Ready>& ready) {
  const Step step(*this);
  if (backlog_ == nullptr) backlog_ = ring_.take();
  touched_.clear();
  const Nanos now = engine_->clock().now();
  for (int handled = 0; backlog_ != nullptr && handled < kCompletionsPerStep; ++handled) {
    Completion* completion = std::exchange(backlog_, backlog_->next);
    fetch_early(backlog_);
    complete(completion, touched_);
  }
  go_on(now);
  if (backlog_ != nullptr) ring_.wake();
  flush();  // jobs that ended, and streams that were read on, may have staged tickets
  for (Endpoint* touched : touched_) {
    touched->touched_ = false;
    touched->now_ = now;
    note(*touched, ready);
  }
}

void Loop::go_on(Nanos begun) {
  std::vector<std::uint64_t> asked = std::exchange(asked_again_, {});
  std::size_t done = 0;
  while (done < asked.size()) {
    Endpoint* found = endpoint(asked[done++]);
    if (found == nullptr) continue;
    found->next_step();
    if (!std::exchange(found->touched_, true)) touched_.push_back(found);
    if (engine_->clock().now() - begun >= kStepTime) break;
  }
  if (done == asked.size()) return;
  // Those whose turn has not come go before those that have just asked.
  asked.erase(asked.begin(), asked.begin() + static_cast<std::ptrdiff_t>(done));
  asked.insert(asked.end(), asked_again_.begin(), asked_again_.end());
  asked_again_ = std::move(asked);
  ring_.wake();
}

void Loop::ask_again(const Endpoint& endpoint) {
  asked_again_.push_back(endpoint.id());
  ring_.wake();
}

void Loop::note(Endpoint& endpoint, std::vector<Ready>& ready) {
  endpoint.end_step();
  arm_timer(endpoint);
  if (const unsigned bits = endpoint.bits(); bits != 0) ready.push_back({endpoint.token(), bits});
}

void Loop::arm_timer(Endpoint& endpoint) {
  // One entry an endpoint is enough: it is only ever replaced by an earlier one, and a late one is put back when it
  // comes up.
  const Nanos time = endpoint.next_timeout();
  if (time >= endpoint.timer_) return;
  endpoint.timer_ = time;
  timers_.push_back({time, endpoint.id()});
  std::push_heap(timers_.begin(), timers_.end(), std::greater<>());
  // Connections that come and go leave theirs behind; now and then these are thrown out.
  static constexpr std::size_t kStale = 64;
  if (timers_.size() <= 2 * open_connections_ + kStale) return;
  std::erase_if(timers_, [this](const Timer& timer) { return !current(timer); });
  std::make_heap(timers_.begin(), timers_.end(), std::greater<>());
}

bool Loop::current(const Timer& timer) {
  const Endpoint* found = endpoint(timer.id);
  return found != nullptr && found->timer_ == timer.time;
}

void Loop::on_timer(std::vector<Ready>& ready) {
  const Step step(*this);
  const Nanos now = engine_->clock().now();
  while (!timers_.empty() && timers_.front().time <= now) {
    const Timer timer = timers_.front();
    std::pop_heap(timers_.begin(), timers_.end(), std::greater<>());
    timers_.pop_back();
    if (!current(timer)) continue;
    Endpoint* found = endpoint(timer.id);
    found->timer_ = kNever;
    found->now_ = now;
    found->on_timer(now);
    note(*found, ready);
  }
}

void Loop::close() {
  if (std::exchange(closed_, true)) return;
  for (Slot& entry : slots_) {
    if (entry.endpoint != nullptr) disconnect(entry.endpoint->id());
  }
  // Every ticket was cancelled just now, so all of them are on their way; jobs end in milliseconds.
  while (outstanding_ != 0 || ring_.parts_due() != 0) {
    if (backlog_ == nullptr) backlog_ = ring_.take();
    while (backlog_ != nullptr) complete(std::exchange(backlog_, backlog_->next), touched_);
    if (outstanding_ != 0 || ring_.parts_due() != 0) ring_.wait(1000);
  }
  catalogs_.clear();
}

void Loop::log_access(AccessEntry entry) {
  if (access_log_.size() >= kMaxAccessEntries) {
    access_log_.pop_front();
    ++access_dropped_;
  }
  access_log_.push_back(std::move(entry));
}

std::pair<std::vector<AccessEntry>, std::uint64_t> Loop::take_access_log(std::size_t most) {
  const auto end = access_log_.begin() + static_cast<std::ptrdiff_t>(std::min(most, access_log_.size()));
  std::vector<AccessEntry> entries(std::make_move_iterator(access_log_.begin()), std::make_move_iterator(end));
  access_log_.erase(access_log_.begin(), end);
  return {std::move(entries), std::exchange(access_dropped_, 0)};
}

}  // namespace headrace
