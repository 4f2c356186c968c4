// Finds the ShapeGroup of a ticket: exact comparison of what must agree, the last group found first, then a hash table.
// Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "batching/heap.h"
#include "batching/padding.h"
#include "batching/request.h"
#include "batching/waiting_line.h"

namespace headrace {

// Waiting tickets whose inputs agree.
struct ShapeGroup {
  WaitingLine line;
  std::int64_t load = 0;           // rows of all its tickets, each counted as 1 .. max_batch_size
  bool preferred_reached = false;  // tickets at the front reach a preferred size exactly
  bool ripe = false;               // its oldest has waited its delay
  std::uint64_t oldest = 0;        // sequence of the one that came first, while it has tickets
  Nanos oldest_queued = 0;         // and when that was
  std::size_t targets = 0;         // tickets that have one

  // The most that its tickets can take, one batch after the other: row_cost for each row, and batch_cost once.
  Nanos row_cost = 0;
  Nanos batch_cost = 0;       // of the dearest batch
  std::int64_t dearest = 0;   // rows of the largest ticket that these know of
  std::uint64_t edition = 0;  // of the costs that they are made of; 0: none
  Nanos counted = 0;          // of batch_cost, in the queue's sum

  std::uint32_t due_place = kNoPlace;
  std::uint32_t waiting_place = kNoPlace;

  // Owned by ShapeGroups.
  std::vector<std::int64_t> key;  // for each input: dtype and rank in one word, then its dimensions but the first;
                                  // the length, where it may be padded, as minus its class
  std::size_t inputs = 0;
  std::uint64_t hash = 0;
  ShapeGroup* next_in_bucket = nullptr;
  ShapeGroup* idle_prev = nullptr;
  ShapeGroup* idle_next = nullptr;
};

// Of what the inputs of a batch agree in: where there is padding, lengths agree in their class.
std::uint64_t shape_hash(std::span<const Tensor> inputs, const Padding& padding = {});

class ShapeGroups {
 public:
  // Empty groups kept: a model's usual shapes cost no allocation, and a stream of new shapes cannot grow memory.
  static constexpr std::size_t kMaxIdle = 32;

  ShapeGroups();
  ~ShapeGroups();
  ShapeGroups(const ShapeGroups&) = delete;
  ShapeGroups& operator=(const ShapeGroups&) = delete;

  // While there is no group.
  void set_padding(const Padding& padding) { padding_ = padding; }

  // The group that this ticket belongs to; made when there is none. A ticket must join it, or retire() it again.
  ShapeGroup* find(const Ticket& ticket);
  // The group has lost its last ticket.
  void retire(ShapeGroup* group);
  std::size_t size() const { return count_; }

 private:
  ShapeGroup* make(const Ticket& ticket, std::uint64_t hash);
  void insert(ShapeGroup* group);
  void unlink(ShapeGroup* group);
  void leave_idle(ShapeGroup* group);

  Padding padding_;
  std::vector<ShapeGroup*> buckets_;  // a power of two of them
  std::size_t count_ = 0;
  ShapeGroup* recent_ = nullptr;
  ShapeGroup* idle_first_ = nullptr;  // the longest empty first
  ShapeGroup* idle_last_ = nullptr;
  std::size_t idle_ = 0;
};

}  // namespace headrace
