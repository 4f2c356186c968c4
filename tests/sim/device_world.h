// One seed of models with places on two devices of unlike speed: the real dispatchers, one a device, and the real
// choice between them, in made-up time with costs that are known exactly. What a run gives is looked at in World; here
// it is where each request goes, and when it is answered.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "batching/cost_model.h"
#include "batching/request.h"
#include "plants.h"
#include "random.h"
#include "report.h"
#include "schedule/device_choice.h"
#include "schedule/dispatcher.h"

namespace headrace::sim {

class DeviceWorld {
 public:
  DeviceWorld(std::uint64_t seed, Plant plant, Report& report);
  ~DeviceWorld();
  DeviceWorld(const DeviceWorld&) = delete;
  DeviceWorld& operator=(const DeviceWorld&) = delete;
  void run();

 private:
  static constexpr std::size_t kDevices = 2;
  static constexpr std::size_t kNowhere = kDevices;

  // What a model's runs take on one device, and what its dispatcher is told of that.
  class RunCosts final : public Costs {
   public:
    RunCosts(Nanos fixed, Nanos row, int told_percent) : fixed_(fixed), row_(row), percent_(told_percent) {}
    Nanos time(std::int64_t rows) const { return fixed_ + row_ * rows; }
    CostEstimate predict(const CostKey& key, std::int64_t rows) const override;
    std::int64_t best_rows(const CostKey& key, std::int64_t most, Nanos span) const override;
    std::int64_t most_rows_within(const CostKey& key, Nanos time, std::int64_t most) const override;
    std::int64_t trial(const CostKey&, std::int64_t, Nanos) override { return 0; }

   private:
    const Nanos fixed_;
    const Nanos row_;
    const int percent_;
  };
  struct Model {
    std::int64_t max_batch = 1;
    std::unique_ptr<RunCosts> costs[kDevices];
    Dispatcher::Entry* entry[kDevices] = {};
  };
  struct Lane {
    std::size_t device = 0;
    int index = 0;  // among its device's
    bool busy = false;
    Nanos end = kNever;
    Dispatcher::Assignment assignment;
  };
  struct Request {
    std::size_t model = 0;
    Nanos came = 0;
    Nanos target = kNever;
    std::size_t device = kNowhere;
    Nanos answered = kNever;
    Nanos best = kNever;  // when the first device can have answered it, in a plain world
    bool taken = false;
    Ticket ticket;
  };
  struct Device {
    int lanes = 1;
    std::unique_ptr<Dispatcher> dispatcher;
  };

  void arrive();
  void send(std::size_t model);
  std::size_t choose(const Request& request, const std::array<bool, kDevices>& tried);
  Nanos earliest_end(const Request& request) const;
  void check_refusal(const Request& request, const std::array<bool, kDevices>& asked) const;
  void check_idle(std::size_t device, Nanos ask_again) const;
  void give_work();
  void check_batch(const Lane& lane);
  void finish(Lane& lane);
  bool idle(std::size_t device) const;
  Nanos next_time() const;
  void check_end() const;

  Report& report_;
  const Plant plant_;
  Random random_;
  Random plant_random_;
  Nanos now_ = 0;
  Nanos next_arrival_ = 0;
  Nanos gap_ = 0;
  int burst_ = 1;
  int left_ = 0;
  int target_percent_ = 0;
  // One model, one lane a device, a request a run, no targets: then where each is answered first can be reckoned
  // exactly.
  bool plain_ = false;
  std::vector<Model> models_;
  Device devices_[kDevices];
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<std::unique_ptr<Request>> requests_;
  Nanos ask_again_ = kNever;
  std::vector<std::unique_ptr<RunCosts>> swapped_;  // by a planted bug
};

}  // namespace headrace::sim
