// headrace_sim: runs seeds of the simulation. See usage() below.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "device_world.h"
#include "plants.h"
#include "world.h"

namespace headrace::sim {

namespace {

Report report;

// A broken invariant of the core's own ends the process: then the seed is said too.
void on_abort(int) {
  const std::string text = "replay: " + report.replay + "\n";
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

int usage() {
  std::puts(
      "headrace_sim [--seeds FROM:TO] [--plant BUG] [--trace] [--states]\n"
      "  --seeds FROM:TO  run these seeds, TO not included (default 0:1000)\n"
      "  --plant BUG      with this bug planted: success means that it was caught\n"
      "  --trace          say what happens when\n"
      "  --states         print how often each interesting state was reached; fail if one never was\n"
      "bugs:");
  for (const PlantRow& row : kPlants) std::printf("  %s\n", std::string(row.name).c_str());
  return 2;
}

int run(int argc, char** argv) {
  std::uint64_t from = 0;
  std::uint64_t to = 1000;
  PlantRow row = kPlants[0];
  bool planted = false;
  bool states = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--trace") {
      report.trace = true;
    } else if (flag == "--states") {
      states = true;
    } else if (flag == "--seeds" && i + 1 < argc) {
      char* end = nullptr;
      from = std::strtoull(argv[++i], &end, 10);
      if (*end != ':') return usage();
      to = std::strtoull(end + 1, &end, 10);
      if (*end != '\0' || to <= from) return usage();
    } else if (flag == "--plant" && i + 1 < argc) {
      const std::string_view wanted = argv[++i];
      planted = false;
      for (const PlantRow& each : kPlants) {
        if (each.name != wanted) continue;
        row = each;
        planted = true;
      }
      if (!planted) return usage();
    } else {
      return usage();
    }
  }
  report.expect_violation = planted;
  report.expected = row.breaks;
  report.plant = row.name;
  std::signal(SIGABRT, on_abort);

  Fibers fibers;
  for (int i = 0; i < 4; ++i) fibers.push_back(std::make_unique<Fiber>());
  for (std::uint64_t seed = from; seed < to; ++seed) {
    report.seed = seed;
    report.replay = "headrace_sim --seeds " + std::to_string(seed) + ":" + std::to_string(seed + 1) +
                    (planted ? " --plant " + report.plant : "") + " --trace";
    if (!of_devices(row.plant)) {
      World world(seed, row.plant, report, fibers);
      world.run();
    }
    if (!planted || of_devices(row.plant) || row.plant == Plant::kNone) {
      DeviceWorld world(seed, row.plant, report);
      world.run();
    }
  }
  if (planted) {
    std::printf("FAILED: the planted bug '%s' was not caught by seeds %llu:%llu\n", report.plant.c_str(),
                static_cast<unsigned long long>(from), static_cast<unsigned long long>(to));
    return 1;
  }
  if (states && !report.print_states()) return 1;
  std::printf("%llu seeds, no invariant broken\n", static_cast<unsigned long long>(to - from));
  return 0;
}

}  // namespace

}  // namespace headrace::sim

int main(int argc, char** argv) { return headrace::sim::run(argc, argv); }
