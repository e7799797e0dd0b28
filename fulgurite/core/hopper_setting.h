#pragma once
// The setting that the small steps' rows of Hopper take: their kernels have dependent launches and clusters, and
// these roots.

#include "fulgurite/core/implementation.h"

namespace fulgurite {

inline Support takes_hopper_setting(const Setting& setting) {
  return first_refusal({takes_sm(setting.target, 90), takes(setting.numerics.mma, {Mma::kExact}),
                        takes(setting.numerics.rsqrt, {Rsqrt::kCorrect, Rsqrt::kTwoStep}),
                        takes(setting.numerics.activation, {Activation::kFp32, Activation::kBf16})});
}

}  // namespace fulgurite
