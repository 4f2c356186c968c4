#include "memory/pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <new>
#include <string>

#include "base/check.h"
#include "base/sync.h"

#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>  // its macros are empty without AddressSanitizer
#else
#define ASAN_POISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#endif

namespace headrace {
namespace pool_detail {
namespace {

// Size classes: 64, 128, 192, 256, then four steps to every power of two.
constexpr std::size_t kClasses = 160;
constexpr std::size_t kNoLimit = static_cast<std::size_t>(-1);
constexpr int kLooks = 8;                  // for room, while other threads come and go
constexpr std::size_t kTrimmedByOne = 64;  // free blocks that go because one more is kept
constexpr std::size_t kLargest = std::size_t{1} << 47;
// From here on a block is a mapping of its own, so that pages which are never touched cost nothing.
constexpr std::size_t kMapped = Pool::kChargeStep;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

constexpr std::size_t class_of(std::size_t bytes) {
  const std::size_t last = std::max<std::size_t>(bytes, 1) - 1;
  if (last < 256) return last / 64;
  const auto width = static_cast<std::size_t>(std::bit_width(last));
  return 4 + (width - 9) * 4 + ((last >> (width - 3)) & 3);
}

constexpr std::size_t class_capacity(std::size_t index) {
  if (index < 4) return (index + 1) * 64;
  const std::size_t shift = (index - 4) / 4 + 6;
  return ((index - 4) % 4 + 5) << shift;
}

static_assert(class_capacity(class_of(257)) == 320 && class_capacity(class_of(1024)) == 1024);
static_assert(class_of(kLargest) == kClasses - 1 && class_capacity(kClasses - 1) == kLargest);
static_assert(class_capacity(class_of(kMapped + 1)) % 4096 == 0, "mapped blocks are whole pages");

// What a block counts when it is charged whole. A small one counts its header, or a cap could be passed by half.
std::size_t footprint(const Header& header) {
  return header.capacity < kMapped ? header.capacity + sizeof(Header) : header.capacity;
}

std::size_t class_footprint(std::size_t index) {
  const std::size_t capacity = class_capacity(index);
  return capacity < kMapped ? capacity + sizeof(Header) : capacity;
}

struct alignas(128) SizeClass {
  Mutex mutex;
  Header* free HEADRACE_GUARDED_BY(mutex) = nullptr;  // last in, first out: the warmest first
  std::uint64_t free_count HEADRACE_GUARDED_BY(mutex) = 0;
  std::uint64_t least_free HEADRACE_GUARDED_BY(mutex) = 0;  // since give_back_unused last passed by
  std::uint64_t in_use HEADRACE_GUARDED_BY(mutex) = 0;
  std::uint64_t allocations HEADRACE_GUARDED_BY(mutex) = 0;
  std::uint64_t reuses HEADRACE_GUARDED_BY(mutex) = 0;
  bool reused_lately HEADRACE_GUARDED_BY(mutex) = false;  // since reclaim last passed by
  bool closed HEADRACE_GUARDED_BY(mutex) = false;         // the pool is gone
};

// Whether the bytes of such a block lie by themselves.
bool lies_apart(std::size_t capacity, const MemorySource* source) {
  return capacity >= (source == nullptr ? kMapped : Pool::kSourcedBytes);
}

void* map_bytes(std::size_t capacity, std::size_t wanted, MemorySource* source) {
  if (source != nullptr) return source->take(capacity);
  void* bytes = ::mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (bytes == MAP_FAILED) return nullptr;
  // Huge pages where they will be used whole: a page fault of 2 MiB in place of 512, which hold up the machine's other
  // cores too. Elsewhere one would make 2 MiB resident where a step of 256 KiB was charged. Advice: it may fail.
  if (wanted == 0) {
    static_cast<void>(::madvise(bytes, capacity, MADV_NOHUGEPAGE));
  } else if (const std::size_t whole = wanted / kHugePage * kHugePage; whole != 0) {
    static_cast<void>(::madvise(bytes, whole, MADV_HUGEPAGE));
  }
  return bytes;
}

// Addresses for a block of class `index`; null when there are none. `wanted`: the bytes of it that somebody will use;
// 0: nobody knows, it will be charged bit by bit.
Header* map_block(std::size_t index, std::size_t wanted, MemorySource* source) {
  const std::size_t capacity = class_capacity(index);
  const bool apart = lies_apart(capacity, source);
  void* memory = std::aligned_alloc(alignof(Header), sizeof(Header) + (apart ? 0 : capacity));
  if (memory == nullptr) return nullptr;
  auto* header = new (memory) Header;
  header->size_class = static_cast<std::uint32_t>(index);
  header->capacity = capacity;
  header->data = reinterpret_cast<std::byte*>(header + 1);
  if (!apart) return header;
  header->data = static_cast<std::byte*>(map_bytes(capacity, wanted, source));
  if (header->data != nullptr) return header;
  header->~Header();
  std::free(header);
  return nullptr;
}

void unmap_block(Header* header, MemorySource* source) {
  ASAN_UNPOISON_MEMORY_REGION(header->data, header->capacity);
  if (lies_apart(header->capacity, source)) {
    if (source != nullptr) {
      source->give_back(header->data);
    } else {
      HEADRACE_CHECK(::munmap(header->data, header->capacity) == 0);
    }
  }
  header->~Header();
  std::free(header);
}

}  // namespace

struct Books {
  explicit Books(const PoolOptions& options) : cap(options.cap), retain(options.retain), source(options.source) {}

