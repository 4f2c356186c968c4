#include "backend/onnxruntime.h"

#include <thread>

#include "model_fixture.h"

namespace headrace::testing {
namespace {

class OnnxRuntimeTest : public BackendTest {
 protected:
  Status refusal(std::string_view name) {
    auto session = load_file(model_file(name));
    EXPECT_FALSE(session.ok()) << name << " was loaded";
    return session.status();
  }
};

bool mentions(const Status& status, std::string_view words) {
  return status.message().find(words) != std::string::npos;
}

TEST_F(OnnxRuntimeTest, ReadsTheSignature) {
  const auto session = load("shared_symbol");
  const Signature& signature = session->signature();
  ASSERT_EQ(signature.inputs.size(), 2U);
  EXPECT_EQ(signature.inputs[1].name, "b");
  EXPECT_EQ(signature.inputs[1].dtype, DType::kFp32);
  EXPECT_EQ(signature.inputs[1].dims, (std::vector<std::int64_t>{-1, -1}));
  EXPECT_EQ(signature.inputs[1].symbols, (std::vector<std::string>{"batch", "width"}));
  EXPECT_FALSE(signature.inputs[1].optional);
  ASSERT_EQ(signature.outputs.size(), 1U);
  EXPECT_EQ(signature.outputs[0].name, "sum");
  EXPECT_EQ(signature.metadata.at("producer"), "headrace");
}

TEST_F(OnnxRuntimeTest, ReadsTheMetadata) {
  const auto session = load("described");
  const std::map<std::string, std::string> expected{{"producer", "headrace"},
                                                    {"domain", "org.example"},
                                                    {"description", "Turns the sign."},
                                                    {"graph", "negation"},
                                                    {"version", "3"},
                                                    {"author", "Ada"},
                                                    {"graph_description", "One node."},
                                                    {"labels", "plus,minus"}};
  EXPECT_EQ(session->signature().metadata, expected);
}

TEST_F(OnnxRuntimeTest, TellsAScalarFromAnUnknownRank) {
  EXPECT_FALSE(load("scalar")->signature().inputs[0].any_rank);
  const auto session = load("unranked");
  EXPECT_TRUE(session->signature().inputs[0].any_rank);
  EXPECT_TRUE(session->signature().outputs[0].any_rank);
  const auto out = answers(*session, {tensor<float>({2, 1, 2}, {1, 2, 3, 4})});
  EXPECT_EQ(out[0].shape, Shape({2, 1, 2}));
  EXPECT_EQ(values<float>(out[0]), (std::vector<float>{-1, -2, -3, -4}));
}

TEST_F(OnnxRuntimeTest, AddsAndSubtracts) {
  const auto session = load("add_sub");
  for (const std::int64_t rows : {1, 32, 2}) {
    std::vector<std::int32_t> a;
    std::vector<std::int32_t> b;
    std::vector<std::int32_t> sum;
    std::vector<std::int32_t> difference;
    for (std::int32_t i = 0; i < rows * 16; ++i) {
      a.push_back(i * 3);
      b.push_back(7 - i);
      sum.push_back(i * 2 + 7);
      difference.push_back(i * 4 - 7);
    }
    const auto out = answers(*session, {tensor({rows, 16}, a), tensor({rows, 16}, b)});
    EXPECT_EQ(out[0].shape, Shape({rows, 16}));
    EXPECT_EQ(values<std::int32_t>(out[0]), sum);
    EXPECT_EQ(values<std::int32_t>(out[1]), difference);
  }
}

TEST_F(OnnxRuntimeTest, GivesOnlyWhatIsWanted) {
  const auto session = load("add_sub");
  const std::vector<std::int32_t> ones(16, 1);
  const std::vector<Tensor> inputs{tensor({1, 16}, ones), tensor({1, 16}, ones)};
  std::vector<Tensor> out;
  ASSERT_TRUE(run(*session, inputs, out, {0, 1}).ok());
  ASSERT_EQ(out.size(), 2U);
  EXPECT_FALSE(out[0]);
  EXPECT_EQ(values<std::int32_t>(out[1]), std::vector<std::int32_t>(16, 0));
  ASSERT_TRUE(run(*session, inputs, out, {0, 0}).ok());
  EXPECT_FALSE(out[0] || out[1]);
}

TEST_F(OnnxRuntimeTest, AnOptionalInputHasItsDefault) {
  const auto session = load("optional_input");
  const Signature& signature = session->signature();
  ASSERT_EQ(signature.inputs.size(), 2U);
  EXPECT_EQ(signature.inputs[1].name, "scale");
  EXPECT_TRUE(signature.inputs[1].optional);
  const std::vector<float> x{1, 2, 3, 4};
  EXPECT_EQ(values<float>(answers(*session, {tensor({1, 4}, x), Tensor()})[0]), (std::vector<float>{2, 4, 6, 8}));
  EXPECT_EQ(values<float>(answers(*session, {tensor({1, 4}, x), tensor<float>({1}, {10})})[0]),
            (std::vector<float>{10, 20, 30, 40}));
  std::vector<Tensor> out;
  const std::vector<Tensor> missing{Tensor(), tensor<float>({1}, {10})};
  const Status status = run(*session, missing, out);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_EQ(status.message(), "Input 'x' is missing.");
}

TEST_F(OnnxRuntimeTest, StringsHoldAnyBytes) {
  const auto session = load("twice_bytes");
  const std::vector<std::string> x{std::string("a\0b", 3), "", "h\xc3\xa9"};
  const auto out = answers(*session, {strings({1, 3}, x)});
  EXPECT_EQ(string_values(out[0]), (std::vector<std::string>{x[0], x[1], x[2], x[0], x[1], x[2]}));
}

TEST_F(OnnxRuntimeTest, OutputsThatNoKernelWritesAreRight) {
  const auto session = load("handed_on");
  const std::vector<float> x{1, 2, 3, 4, 5, -6};
  for (int i = 0; i < 3; ++i) {
    const auto out = answers(*session, {tensor({2, 3}, x)});
    ASSERT_EQ(out.size(), 5U);
    EXPECT_EQ(values<float>(out[0]), x);
    EXPECT_EQ(values<float>(out[1]), (std::vector<float>{1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(values<float>(out[2]), x);
    EXPECT_EQ(values<float>(out[3]), (std::vector<float>{-1, -2, -3, -4, -5, -6}));
    EXPECT_EQ(values<float>(out[4]), x);
    EXPECT_EQ(out[4].shape, Shape({6}));
  }
}

TEST_F(OnnxRuntimeTest, BothBranchesOfAnIfAreRight) {
  const auto session = load("branch");
  const std::vector<float> x{1, 2, 3, 4};
  const std::uint8_t bits[] = {0, 1};
  for (const int condition : {1, 0, 1, 1, 0}) {
    const auto out = answers(*session, {tensor({1, 4}, x), bytes_tensor(DType::kBool, {}, &bits[condition], 1)});
    EXPECT_EQ(values<float>(out[0]), condition == 1 ? x : (std::vector<float>{-1, -2, -3, -4}));
  }
}

TEST_F(OnnxRuntimeTest, AnOutputThatIsNotAsStatedKeepsItsRealShape) {
  const auto session = load("compress");
  const std::vector<float> x{1, 2, 3, 4, -1, 2, 3, 4};
  const auto all = answers(*session, {tensor<float>({1, 4}, {1, 2, 3, 4})});
  EXPECT_EQ(all[0].shape, Shape({1, 4}));
  for (int i = 0; i < 2; ++i) {
    const auto out = answers(*session, {tensor({2, 4}, x)});
    EXPECT_EQ(out[0].shape, Shape({1, 4}));
    EXPECT_EQ(values<float>(out[0]), (std::vector<float>{1, 2, 3, 4}));
  }
}

TEST_F(OnnxRuntimeTest, DynamicInnerDimensions) {
  const auto session = load("dynamic_inner");
  const auto out = answers(*session, {tensor<float>({1, 2, 4}, {1, 2, 3, 4, 10, 20, 30, 40})});
  EXPECT_EQ(values<float>(out[0]), (std::vector<float>{2, 4, 6, 8, 20, 40, 60, 80}));
  EXPECT_EQ(values<float>(out[1]), (std::vector<float>{11, 22, 33, 44}));
  const auto none = answers(*session, {tensor<float>({2, 0, 4}, {})});
  EXPECT_EQ(none[0].shape, Shape({2, 0, 4}));
  EXPECT_EQ(values<float>(none[1]), std::vector<float>(8, 0));
}

TEST_F(OnnxRuntimeTest, WrongInputsAreTheCallersFault) {
  const auto session = load("shared_symbol");
  std::vector<Tensor> out;
  const std::vector<float> six(6, 1);
  const std::vector<Tensor> rank{tensor({6}, six), tensor({2, 3}, six)};
  EXPECT_EQ(run(*session, rank, out).code(), Code::kInvalidArgument);
  const std::vector<Tensor> dtype{tensor<double>({1, 1}, {1}), tensor({2, 3}, six)};
  EXPECT_EQ(run(*session, dtype, out).message(), "Input 'a' has datatype FP64; the model takes FP32.");
  std::vector<Tensor> cut{tensor({2, 3}, six), tensor({2, 3}, six)};
  cut[1].size -= 4;
  const Status status = run(*session, cut, out);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_TRUE(mentions(status, "'b'")) << status.to_string();
  EXPECT_TRUE(out.empty());
}

TEST_F(OnnxRuntimeTest, InputsThatDisagreeAreAnErrorWithTheRuntimesWords) {
  const auto session = load("shared_symbol");
  std::vector<Tensor> out;
  const std::vector<Tensor> inputs{tensor<float>({2, 3}, std::vector<float>(6, 1)),
                                   tensor<float>({2, 2}, std::vector<float>(4, 1))};
  const Status status = run(*session, inputs, out);
  EXPECT_EQ(status.code(), Code::kInternal);
  EXPECT_TRUE(mentions(status, "ONNX Runtime failed: ")) << status.to_string();
}

TEST_F(OnnxRuntimeTest, AFullPoolIsAnAnswer) {
  const auto session = load("mlp");
  const std::vector<Tensor> inputs{tensor<float>({64, 64}, std::vector<float>(64 * 64, 1))};
  Pool small(PoolOptions{.cap = 64, .retain = 0});
  std::vector<Tensor> out;
  EXPECT_EQ(run(*session, inputs, out, {}, nullptr, &small).code(), Code::kResourceExhausted);
  EXPECT_EQ(small.stats().blocks_in_use, 0U);
  EXPECT_TRUE(run(*session, inputs, out).ok());
}

TEST_F(OnnxRuntimeTest, RefusesWhatIsNoTensorAndSaysWhatToDo) {
  const Status map = refusal("zipmap");
  EXPECT_EQ(map.code(), Code::kUnimplemented);
  EXPECT_TRUE(mentions(map, "output 'output_probability' is a sequence of maps")) << map.to_string();
  EXPECT_TRUE(mentions(map, "zipmap=False")) << map.to_string();
  const Status sequence = refusal("sequence_output");
  EXPECT_EQ(sequence.code(), Code::kUnimplemented);
  EXPECT_TRUE(mentions(sequence, "output 'parts' is a sequence")) << sequence.to_string();
  EXPECT_TRUE(mentions(sequence, "ConcatFromSequence")) << sequence.to_string();
  const Status optional = refusal("optional_type");
  EXPECT_EQ(optional.code(), Code::kUnimplemented);
  EXPECT_TRUE(mentions(optional, "output 'maybe' is of an optional type")) << optional.to_string();
}

TEST_F(OnnxRuntimeTest, RefusesElementTypesByName) {
  const Status float8 = refusal("float8");
  EXPECT_EQ(float8.code(), Code::kUnimplemented);
  EXPECT_TRUE(mentions(float8, "output 'y' is of element type float8e4m3fn")) << float8.to_string();
  const Status int4 = refusal("int4");
  EXPECT_EQ(int4.code(), Code::kUnimplemented);
  EXPECT_TRUE(mentions(int4, "input 'x' is of element type int4")) << int4.to_string();
}

TEST_F(OnnxRuntimeTest, LoadErrorsNameTheFileAndTheRuntimesWords) {
  const Status missing = refusal("nothing_here");
  EXPECT_EQ(missing.code(), Code::kNotFound);
  EXPECT_TRUE(mentions(missing, model_file("nothing_here"))) << missing.to_string();
  const Status corrupt = refusal("corrupt");
  EXPECT_EQ(corrupt.code(), Code::kInvalidArgument);
  EXPECT_TRUE(mentions(corrupt, model_file("corrupt"))) << corrupt.to_string();
  const Status unknown = refusal("no_kernel");
  EXPECT_EQ(unknown.code(), Code::kInvalidArgument);
  EXPECT_TRUE(mentions(unknown, "example.nowhere:Nonesuch")) << unknown.to_string();
  const auto folder = load_file(models_ + "/external_inside");
  EXPECT_EQ(folder.status().code(), Code::kInvalidArgument);
}

TEST_F(OnnxRuntimeTest, ExternalDataInsideTheFolderIsServed) {
  for (const char* name : {"external_inside", "external_folder", "external_link_inside", "external_constant_inside"}) {
    const auto session = load(std::string(name) + "/model");
    const auto out = answers(*session, {tensor<float>({1, 4}, {1, 2, 3, 4})});
    EXPECT_EQ(values<float>(out[0]), (std::vector<float>{3, 6, 9, 12})) << name;
  }
}

TEST_F(OnnxRuntimeTest, OptionsReachTheRuntime) {
  SessionOptions options;
  options.intra_op_threads = 2;
  options.inter_op_threads = 2;
  options.parallel_execution = true;
  options.graph_optimization_level = 0;
  options.memory_arena = false;
  options.memory_pattern = false;
  options.config_entries["session.disable_prepacking"] = "1";
  const auto session = load("mlp", options);
  const std::vector<Tensor> inputs{tensor<float>({4, 64}, std::vector<float>(256, 0.5))};
  EXPECT_EQ(answers(*session, inputs)[0].shape, Shape({4, 10}));
  // The runtime's own check of an entry shows that it arrives.
  options.config_entries["session.graph_optimizations_loop_level"] = "nonsense";
  const auto refused = load_file(model_file("mlp"), options);
  EXPECT_EQ(refused.status().code(), Code::kInvalidArgument);
  EXPECT_TRUE(mentions(refused.status(), "mlp.onnx")) << refused.status().to_string();
}

TEST_F(OnnxRuntimeTest, AStoppedRunIsCancelledAndTheNextOneRuns) {
  const auto session = load("slow");
  std::vector<Tensor> out;
  const std::vector<Tensor> forever{tensor<std::int64_t>({1, 1}, {1'000'000'000})};
  Interrupt interrupt;
  std::thread stopper([&] { interrupt.request(); });
  const Status status = run(*session, forever, out, {}, &interrupt);
  stopper.join();
  EXPECT_EQ(status.code(), Code::kCancelled) << status.to_string();
  EXPECT_TRUE(out.empty());
  Interrupt fresh;
  const std::vector<Tensor> one{tensor<std::int64_t>({1, 1}, {1})};
  EXPECT_TRUE(run(*session, one, out, {}, &fresh).ok());
  EXPECT_EQ(values<float>(out[0]), std::vector<float>{1});
}

TEST_F(OnnxRuntimeTest, TheRuntimesLogReachesItsReceiversAndNobodyElse) {
  std::vector<std::string> lines;
  options_.log_context = &lines;
  options_.log_sink = [](void* context, LogLevel level, std::string_view where, std::string_view message) {
    EXPECT_GE(level, LogLevel::kWarning);
    EXPECT_FALSE(where.empty());
    static_cast<std::vector<std::string>*>(context)->emplace_back(message);
  };
  ::testing::internal::CaptureStderr();
  {
    auto backend = open_backend("onnxruntime", options_);
    ASSERT_TRUE(backend.ok());
    auto session = (*backend)->load(model_file("gather_rows"), models_, {});
    ASSERT_TRUE(session.ok());
    std::vector<Tensor> out;
    const std::vector<Tensor> bad{tensor<std::int64_t>({1, 2}, {0, 9})};
    EXPECT_EQ(run(**session, bad, out).code(), Code::kInvalidArgument);
    EXPECT_FALSE(lines.empty());
    lines.clear();
    backend = Status(Code::kUnavailable, "closed");  // the receiver goes with the backend
    EXPECT_FALSE(run(**session, bad, out).ok());
    EXPECT_TRUE(lines.empty());
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST_F(OnnxRuntimeTest, AMissingRuntimeNamesThePackage) {
  const auto none = open_backend("onnxruntime", {});
  EXPECT_EQ(none.status().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(mentions(none.status(), "pip install headrace[cpu]")) << none.status().to_string();
  BackendOptions wrong;
  wrong.onnxruntime_library = models_ + "/libonnxruntime.so.0";
  const auto gone = open_backend("onnxruntime", wrong);
  EXPECT_EQ(gone.status().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(mentions(gone.status(), wrong.onnxruntime_library)) << gone.status().to_string();
  wrong.onnxruntime_library = "libm.so.6";
  const auto other = open_backend("onnxruntime", wrong);
  EXPECT_EQ(other.status().code(), Code::kFailedPrecondition);
  EXPECT_TRUE(mentions(other.status(), "OrtGetApiBase")) << other.status().to_string();
}

}  // namespace
}  // namespace headrace::testing
