#include "memory/process_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

namespace headrace {
namespace {

TEST(ProcessMemoryTest, PagesThatAreTouchedAreResident) {
  constexpr std::size_t kBytes = std::size_t{32} << 20;
  const std::size_t before = resident_bytes();
  ASSERT_GT(before, 0U);
  void* pages = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  std::memset(pages, 1, kBytes);
  EXPECT_GE(resident_bytes(), before + kBytes / 2);
  EXPECT_GE(resident_bytes_peak(), before + kBytes / 2);
  ::munmap(pages, kBytes);
  release_heap();
  EXPECT_LT(resident_bytes(), before + kBytes / 2);
  EXPECT_GE(resident_bytes_peak(), before + kBytes / 2) << "the peak stays";
}

}  // namespace
}  // namespace headrace
