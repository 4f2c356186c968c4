#include "engine/thread_trial.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <optional>
#include <thread>
#include <utility>

#include "schedule/crew.h"

namespace headrace {

namespace {

constexpr std::int64_t kMostRows = 8;              // a batch's fixed costs are small beside it by then
constexpr Nanos kLargerBatch = 50 * kMillisecond;  // that its run may take
constexpr int kLooksAtOne = 4;
constexpr Nanos kShortestTurn = 4 * kMillisecond;  // of one plan with one batch in a round
constexpr int kFewestRounds = 3;
constexpr int kMostRounds = 7;
constexpr Nanos kLook = 2 * kMillisecond;                         // between looks whether the server is still busy
constexpr std::array<std::int64_t, 5> kSizes{64, 224, 32, 8, 1};  // of free dimensions: what traffic may look like

std::string milliseconds(Nanos time) {
  const Nanos hundredths = time / (10 * kMicrosecond);
  std::string text = std::to_string(hundredths / 100) + ".";
  if (hundredths % 100 < 10) text += "0";
  return text + std::to_string(hundredths % 100) + " ms";
}

// One plan with its session, and what its turns have shown so far.
struct Side {
  ThreadPlan plan;
  Session* session = nullptr;
  std::unique_ptr<Session> owned;  // null for the first plan
  std::vector<double> rates_one;   // one entry a round
  std::vector<double> rates_rows;
  std::vector<double> alone;
};

class Trial {
 public:
  Trial(Pool& pool, const ThreadTrialOptions& options)
      : pool_(pool),
        options_(options),
        clock_(options.clock != nullptr ? *options.clock : SteadyClock::instance()),
        patience_(options.patience) {}

  ThreadDecision run(Session& first, const SessionSource& source) {
    ThreadDecision decision;
    decision.plan = options_.plans.front();
    if (!find_sample(first, decision)) return decision;
    Side champion{options_.plans.front(), &first, nullptr, {}, {}, {}};
    const auto duels = static_cast<Nanos>(options_.plans.size()) - 1;
    for (std::size_t i = 1; i < options_.plans.size(); ++i) {
      Side challenger{options_.plans[i], nullptr, nullptr, {}, {}, {}};
      Result<std::unique_ptr<Session>> made = source(challenger.plan);
      if (!made) {
        decision.reason = "a session of " + std::to_string(challenger.plan.threads) +
                          " threads could not be tried: " + made.status().message();
        return decision;
      }
      challenger.owned = std::move(*made);
      challenger.session = challenger.owned.get();
      if (!duel(champion, challenger, options_.time / duels)) {
        decision.final = false;
        decision.reason = "the server was busy, so nothing was tried";
        return decision;
      }
      const ThreadFigures before = figures(champion);
      const ThreadFigures after = figures(challenger);
      decision.trials.push_back(before);
      decision.trials.push_back(after);
      const ThreadVerdict verdict = judge(before, after, options_.in_company);
      if (verdict.takes_over) champion = std::move(challenger);
      if (!verdict.go_on) break;
    }
    decision.plan = champion.plan;
    decision.reason = options_.in_company ? "measured, beside other models" : "measured";
    return decision;
  }

 private:
  Nanos now() const { return clock_.now(); }

  // Inputs that the model takes, of one row and of a larger batch. False: there is nothing to try, and why.
  bool find_sample(Session& session, ThreadDecision& decision) {
    Status status;
    Nanos one = 0;
    for (const std::int64_t size : kSizes) {
      MadeUp values(1);
      Result<Sample> sample = make_sample(session.signature(), pool_, 1, size, values);
      status = sample.status();
      if (!status.ok()) continue;
      if (status = run_sample(session, pool_, *sample); !status.ok()) continue;  // the first run is slower as well
      status = shortest(session, *sample, one);
      if (!status.ok()) continue;
      one_ = std::move(*sample);
      rows_ =
          std::clamp(kLargerBatch / std::max<Nanos>(one, 1), std::int64_t{1}, std::min(kMostRows, options_.max_rows));
      if (rows_ > 1) {
        Result<Sample> larger = make_sample(session.signature(), pool_, rows_, size, values);
        if (larger && run_sample(session, pool_, *larger).ok()) {
          larger_ = std::move(*larger);
        } else {
          rows_ = 1;
        }
      }
      break;
    }
    decision.plan = options_.plans.front();
    if (one == 0) {
      decision.reason = "made-up inputs cannot run (" + status.message() + ")";
      return false;
    }
    if (one > options_.longest_run) {
      decision.reason = "a run of one row takes " + milliseconds(one) + ", too long for a trial";
      return false;
    }
    if (one * rows_ < options_.shortest_run) {
      decision.reason = "a run of one row takes " + milliseconds(one) + ", too short for more threads to pay";
      return false;
    }
    turn_ = one;
    return true;
  }

