// Where bytes live. Only the CPU for now; a GPU adds a kind, not an #ifdef.
#pragma once

#include <cstdint>

namespace headrace {

enum class DeviceKind : std::uint8_t { kCpu = 0, kCuda = 1 };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  std::int32_t id = 0;
  bool operator==(const Device&) const = default;
};

}  // namespace headrace
