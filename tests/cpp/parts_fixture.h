// What tests of models that answer a request any number of times share.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "stream_fixture.h"
#include "temporary_folder.h"

namespace headrace::testing {

class PartsTest : public InferStreamTest {
 protected:
  // A model "m" that answers once for each row of x.
  void start_parts(const std::string& more = "answers rows", bool says_so = true) {
    engine_options_.lanes = 1;
    engine_ = std::make_shared<Engine>(engine_options_);
    loop_ = std::make_unique<Loop>(engine_, loop_options_);
    const Result<std::shared_ptr<Model>> loaded = load(more, says_so);
    ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
    model_ = *loaded;
    publish();
  }
  Result<std::shared_ptr<Model>> load(const std::string& more, bool says_so) {
    const std::string file = folder_ / "parts.echo";  // not one for all: tests run beside each other
    std::ofstream(file) << "input x INT32 [-1," << columns_ << "]\noutput y\nfail_on -1\nhold_on -2\n" << more << "\n";
    ModelSpec spec;
    spec.name = "m";
    spec.version = 3;
    spec.backend = "echo";
    spec.model_file = file;
    spec.model_dir = folder_.string();
    spec.batching_decided = true;
    spec.batching.max_batch_size = max_batch_size_;
    spec.decoupled = says_so;
    return engine_->load(spec);
  }
  static Values count(std::int32_t rows, std::int32_t from = 0) {
    Values values;
    for (std::int32_t i = 0; i < rows; ++i) values.push_back(from + i);
    return values;
  }

  TemporaryFolder folder_;
  int columns_ = 1;
  std::int64_t max_batch_size_ = 1 << 20;
};

}  // namespace headrace::testing
