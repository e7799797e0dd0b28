#pragma once
// The experts' kernels: three products stream their weights once for up to eight rows of activations, a warp
// 16 rows of weights. Sums of codes are exact in double, so that promotions have the contract's bits; sums of
// bf16 are double in the order of the matrix instructions.
//
//   part      experts that share a width and a format, the shared one last where it has both; else it is a part
//   row       one token through one expert: token * slots + j, then `routed + token` through the shared one
//   entry     up to eight rows of one expert, which share its weights
//   operand   a row's activations as the upper words of doubles, whose lower words are 0: codes (times 2^1014)
//             or bf16; in blocks of 16 n columns, of which column 4n t + 4q + j stands at 16q + 4t + j, as lane
//             t of four multiplies them (n: columns_of_lane / 4)

#include "fulgurite/core/scale_rounding.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/experts/experts.h"

namespace fulgurite::experts {

inline constexpr int kMostExperts = 512;  // of a part
inline constexpr int kEntryRows = 8;
inline constexpr int kColumnsPadding = 256;  // operands end in zeros

struct Entry {
  int expert, count;                         // 0: none
  int rows[kEntryRows], tokens[kEntryRows];  // beyond count: the last again
};

struct Operand {
  uint32_t* words = nullptr;  // [rows, columns]
  float* scales = nullptr;    // [rows, groups of 128]; NaN where the group holds a NaN or infinity
  int columns = 0, groups = 0;
};

// What the kernels of a part read and write.
struct PartRows {
  int experts = 0, slots = 0, tokens = 0;
  int routed = 0, rows = 0;  // tokens * slots; with the shared one's
  Entry* entries = nullptr;  // [most_entries]
  int most_entries = 0;
  View<const int32_t, 2> expert_ids;
  View<const float, 2> expert_weights;

  FULGURITE_HOST_DEVICE int token_of(int row) const { return row < routed ? row / slots : row - routed; }
  FULGURITE_HOST_DEVICE float weight_of(int row) const {
    return row < routed ? expert_weights(row / slots, row % slots) : 1.0f;
  }
};

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

enum class Weights { kFp8, kFp4, kBf16 };
FULGURITE_HOST_DEVICE constexpr int columns_of_lane(Weights weights) {
  return weights == Weights::kFp8 ? 16 : 8;
}
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
