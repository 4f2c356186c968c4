#include "engine/catalog.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace headrace {
namespace {

std::shared_ptr<Model> model(const std::string& name, std::int64_t version) {
  auto made = std::make_shared<Model>();
  made->name = name;
  made->version = version;
  return made;
}

TEST(Catalog, ResolvesANameAndAVersion) {
  Catalog catalog;
  const auto one = model("digits", 1);
  const auto three = model("digits", 3);
  catalog.add("digits", "1", one);
  catalog.add("digits", "3", three);
  catalog.add("digits", "", three);
  EXPECT_EQ(*catalog.resolve("digits", ""), three.get());
  EXPECT_EQ(*catalog.resolve("digits", "1"), one.get());
  EXPECT_EQ(*catalog.resolve("digits", "3"), three.get());
}

TEST(Catalog, ASecondAddReplacesTheFirst) {
  Catalog catalog;
  const auto one = model("digits", 1);
  const auto two = model("digits", 2);
  catalog.add("digits", "", one);
  catalog.add("digits", "", two);
  EXPECT_EQ(*catalog.resolve("digits", ""), two.get());
  EXPECT_EQ(one.use_count(), 1);
  catalog.add_unavailable("digits", "", "it is loading");
  EXPECT_EQ(catalog.resolve("digits", "").status().code(), Code::kUnavailable);
  EXPECT_EQ(two.use_count(), 1);
}

TEST(Catalog, NamesWhatIsUnknown) {
  Catalog catalog;
  catalog.add("digits", "1", model("digits", 1));
  catalog.add("digits", "2", model("digits", 2));
  catalog.add_unavailable("digits", "3", "broken");
  catalog.add("digits", "", model("digits", 2));
  EXPECT_EQ(catalog.resolve("Digits", "").status().to_string(),
            "NOT_FOUND: model 'Digits' is not in the model repository");
  EXPECT_EQ(catalog.resolve("digits", "4").status().to_string(),
            "NOT_FOUND: model 'digits' has no version '4'; it serves: 1, 2");
}

TEST(Catalog, SaysWhyAModelIsNotToBeHad) {
  Catalog catalog;
  catalog.add_unavailable("digits", "1", "model.onnx cannot be read");
  EXPECT_EQ(catalog.resolve("digits", "1").status().to_string(),
            "UNAVAILABLE: model 'digits' is not available: model.onnx cannot be read");
  EXPECT_EQ(catalog.resolve("digits", "2").status().to_string(),
            "NOT_FOUND: model 'digits' has no version '2'; it serves: none");
}

TEST(Catalog, KeepsItsModels) {
  std::weak_ptr<Model> seen;
  {
    Catalog catalog;
    {
      auto made = model("digits", 1);
      seen = made;
      catalog.add("digits", "1", std::move(made));
    }
    EXPECT_FALSE(seen.expired());
  }
  EXPECT_TRUE(seen.expired());
}

TEST(Catalog, AModelIsTracedByItsOwnSamplerOrByEverybodys) {
  Catalog catalog;
  EXPECT_EQ(catalog.sampler("digits"), nullptr);
  const auto all = std::make_shared<TraceSampler>(1, 1, -1);
  const auto own = std::make_shared<TraceSampler>(2, 1, -1);
  catalog.trace("digits", own);
  EXPECT_EQ(catalog.sampler("digits"), own.get());
  EXPECT_EQ(catalog.sampler("faces"), nullptr);
  catalog.trace("", all);
  catalog.trace("quiet", nullptr);
  EXPECT_EQ(catalog.sampler("faces"), all.get());
  EXPECT_EQ(catalog.sampler("digits"), own.get());
  EXPECT_EQ(catalog.sampler("quiet"), nullptr) << "no sampler of its own is not the same as none";
}

}  // namespace
}  // namespace headrace
