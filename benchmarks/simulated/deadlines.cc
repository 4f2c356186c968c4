// The highest offered rate at which 99 % of the requests are answered on time, played with the real dispatcher and cost
// model on a manual clock: Poisson arrivals over three models, two lanes, run times that spread by a log-normal factor.
// benchmarks/serving/slo.py asks a real server the same; here a rule can be judged without the noise of a machine.
//
//   deadlines [--mix 0|1|2] [--seconds 40] [--sigma 0.15] [--settings free|all] [--rates]
//
// A line for each setting: no settings (everything learnt from the runs that are played), and a grid of fixed ones with
// nothing learnt (instances x largest batch x queue delay), whose queues are bounded and drop what is past its
// deadline.
// --rates: for each rate on the way the share on time, and how many were refused, late and dropped.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "batching/cost_model.h"
#include "schedule/dispatcher.h"

namespace {

using namespace headrace;

struct Model {
  const char* name;
  double fixed;  // milliseconds of a run, and for each row
  double row;
  double share;  // of the requests
  Nanos deadline;
};
using Mix = std::array<Model, 3>;

// The curves of a stack of wide dense layers, an encoder and a small convolution net, as they were measured on one
// core.
constexpr std::array<Mix, 3> kMixes{{
    {{{"dense", 10.5, 0.5, 0.80, 50 * kMillisecond},
      {"encoder", 1.5, 8.5, 0.16, 100 * kMillisecond},
      {"vision", 2.5, 3.4, 0.04, 400 * kMillisecond}}},
    {{{"dense", 10.5, 0.5, 0.70, 50 * kMillisecond},
      {"encoder", 1.5, 8.5, 0.20, 150 * kMillisecond},
      {"large vision", 5, 35, 0.10, 1000 * kMillisecond}}},
    {{{"dense", 10.5, 0.5, 0.68, 50 * kMillisecond},
      {"encoder", 1.5, 8.5, 0.30, 200 * kMillisecond},
      {"vision", 2.5, 3.4, 0.02, 400 * kMillisecond}}},
}};
constexpr int kLanes = 2;
constexpr double kWanted = 0.99;
constexpr double kStep = 1.05;

struct Setting {
  bool learns = true;
  int count = kLanes;
  std::int64_t rows = 32;
  Nanos delay = 0;

  std::string text() const {
    if (learns) return "no settings";
    return std::to_string(count) + " x " + std::to_string(rows) + " rows, " + std::to_string(delay / 1000) + " us";
  }
};

struct Counts {
  long sent = 0;
  long good = 0;
  long refused = 0;
  long late = 0;
  long dropped = 0;
  double on_time() const { return static_cast<double>(good) / static_cast<double>(std::max(sent, 1L)); }
};

class World {
 public:
  World(const Mix& mix, const Setting& setting, double sigma, std::uint64_t seed)
      : mix_(mix), dispatcher_(kLanes), random_(seed), spread_(0, sigma) {
    for (const Model& model : mix) {
      BatchingPolicy policy;
      policy.dynamic_batching = true;
      policy.max_batch_size = setting.rows;
      if (!setting.learns) {
        policy.max_queue_delay = setting.delay;
        policy.max_queue_size = 256;
        policy.default_timeout = model.deadline;
      }
      costs_.push_back(setting.learns ? std::make_unique<CostModel>(setting.rows) : nullptr);
      entries_.push_back(dispatcher_.add(model.name, policy, setting.count, nullptr, costs_.back().get()));
    }
  }

  Counts run(double rate, double seconds) {
    std::exponential_distribution<double> gap(rate / static_cast<double>(kSecond));
    const auto stop = static_cast<Nanos>(seconds * static_cast<double>(kSecond));
    Nanos arrival = static_cast<Nanos>(gap(random_));
    while (true) {
      std::size_t ended = kLanes;
      Nanos next = arrival;
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        if (lanes_[lane].end < next) next = lanes_[ended = lane].end;
      }
      const Nanos timer = std::min(dispatcher_.next_deadline(), wake_);
      if (std::min(next, timer) == kNever) break;
      now_ = std::max(now_, std::min(next, timer));
      if (timer < next) {
        wake_ = kNever;
      } else if (ended < kLanes) {
        end(ended);
      } else {
        send();
        arrival = now_ + static_cast<Nanos>(gap(random_));
        if (arrival > stop) arrival = kNever;
      }
      count(dispatcher_.expire(now_), counts_.dropped);
      for (std::size_t lane = 0; lane < kLanes; ++lane) offer(lane);
    }
    for (Dispatcher::Entry* entry : entries_) dispatcher_.close(entry);
    return counts_;
  }

 private:
  struct Lane {
    Dispatcher::Assignment work;
    std::size_t model = 0;
    Nanos began = 0;
    Nanos end = kNever;  // idle
  };

