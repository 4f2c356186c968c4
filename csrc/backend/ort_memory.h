// The memory of the runtime's sessions on the CPU, in pools of its own. The runtime's own arenas keep the most that any
// run has needed until their session ends; a pool can be told to give back what is free.
#pragma once

#include <cstddef>

#include "backend/ort_abi.h"
#include "memory/pool.h"

namespace headrace::ort {

class SessionMemory {
 public:
  explicit SessionMemory(const MemoryInfo* memory);
  SessionMemory(const SessionMemory&) = delete;
  SessionMemory& operator=(const SessionMemory&) = delete;

  Allocator* allocator() { return &face_; }  // what the runtime calls
  Pool& runs() { return runs_; }             // what runs need for a while

 private:
  struct Face : Allocator {
    SessionMemory* self = nullptr;
    const MemoryInfo* memory = nullptr;
  };
  static void* allocate(Allocator* face, std::size_t bytes);
  static void* reserve(Allocator* face, std::size_t bytes);
  static void give_back(Allocator* face, void* data);
  static const MemoryInfo* describe(const Allocator* face);

  Pool runs_;
  Pool lasting_;  // packed weights: they go back to the system with their session
  Face face_;
};

}  // namespace headrace::ort
