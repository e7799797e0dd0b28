#pragma once
// What sparse_attention_probe holds the kernels against: the library's references, for a file that nvcc can read.

#include <cstdint>
#include <vector>

namespace fulgurite::sparse_attention {

// A bf16 value as a tensor core's factor (MmaFactor).
uint32_t bf16_factor(float value);

// The score of `columns` factors of a query and a row (mma = hopper), times scale.
float expected_score(const uint32_t* q, const uint32_t* row, int columns, float scale);

// One head of the reference (serving, mma = hopper) from its scores: rows [count][stride], of which 512 are values.
std::vector<float> expected_head(const std::vector<float>& scores, const float* rows, int stride);

// Results of one head, of exact weights, and what the kernel's may differ by before its rounding (the header's bound).
struct Exact {
  std::vector<double> out, bound;
};
Exact exact_head(const std::vector<float>& scores, const float* rows, int stride, int splits);

float code_value(uint8_t e4m3);

}  // namespace fulgurite::sparse_attention
