#include "fulgurite/core/tensor_core.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "fulgurite/core/assert.h"

namespace fulgurite {
namespace {

// What an instruction does with a type.
struct Unit {
  int fraction;      // bits of a factor's significand behind the point
  int least;         // exponent of the smallest normal factor
  int columns;       // a group
  int kept;          // F: bits below `top` that are added
  int result_width;  // bits of the result's significand
};
constexpr Unit kUnits[] = {{3, -6, 32, 13, 14}, {7, -126, 16, 25, 24}, {10, -14, 16, 25, 24}};
constexpr const Unit& unit_of(MmaType type) { return kUnits[static_cast<size_t>(type)]; }

constexpr float kNan = std::bit_cast<float>(0x7FFFFFFFu);
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Exponents that no number has. With any partner a zero stays below kNone, and what is no number above kNumbers.
constexpr int kZero = -4096, kNone = -2048, kNumbers = 2048, kSpecial = 16384;
constexpr int16_t kNanSignificand = 2;  // an infinity has +-1

bool is_number(float x) { return std::fabs(x) < kInfinity; }

// --- a group with an infinity or NaN: by its signs alone ---

bool is_nan_product(const MmaFactor& a, const MmaFactor& b) {
  const auto is_nan = [](const MmaFactor& f) {
    return f.exponent == kSpecial && f.significand == kNanSignificand;
  };
  const auto vanishes = [](const MmaFactor& f) { return f.significand == 0; };
  return is_nan(a) || is_nan(b) || vanishes(a) || vanishes(b);
}

float special_sum(const MmaFactor* a, const MmaFactor* b, int64_t count, float accumulator) {
  bool rises = accumulator == kInfinity, falls = accumulator == -kInfinity;
  if (std::isnan(accumulator)) return kNan;
  for (int64_t k = 0; k < count; ++k) {
    if (a[k].exponent != kSpecial && b[k].exponent != kSpecial) continue;
    if (is_nan_product(a[k], b[k])) return kNan;
    ((a[k].significand < 0) == (b[k].significand < 0) ? rises : falls) = true;
  }
  if (rises && falls) return kNan;
  return rises ? kInfinity : -kInfinity;
}

// --- a group of numbers ---

// value * 2^-drop, toward zero; drop may be negative.
int64_t shifted(int64_t magnitude, int drop) {
  if (drop < 0) return magnitude << -drop;
  return drop > 62 ? 0 : magnitude >> drop;
}

struct Number {
  int64_t magnitude;  // value = +- magnitude * 2^(exponent - 23)
  int exponent;
};
Number split(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x) & 0x7FFFFFFFu;
  if (bits == 0) return {0, kZero};
  if (bits < 0x00800000u) return {bits, -126};
  return {(bits & 0x007FFFFFu) | 0x00800000u, static_cast<int>(bits >> 23) - 127};
}

// sum * 2^scale, truncated to `width` bits of its own and to fp32's smallest step.
float truncated(int64_t sum, int scale, int width) {
  constexpr int kLeastStep = -149;
  uint64_t magnitude = static_cast<uint64_t>(std::abs(sum));
  const int drop = std::max(static_cast<int>(std::bit_width(magnitude)) - width, kLeastStep - scale);
  if (drop > 63 || magnitude == 0) return 0.0f;
  if (drop > 0) magnitude = magnitude >> drop << drop;
  const double step = std::bit_cast<double>(static_cast<uint64_t>(scale + 1023) << 52);
  const auto value = static_cast<float>(static_cast<double>(magnitude) * step);  // exact, or infinity
  return sum < 0 ? -value : value;
}

// The sum of the products, each truncated to a multiple of 2^(top - F), in those. A product of significands is
// exact in a float, and conversion to an integer truncates: a loop without branches, which compilers widen. The
// sum of the largest 32 or 16 products stays below 2^31.
int64_t truncated_products(const Unit& unit, const MmaFactor* a, const MmaFactor* b, int64_t count, int top) {
  const int wider = unit.kept - 2 * unit.fraction;  // what a product at `top` has room for
  int32_t sum = 0;
  for (int64_t k = 0; k < count; ++k) {
    const auto product = static_cast<float>(a[k].significand * b[k].significand);
    const int below = std::min(top - a[k].exponent - b[k].exponent, 62);
    sum += static_cast<int32_t>(product * std::bit_cast<float>((127 + wider - below) << 23));
  }
  return sum;
}

float add_group(const Unit& unit, const MmaFactor* a, const MmaFactor* b, int64_t count, float accumulator) {
  int top = kNone;
  for (int64_t k = 0; k < count; ++k) top = std::max(top, a[k].exponent + b[k].exponent);
  if (top > kNumbers || !is_number(accumulator)) return special_sum(a, b, count, accumulator);
  const Number before = split(accumulator);
  top = std::max(top, before.exponent);
  if (top == kNone) return 0.0f;

  int64_t sum = shifted(before.magnitude, 23 - unit.kept + top - before.exponent);
  if (accumulator < 0.0f) sum = -sum;
  return truncated(sum + truncated_products(unit, a, b, count, top), top - unit.kept, unit.result_width);
}

// A factor that is no normal number.
MmaFactor other_factor(const Unit& unit, float value) {
  const int sign = std::signbit(value) ? -1 : 1;
  if (std::isnan(value)) return {kNanSignificand, kSpecial};
  if (std::isinf(value)) return {static_cast<int16_t>(sign), kSpecial};
  if (value == 0.0f) return {0, kZero};
  const Number number = split(value);
  const int exponent = std::max(number.exponent, unit.least);
  const int drop = 23 - unit.fraction + exponent - number.exponent;
  const int64_t significand = shifted(number.magnitude, drop);
  FULGURITE_ASSERT(significand << std::min(drop, 62) == number.magnitude,
                   "{} is no value of a tensor core's operand", value);
  return {static_cast<int16_t>(sign * significand), static_cast<int16_t>(exponent)};
}

}  // namespace

