#pragma once
// The library's references, for raw memory: what indexer_probe.cu holds the kernels against.

#include <cstdint>
#include <string>
#include <vector>

#include "bench/cuda/on_all_cores.h"

namespace fulgurite::probe {

struct Projection {
  const uint16_t *x = nullptr, *wk = nullptr, *w = nullptr;  // bf16; wk may be null
  int64_t x_stride = 0;
  int tokens = 0, hidden = 0, heads = 0;
  bool round_gate = false;
};
// mma = hopper in `parts` parts of K, pairwise.
void project(const Projection& problem, int parts, uint16_t* k, float* gate);
// sum |x w|, and the sum, in double.
void project_exactly(const Projection& problem, int token, int head, double& sum);

struct Preparation {
  std::vector<uint16_t> q, k;
  std::vector<float> gate, k_weight, k_bias, cosine, sine;
  std::vector<int32_t> places;  // sequence, position
  int tokens = 0, heads = 0, sequences = 1, context = 1;
  bool interleaved = false, rotates_last = false;
  std::string numerics;  // after "serving"
};
struct Prepared {
  std::vector<uint8_t> q_codes, k_codes;  // k: [tokens, 128]
  std::vector<float> weights, k_scales;
};
void prepare(const Preparation& problem, Prepared& result);

uint8_t e4m3_code(float value);
uint16_t bf16_code(float value);
float e4m3_value(uint8_t code);
float e8m0_value(uint8_t code);

}  // namespace fulgurite::probe
