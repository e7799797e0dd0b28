#pragma once
// What a GPU can do at most, measured here and now.

#include "bench/limits.h"

namespace fulgurite::bench {

// The best of several passes each: reading memory (half a GiB, more than its cache), tensor cores on operands in
// shared memory (bf16 and e4m3 by wgmma on Hopper, in a build for it; else bf16 alone, by mma.sync), fp32
// fused multiply-adds in registers. Each lasts some milliseconds: too short for the card to lower its clock, so no kernel that
// runs for long reaches it. Throws Error{kDevice} in a build without FULGURITE_CUDA.
Limits measure_gpu_limits(void* stream);

// Operations a second of Hopper's tensor cores; in builds for it (FULGURITE_HOPPER).
struct TensorFlops {
  double bf16 = 0.0, e4m3 = 0.0;
};
TensorFlops hopper_tensor_flops(void* stream, int processors, float* out);

}  // namespace fulgurite::bench
