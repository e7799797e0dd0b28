#pragma once
// y = x W^T with the weight decoded a few rows at a time: the loop that linear, the projections, router and
// experts share.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/cpu/kernels.h"

namespace fulgurite::cpu {

// Rows of activations as fp32: where they stand, or widened into `widened`, [rows][columns].
Rows fp32_rows(const Kernels& kernels, const ConstTensor<2>& x, float* widened);

// Scratch floats that `matmul` and `weight_rows` need for one thread.
int64_t matmul_scratch(int64_t in);

// Rows [first, first + count) of `weight`, count <= kWeightTile, as fp32: viewed where they are fp32, else
// decoded into `scratch`. A block's scale is applied here: fp32(code * scale), exact where scales are powers
// of two; fp4 codes are decoded one by one. Read as bf16 a value is bf16(code * scale), one rounding.
constexpr int64_t kWeightTile = 8;
Rows weight_rows(const Kernels& kernels, const PreparedMatrix& weight, int64_t first, int64_t count,
                 float* scratch, WeightReading reading = WeightReading::kExact);

// out[i] = element (row, first + i) of a weight as it is read, in fp32, for i < count.
void read_weight(const Kernels& kernels, const PreparedMatrix& weight, WeightReading reading, int64_t row,
                 int64_t first, int64_t count, float* out);

// y[t * y_stride + n] = dot(x row t, weight row first + n) for n < count. Split over n; scratch holds
// lane.threads * matmul_scratch(weight.in) floats.
struct Product {
  Rows x;
  const PreparedMatrix* weight = nullptr;
  int64_t first = 0;
  int64_t count = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  WeightReading reading = WeightReading::kExact;
};
void matmul(const Kernels& kernels, const Lane& lane, const Product& product, float* scratch);

}  // namespace fulgurite::cpu
