#include "memory/shared_region.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string_view>
#include <system_error>
#include <utility>

namespace headrace {
namespace {

constexpr char kFolder[] = "/dev/shm/";

std::string system_text(int error) { return std::generic_category().message(error); }

// The file's name below kFolder; empty when the key is of another form.
std::string_view file_of(std::string_view key) {
  if (!key.empty() && key.front() == '/') key.remove_prefix(1);
  const bool one_name = !key.empty() && key.size() <= SharedRegion::kMaxKey && key != "." && key != ".." &&
                        key.find('/') == std::string_view::npos && key.find('\0') == std::string_view::npos;
  return one_name ? key : std::string_view();
}

}  // namespace

SharedRegion::SharedRegion(std::string name, std::string key, std::uint64_t offset, std::uint64_t bytes, int descriptor)
    : name_(std::move(name)), key_(std::move(key)), offset_(offset), bytes_(bytes), descriptor_(descriptor) {}

SharedRegion::~SharedRegion() { ::close(descriptor_); }

Result<std::shared_ptr<const SharedRegion>> SharedRegion::open(std::string name, std::string key, std::uint64_t offset,
                                                               std::uint64_t bytes) {
  const std::string what = "shared memory region '" + name + "': ";
  const std::string_view file = file_of(key);
  if (file.empty()) {
    return invalid_argument(what + "its key must be a name of POSIX shared memory: '/', then 1 to " +
                            std::to_string(kMaxKey) + " characters other than '/'");
  }
  if (file.substr(0, 4) == "sem.") {
    return invalid_argument(what + "keys that begin with 'sem.' are those of the system's semaphores; choose another");
  }
  if (bytes == 0) return invalid_argument(what + "its byte_size is 0");
  if (offset > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()) ||
      bytes > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()) - offset) {
    return invalid_argument(what + "offset " + std::to_string(offset) + " and byte_size " + std::to_string(bytes) +
                            " together are more than an object may have");
  }
  const std::string path = kFolder + std::string(file);
  // Never through a link, and without waiting for the other end of a pipe.
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor < 0) {
    const int error = errno;
    if (error == ENOENT) {
      return Status(Code::kNotFound, what + "there is no shared memory object with its key; create it first");
    }
    return invalid_argument(what +
                            "its shared memory object cannot be opened for reading and writing: " + system_text(error));
  }
  std::shared_ptr<const SharedRegion> region(
      new SharedRegion(std::move(name), std::move(key), offset, bytes, descriptor));
  struct stat about {};
  if (::fstat(descriptor, &about) != 0 || !S_ISREG(about.st_mode)) {
    return invalid_argument(what + "its key does not name a shared memory object");
  }
  const auto size = static_cast<std::uint64_t>(about.st_size);
  if (offset > size || bytes > size - offset) {
    return invalid_argument(what + "offset " + std::to_string(offset) + " and byte_size " + std::to_string(bytes) +
                            " go beyond the end of the shared memory object, which has " + std::to_string(size) +
                            " bytes");
  }
  return region;
}

Status SharedRegion::check_range(std::uint64_t offset, std::uint64_t bytes) const {
  if (offset <= bytes_ && bytes <= bytes_ - offset) return {};
  return invalid_argument("offset " + std::to_string(offset) + " and byte size " + std::to_string(bytes) +
                          " go beyond the end of shared memory region '" + name_ + "', which has " +
                          std::to_string(bytes_) + " bytes");
}

Status SharedRegion::shrank() const {
  return invalid_argument("the shared memory object of region '" + name_ +
                          "' has become smaller than the region that was registered; unregister it, and register it "
                          "again once it has its size");
}

Status SharedRegion::read(std::uint64_t offset, std::span<std::byte> into) const {
  if (Status status = check_range(offset, into.size()); !status.ok()) return status;
  while (!into.empty()) {
    const ssize_t got = ::pread(descriptor_, into.data(), into.size(), static_cast<off_t>(offset_ + offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return internal_error("shared memory region '" + name_ + "' cannot be read: " + system_text(errno));
    if (got == 0) return shrank();
    into = into.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return {};
}

Status SharedRegion::write(std::uint64_t offset, std::span<const std::byte> from) const {
  if (Status status = check_range(offset, from.size()); !status.ok()) return status;
  // A write behind the end would make the object larger. Between this look and the write the client may still cut it:
  // then it gets its own object back, no larger than the region that it had registered.
  struct stat about {};
  if (::fstat(descriptor_, &about) != 0) {
    return internal_error("shared memory region '" + name_ + "' cannot be looked at: " + system_text(errno));
  }
  if (static_cast<std::uint64_t>(about.st_size) < offset_ + offset + from.size()) return shrank();
  while (!from.empty()) {
    const ssize_t put = ::pwrite(descriptor_, from.data(), from.size(), static_cast<off_t>(offset_ + offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == ENOSPC) {
      return resource_exhausted("the system has no shared memory left for region '" + name_ +
                                "': free some of /dev/shm, or make it larger");
    }
    if (put < 0) return internal_error("shared memory region '" + name_ + "' cannot be written: " + system_text(errno));
    from = from.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
  return {};
}

}  // namespace headrace
