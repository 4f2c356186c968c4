// The pure half of on-demand loading: which versions have a session in memory, within a budget of bytes. State and time
// in, decision out; no threads, locks, clock or I/O. Loader holds its one lock around it.
//
// Rules:
//  1. A load counts with its peak until it is over, then with its footprint. The sum never passes the budget, but that
//     one version larger than it while loading may load alone.
//  2. Loads are begun in the order in which they were asked for; nobody is overtaken. A version stands in the line
//  once,
//     whoever asks for it.
//  3. What is missing for the first of the line is freed by evicting those of least worth that are not in use:
//     GreedyDual-Size-Frequency (Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching
//     Policy", HP Labs 1998, after Cao and Irani's GreedyDual-Size, 1997). Worth = L + uses * reload time / size, where
//     L is the worth of what was evicted last, so that what is not used ages. Nothing is evicted where that would not
//     make room.
//  4. Memory that several share counts once, from the first that is loaded to the last that goes: evicting one of them
//     makes room for what it does not share.
//  5. A load that failed is not tried again for a while that doubles, from 0.1 s to 30 s.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/error.h"

namespace headrace {

struct ModelMemory {
  std::size_t footprint = 0;  // bytes while it is loaded, without what it shares
  std::size_t peak = 0;       // bytes while it loads, at least the footprint and what it shares
  std::vector<SharedMemory> shared{};
};

class Residency {
 public:
  static constexpr Nanos kFirstPause = 100 * kMillisecond;
  static constexpr Nanos kLongestPause = 30 * kSecond;

  enum class State : std::uint8_t { kAsleep, kWaiting, kLoading, kResident, kEvicting };

  struct Item {
    void* owner = nullptr;  // the caller's own
    State state = State::kAsleep;
    ModelMemory memory;
    Nanos reload_time = 0;
    // Only this class's own from here.
    double worth = 0;
    std::uint64_t uses_at_load = 0;
    std::uint64_t uses_seen = 0;
    bool in_use = false;  // could not be evicted when that was tried
    bool asked = false;   // for again, while it was being evicted
    int failures = 0;     // in a row
    Nanos retry_at = 0;
    std::string words;        // of the last failure
    std::size_t leaving = 0;  // bytes that its eviction was expected to free when it began
  };

  struct Decision {
    enum Kind : std::uint8_t { kNothing, kLoad, kEvict } kind = kNothing;
    Item* item = nullptr;
  };

  using Uses = std::function<std::uint64_t(void* owner)>;  // requests so far

  Residency(std::size_t budget, int loads_at_once);

  // Of what is shared, the bytes that are in memory already.
  std::size_t shared_already(const std::vector<SharedMemory>& shared) const;
  // Its footprint, and its part of what it shares.
  std::size_t part(const Item* item) const;

  // Asleep, and expected to need so much.
  Item* add(void* owner, const ModelMemory& expected);
  // Neither loading nor being evicted.
  void remove(Item* item);

  // It is wanted: joins the line if it is asleep, or when it is. UNAVAILABLE, with the words of the last failure: it is
  // not tried now.
  Status ask(Item* item, Nanos now);
  // Nobody wants it any more: out of the line.
  void withdraw(Item* item);

  // What to do next; the item is kLoading or kEvicting from then on. Ask again until there is nothing.
  Decision next(const Uses& uses);
  void loaded(Item* item, ModelMemory memory, Nanos took, std::uint64_t uses);
  // Not begun after all: nobody waits for it.
  void abandoned(Item* item);
  void failed(Item* item, const std::string& words, Nanos now);
  void evicted(Item* item);
  // It is in use after all: not evicted, and passed over until became_idle.
  void keep(Item* item);
  void became_idle();
  // It goes for good: kEvicting from then on, until remove. Neither loading nor being evicted.
  void retire(Item* item);

  std::size_t budget() const { return budget_; }
  std::size_t bytes() const { return bytes_; }  // footprints, what they share, and peaks of what loads
  std::size_t bytes_peak() const { return bytes_peak_; }
  std::size_t waiting() const { return line_.size(); }
  int loading() const { return loading_; }
  std::size_t resident() const;
  std::size_t size() const { return items_.size(); }
  const Item* first_waiting() const { return line_.empty() ? nullptr : line_.front(); }

 private:
  Decision make_up(const Uses& uses);
  Item* least_worth(const Uses& uses);
  void charge(std::size_t bytes);
  std::size_t alone(const Item& item) const;
  std::size_t could_go() const;
  void hold(const ModelMemory& memory);
  void let_go(const ModelMemory& memory);
  void begin_to_leave(Item* item);

  const std::size_t budget_;
  const int loads_at_once_;
  std::vector<std::unique_ptr<Item>> items_;
  std::deque<Item*> line_;
  std::size_t bytes_ = 0;
  std::size_t bytes_peak_ = 0;
  std::size_t leaving_ = 0;                                 // bytes that go with what is being evicted
  std::unordered_map<std::uint64_t, std::size_t> holders_;  // of what is shared, by its id: loaded versions
  int loading_ = 0;
  double floor_ = 0;  // L
};

}  // namespace headrace
