#include "batching/cost_model.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace headrace {

CostModel::CostModel(std::int64_t max_rows, std::size_t max_keys)
    : max_rows_(max_rows), max_keys_(std::max<std::size_t>(max_keys, 1)) {
  slots_.reserve(max_keys_);
  buckets_.assign(std::bit_ceil(max_keys_ * 2), kNone);
}

std::size_t CostModel::bucket_of(const CostKey& key) const {
  const std::uint64_t hash = (key.shape ^ (std::uint64_t{key.device} << 40)) * 0x9e3779b97f4a7c15U;
  return static_cast<std::size_t>(hash >> 32) & (buckets_.size() - 1);
}

std::uint32_t CostModel::find(const CostKey& key) const {
  if (newest_ != kNone && slots_[newest_].key == key) return newest_;
  std::uint32_t index = buckets_[bucket_of(key)];
  while (index != kNone && !(slots_[index].key == key)) index = slots_[index].next_in_bucket;
  return index;
}

void CostModel::unlink(std::uint32_t index) {
  const Slot& slot = slots_[index];
  (slot.newer != kNone ? slots_[slot.newer].older : newest_) = slot.older;
  (slot.older != kNone ? slots_[slot.older].newer : oldest_) = slot.newer;
}

void CostModel::make_newest(std::uint32_t index) {
  Slot& slot = slots_[index];
  slot.newer = kNone;
  slot.older = newest_;
  (newest_ != kNone ? slots_[newest_].newer : oldest_) = index;
  newest_ = index;
}

CostCurve& CostModel::use(const CostKey& key) {
  std::uint32_t index = find(key);
  if (index != kNone) {
    if (index != newest_) {
      unlink(index);
      make_newest(index);
    }
    return *slots_[index].curve;
  }
  if (slots_.size() < max_keys_) {
    index = static_cast<std::uint32_t>(slots_.size());
    slots_.push_back({key, std::make_unique<CostCurve>(max_rows_)});
  } else {
    index = oldest_;
    Slot& slot = slots_[index];
    unlink(index);
    std::uint32_t* link = &buckets_[bucket_of(slot.key)];
    while (*link != index) link = &slots_[*link].next_in_bucket;
    *link = slot.next_in_bucket;
    slot.key = key;
    slot.curve->reset();
    ++edition_;
  }
  std::uint32_t& bucket = buckets_[bucket_of(key)];
  slots_[index].next_in_bucket = bucket;
  bucket = index;
  make_newest(index);
  return *slots_[index].curve;
}

void CostModel::record(const CostKey& key, std::int64_t rows, Nanos time, Nanos now) {
  if (use(key).record(rows, time, now)) ++edition_;
}

void CostModel::record_warmup(const CostKey& key, std::int64_t rows, Nanos time) {
  use(key).record_warmup(rows, time);
  ++edition_;
}

const CostCurve* CostModel::curve(const CostKey& key) const {
  const std::uint32_t index = find(key);
  return index == kNone ? nullptr : slots_[index].curve.get();
}

CostEstimate CostModel::predict(const CostKey& key, std::int64_t rows) const {
  const CostCurve* found = curve(key);
  return found == nullptr ? CostEstimate() : found->predict(rows);
}

std::int64_t CostModel::best_rows(const CostKey& key, std::int64_t most, Nanos span) const {
  const CostCurve* found = curve(key);
  return found == nullptr ? most : std::min(found->best_rows(span), most);
}

std::int64_t CostModel::most_rows_within(const CostKey& key, Nanos time, std::int64_t most) const {
  const CostCurve* found = curve(key);
  return found == nullptr ? most : std::min(found->most_rows_within(time), most);
}

std::int64_t CostModel::trial(const CostKey& key, std::int64_t available, Nanos time) {
  const std::uint32_t index = find(key);
  return index == kNone ? 0 : slots_[index].curve->trial(available, time);
}

std::vector<CostKey> CostModel::keys() const {
  std::vector<CostKey> keys;
  for (std::uint32_t index = newest_; index != kNone; index = slots_[index].older) keys.push_back(slots_[index].key);
  return keys;
}

}  // namespace headrace
