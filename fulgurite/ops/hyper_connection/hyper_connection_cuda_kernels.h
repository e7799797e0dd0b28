#pragma once
// The two kernels of hyper_connection on Hopper: the streams' update with a slice's sums, and what the sums of all
// slices become.

#include "fulgurite/cuda/fast.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_rules.h"

namespace fulgurite::hyper_connection {

// Writes streams_out, and sums [tokens, slices, kSums].
void launch_sums(const Problem& problem, const Args& args, double* sums, const Lane& lane);
// Writes all else; reads what the first kernel wrote.
void launch_mix(const Problem& problem, const Args& args, const double* sums, const Lane& lane);

}  // namespace fulgurite::hyper_connection
