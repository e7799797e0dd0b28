#pragma once
// The exponentials of a softmax row, the same bits on every machine.

#include <cstdint>

namespace fulgurite::cpu {

// exp(x) for x <= 0, within 1.5 ulp (2^-149 where the result is denormal); a NaN stays NaN.
float exp_not_positive(float x);

// scores[j] = exp(scores[j] - the largest score), in place; returns their sum: 16 lanes over ascending chunks
// of 16, lanes summed as a tree of 4. Any NaN or +infinity makes the sum NaN.
float softmax(float* scores, int64_t count);

}  // namespace fulgurite::cpu
