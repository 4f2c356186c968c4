// A binary heap (Williams, 1964) of things that know their place in it, so that one can be moved or taken out in
// O(log n). The key lies beside the pointer: sifting touches the things only to tell them their place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/check.h"

namespace headrace {

inline constexpr std::uint32_t kNoPlace = 0xffffffffU;

// Least key first; keys that are equal come in no order. `Place` is the item's member that holds its place, kNoPlace
// while it is outside.
template <class Item, class Key, std::uint32_t Item::*Place>
class PlacedHeap {
 public:
  bool empty() const { return slots_.empty(); }
  std::size_t size() const { return slots_.size(); }
  Item* top() const { return slots_.front().item; }             // not when empty
  Key top_key() const { return slots_.front().key; }            // not when empty
  Item* item(std::size_t at) const { return slots_[at].item; }  // in no order
  static bool holds(const Item* item) { return item->*Place != kNoPlace; }
  Key key(const Item* item) const { return slots_[item->*Place].key; }  // it must be inside

  // Puts the item in, or moves it to where the new key belongs.
  void set(Item* item, Key key) {
    if (!holds(item)) {
      HEADRACE_CHECK(slots_.size() < kNoPlace);
      slots_.push_back({key, item});
      item->*Place = static_cast<std::uint32_t>(slots_.size() - 1);
      if (slots_.size() > 1) sift_up(slots_.size() - 1);
      return;
    }
    const std::size_t index = item->*Place;
    const Key before = slots_[index].key;
    if (key == before) return;
    slots_[index].key = key;
    if (key < before) {
      sift_up(index);
    } else {
      sift_down(index);
    }
  }

  // No effect on an item that is outside.
  void remove(Item* item) {
    if (!holds(item)) return;
    const std::size_t index = item->*Place;
    HEADRACE_CHECK(index < slots_.size() && slots_[index].item == item);
    item->*Place = kNoPlace;
    if (index + 1 == slots_.size()) {
      slots_.pop_back();
      return;
    }
    const Slot last = slots_.back();
    slots_.pop_back();
    const Key before = slots_[index].key;
    slots_[index] = last;
    last.item->*Place = static_cast<std::uint32_t>(index);
    if (last.key < before) {
      sift_up(index);
    } else {
      sift_down(index);
    }
  }

 private:
  struct Slot {
    Key key;
    Item* item;
  };

  void put(std::size_t index, Slot slot) {
    slots_[index] = slot;
    slot.item->*Place = static_cast<std::uint32_t>(index);
  }
  void sift_up(std::size_t index) {
    const Slot moving = slots_[index];
    while (index > 0) {
      const std::size_t parent = (index - 1) / 2;
      if (!(moving.key < slots_[parent].key)) break;
      put(index, slots_[parent]);
      index = parent;
    }
    put(index, moving);
  }
  void sift_down(std::size_t index) {
    const Slot moving = slots_[index];
    for (;;) {
      std::size_t child = 2 * index + 1;
      if (child >= slots_.size()) break;
      if (child + 1 < slots_.size() && slots_[child + 1].key < slots_[child].key) ++child;
      if (!(slots_[child].key < moving.key)) break;
      put(index, slots_[child]);
      index = child;
    }
    put(index, moving);
  }

  std::vector<Slot> slots_;
};

}  // namespace headrace
