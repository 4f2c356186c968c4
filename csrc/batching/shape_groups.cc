#include "batching/shape_groups.h"

namespace headrace {

namespace {

std::int64_t head_word(const Tensor& input) {
  return static_cast<std::int64_t>(input.dtype) | (static_cast<std::int64_t>(input.shape.rank()) << 8);
}

std::uint64_t mix(std::uint64_t hash, std::uint64_t word) {
  hash = (hash ^ word) * 0x9e3779b97f4a7c15U;
  return hash ^ (hash >> 29);
}

// What stands in a key for the length, where lengths of a class may share a run; 0: nothing does. No dimension is
// negative.
std::int64_t class_word(std::span<const Tensor> inputs, const Padding& padding) {
  if (!padding) return 0;
  const std::int64_t length = length_of(inputs, padding);
  return length < 0 ? 0 : -length_class(length);
}

std::int64_t dim_word(std::size_t input, std::size_t d, std::int64_t dim, const Padding& padding, std::int64_t length) {
  return length != 0 && padding.inputs[input] == static_cast<int>(d) ? length : dim;
}

// A dimension 0 is compared nowhere but in its presence (the rank): it is the ticket's rows.
bool agrees(const ShapeGroup& group, const Ticket& ticket, const Padding& padding, std::int64_t length) {
  if (group.inputs != ticket.inputs.size()) return false;
  const std::int64_t* word = group.key.data();
  for (std::size_t at = 0; at < ticket.inputs.size(); ++at) {
    const Tensor& input = ticket.inputs[at];
    if (!input) {
      if (*word++ != 0) return false;
      continue;
    }
    // The ranks are equal once the head words are, so the key has as many words left as there are dimensions here.
    if (*word++ != head_word(input)) return false;
    const auto dims = input.shape.dims();
    for (std::size_t i = 1; i < dims.size(); ++i) {
      if (*word++ != dim_word(at, i, dims[i], padding, length)) return false;
    }
  }
  return true;
}

}  // namespace

// An optional input that was not given counts as absent, whatever shape it may carry.
std::uint64_t shape_hash(std::span<const Tensor> inputs, const Padding& padding) {
  const std::int64_t length = class_word(inputs, padding);
  std::uint64_t hash = inputs.size();
  for (std::size_t at = 0; at < inputs.size(); ++at) {
    const Tensor& input = inputs[at];
    if (!input) {
      hash = mix(hash, 0);
      continue;
    }
    hash = mix(hash, static_cast<std::uint64_t>(head_word(input)));
    const auto dims = input.shape.dims();
    for (std::size_t i = 1; i < dims.size(); ++i)
      hash = mix(hash, static_cast<std::uint64_t>(dim_word(at, i, dims[i], padding, length)));
  }
  return hash;
}

ShapeGroups::ShapeGroups() : buckets_(16, nullptr) {}

ShapeGroups::~ShapeGroups() {
  for (ShapeGroup* group : buckets_) {
    while (group != nullptr) {
      ShapeGroup* next = group->next_in_bucket;
      delete group;
      group = next;
    }
  }
}

ShapeGroup* ShapeGroups::find(const Ticket& ticket) {
  const std::int64_t length = class_word(ticket.inputs, padding_);
  ShapeGroup* group = recent_;
  if (group == nullptr || !agrees(*group, ticket, padding_, length)) {
    const std::uint64_t hash = shape_hash(ticket.inputs, padding_);
    group = buckets_[hash & (buckets_.size() - 1)];
    while (group != nullptr && !(group->hash == hash && agrees(*group, ticket, padding_, length)))
      group = group->next_in_bucket;
    if (group == nullptr) group = make(ticket, hash);
    recent_ = group;
  }
  if (group->line.empty()) leave_idle(group);
  return group;
}

ShapeGroup* ShapeGroups::make(const Ticket& ticket, std::uint64_t hash) {
  ShapeGroup* group = nullptr;
  if (idle_ >= kMaxIdle) {
    group = idle_first_;
    unlink(group);
  } else {
    group = new ShapeGroup;
    // A new group counts as idle until its first ticket has joined, as one that is found empty does.
    group->idle_prev = idle_last_;
    (idle_last_ != nullptr ? idle_last_->idle_next : idle_first_) = group;
    idle_last_ = group;
    ++idle_;
  }
  group->hash = hash;
  group->dearest = 0;
  group->edition = 0;
  group->inputs = ticket.inputs.size();
  group->key.clear();
  const std::int64_t length = class_word(ticket.inputs, padding_);
  for (std::size_t at = 0; at < ticket.inputs.size(); ++at) {
    const Tensor& input = ticket.inputs[at];
    if (!input) {
      group->key.push_back(0);
      continue;
    }
    group->key.push_back(head_word(input));
    const auto dims = input.shape.dims();
    for (std::size_t i = 1; i < dims.size(); ++i) {
      group->key.push_back(dim_word(at, i, dims[i], padding_, length));
    }
  }
  insert(group);
  return group;
}

void ShapeGroups::insert(ShapeGroup* group) {
  if (++count_ > buckets_.size()) {
    std::vector<ShapeGroup*> grown(buckets_.size() * 2, nullptr);
    for (ShapeGroup* each : buckets_) {
      while (each != nullptr) {
        ShapeGroup* next = each->next_in_bucket;
        ShapeGroup*& bucket = grown[each->hash & (grown.size() - 1)];
        each->next_in_bucket = bucket;
        bucket = each;
        each = next;
      }
    }
    buckets_.swap(grown);
  }
  ShapeGroup*& bucket = buckets_[group->hash & (buckets_.size() - 1)];
  group->next_in_bucket = bucket;
  bucket = group;
}

void ShapeGroups::unlink(ShapeGroup* group) {
  ShapeGroup** link = &buckets_[group->hash & (buckets_.size() - 1)];
  while (*link != group) link = &(*link)->next_in_bucket;
  *link = group->next_in_bucket;
  --count_;
  if (recent_ == group) recent_ = nullptr;
}

void ShapeGroups::leave_idle(ShapeGroup* group) {
  (group->idle_prev != nullptr ? group->idle_prev->idle_next : idle_first_) = group->idle_next;
  (group->idle_next != nullptr ? group->idle_next->idle_prev : idle_last_) = group->idle_prev;
  group->idle_prev = group->idle_next = nullptr;
  --idle_;
}

void ShapeGroups::retire(ShapeGroup* group) {
  // A crowd's memory is kept for the next crowd, by the shape that was used last.
  if (idle_last_ != nullptr) idle_last_->line.shrink();
  group->idle_prev = idle_last_;
  (idle_last_ != nullptr ? idle_last_->idle_next : idle_first_) = group;
  idle_last_ = group;
  if (++idle_ <= kMaxIdle) return;
  ShapeGroup* oldest = idle_first_;
  leave_idle(oldest);
  unlink(oldest);
  delete oldest;
}

}  // namespace headrace
