#include "fulgurite/core/assert.h"

#include <cstdio>
#include <cstdlib>

namespace fulgurite {

void assertion_failed(const char* condition, const char* file, int line, const std::string& values) {
  std::fprintf(stderr, "%s:%d: broken invariant: %s (%s)\n", file, line, condition, values.c_str());
  std::abort();
}

}  // namespace fulgurite
