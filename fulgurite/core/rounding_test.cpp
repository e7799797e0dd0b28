#include "fulgurite/core/rounding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "fulgurite/core/random.h"

namespace fulgurite {
namespace {

Setting setting_of(Rsqrt knob, Isa isa = Isa::kAvx512) {
  Setting setting{{DeviceKind::kCpu, isa}, Numerics::fp32()};
  setting.numerics.rsqrt = knob;
  return setting;
}

#if defined(__x86_64__)
bool has_avx512() { return __builtin_cpu_supports("avx512f"); }
#else
bool has_avx512() { return false; }
#endif

// The largest relative error over values of all magnitudes that a norm may have.
double largest_error(Rsqrt knob) {
  Random random(1);
  double largest = 0.0;
  for (int i = 0; i < 500000; ++i) {
    const auto m = static_cast<float>(std::exp2(random.uniform(-100.0, 100.0)));
    const double exact = 1.0 / std::sqrt(static_cast<double>(m));
    largest = std::max(largest, std::abs(reciprocal_sqrt(m, setting_of(knob).numerics) / exact - 1.0));
  }
  return largest;
}

TEST(rounding, the_correct_root_is_the_nearest_fp32_and_two_steps_are_within_two_roundings) {
  EXPECT_LE(largest_error(Rsqrt::kCorrect), 0x1.0001p-24);
  EXPECT_GT(largest_error(Rsqrt::kTwoStep), 0x1.1p-24);
  EXPECT_LE(largest_error(Rsqrt::kTwoStep), 0x1.81p-24);
  EXPECT_EQ(reciprocal_sqrt(4.0f, setting_of(Rsqrt::kCorrect).numerics), 0.5f);
}

// The bounds are Intel's, for RSQRTSS and VRSQRT14SS.
TEST(rounding, the_x86_estimates_have_the_accuracy_of_their_name) {
  if (takes_rsqrt(setting_of(Rsqrt::kX86_12))) GTEST_SKIP() << "no x86-64 processor";
  EXPECT_GT(largest_error(Rsqrt::kX86_12), 0x1p-14);
  EXPECT_LE(largest_error(Rsqrt::kX86_12), 1.5 * 0x1p-12);
  if (!has_avx512()) GTEST_SKIP() << "no AVX-512";
  EXPECT_GT(largest_error(Rsqrt::kX86_14), 0x1p-16);
  EXPECT_LE(largest_error(Rsqrt::kX86_14), 0x1p-14);
}

TEST(rounding, an_error_is_applied_to_the_correct_root) {
  Random random(2);
  Numerics correct = Numerics::fp32(), wrong = correct;
  wrong.rsqrt = Rsqrt::kError;
  for (const float error : {0.0f, 1e-3f, -1e-4f, 0x1p-24f}) {
    wrong.rsqrt_error = error;
    for (int i = 0; i < 1000; ++i) {
      const auto m = static_cast<float>(random.uniform(1e-6, 1e6));
      const double r = reciprocal_sqrt(m, correct);
      EXPECT_EQ(reciprocal_sqrt(m, wrong), static_cast<float>(r * (1.0 + static_cast<double>(error))));
    }
  }
  wrong.rsqrt_error = 0.25f;
  EXPECT_EQ(reciprocal_sqrt(4.0f, wrong), 0.625f);
}

TEST(rounding, refuses_what_the_device_does_not_have) {
  const auto reason = [](Rsqrt knob, Isa isa) {
    const Support support = takes_rsqrt(setting_of(knob, isa));
    return support ? support->reason : "";
  };
  EXPECT_EQ(reason(Rsqrt::kCorrect, Isa::kPortable), "");
  EXPECT_EQ(reason(Rsqrt::kError, Isa::kPortable), "");
  EXPECT_EQ(reason(Rsqrt::kCuda, Isa::kAvx512),
            "rsqrt = cuda, takes correct or two_step or x86_12 or x86_14 or error");
  EXPECT_EQ(reason(Rsqrt::kX86_14, Isa::kAvx2), "rsqrt = x86_14, needs avx512, the device has avx2");
  EXPECT_EQ(reason(Rsqrt::kX86_14, Isa::kAvx512Bf16), "");
}

}  // namespace
}  // namespace fulgurite