  // The least time of a few runs: by one that did not get the processor a larger batch would seem too long to try.
  Status shortest(Session& session, const Sample& sample, Nanos& least) {
    least = 0;
    const Nanos begin = now();
    for (int i = 0; i < kLooksAtOne && now() - begin < kLargerBatch * kLooksAtOne; ++i) {
      const Nanos start = now();
      if (Status status = run_sample(session, pool_, sample); !status.ok()) {
        least = 0;
        return status;
      }
      const Nanos took = std::max<Nanos>(now() - start, 1);
      least = least == 0 ? took : std::min(least, took);
    }
    return {};
  }

  // Rounds that take turns. False: the server was too busy.
  bool duel(Side& champion, Side& challenger, Nanos time) {
    for (Side* side : {&champion, &challenger}) {
      side->rates_one.clear();
      side->rates_rows.clear();
      side->alone.clear();
      if (!run_sample(*side->session, pool_, rows_ > 1 ? larger_ : one_).ok()) return true;  // no figures: it loses
    }
    const Nanos expected = std::max(turn_ * 2, kShortestTurn) * (rows_ > 1 ? 4 : 2) + turn_ * rows_ * 2;
    const int rounds = static_cast<int>(std::clamp<Nanos>(time / expected, kFewestRounds, kMostRounds));
    for (int round = 0; round < rounds; ++round) {
      if (!quiet()) return false;
      Side* order[] = {&champion, &challenger};
      if (round % 2 != 0) std::swap(order[0], order[1]);
      for (Side* side : order) {
        side->alone.push_back(1e9 / std::max(turn(*side->session, one_, 1, 1), 1e-9));
        side->rates_one.push_back(side->plan.lanes == 1 ? 1e9 / side->alone.back()
                                                        : turn(*side->session, one_, 1, side->plan.lanes));
        if (rows_ > 1) side->rates_rows.push_back(turn(*side->session, larger_, rows_, side->plan.lanes));
      }
    }
    return true;
  }

  // Waits, within what is left of the patience, until no request is in flight.
  bool quiet() {
    while (options_.busy && options_.busy()) {
      if (patience_ <= 0) return false;
      std::this_thread::sleep_for(std::chrono::nanoseconds(kLook));
      patience_ -= kLook;
    }
    return true;
  }

  // Rows/s of `lanes` threads that run the sample side by side for a turn, each once at least. 0: a run failed, or the
  // threads did not get the processor.
  double turn(Session& session, const Sample& sample, std::int64_t rows, int lanes) {
    std::vector<double> rates(static_cast<std::size_t>(lanes));
    std::deque<Interrupt> interrupts(static_cast<std::size_t>(lanes));
    Crew crew(lanes, [&](int lane) {
      const auto at = static_cast<std::size_t>(lane);
      const Nanos start = now();
      Nanos end = start;
      std::int64_t runs = 0;
      do {
        if (!run_sample(session, pool_, sample, lane, &interrupts[at]).ok()) return;
        ++runs;
        end = now();
      } while (end - start < kShortestTurn);
      rates[at] = static_cast<double>(runs * rows) * 1e9 / static_cast<double>(std::max<Nanos>(end - start, 1));
    });
    const Nanos usual = std::max(turn_ * rows * lanes, kShortestTurn);
    if (!crew.wait_until(SteadyClock::instance().now() + 10 * usual + kSecond / 10)) {
      for (Interrupt& interrupt : interrupts) interrupt.request();
    }
    while (!crew.wait_until(kNever)) {
    }
    double sum = 0;
    for (const double rate : rates) sum += rate;
    return sum;
  }

  ThreadFigures figures(const Side& side) const {
    ThreadFigures found;
    found.plan = side.plan;
    found.rows = rows_;
    found.rate_one = median(side.rates_one);
    found.rate_rows = median(side.rates_rows);
    found.alone = static_cast<Nanos>(median(side.alone));
    found.rounds = static_cast<int>(side.alone.size());
    return found;
  }

  Pool& pool_;
  const ThreadTrialOptions& options_;
  const Clock& clock_;
  Nanos patience_;
  Sample one_;
  Sample larger_;
  std::int64_t rows_ = 1;
  Nanos turn_ = 0;  // of one row with one thread
};

}  // namespace

ThreadDecision try_threads(Session& first, const SessionSource& source, Pool& pool, const ThreadTrialOptions& options) {
  ThreadDecision decision;
  if (options.plans.size() < 2) {
    decision.plan = options.plans.front();
    decision.reason = "there is one way only on these cores";
    return decision;
  }
  Crew crew(1, [&](int) { decision = Trial(pool, options).run(first, source); });
  while (!crew.wait_until(kNever)) {
  }
  return decision;
}

}  // namespace headrace
