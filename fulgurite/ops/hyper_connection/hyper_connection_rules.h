#pragma once
// Between the row of Hopper (hyper_connection_rules.cpp) and its kernels.

#include "fulgurite/ops/hyper_connection/hyper_connection.h"

namespace fulgurite::hyper_connection {

// Flat X' is dealt to slices of `kSlice` columns of all streams; a slice leaves its outputs' sums and that of the
// squares, in double.
inline constexpr int64_t kSlice = 32, kSums = 2 * kStreams + kStreams * kStreams + 1;
inline int64_t slices_of(const Problem& problem) { return (problem.hidden + kSlice - 1) / kSlice; }
int64_t tokens_at_once(const Problem& problem);

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // hyper_connection_cuda_row.cu

}  // namespace fulgurite::hyper_connection
