#pragma once
// How far apart two runs of Sinkhorn may end, in fp32, whose logits differ a little: to first order, exactly.

#include <array>

namespace fulgurite::hyper_connection {

using Square = std::array<std::array<double, 4>, 4>;

// `difference`: of the logits, at most. Normalizing a row makes of the differences d of its logarithms
// d_k - sum_l w_l d_l, w being what the elements are of the sum and eps, and adds the roundings of both runs.
// So what reaches an element is found by going back from it. Where that is no small number, the bound is 1:
// no element is larger.
Square sinkhorn_bound(const Square& logits, const Square& difference, int iterations, double eps);

}  // namespace fulgurite::hyper_connection
