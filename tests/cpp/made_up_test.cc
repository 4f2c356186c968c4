#include "engine/made_up.h"

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <utility>

namespace headrace {
namespace {

constexpr DType kAll[] = {DType::kBool, DType::kUint8, DType::kUint16, DType::kUint32, DType::kUint64,
                          DType::kInt8, DType::kInt16, DType::kInt32,  DType::kInt64,  DType::kFp16,
                          DType::kBf16, DType::kFp32,  DType::kFp64};

TEST(MadeUpTest, AnElementHasTheSizeOfItsType) {
  MadeUp values(1);
  for (const DType dtype : kAll) {
    std::string bytes;
    for (int i = 0; i < 10; ++i) values.append(bytes, dtype);
    EXPECT_EQ(bytes.size(), 10 * element_size(dtype)) << dtype_name(dtype);
  }
  std::string words;
  for (int i = 0; i < 10; ++i) values.append(words, DType::kBytes);
  EXPECT_TRUE(check_bytes_tensor(std::as_bytes(std::span(words.data(), words.size())), 10).ok());
}

TEST(MadeUpTest, TheSameSeedMakesTheSameValues) {
  std::string first;
  std::string again;
  std::string other;
  for (const auto& [bytes, seed] : {std::pair{&first, 1U}, std::pair{&again, 1U}, std::pair{&other, 2U}}) {
    MadeUp values(seed);
    for (int i = 0; i < 8; ++i) values.append(*bytes, DType::kFp32);
  }
  EXPECT_EQ(first, again);
  EXPECT_NE(first, other);
}

TEST(MadeUpTest, AnIntegerThatReplacesOneIsTheOther) {
  MadeUp values(1);
  std::string bytes;
  values.append(bytes, DType::kInt8, 1.0F, true);
  values.append(bytes, DType::kInt8, 1.0F, false);
  EXPECT_EQ(bytes, std::string("\0\1", 2));
}

}  // namespace
}  // namespace headrace
