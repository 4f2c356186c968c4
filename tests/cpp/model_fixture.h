// What tests of backends share: where the runtime and the models lie, a pool that must end at zero, tensors from
// values.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "backend/registry.h"
#include "memory/pool.h"
#include "memory/tensor.h"

namespace headrace::testing {

template <class T>
constexpr DType dtype_for() {
  if constexpr (std::is_same_v<T, bool>) return DType::kBool;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::kInt32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::kInt64;
  if constexpr (std::is_same_v<T, float>) return DType::kFp32;
  if constexpr (std::is_same_v<T, double>) return DType::kFp64;
}

class BackendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* library = std::getenv("HEADRACE_TEST_ORT");
    const char* models = std::getenv("HEADRACE_TEST_MODELS");
    ASSERT_TRUE(library != nullptr && *library != '\0')
        << "HEADRACE_TEST_ORT must be the absolute path of libonnxruntime.so.* (in the onnxruntime package)";
    ASSERT_TRUE(models != nullptr && *models != '\0')
        << "HEADRACE_TEST_MODELS must be the folder that `python tests/models/make_models.py DIR` filled";
    options_.onnxruntime_library = library;
    models_ = models;
  }
  void TearDown() override {
    EXPECT_EQ(pool_.stats().bytes_in_use, 0U);
    EXPECT_EQ(pool_.stats().blocks_in_use, 0U);
  }

  std::string model_file(std::string_view name) const { return models_ + "/" + std::string(name) + ".onnx"; }

  Result<std::unique_ptr<Session>> load_file(const std::string& file, const SessionOptions& options = {}) {
    auto backend = open_backend("onnxruntime", options_);
    if (!backend) return backend.status();
    return (*backend)->load(file, file.substr(0, file.rfind('/')), options);
  }
  // The model DIR/<name>.onnx, which must load.
  std::unique_ptr<Session> load(std::string_view name, const SessionOptions& options = {}) {
    auto session = load_file(model_file(name), options);
    EXPECT_TRUE(session.ok()) << session.status().to_string();
    return session.ok() ? std::move(*session) : nullptr;
  }

  Tensor bytes_tensor(DType dtype, Shape shape, const void* data, std::size_t size) {
    Tensor tensor;
    tensor.dtype = dtype;
    tensor.shape = std::move(shape);
    tensor.block = std::move(*pool_.allocate(size));
    if (size != 0) std::memcpy(tensor.block.data(), data, size);
    tensor.data = tensor.block.data();
    tensor.size = size;
    return tensor;
  }
  template <class T>
  Tensor tensor(Shape shape, const std::vector<T>& values) {
    return bytes_tensor(dtype_for<T>(), std::move(shape), values.data(), values.size() * sizeof(T));
  }
  Tensor strings(Shape shape, const std::vector<std::string>& values) {
    std::string bytes;
    for (const std::string& value : values) {
      const auto length = static_cast<std::uint32_t>(value.size());
      bytes.append(reinterpret_cast<const char*>(&length), sizeof(length));
      bytes += value;
    }
    return bytes_tensor(DType::kBytes, std::move(shape), bytes.data(), bytes.size());
  }

  // Runs with every output wanted unless `wanted` says otherwise.
  Status run(Session& session, std::span<const Tensor> inputs, std::vector<Tensor>& outputs,
             std::vector<std::uint8_t> wanted = {}, Interrupt* interrupt = nullptr, Pool* pool = nullptr) {
    if (wanted.empty()) wanted.assign(session.signature().outputs.size(), 1);
    BatchRun batch;
    batch.inputs = inputs;
    batch.wanted = wanted;
    batch.pool = pool != nullptr ? pool : &pool_;
    batch.interrupt = interrupt;
    Status status = session.run(batch);
    outputs = std::move(batch.outputs);
    return status;
  }
  // A run that must succeed.
  std::vector<Tensor> answers(Session& session, const std::vector<Tensor>& inputs) {
    std::vector<Tensor> outputs;
    const Status status = run(session, inputs, outputs);
    EXPECT_TRUE(status.ok()) << status.to_string();
    outputs.resize(session.signature().outputs.size());
    return outputs;
  }

  BackendOptions options_;
  std::string models_;
  Pool pool_{PoolOptions{}};
};

template <class T>
std::vector<T> values(const Tensor& tensor) {
  std::vector<T> out(tensor.size / sizeof(T));
  if (tensor.size != 0) std::memcpy(out.data(), tensor.data, tensor.size);
  return out;
}

inline std::vector<std::string> string_values(const Tensor& tensor) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at < tensor.size;) {
    std::uint32_t length = 0;
    std::memcpy(&length, tensor.data + at, sizeof(length));
    out.emplace_back(reinterpret_cast<const char*>(tensor.data) + at + sizeof(length), length);
    at += sizeof(length) + length;
  }
  return out;
}

}  // namespace headrace::testing
