#pragma once
// What a logit must be, from core/tensor_core.h, for index_select_probe (a header that nvcc can read).

#include <cstdint>

namespace fulgurite::index_select {

// An e4m3 code as a tensor core's factor (MmaFactor).
uint32_t mma_factor_of(uint8_t code);

// q [heads, 128] and key [128] as factors; the head sum in the kernels' order.
float expected_logit(const uint32_t* q, const float* weights, int heads, const uint32_t* key, float scale);

}  // namespace fulgurite::index_select
