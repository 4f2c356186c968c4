// The shared memory regions that clients have registered, by name. Thread-safe; the mutex is held for a look-up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/sync.h"
#include "memory/shared_region.h"

namespace headrace {

class SharedRegions {
 public:
  static constexpr std::size_t kMaxName = 1024;

  // `most` regions at one time. 0: clients may not name any.
  explicit SharedRegions(std::size_t most) : most_(most) {}

  bool allowed() const { return most_ != 0; }
  // ALREADY_EXISTS, RESOURCE_EXHAUSTED, PERMISSION_DENIED when none may be named, and what SharedRegion::open says.
  Status add(const std::string& name, const std::string& key, std::uint64_t offset, std::uint64_t bytes);
  // Requests that use it go on with it. A name that is not there is no error: it is as gone as the caller wants it.
  void remove(std::string_view name);
  void clear();
  // Sorted by name.
  std::vector<std::shared_ptr<const SharedRegion>> all() const;
  // NOT_FOUND, or PERMISSION_DENIED.
  Result<std::shared_ptr<const SharedRegion>> find(std::string_view name) const;

 private:
  Status denied() const;

  const std::size_t most_;
  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<const SharedRegion>, std::less<>> regions_ HEADRACE_GUARDED_BY(mutex_);
};

}  // namespace headrace
