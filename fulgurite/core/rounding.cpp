#include "fulgurite/core/rounding.h"

#include "fulgurite/core/assert.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fulgurite {
namespace {

#if defined(__x86_64__)
constexpr bool kX86 = true;
float approximate_12(float m) { return _mm_cvtss_f32(_mm_rsqrt_ss(_mm_set_ss(m))); }
__attribute__((target("avx512f"))) float approximate_14(float m) {
  const __m128 value = _mm_set_ss(m);
  return _mm_cvtss_f32(_mm_rsqrt14_ss(value, value));
}
#else
constexpr bool kX86 = false;
float approximate_12(float) { FULGURITE_ASSERT(false, "rsqrt = x86_12 needs an x86-64 processor"); }
float approximate_14(float) { FULGURITE_ASSERT(false, "rsqrt = x86_14 needs an x86-64 processor"); }
#endif

}  // namespace

Support takes_rsqrt(const Setting& setting) {
  const Rsqrt knob = setting.numerics.rsqrt;
  const Support listed =
      takes(knob, {Rsqrt::kCorrect, Rsqrt::kTwoStep, Rsqrt::kX86_12, Rsqrt::kX86_14, Rsqrt::kError});
  if (listed) return listed;
  if (knob == Rsqrt::kX86_12 && !kX86) return Refusal{"rsqrt = x86_12, needs an x86-64 processor"};
  if (knob == Rsqrt::kX86_14 && setting.target.isa < Isa::kAvx512)
    return Refusal{"rsqrt = x86_14, needs avx512, the device has " + std::string(name(setting.target.isa))};
  return std::nullopt;
}

float reciprocal_sqrt(float m, const Numerics& numerics) {
  switch (numerics.rsqrt) {
    case Rsqrt::kCorrect:
      return correct_reciprocal_sqrt(m);
    case Rsqrt::kTwoStep:
      return 1.0f / std::sqrt(m);
    case Rsqrt::kX86_12:
      return approximate_12(m);
    case Rsqrt::kX86_14:
      return approximate_14(m);
    case Rsqrt::kError:
      return static_cast<float>(static_cast<double>(correct_reciprocal_sqrt(m)) *
                                (1.0 + static_cast<double>(numerics.rsqrt_error)));
    case Rsqrt::kCuda:
      break;
  }
  FULGURITE_ASSERT(false, "rsqrt = {} was refused", value_name(numerics.rsqrt));
}

}  // namespace fulgurite
