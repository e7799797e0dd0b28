#include "fulgurite/plan/bytes.h"

#include <array>

#include "fulgurite/core/error.h"

namespace fulgurite::plan {

int64_t product(std::initializer_list<int64_t> factors) {
  int64_t total = 1;
  for (const int64_t factor : factors)
    if (__builtin_mul_overflow(total, factor, &total) || total > INT64_MAX / 8)
      fail(ErrorKind::kMemory,
           "the plan needs more bytes than an address can count: ask for less context or batch");
  return total;
}

std::string human_bytes(int64_t bytes) {
  static constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < kUnits.size()) {
    value /= 1024.0;
    unit += 1;
  }
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : value < 100 ? 1 : 0, kUnits[unit]);
}

}  // namespace fulgurite::plan