  void send() {
    double share = std::uniform_real_distribution<double>()(random_);
    std::size_t model = 0;
    while (model + 1 < mix_.size() && share >= mix_[model].share) share -= mix_[model++].share;
    tickets_.push_back(std::make_unique<Ticket>());
    Ticket* ticket = tickets_.back().get();
    ticket->references.fetch_add(1);  // it is this list that owns it
    ticket->rows = 1;
    ticket->deadline = now_ + mix_[model].deadline;
    ++counts_.sent;
    if (!dispatcher_.submit(entries_[model], ticket, now_).ok()) ++counts_.refused;
  }

  void offer(std::size_t index) {
    Lane& lane = lanes_[index];
    if (lane.end != kNever) return;
    dispatcher_.take(static_cast<int>(index), now_, lane.work);
    if (lane.work.entry == nullptr) {
      wake_ = std::min(wake_, lane.work.ask_again);
      return;
    }
    lane.model = 0;
    while (entries_[lane.model] != lane.work.entry) ++lane.model;
    const Model& model = mix_[lane.model];
    const double ms = (model.fixed + model.row * static_cast<double>(lane.work.rows)) * std::exp(spread_(random_));
    lane.began = now_;
    lane.end = now_ + static_cast<Nanos>(ms * static_cast<double>(kMillisecond));
  }

  void end(std::size_t index) {
    Lane& lane = lanes_[index];
    lane.end = kNever;
    if (CostModel* costs = costs_[lane.model].get(); costs != nullptr) {
      costs->record(lane.work.cost_key, lane.work.cost_rows, now_ - lane.began, now_);
    }
    count(dispatcher_.settle(lane.work.entry, lane.work.tickets), counts_.late);
    dispatcher_.release(static_cast<int>(index), lane.work, now_);
  }

  // Those that are through: good if they were in time, else such as `others` counts.
  void count(const TicketChain& chain, long& others) {
    for (const Ticket* ticket = chain.first; ticket != nullptr; ticket = static_cast<const Ticket*>(ticket->next)) {
      ++(ticket->status.ok() && now_ <= ticket->deadline ? counts_.good : others);
    }
  }

  const Mix& mix_;
  Dispatcher dispatcher_;
  std::vector<std::unique_ptr<CostModel>> costs_;
  std::vector<Dispatcher::Entry*> entries_;
  std::vector<std::unique_ptr<Ticket>> tickets_;
  std::array<Lane, kLanes> lanes_;
  std::mt19937_64 random_;
  std::normal_distribution<double> spread_;
  Nanos now_ = 0;
  Nanos wake_ = kNever;
  Counts counts_;
};

// A ladder of rates, to the first at which less than nine in ten are on time.
double highest(const Mix& mix, const Setting& setting, double sigma, double seconds, bool rates) {
  double best = 0;
  for (double rate = 100; rate < 2000; rate *= kStep) {
    World world(mix, setting, sigma, static_cast<std::uint64_t>(rate));
    const Counts counts = world.run(rate, seconds);
    if (rates) {
      std::printf("  %5.0f/s: %.4f on time; %ld refused, %ld late, %ld dropped of %ld\n", rate, counts.on_time(),
                  counts.refused, counts.late, counts.dropped, counts.sent);
    }
    if (counts.on_time() >= kWanted) best = rate;
    if (counts.on_time() < 0.9) break;
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t mix = 0;
  double seconds = 40;
  double sigma = 0.15;
  bool all = true;
  bool rates = false;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--rates") {
      rates = true;
      continue;
    }
    const char* value = ++i < argc ? argv[i] : "";
    if (name == "--mix") {
      mix = static_cast<std::size_t>(std::atoi(value));
    } else if (name == "--seconds") {
      seconds = std::atof(value);
    } else if (name == "--sigma") {
      sigma = std::atof(value);
    } else if (name == "--settings") {
      all = std::strcmp(value, "all") == 0;
    } else {
      std::fprintf(stderr, "deadlines: what is %s?\n", name.c_str());
      return 2;
    }
  }
  if (mix >= kMixes.size() || seconds <= 0 || sigma < 0) {
    std::fprintf(stderr, "deadlines: --mix is 0, 1 or 2, --seconds above 0, --sigma 0 or more\n");
    return 2;
  }
  std::vector<Setting> settings{{}};
  for (const int count : {1, 2}) {
    for (const std::int64_t rows : {1, 4, 16}) {
      for (const Nanos delay : {Nanos{0}, 2 * kMillisecond}) settings.push_back({false, count, rows, delay});
    }
  }
  if (!all) settings.resize(1);
  for (const Setting& setting : settings) {
    const double rate = highest(kMixes[mix], setting, sigma, seconds, rates);
    std::printf("%-24s %5.0f/s\n", setting.text().c_str(), rate);
  }
  return 0;
}