  const std::size_t cap;
  const std::size_t retain;
  const std::shared_ptr<MemorySource> source;
  // Changed by every allocation and release. `resident` changes only where the system is asked, or a step is charged.
  alignas(64) std::atomic<std::size_t> charged{0};
  std::atomic<std::size_t> resident{0};  // never over the cap
  std::atomic<std::size_t> peak{0};
  std::atomic<std::uint64_t> refusals{0};
  std::atomic<std::size_t> hand{0};     // where reclaim goes on
  std::atomic<std::size_t> holders{1};  // the pool, and once it is gone the blocks that are left
  std::array<SizeClass, kClasses> classes;
  Mutex waste_mutex;  // after that of a size class; the callback is called under it
  Header* waste HEADRACE_GUARDED_BY(waste_mutex) = nullptr;
  bool sweep_due HEADRACE_GUARDED_BY(waste_mutex) = false;  // somebody was told, and has not begun
  Pool::WasteCallback callback HEADRACE_GUARDED_BY(waste_mutex) = nullptr;
  void* callback_context HEADRACE_GUARDED_BY(waste_mutex) = nullptr;
  std::atomic<std::size_t> wasted{0};  // bytes resident in it

  void add_charge(std::size_t bytes) {
    const std::size_t now = charged.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    std::size_t highest = peak.load(std::memory_order_relaxed);
    while (now > highest && !peak.compare_exchange_weak(highest, now, std::memory_order_relaxed)) {
    }
  }

  // Resident, and not waste.
  std::size_t kept_resident() const {
    const std::size_t all = resident.load(std::memory_order_relaxed);
    const std::size_t gone = wasted.load(std::memory_order_relaxed);
    return all > gone ? all - gone : 0;  // read apart: other threads go on
  }

  std::size_t retained() const {
    const std::size_t in_use = charged.load(std::memory_order_relaxed);
    const std::size_t all = kept_resident();
    return all > in_use ? all - in_use : 0;
  }

  void release(Header* header) {
    resident.fetch_sub(header->resident, std::memory_order_relaxed);
    unmap_block(header, source.get());
  }

  // A new block; if the system has no addresses, those of the waste are used.
  Header* map(std::size_t index, std::size_t wanted) {
    Header* header = map_block(index, wanted, source.get());
    if (header != nullptr || sweep(class_capacity(index)) == 0) return header;
    return map_block(index, wanted, source.get());
  }

