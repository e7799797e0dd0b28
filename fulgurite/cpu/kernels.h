#pragma once
// The inner loops that the operations' CPU implementations share, built once per instruction set from one
// source. Every build gives the same bits: 16 lanes whatever the register width, separate multiply and add,
// one order of summation that knows neither the number of tokens nor of threads.
//
//   dot       16 lanes over ascending chunks of 16 (a short last chunk is padded with zeros), lanes summed as a
//             tree of 4
//   combine   one lane a column, rows ascending

#include <cstdint>

#include "fulgurite/core/device.h"

namespace fulgurite::cpu {

// Rows of fp32: row i is base + (index ? index[i] : i) * stride.
struct Rows {
  const float* base = nullptr;
  int64_t stride = 0;
  int64_t count = 0;
  const int32_t* index = nullptr;
};

struct Kernels {
  // out[i] = fp32(code * scale); S.1111.111 is NaN.
  void (*decode_e4m3)(const uint8_t* codes, int64_t count, float scale, float* out);
  void (*decode_bf16)(const uint16_t* values, int64_t count, float* out);

  // y[a * y_stride + b] = dot(x row a, w row b) over `width` elements.
  void (*dot_rows)(const Rows& x, const Rows& w, int64_t width, float* y, int64_t y_stride);

  // y row a [width] = sum over j of p[a * p_stride + j * p_step] * (row j of w), for `outputs` rows a.
  void (*combine_rows)(const float* p, int64_t p_stride, int64_t p_step, int64_t outputs, const Rows& w,
                       int64_t width, float* y, int64_t y_stride);
};

// The loops of an instruction set that this machine has.
const Kernels& kernels(Isa isa);

// The best instruction set of this machine that the kernels are built for.
Isa best_isa();

}  // namespace fulgurite::cpu
