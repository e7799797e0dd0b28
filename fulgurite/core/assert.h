#pragma once
// A broken invariant of ours, never bad input. Prints where and what, then aborts: in tests and in release
// alike; measured inner loops do without.

#include <fmt/format.h>

#include <string>

namespace fulgurite {

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line,
                                   const std::string& values);

}  // namespace fulgurite

// A kernel of a GPU traps: the call that waits for it says so.
#if defined(__CUDA_ARCH__)
#define FULGURITE_ASSERT(condition, ...) \
  do {                                   \
    if (!(condition)) __trap();          \
  } while (false)
#else
#define FULGURITE_ASSERT(condition, ...)                                                         \
  do {                                                                                           \
    if (!(condition))                                                                            \
      ::fulgurite::assertion_failed(#condition, __FILE__, __LINE__, ::fmt::format(__VA_ARGS__)); \
  } while (false)
#endif