  // Makes the block waste; false where nothing does. `sweep_now`: nobody else will.
  bool add_waste(Header* header, bool& sweep_now) {
    if (header->capacity < Pool::kWasteBytes) return false;
    MutexLock lock(waste_mutex);
    if (callback == nullptr) return false;
    ASAN_POISON_MEMORY_REGION(header->data, header->capacity);
    header->next = std::exchange(waste, header);
    wasted.fetch_add(header->resident, std::memory_order_relaxed);
    if (!sweep_due) sweep_now = !(sweep_due = callback(callback_context));
    return true;
  }

  // Ends a block that is not kept.
  void discard(Header* header) {
    bool sweep_now = false;
    if (!add_waste(header, sweep_now)) release(header);
    if (sweep_now) sweep_all();
  }

  // Gives waste back to the system until `want` bytes have gone; returns the bytes given. They leave the count under
  // the mutex, so that whoever finds no waste there finds the room.
  std::size_t sweep(std::size_t want) {
    std::size_t given = 0;
    while (given < want) {
      Header* header = nullptr;
      {
        MutexLock lock(waste_mutex);
        header = waste;
        if (header == nullptr) break;
        waste = header->next;
        wasted.fetch_sub(header->resident, std::memory_order_relaxed);
        resident.fetch_sub(header->resident, std::memory_order_relaxed);
      }
      given += header->resident;
      unmap_block(header, source.get());
    }
    return given;
  }

  // Answers the callback: what becomes waste from here on is told anew.
  void sweep_all() {
    {
      MutexLock lock(waste_mutex);
      sweep_due = false;
    }
    sweep(kNoLimit);
  }

  // Gives free blocks back to the system until `want` bytes have gone, or `most` blocks, classes in turn; the first
  // round spares those that were reused lately. Its cost is that of the bytes wanted, not of all that is free. Returns
  // the bytes given. `later`: the large ones become waste. As with the waste, what is in no list is not counted either.
  std::size_t reclaim(std::size_t want, std::size_t most, bool later) {
    std::size_t given = 0;
    bool sweep_now = false;
    for (std::size_t step = 0; step < 2 * kClasses && given < want && most != 0 && retained() != 0; ++step) {
      SizeClass& size_class = classes[hand.fetch_add(1, std::memory_order_relaxed) % kClasses];
      Header* taken = nullptr;
      {
        MutexLock lock(size_class.mutex);
        if (std::exchange(size_class.reused_lately, false) && step < kClasses) continue;
        for (; size_class.free != nullptr && given < want && most != 0; --most) {
          Header* header = std::exchange(size_class.free, size_class.free->next);
          --size_class.free_count;
          given += header->resident;
          if (later && add_waste(header, sweep_now)) continue;
          resident.fetch_sub(header->resident, std::memory_order_relaxed);
          header->next = std::exchange(taken, header);
        }
      }
      while (taken != nullptr) unmap_block(std::exchange(taken, taken->next), source.get());
    }
    if (sweep_now) sweep_all();
    return given;
  }

  // Of each class of large blocks, those that were free all the time since it was last called: the coldest.
  void give_back_unused() {
    for (std::size_t index = class_of(Pool::kWasteBytes); index < kClasses; ++index) {
      SizeClass& size_class = classes[index];
      Header* taken = nullptr;
      {
        MutexLock lock(size_class.mutex);
        const std::uint64_t unused = std::min(size_class.least_free, size_class.free_count);
        const std::uint64_t kept = size_class.free_count - unused;
        if (unused != 0) {
          Header** end = &size_class.free;
          for (std::uint64_t i = 0; i < kept; ++i) end = &(*end)->next;
          taken = std::exchange(*end, nullptr);
          for (const Header* header = taken; header != nullptr; header = header->next)
            resident.fetch_sub(header->resident, std::memory_order_relaxed);
        }
        size_class.free_count = size_class.least_free = kept;
      }
      while (taken != nullptr) unmap_block(std::exchange(taken, taken->next), source.get());
    }
  }

