#include "backend/ort_memory.h"

#include <cstdint>
#include <new>
#include <utility>

namespace headrace::ort {

namespace {

// Before the runtime's bytes: the block that they are in.
constexpr std::size_t kRoom = Pool::kAlignment;
static_assert(sizeof(Block) <= kRoom);

constexpr std::size_t kAll = SIZE_MAX / 4;  // sessions' memory is bounded by what is loaded and run, not here
constexpr std::uint32_t kVersion = 18;      // the first that has `reserve`

void* take_from(Pool& pool, std::size_t bytes) {
  if (bytes == 0 || bytes > kAll - kRoom) return nullptr;
  Result<Block> block = pool.allocate(bytes + kRoom);
  if (!block) return nullptr;
  std::byte* data = block->data();
  ::new (data) Block(std::move(*block));
  return data + kRoom;
}

}  // namespace

SessionMemory::SessionMemory(const MemoryInfo* memory)
    : runs_(PoolOptions{.cap = kAll, .retain = kAll}), lasting_(PoolOptions{.cap = kAll, .retain = 0}) {
  face_.version = kVersion;
  face_.alloc = &SessionMemory::allocate;
  face_.free = &SessionMemory::give_back;
  face_.reserve = &SessionMemory::reserve;
  face_.info = &SessionMemory::describe;
  face_.self = this;
  face_.memory = memory;
}

void* SessionMemory::allocate(Allocator* face, std::size_t bytes) {
  return take_from(static_cast<Face*>(face)->self->runs_, bytes);
}

void* SessionMemory::reserve(Allocator* face, std::size_t bytes) {
  return take_from(static_cast<Face*>(face)->self->lasting_, bytes);
}

void SessionMemory::give_back(Allocator* /*face*/, void* data) {
  if (data == nullptr) return;
  auto* place = reinterpret_cast<Block*>(static_cast<std::byte*>(data) - kRoom);
  const Block block = std::move(*std::launder(place));
  place->~Block();
}

const MemoryInfo* SessionMemory::describe(const Allocator* face) { return static_cast<const Face*>(face)->memory; }

}  // namespace headrace::ort
