#pragma once
// The experts' kernels: three products stream their weights once for up to eight rows of activations, a warp
// 16 rows of weights. Sums of codes are exact in double, so that promotions have the contract's bits; sums of
// bf16 are double in the order of the matrix instructions. experts_cuda_memory.h has their words.

#include "fulgurite/core/scale_rounding.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/ops/experts/experts_cuda_memory.h"

namespace fulgurite::experts {

// Matrices of one shape and format.
struct MatrixShape {
  int rows = 0, columns = 0;
  int64_t row_bytes = 0;  // from one to the next
  int64_t scale_stride = 0;
  int block_rows = 1, scale_step = 1;  // rows that share a scale; from one group of K to the next
  bool exponents = false;              // scales are e8m0
};
struct MatrixAt {
  const std::byte *data = nullptr, *scales = nullptr;
};
struct GateUpTable {
  MatrixAt gate[kMostExperts], up[kMostExperts];
};
struct DownTable {
  MatrixAt down[kMostExperts];
};

struct Gating {  // between gate and up, and down
  float limit, shared_limit;
  bool weight_before_down;
};

// The entries of a part; then the operand of bf16 rows x [rows, columns].
void launch_entries(const PartRows& rows, const Lane& lane);
void launch_operand(const ConstTensor<2>& x, Weights weights, ScaleRounding rounding, const Operand& operand,
                    const Lane& lane);
// hidden [rows, width] bf16
void launch_gate_up(Weights weights, const PartRows& rows, const MatrixShape& shape, const GateUpTable& table,
                    const Operand& x, const Gating& gating, uint16_t* hidden, const Lane& lane);
// y [rows, hidden] bf16
void launch_down(Weights weights, const PartRows& rows, const MatrixShape& shape, const DownTable& table,
                 const Operand& hidden, uint16_t* y, const Lane& lane);
// Of one token, slots rows of `routed` (or none) and one of `shared` (or none).
struct Combination {
  const uint16_t *routed, *shared;  // [tokens * slots, hidden], [tokens, hidden]
  View<const float, 2> weights;
  Tensor<2> out;
  int slots;
  bool weight_before_down;
};
void launch_combine(const Combination& combination, const Lane& lane);

}  // namespace fulgurite::experts
