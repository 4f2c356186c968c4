// Sessions that hold equal weights once.
//
// The runtime takes tensors from outside for the initializers of a model (AddInitializer), and a container for what its
// kernels make of them (packed weights). Its optimizer makes new initializers of some of the model's, so the model is
// optimized first, into memory, and the session is made of the outcome, in which every weight is as kernels want it.
// The bytes of a tensor that kernels have packed are freed once the session is made, where that can be seen.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/onnx_file.h"
#include "backend/ort_abi.h"
#include "backend/weight_store.h"
#include "base/sync.h"

namespace headrace::ort {

// What kernels made of the weights of sessions that have all of them in common. Outlives these.
class PackedGroup {
 public:
  PackedGroup(Api api, std::uint64_t id);
  ~PackedGroup();
  PackedGroup(const PackedGroup&) = delete;
  PackedGroup& operator=(const PackedGroup&) = delete;
  PackedWeights* weights() const { return weights_; }  // null: the runtime makes none
  std::uint64_t id() const { return id_; }

 private:
  const Api api_;
  const std::uint64_t id_;
  PackedWeights* weights_ = nullptr;
};

class SharedWeights {
 public:
  SharedWeights(Api api, const MemoryInfo* memory);
  SharedWeights(const SharedWeights&) = delete;
  SharedWeights& operator=(const SharedWeights&) = delete;

  // What one session holds together with others. Destroyed after it.
  class Loan;

  std::size_t bytes() const { return store_.bytes(); }  // of tensors that are held
  // Whether it can be seen that a session does not hold a tensor.
  bool sees_holders() const { return sees_holders_; }

 private:
  std::shared_ptr<PackedGroup> group(std::vector<Digest> digests) HEADRACE_EXCLUDES(mutex_);
  bool try_holders() const;

  const Api api_;
  const MemoryInfo* const memory_;
  const bool sees_holders_;
  WeightStore store_;
  Mutex mutex_;
  std::map<Digest, std::weak_ptr<PackedGroup>> groups_ HEADRACE_GUARDED_BY(mutex_);
};

class SharedWeights::Loan {
 public:
  explicit Loan(SharedWeights& weights) : weights_(weights) {}
  ~Loan();
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;

  // Holds the stored tensors of the file and adds them to the options.
  ::headrace::Status add(int descriptor, const OnnxFile& file, SessionOptions* options);
  PackedWeights* packed() const { return group_->weights(); }
  // The session is made: the bytes that it does not need are let go.
  void settle();
  const std::vector<SharedMemory>& memory() const { return shared_; }

 private:
  struct Tensor {
    Value* value = nullptr;
    SharedWeight weight;
    bool held = true;
  };
  ::headrace::Status add_one(int descriptor, const StoredTensor& stored, SessionOptions* options);

  SharedWeights& weights_;
  std::vector<Tensor> tensors_;
  std::shared_ptr<PackedGroup> group_;
  std::vector<SharedMemory> shared_;
};

}  // namespace headrace::ort
