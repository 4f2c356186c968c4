#include "backend/ort_shared_weights.h"

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <utility>

#include "backend/ort_library.h"

namespace headrace::ort {

namespace {

// How many hold the tensor of a value. A value of the runtime begins with a std::shared_ptr, which in libstdc++ is two
// pointers, the second to a block of a virtual table, the count of its users and that of those who only watch. Nothing
// promises that, so it is believed only where try_holders has seen it to be so.
std::uint32_t holders_of(const Value* value) {
  struct Counts {
    const void* table;
    std::uint32_t users;
    std::uint32_t watchers;
  };
  struct Pointers {
    const void* object;
    const Counts* counts;
  };
  const auto* pointers = reinterpret_cast<const Pointers*>(value);
  return pointers->counts == nullptr ? 0 : pointers->counts->users;
}

}  // namespace

PackedGroup::PackedGroup(Api api, std::uint64_t id) : api_(api), id_(id) {
  if (take(api_, api_.call<CreatePackedWeights>(&weights_))) weights_ = nullptr;
}

PackedGroup::~PackedGroup() {
  if (weights_ != nullptr) api_.call<ReleasePackedWeights>(weights_);
}

SharedWeights::SharedWeights(Api api, const MemoryInfo* memory)
    : api_(api), memory_(memory), sees_holders_(try_holders()) {}

// A sequence holds the tensors that it is made of: one holder, two while it is there, and one again.
bool SharedWeights::try_holders() const {
  std::array<float, 4> data{};
  constexpr std::array<std::int64_t, 1> kDims{4};
  Owned<Value, ReleaseValue> value(api_);
  Failure failure =
      take(api_, api_.call<CreateTensorWithDataAsOrtValue>(memory_, static_cast<void*>(data.data()), sizeof(data),
                                                           kDims.data(), kDims.size(), Element::kFloat, value.out()));
  if (failure || holders_of(value.get()) != 1) return false;
  Owned<Value, ReleaseValue> sequence(api_);
  const Value* const values[] = {value.get()};
  failure = take(api_, api_.call<CreateValue>(static_cast<const Value* const*>(values), std::size_t{1},
                                              ValueKind::kSequence, sequence.out()));
  if (failure || holders_of(value.get()) != 2) return false;
  sequence.reset();
  return holders_of(value.get()) == 1;
}

// Packed weights are found by a short hash that anybody can make two of, so only sessions all of whose weights are
// equal have a container in common.
std::shared_ptr<PackedGroup> SharedWeights::group(std::vector<Digest> digests) {
  std::sort(digests.begin(), digests.end());
  const Digest key = digest_of(std::as_bytes(std::span<const Digest>(digests)));
  auto fresh = std::make_shared<PackedGroup>(api_, store_.next_id());
  MutexLock lock(mutex_);
  std::erase_if(groups_, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<PackedGroup>& entry = groups_[key];
  if (std::shared_ptr<PackedGroup> group = entry.lock(); group != nullptr) return group;
  entry = fresh;
  return fresh;
}

SharedWeights::Loan::~Loan() {
  for (const Tensor& tensor : tensors_) {
    weights_.api_.call<ReleaseValue>(tensor.value);
    if (tensor.held) weights_.store_.release(tensor.weight.data);
  }
}

::headrace::Status SharedWeights::Loan::add(int descriptor, const OnnxFile& file, SessionOptions* options) {
  std::vector<Digest> digests;
  for (const StoredTensor& stored : file.stored) {
    // What callers may give in its place is theirs.
    if (stored.name.empty() || file.inputs.contains(stored.name)) continue;
    if (::headrace::Status added = add_one(descriptor, stored, options); !added.ok()) return added;
    digests.push_back(tensors_.back().weight.digest);
  }
  group_ = weights_.group(std::move(digests));
  if (group_->weights() == nullptr) return internal_error("the runtime makes no container for packed weights");
  return {};
}

::headrace::Status SharedWeights::Loan::add_one(int descriptor, const StoredTensor& stored, SessionOptions* options) {
  const Api api = weights_.api_;
  Result<SharedWeight> weight = weights_.store_.hold(descriptor, stored.offset, stored.size);
  if (!weight) return weight.status();
  Value* value = nullptr;
  Failure failure = take(api, api.call<CreateTensorWithDataAsOrtValue>(
                                  weights_.memory_, static_cast<void*>(weight->data), weight->size, stored.dims.data(),
                                  stored.dims.size(), static_cast<Element>(stored.element), &value));
  if (failure) {
    weights_.store_.release(weight->data);
  } else {
    tensors_.push_back({value, *weight, true});
    failure = take(api, api.call<AddInitializer>(options, stored.name.c_str(), static_cast<const Value*>(value)));
  }
  if (failure) return internal_error("tensor '" + stored.name + "' cannot be shared: " + failure.message);
  return {};
}

void SharedWeights::Loan::settle() {
  std::size_t packed = 0;
  for (Tensor& tensor : tensors_) {
    if (weights_.sees_holders_ && holders_of(tensor.value) == 1) {
      weights_.store_.release(tensor.weight.data);
      tensor.held = false;
      packed += tensor.weight.size;  // or not needed at all
    } else {
      shared_.push_back({tensor.weight.id, tensor.weight.size});
    }
  }
  if (packed != 0) shared_.push_back({group_->id(), packed});
}

}  // namespace headrace::ort