  // Makes `bytes` more resident under the cap, at the cost of waste and free blocks where it must.
  bool claim(std::size_t bytes) {
    std::size_t now = resident.load(std::memory_order_relaxed);
    for (int looks = 0; bytes <= cap && looks < kLooks;) {
      if (now + bytes <= cap) {
        if (resident.compare_exchange_weak(now, now + bytes, std::memory_order_relaxed)) return true;
        continue;
      }
      const std::size_t in_use = charged.load(std::memory_order_relaxed);
      const std::size_t want = now + bytes - cap;
      std::size_t given = sweep(want);
      if (given < want) given += reclaim(want - given, kNoLimit, false);
      const std::size_t before = std::exchange(now, resident.load(std::memory_order_relaxed));
      if (given != 0) continue;
      // There was none to give, unless other threads gave some back behind this one's back.
      if (now == before && charged.load(std::memory_order_relaxed) == in_use) break;
      ++looks;
    }
    refusals.fetch_add(1, std::memory_order_relaxed);
    return false;
  }

  bool charge_to(Header* header, std::size_t target) {
    if (target > header->resident) {
      if (!claim(target - header->resident)) return false;
      header->resident = target;
    }
    add_charge(target - header->charged);
    header->charged = target;
    return true;
  }

  // A free block of the class, or null.
  Header* reuse(std::size_t index) {
    SizeClass& size_class = classes[index];
    Header* header = nullptr;
    {
      MutexLock lock(size_class.mutex);
      header = size_class.free;
      if (header == nullptr) return nullptr;
      size_class.free = header->next;
      size_class.least_free = std::min(size_class.least_free, --size_class.free_count);
      ++size_class.in_use;
      ++size_class.allocations;
      ++size_class.reuses;
      size_class.reused_lately = true;
    }
    ASAN_UNPOISON_MEMORY_REGION(header->data, header->capacity);
    header->references.store(1, std::memory_order_relaxed);
    return header;
  }

  void count_new(Header* header) {
    header->books = this;
    SizeClass& size_class = classes[header->size_class];
    MutexLock lock(size_class.mutex);
    ++size_class.in_use;
    ++size_class.allocations;
  }

  Status no_room(std::size_t bytes) const {
    return resource_exhausted("no room for a buffer of " + std::to_string(bytes) +
                              " bytes: " + std::to_string(charged.load(std::memory_order_relaxed)) + " of the pool's " +
                              std::to_string(cap) + " bytes (--pool-bytes) are in use; try again, or raise the limit");
  }

  Status no_addresses(std::size_t bytes) {
    refusals.fetch_add(1, std::memory_order_relaxed);
    return resource_exhausted("the system has no memory for a buffer of " + std::to_string(bytes) +
                              " bytes, although the pool's limit of " + std::to_string(cap) +
                              " bytes (--pool-bytes) would allow it; lower that limit below what the machine has");
  }

