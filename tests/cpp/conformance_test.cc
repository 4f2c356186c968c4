// What every row of the registry must do. One case table per backend says where its models come from; the checks are
// the same. A backend's output i is input i, or input i beside itself along the last axis (`copies`).
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "backend/backend.h"
#include "model_fixture.h"
#include "temporary_folder.h"

namespace headrace::testing {
namespace {

namespace fs = std::filesystem;

struct DTypeCase {
  DType dtype;
  const char* name;
};
constexpr DTypeCase kDTypes[] = {
    {DType::kBool, "bool"},     {DType::kUint8, "uint8"}, {DType::kUint16, "uint16"}, {DType::kUint32, "uint32"},
    {DType::kUint64, "uint64"}, {DType::kInt8, "int8"},   {DType::kInt16, "int16"},   {DType::kInt32, "int32"},
    {DType::kInt64, "int64"},   {DType::kFp16, "fp16"},   {DType::kBf16, "bf16"},     {DType::kFp32, "fp32"},
    {DType::kFp64, "fp64"},     {DType::kBytes, "bytes"},
};

class Conformance : public BackendTest, public ::testing::WithParamInterface<std::string_view> {
 protected:
  void SetUp() override {
    BackendTest::SetUp();
    if (HasFatalFailure()) return;
    auto backend = open_backend(GetParam(), options_);
    ASSERT_TRUE(backend.ok()) << backend.status().to_string();
    backend_ = *backend;
  }

  bool echo() const { return GetParam() == "echo"; }
  int copies() const { return echo() ? 1 : 2; }

  // The same model in each backend's own form: an ONNX file, or the text of an echo model.
  std::unique_ptr<Session> open(std::string_view onnx, const std::string& text) {
    fs::path file = model_file(onnx);
    if (echo()) {
      file = folder_ / "model.echo";
      std::ofstream(file) << text;
    }
    auto session = backend_->load(file.string(), file.parent_path().string(), {});
    EXPECT_TRUE(session.ok()) << session.status().to_string();
    return session.ok() ? std::move(*session) : nullptr;
  }
  std::unique_ptr<Session> open_dtype(const DTypeCase& each, bool batched) {
    return open(
        "twice_" + std::string(each.name) + (batched ? "" : "_fixed"),
        "input x " + std::string(dtype_name(each.dtype)) + (batched ? " [batch,3]" : " [2,3]") + "\noutput y\n");
  }

  // [rows, 3] with every element different, and what the model must make of it.
  Tensor input(DType dtype, std::int64_t rows, int seed = 1) {
    if (dtype == DType::kBytes) return strings({rows, 3}, words(rows, seed));
    std::string bytes;
    for (std::size_t i = 0; i < static_cast<std::size_t>(rows) * 3 * element_size(dtype); ++i)
      bytes += static_cast<char>(dtype == DType::kBool ? (i + seed) % 2 : (i * 7 + seed) % 100);
    return bytes_tensor(dtype, {rows, 3}, bytes.data(), bytes.size());
  }
  std::string expected(const Tensor& input) const {
    const std::int64_t rows = input.shape[0];
    std::string out;
    std::size_t offset = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::size_t end = input.dtype == DType::kBytes ? skip_strings(input.bytes(), offset, 3)
                                                           : offset + 3 * element_size(input.dtype);
      for (int copy = 0; copy < copies(); ++copy)
        out.append(reinterpret_cast<const char*>(input.data) + offset, end - offset);
      offset = end;
    }
    return out;
  }
  static std::vector<std::string> words(std::int64_t rows, int seed) {
    std::vector<std::string> out;
    for (std::int64_t i = 0; i < rows * 3; ++i) out.push_back(std::string(i % 4, 'w') + std::to_string(i + seed));
    return out;
  }
  static std::string text(const Tensor& tensor) { return {reinterpret_cast<const char*>(tensor.data), tensor.size}; }

