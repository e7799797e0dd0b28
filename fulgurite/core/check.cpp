#include "fulgurite/core/check.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "fulgurite/core/error.h"

namespace fulgurite {

void Check::clause(const char* name, std::span<const int64_t> extent, std::span<const int64_t> stride,
                   std::span<const int64_t> expected) const {
  if (!std::ranges::equal(extent, expected))
    fail(ErrorKind::kRequest, "{}: {}: expected shape [{}], found [{}]", operation_, name,
         fmt::join(expected, ", "), fmt::join(extent, ", "));
  const bool empty = std::ranges::find(extent, 0) != extent.end();
  if (!empty && extent.back() > 1 && stride.back() != 1)
    fail(ErrorKind::kRequest, "{}: {}: expected contiguous rows, found a stride of {} elements", operation_,
         name, stride.back());
}

void Check::type_clause(const char* name, DType found, DType expected) const {
  if (found != expected)
    fail(ErrorKind::kRequest, "{}: {}: expected {}, found {}", operation_, name, fulgurite::name(expected),
         fulgurite::name(found));
}

const Check& Check::range(const char* name, int64_t value, int64_t low, int64_t high) const {
  if (value < low || value > high)
    fail(ErrorKind::kRequest, "{}: {}: expected a value in [{}, {}], found {}", operation_, name, low, high,
         value);
  return *this;
}

}  // namespace fulgurite
