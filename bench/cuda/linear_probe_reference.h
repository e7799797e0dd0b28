#pragma once
// The library's references, for raw memory: what linear_probe holds the kernels against. mma = hopper.

#include <cstdint>

#include "fulgurite/core/scale_rounding.h"

namespace fulgurite::probe {

struct Fp8Linear {
  const uint16_t* x = nullptr;  // [tokens, in] bf16
  int64_t x_stride = 0;
  const uint8_t* weight = nullptr;     // [out, in] e4m3
  const float* scale = nullptr;        // [ceil(out / 128), ceil(in / 128)]
  const uint8_t* exponents = nullptr;  // in its place, e8m0
  int tokens = 0, in = 0, out = 0;
  ScaleRounding rounding = ScaleRounding::kPow2;
  int parts = 1;
};
// y [tokens, count] bf16: rows [first, first + count) of the weight; first: a multiple of 128.
void run_linear(const Fp8Linear& problem, int first, int count, uint16_t* y);
// The largest error of `found`, [tokens, count], against `exact` (mma = exact), over the norm of a row.
double error_of_linear(const Fp8Linear& problem, int first, int count, const uint16_t* found);

struct Bf16Linear {
  const uint16_t* x = nullptr;  // [tokens, in] bf16, rows x_stride apart
  int64_t x_stride = 0;
  const uint16_t* weight = nullptr;  // [out, in] bf16
  int tokens = 0, in = 0, out = 0;
  int parts = 1, part_columns = 0;
};
// y [tokens, out] f32; rounded to bf16 it is what a row of bf16 results gives.
void run_linear(const Bf16Linear& problem, float* y);

struct Heads {
  bool from_rows = true;
  const uint16_t* x = nullptr;       // [tokens, heads, rows or latent] bf16
  const uint16_t* weight = nullptr;  // [heads * rows_per_head, latent] bf16
  int tokens = 0, heads = 0, rows_per_head = 0, first_row = 0, rows = 0, latent = 0;
  const uint8_t *codes = nullptr,
                *exponents = nullptr;  // in the weight's place: e4m3, scales e8m0 of 128x128
};
void run_heads(const Heads& problem, uint16_t* y);  // [tokens, heads, latent or rows]

}  // namespace fulgurite::probe