  TemporaryFolder folder_;
  std::shared_ptr<Backend> backend_;
};

TEST_P(Conformance, EveryDTypeBatchedAndNot) {
  for (const DTypeCase& each : kDTypes) {
    for (const bool batched : {true, false}) {
      const auto session = open_dtype(each, batched);
      ASSERT_NE(session, nullptr);
      ASSERT_EQ(session->signature().inputs[0].dtype, each.dtype);
      for (int seed = 1; seed < 4; ++seed) {
        const std::vector<Tensor> inputs{input(each.dtype, batched ? seed * 3 : 2, seed)};
        const auto out = answers(*session, inputs);
        EXPECT_EQ(out[0].dtype, each.dtype);
        EXPECT_EQ(out[0].shape, Shape({inputs[0].shape[0], 3 * copies()})) << each.name;
        EXPECT_EQ(text(out[0]), expected(inputs[0])) << each.name;
      }
    }
  }
}

TEST_P(Conformance, DescribesItself) {
  const auto session = open("twice_fp32", "input x FP32 [batch,3]\noutput y\nmetadata producer headrace\n");
  const Signature& signature = session->signature();
  EXPECT_EQ(signature.inputs[0].name, "x");
  EXPECT_EQ(signature.outputs[0].name, "y");
  EXPECT_EQ(signature.inputs[0].dims, (std::vector<std::int64_t>{-1, 3}));
  EXPECT_EQ(signature.inputs[0].symbols, (std::vector<std::string>{"batch", ""}));
  EXPECT_EQ(signature.metadata.at("producer"), "headrace");
}

TEST_P(Conformance, AnEmptyBatch) {
  for (const DTypeCase& each : kDTypes) {
    const auto session = open_dtype(each, true);
    const auto out = answers(*session, {input(each.dtype, 0)});
    EXPECT_EQ(out[0].shape, Shape({0, 3 * copies()})) << each.name;
    EXPECT_EQ(out[0].size, 0U) << each.name;
  }
}

TEST_P(Conformance, ZeroSizeTensors) {
  const auto session = open("zero_size", "input x FP32 [2,0]\noutput y\n");
  const auto out = answers(*session, {tensor<float>({2, 0}, {})});
  EXPECT_EQ(out[0].shape, Shape({2, 0}));
  EXPECT_EQ(out[0].size, 0U);
}

TEST_P(Conformance, Scalars) {
  const auto session = open("scalar", "input x FP32 []\noutput y\n");
  const auto out = answers(*session, {tensor<float>({}, {41})});
  EXPECT_EQ(out[0].shape.rank(), 0U);
  EXPECT_EQ(values<float>(out[0]), std::vector<float>{echo() ? 41.0F : 42.0F});
}

TEST_P(Conformance, WrongShapesAreTheCallersFault) {
  const auto session = open("twice_fp32", "input x FP32 [batch,3]\noutput y\n");
  std::vector<Tensor> out;
  for (const Shape& shape : {Shape({2, 4}), Shape({8}), Shape({1, 2, 4}), Shape({})}) {
    const auto count = *element_count(shape.dims());
    const std::vector<Tensor> inputs{tensor<float>(shape, std::vector<float>(count, 1))};
    EXPECT_EQ(run(*session, inputs, out).code(), Code::kInvalidArgument) << shape.to_string();
    EXPECT_TRUE(out.empty());
  }
  const std::vector<Tensor> wrong_dtype{tensor<double>({1, 3}, {1, 2, 3})};
  EXPECT_EQ(run(*session, wrong_dtype, out).code(), Code::kInvalidArgument);
  std::vector<Tensor> cut{tensor<float>({1, 3}, {1, 2, 3})};
  cut[0].size = 8;
  EXPECT_EQ(run(*session, cut, out).code(), Code::kInvalidArgument);
  const std::vector<Tensor> missing{Tensor()};
  EXPECT_EQ(run(*session, missing, out).code(), Code::kInvalidArgument);
  EXPECT_TRUE(run(*session, std::vector<Tensor>{tensor<float>({1, 3}, {1, 2, 3})}, out).ok());
}

TEST_P(Conformance, CutStringsAreTheCallersFault) {
  const auto session = open("twice_bytes", "input x BYTES [batch,3]\noutput y\n");
  std::vector<Tensor> out;
  Tensor whole = strings({1, 3}, {"a", "bc", "def"});
  for (std::size_t size = 0; size < whole.size; ++size) {
    std::vector<Tensor> inputs{whole};
    inputs[0].size = size;
    EXPECT_EQ(run(*session, inputs, out).code(), Code::kInvalidArgument) << size;
  }
}

TEST_P(Conformance, OneBadRowFailsItsBatchAndNothingElse) {
  const auto session = open("gather_rows", "input index INT64 [batch,2]\noutput y\nfail_on 9\n");
  std::vector<Tensor> out;
  const std::vector<Tensor> bad{tensor<std::int64_t>({3, 2}, {0, 1, 9, 0, 2, 3})};
  const Status status = run(*session, bad, out);
  EXPECT_FALSE(status.ok());
  EXPECT_FALSE(status.message().empty());
  EXPECT_TRUE(out.empty());
  const std::vector<Tensor> good{tensor<std::int64_t>({3, 2}, {0, 1, 1, 0, 2, 3})};
  EXPECT_TRUE(run(*session, good, out).ok());
  EXPECT_EQ(out[0].shape[0], 3);
}

TEST_P(Conformance, LanesRunAtTheSameTime) {
  const auto session = open("twice_fp32", "input x FP32 [batch,3]\noutput y\n");
  std::vector<std::thread> lanes;
  for (int lane = 0; lane < 2; ++lane) {
    lanes.emplace_back([&, lane] {
      for (int round = 0; round < 300; ++round) {
        const std::vector<Tensor> inputs{input(DType::kFp32, 1 + (round + lane) % 5, round * 2 + lane)};
        const std::vector<std::uint8_t> wanted{1};
        BatchRun batch;
        batch.inputs = inputs;
        batch.wanted = wanted;
        batch.pool = &pool_;
        batch.lane = lane;
        const Status status = session->run(batch);
        ASSERT_TRUE(status.ok()) << status.to_string();
        ASSERT_EQ(text(batch.outputs[0]), expected(inputs[0]));
      }
    });
  }
  for (std::thread& lane : lanes) lane.join();
}

TEST_P(Conformance, ARunIsStopped) {
  const auto session = open("slow", "input iterations INT64 [batch,1]\noutput y\nhold_on 1000000000\n");
  const std::vector<Tensor> forever{tensor<std::int64_t>({1, 1}, {1'000'000'000})};
  std::vector<Tensor> out;
  for (int i = 0; i < 3; ++i) {
    Interrupt interrupt;
    std::thread stopper([&] { interrupt.request(); });
    const Status status = run(*session, forever, out, {}, &interrupt);
    stopper.join();
    EXPECT_EQ(status.code(), Code::kCancelled) << status.to_string();
    EXPECT_TRUE(out.empty());
  }
  Interrupt before;
  before.request();
  EXPECT_EQ(run(*session, forever, out, {}, &before).code(), Code::kCancelled);
  Interrupt never;
  const std::vector<Tensor> short_one{tensor<std::int64_t>({1, 1}, {1})};
  EXPECT_TRUE(run(*session, short_one, out, {}, &never).ok());
}

TEST_P(Conformance, AFullPoolIsRefusedAndLeavesNothing) {
  const auto session = open("twice_fp32", "input x FP32 [batch,3]\noutput y\n");
  Pool small(PoolOptions{.cap = 64, .retain = 0});
  const std::vector<Tensor> inputs{input(DType::kFp32, 1000)};
  std::vector<Tensor> out;
  EXPECT_EQ(run(*session, inputs, out, {}, nullptr, &small).code(), Code::kResourceExhausted);
  EXPECT_TRUE(out.empty());
  EXPECT_EQ(small.stats().blocks_in_use, 0U);
}

TEST_P(Conformance, OutputsOutliveTheSession) {
  auto session = open("twice_fp32", "input x FP32 [batch,3]\noutput y\n");
  const std::vector<Tensor> inputs{input(DType::kFp32, 2)};
  const auto out = answers(*session, inputs);
  session.reset();
  EXPECT_EQ(text(out[0]), expected(inputs[0]));
}

TEST_P(Conformance, AMissingFileIsNotFound) {
  const auto session = backend_->load((folder_ / "nothing").string(), folder_.string(), {});
  EXPECT_EQ(session.status().code(), Code::kNotFound);
  EXPECT_NE(session.status().message().find((folder_ / "nothing").string()), std::string::npos);
}

TEST_P(Conformance, ACorruptFileIsNamed) {
  std::ofstream(folder_ / "broken") << "This is no model.\n";
  const auto session = backend_->load((folder_ / "broken").string(), folder_.string(), {});
  EXPECT_EQ(session.status().code(), Code::kInvalidArgument);
  EXPECT_NE(session.status().message().find((folder_ / "broken").string()), std::string::npos);
}

// All rows but the one that runs on a GPU and nowhere else.
std::vector<std::string_view> rows_for_any_machine() {
  std::vector<std::string_view> names = backend_names();
  std::erase(names, "tensorrt");
  return names;
}

INSTANTIATE_TEST_SUITE_P(Registry, Conformance, ::testing::ValuesIn(rows_for_any_machine()),
                         [](const auto& row) { return std::string(row.param); });

}  // namespace
}  // namespace headrace::testing