MmaFactor mma_factor(MmaType type, float value) {
  const Unit& unit = unit_of(type);
  const uint32_t bits = std::bit_cast<uint32_t>(value), fraction = bits & 0x007FFFFFu;
  const int exponent = static_cast<int>(bits >> 23 & 0xFFu) - 127, drop = 23 - unit.fraction;
  const bool normal = exponent >= unit.least && exponent < 128 && (fraction >> drop << drop) == fraction;
  if (!normal) return other_factor(unit, value);
  const int significand = static_cast<int>((fraction | 0x00800000u) >> drop);
  return {static_cast<int16_t>(bits >> 31 != 0 ? -significand : significand), static_cast<int16_t>(exponent)};
}

float mma_sum(MmaType type, std::span<const MmaFactor> a, std::span<const MmaFactor> b, float accumulator) {
  FULGURITE_ASSERT(a.size() == b.size(), "{} factors and {}", a.size(), b.size());
  const Unit& unit = unit_of(type);
  const auto count = static_cast<int64_t>(a.size());
  for (int64_t k = 0; k < count; k += unit.columns)
    accumulator =
        add_group(unit, a.data() + k, b.data() + k, std::min<int64_t>(unit.columns, count - k), accumulator);
  return accumulator;
}

// --- orders of K ---

int64_t SumOrder::part_of(int64_t column, int64_t columns, int64_t unit) const {
  const int64_t units = (columns + unit - 1) / unit;
  const int64_t each = step > 0 ? step : std::max<int64_t>((units + parts - 1) / parts, 1) * unit;
  return column / each % parts;
}

float SumOrder::merged(std::span<float> sums) const {
  if (merge == Merge::kAscending) {
    for (size_t p = 1; p < sums.size(); ++p) sums[0] += sums[p];
    return sums[0];
  }
  for (size_t apart = 1; apart < sums.size(); apart *= 2)
    for (size_t p = 0; p + apart < sums.size(); p += 2 * apart) sums[p] += sums[p + apart];
  return sums[0];
}

Support on_tensor_cores(const Support& refusal) {
  if (!refusal) return std::nullopt;
  return Refusal{"mma = hopper with " + refusal->reason};
}

Support takes_order(const SumOrder& order, int64_t unit) {
  if (order.parts >= 1 && order.step >= 0 && order.step % unit == 0) return std::nullopt;
  return Refusal{"order of K = " + std::to_string(order.parts) + " parts, step " +
                 std::to_string(order.step) + ", takes a step that is a multiple of " + std::to_string(unit)};
}

float mma_sum(MmaType type, std::span<const MmaFactor> a, std::span<const MmaFactor> b,
              const SumOrder& order) {
  if (order.parts == 1) return mma_sum(type, a, b);
  const auto columns = static_cast<int64_t>(a.size());
  const int64_t unit = mma_columns(type);
  std::vector<float> sums(static_cast<size_t>(order.parts), 0.0f);
  for (int64_t k = 0; k < columns; k += unit) {
    const auto at = static_cast<size_t>(k), count = static_cast<size_t>(std::min(unit, columns - k));
    float& sum = sums[static_cast<size_t>(order.part_of(k, columns, unit))];
    sum = mma_sum(type, a.subspan(at, count), b.subspan(at, count), sum);
  }
  return order.merged(sums);
}

}  // namespace fulgurite
