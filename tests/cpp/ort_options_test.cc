#include "backend/ort_options.h"

#include "model_fixture.h"

namespace headrace::testing {
namespace {

class OrtOptionsTest : public BackendTest {};

TEST_F(OrtOptionsTest, TakesWhatItIsGivenAndHandsUpWhatTheRuntimeRefuses) {
  const auto library = ort::Library::open(options_.onnxruntime_library);
  ASSERT_TRUE(library.ok());
  const ort::Api api = (*library)->api();
  SessionOptions given;
  given.intra_op_threads = 2;
  given.parallel_execution = true;
  given.memory_arena = given.memory_pattern = false;
  given.config_entries = {{"session.intra_op.allow_spinning", "1"}};
  ort::OptionsHandle options(api);
  EXPECT_FALSE(ort::make_options(api, given, nullptr, options));
  EXPECT_NE(options.get(), nullptr);
  given.config_entries[std::string(5000, 'k')] = "longer than a key may be";
  EXPECT_TRUE(ort::make_options(api, given, nullptr, options));
}

}  // namespace
}  // namespace headrace::testing
