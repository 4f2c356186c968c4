// A broken invariant of our own ends the process with the place and the condition.
// Never for anything that a client, a file or an operator can cause: those get a Status.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace headrace {

[[noreturn]] inline void check_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "headrace: invariant broken: %s (%s:%d)\n", condition, file, line);
  std::abort();
}

}  // namespace headrace

#define HEADRACE_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::headrace::check_failed(#condition, __FILE__, __LINE__))
