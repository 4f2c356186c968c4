// What tests of the engine share: one with two trial backends, tickets for it, and their answers.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "engine/engine.h"
#include "trial_session.h"

namespace headrace::testing {

class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.lanes = 2;
    options_.clock = &clock_;
    options_.backends["trial"] = std::make_shared<TrialBackend>(trial_);
    options_.backends["other"] = std::make_shared<TrialBackend>(other_trial_);
  }
  void start() {
    engine_ = std::make_unique<Engine>(options_);
    tickets_ = std::make_unique<Tickets>(engine_->pool(), answers_);
  }
  void TearDown() override {
    trial_.let_go();
    if (engine_ == nullptr) return;
    engine_->close();
    EXPECT_EQ(engine_->snapshot().tickets, 0U);
    EXPECT_EQ(engine_->snapshot().lanes_busy, 0);
    tickets_->finish(answers_);
    EXPECT_EQ(engine_->pool().stats().bytes_in_use, 0U);
    EXPECT_EQ(engine_->pool().stats().blocks_in_use, 0U);
    EXPECT_EQ(engine_->budget().charged(), 0U);
    engine_.reset();
    EXPECT_EQ(trial_.sessions(), 0) << "the sessions go with the engine";
    EXPECT_EQ(other_trial_.sessions(), 0);
  }

  static ModelSpec spec(const std::string& name, const std::string& backend = "trial") {
    ModelSpec made;
    made.name = name;
    made.backend = backend;
    made.model_file = "/models/" + name;
    made.batching_decided = true;
    made.batching.max_batch_size = 8;
    made.batching.dynamic_batching = true;
    return made;
  }
  std::shared_ptr<Model> load(const ModelSpec& wanted) {
    Result<std::shared_ptr<Model>> model = engine_->load(wanted);
    EXPECT_TRUE(model.ok()) << model.status().to_string();
    return model.ok() ? *model : nullptr;
  }
  Ticket* submit(const Model& model, const Values& rows, Nanos deadline = kNever) {
    Ticket* ticket = tickets_->make(rows, model.entry, clock_.now(), deadline);
    engine_->submit(ticket);
    return ticket;
  }
  Answer of(const Ticket* ticket) const { return answers_.of(ticket->cookie_call); }
  ModelSnapshot row(const std::string& name) const {
    for (const ModelSnapshot& model : engine_->snapshot().models) {
      if (model.name == name) return model;
    }
    ADD_FAILURE() << "no model " << name;
    return {};
  }

  ManualClock clock_{kSecond};
  Trial trial_;
  Trial other_trial_;
  EngineOptions options_;
  std::unique_ptr<Engine> engine_;
  Answers answers_;
  std::unique_ptr<Tickets> tickets_;
};

}  // namespace headrace::testing
