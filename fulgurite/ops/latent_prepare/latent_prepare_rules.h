#pragma once
// Between the row of Hopper (latent_prepare_rules.cpp) and its kernels.

#include "fulgurite/ops/latent_prepare/latent_prepare.h"

namespace fulgurite::latent_prepare {

inline constexpr int kLatent = 512, kRope = 64;  // of a row

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // latent_prepare_cuda_fast.cu

}  // namespace fulgurite::latent_prepare
