#pragma once
// A broken invariant of ours, never bad input. Prints where and what, then aborts: in tests and in release
// alike; measured inner loops do without.

#include <fmt/format.h>

#include <string>

namespace fulgurite {

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line,
                                   const std::string& values);

}  // namespace fulgurite

#define FULGURITE_ASSERT(condition, ...)                                                         \
  do {                                                                                           \
    if (!(condition))                                                                            \
      ::fulgurite::assertion_failed(#condition, __FILE__, __LINE__, ::fmt::format(__VA_ARGS__)); \
  } while (false)