  void leave() {
    if (holders.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
};

void give_back(Header* header) {
  Books& books = *header->books;
  const std::size_t whole = footprint(*header);
  const std::size_t in_use = books.charged.fetch_sub(header->charged, std::memory_order_relaxed) - header->charged;
  header->charged = 0;
  // Worth keeping: at least half of it is resident, and it fits among what may be kept.
  bool keep = header->resident >= whole / 2 && header->resident != 0 && header->resident <= books.retain;
  if (keep) {
    const std::size_t all = books.kept_resident();
    const std::size_t most = in_use + books.retain;
    if (all > most) keep = books.reclaim(all - most, kTrimmedByOne, true) >= all - most;
  }
  // Until in_use is counted down the books cannot go, so that comes last.
  SizeClass& size_class = books.classes[header->size_class];
  if (keep) {
    ASAN_POISON_MEMORY_REGION(header->data, header->capacity);
  } else {
    books.discard(header);
  }
  bool closed = false;
  {
    MutexLock lock(size_class.mutex);
    closed = size_class.closed;
    --size_class.in_use;
    if (keep && !closed) {
      header->next = size_class.free;
      size_class.free = header;
      ++size_class.free_count;
    }
  }
  if (!closed) return;
  if (keep) books.release(header);
  books.leave();
}

bool charge(Header* header, std::size_t upto) {
  HEADRACE_CHECK(upto <= header->capacity);
  const std::size_t steps = (upto + Pool::kChargeStep - 1) / Pool::kChargeStep;
  const std::size_t target = std::min(steps * Pool::kChargeStep, footprint(*header));
  return target <= header->charged || header->books->charge_to(header, target);
}

}  // namespace pool_detail

using pool_detail::Header;

Pool::Pool(const PoolOptions& options) : books_(new pool_detail::Books(options)) {
  HEADRACE_CHECK(options.device.kind == DeviceKind::kCpu);
}

Pool::~Pool() {
  on_waste(nullptr, nullptr);  // a block that goes later goes at once
  sweep();
  for (pool_detail::SizeClass& size_class : books_->classes) {
    Header* free = nullptr;
    {
      MutexLock lock(size_class.mutex);
      size_class.closed = true;
      free = std::exchange(size_class.free, nullptr);
      books_->holders.fetch_add(size_class.in_use, std::memory_order_relaxed);
    }
    while (free != nullptr) books_->release(std::exchange(free, free->next));
  }
  books_->leave();
}

Result<Block> Pool::allocate(std::size_t bytes) {
  if (bytes > books_->cap || bytes > pool_detail::kLargest) {
    books_->refusals.fetch_add(1, std::memory_order_relaxed);
    return books_->no_room(bytes);
  }
  const std::size_t index = pool_detail::class_of(bytes);
  const std::size_t whole = pool_detail::class_footprint(index);
  if (Header* header = books_->reuse(index)) {
    Block block(header);
    if (!books_->charge_to(header, whole)) return books_->no_room(bytes);
    return block;
  }
  if (!books_->claim(whole)) return books_->no_room(bytes);
  Header* header = books_->map(index, bytes);
  if (header == nullptr) {
    books_->resident.fetch_sub(whole, std::memory_order_relaxed);
    return books_->no_addresses(bytes);
  }
  header->resident = header->charged = whole;
  books_->add_charge(whole);
  books_->count_new(header);
  return Block(header);
}

Result<Block> Pool::reserve(std::size_t bytes) {
  if (books_->source != nullptr) return allocate(bytes);
  if (bytes > pool_detail::kLargest) return books_->no_addresses(bytes);
  const std::size_t index = pool_detail::class_of(bytes);
  if (Header* header = books_->reuse(index)) return Block(header);
  Header* header = books_->map(index, 0);
  if (header == nullptr) return books_->no_addresses(bytes);
  books_->count_new(header);
  return Block(header);
}

void Pool::trim() {
  books_->sweep_all();
  books_->reclaim(pool_detail::kNoLimit, pool_detail::kNoLimit, false);
}

void Pool::give_back_unused() { books_->give_back_unused(); }

void Pool::sweep() { books_->sweep_all(); }

void Pool::on_waste(WasteCallback callback, void* context) {
  MutexLock lock(books_->waste_mutex);
  books_->callback = callback;
  books_->callback_context = context;
}

PoolStats Pool::stats() const {
  PoolStats stats;
  stats.cap = books_->cap;
  stats.bytes_in_use = books_->charged.load(std::memory_order_relaxed);
  stats.bytes_in_use_peak = books_->peak.load(std::memory_order_relaxed);
  stats.bytes_retained = books_->retained();
  stats.bytes_waste = books_->wasted.load(std::memory_order_relaxed);
  stats.refusals = books_->refusals.load(std::memory_order_relaxed);
  for (std::size_t index = 0; index < pool_detail::kClasses; ++index) {
    pool_detail::SizeClass& size_class = books_->classes[index];
    MutexLock lock(size_class.mutex);
    if (size_class.allocations == 0) continue;
    stats.blocks_in_use += size_class.in_use;
    stats.allocations += size_class.allocations;
    stats.reuses += size_class.reuses;
    stats.classes.push_back({pool_detail::class_capacity(index), size_class.in_use, size_class.free_count});
  }
  return stats;
}

}  // namespace headrace
