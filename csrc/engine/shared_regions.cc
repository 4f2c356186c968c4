#include "engine/shared_regions.h"

#include <utility>

namespace headrace {

Status SharedRegions::denied() const {
  return {Code::kPermissionDenied, "shared memory of clients is not used: start the server with --allow-client-shm"};
}

Status SharedRegions::add(const std::string& name, const std::string& key, std::uint64_t offset, std::uint64_t bytes) {
  if (!allowed()) return denied();
  if (name.empty() || name.size() > kMaxName) {
    return invalid_argument("a shared memory region needs a name of 1 to " + std::to_string(kMaxName) + " bytes");
  }
  // Opened before the lock is taken: a descriptor too many goes again.
  Result<std::shared_ptr<const SharedRegion>> region = SharedRegion::open(name, key, offset, bytes);
  MutexLock lock(mutex_);
  if (regions_.contains(name)) {
    return {Code::kAlreadyExists, "shared memory region '" + name + "' already exists; unregister it first"};
  }
  if (!region) return region.status();
  if (regions_.size() >= most_) {
    return resource_exhausted("there are " + std::to_string(most_) +
                              " shared memory regions, and no more may be registered (--max-shm-regions): unregister "
                              "one, or raise the limit");
  }
  regions_.emplace(name, std::move(*region));
  return {};
}

void SharedRegions::remove(std::string_view name) {
  std::shared_ptr<const SharedRegion> gone;  // closes its descriptor outside the lock
  MutexLock lock(mutex_);
  const auto found = regions_.find(name);
  if (found == regions_.end()) return;
  gone = std::move(found->second);
  regions_.erase(found);
}

void SharedRegions::clear() {
  decltype(regions_) gone;
  MutexLock lock(mutex_);
  gone.swap(regions_);
}

std::vector<std::shared_ptr<const SharedRegion>> SharedRegions::all() const {
  std::vector<std::shared_ptr<const SharedRegion>> regions;
  MutexLock lock(mutex_);
  regions.reserve(regions_.size());
  for (const auto& [name, region] : regions_) regions.push_back(region);
  return regions;
}

Result<std::shared_ptr<const SharedRegion>> SharedRegions::find(std::string_view name) const {
  if (!allowed()) return denied();
  MutexLock lock(mutex_);
  const auto found = regions_.find(name);
  if (found == regions_.end()) {
    return Status(Code::kNotFound, "shared memory region '" + std::string(name) + "' is not registered");
  }
  return found->second;
}

}  // namespace headrace
