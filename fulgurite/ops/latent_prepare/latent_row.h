#pragma once
// A row of the latent cache, as the reference writes it, from values that are normed, rotated and rounded.

#include "fulgurite/ops/latent_prepare/latent_prepare.h"

namespace fulgurite::latent_prepare {

// values [latent + rope]. Of values that such a row held before it makes the same row again.
void store_row(const LatentRows& cache, TokenPlace place, const ConstTensor<1>& values);

}  // namespace fulgurite::latent_prepare
