// What stands around the products: which rows share an expert, operands, and the sum over a token's experts.

#include <cub/block/block_scan.cuh>

#include "fulgurite/cuda/eight.h"
#include "fulgurite/ops/experts/experts_cuda_forms.h"

namespace fulgurite::experts {
namespace {

// --- entries: one block; first a thread an expert, then a thread a row ---

using Scan = cub::BlockScan<int, kMostExperts>;

// Rows of `ids` in [0, last) of an expert.
__device__ int count_rows(const uint16_t* ids, int last, int expert) {
  int count = 0;
#pragma unroll 16
  for (int row = 0; row < last; ++row) count += ids[row] == expert;
  return count;
}

// The place of row `rank` of an expert's `count`; the last one's stands for those that its entry lacks.
__device__ void write_row(const PartRows& rows, Entry* entries, int expert, int row, int rank, int count) {
  Entry& to = entries[rank / kEntryRows];
  const int at = rank % kEntryRows, token = rows.token_of(row);
  if (at == 0) {
    to.expert = expert;
    to.count = min(kEntryRows, count - rank);
  }
  to.rows[at] = row, to.tokens[at] = token;
  for (int i = at + 1; rank == count - 1 && i < kEntryRows; ++i) to.rows[i] = row, to.tokens[i] = token;
}

__global__ void __launch_bounds__(kMostExperts) make_entries(const __grid_constant__ PartRows rows) {
  extern __shared__ uint16_t ids[];
  __shared__ typename Scan::TempStorage scan;
  __shared__ int counts[kMostExperts], first_entries[kMostExperts];
  cuda::release_successor();
  cuda::wait_for_predecessor();
  const int own = static_cast<int>(threadIdx.x), shared_rows = rows.rows - rows.routed;
  for (int row = own; row < rows.routed; row += kMostExperts)
    ids[row] = static_cast<uint16_t>(rows.expert_ids(row / rows.slots, row % rows.slots));
  __syncthreads();
  if (own < rows.experts) counts[own] = count_rows(ids, rows.routed, own);
  if (shared_rows > 0 && own == rows.experts - 1) counts[own] = shared_rows;
  int all;
  const int wanted = own < rows.experts ? (counts[own] + kEntryRows - 1) / kEntryRows : 0;
  Scan(scan).ExclusiveSum(wanted, first_entries[own], all);
  __syncthreads();
  for (int row = own; row < rows.rows; row += kMostExperts) {
    const bool routed = row < rows.routed;
    const int expert = routed ? ids[row] : rows.experts - 1;
    const int rank = routed ? count_rows(ids, row, expert) : row - rows.routed;
    write_row(rows, rows.entries + first_entries[expert], expert, row, rank, counts[expert]);
  }
  for (int i = all + own; i < rows.most_entries; i += kMostExperts) rows.entries[i].count = 0;
}

// --- operands: a warp a group of 128 columns, a lane four of them ---

struct OperandParams {
  const uint16_t* x;
  int64_t stride;
  int rows, columns;
  Operand to;
  ScaleRounding rounding;
};

__device__ float scale_of(float amax, ScaleRounding rounding) {
  if (rounding == ScaleRounding::kDivided) return __fdiv_rn(fmaxf(amax, 1e-4f), 448.0f);
  return cuda::e4m3_scale_of(amax, rounding == ScaleRounding::kPow2);
}

// Codes in the place of v, as core/quantize.h; returns the scale, NaN of a group that is not finite.
__device__ float quantize(float (&v)[4], ScaleRounding rounding) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) largest = max(largest, __float_as_uint(v[i]) & 0x7FFFFFFFu);
  largest = __reduce_max_sync(~0u, largest);
  const bool finite = largest < 0x7F800000u;
  const float scale = finite ? scale_of(__uint_as_float(largest), rounding) : __uint_as_float(0x7FC00000u);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    v[i] = finite ? cuda::e4m3_to_float(cuda::e4m3_bits(__fdiv_rn(v[i], scale))) : 0.0f;
  return scale;
}

template <Weights kWeights>  // not of fp4
__device__ uint32_t upper_word(float value) {
  const double scale = kWeights == Weights::kBf16 ? 1.0 : 0x1p1014;
  return static_cast<uint32_t>(__double2hiint(__dmul_rn(static_cast<double>(value), scale)));
}

// In words two apart: b0 and b1 of a digit are neighbours.
__device__ void write_digits(const float (&v)[4], uint32_t* to) {
  int units[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) units[i] = __float2int_rn(__fmul_rn(v[i], Fp4Operand::kUnits));
#pragma unroll
  for (int digit = 0; digit < 4; ++digit) to[2 * digit] = Fp4Operand::digits(units, digit);
}

template <Weights kWeights>
__global__ void make_operand(const __grid_constant__ OperandParams p) {
  cuda::release_successor();
  cuda::wait_for_predecessor();
  const int index = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32), lane = threadIdx.x % 32;
  const int groups = p.to.columns / 128, row = index / groups, group = index % groups;
  if (row >= p.rows) return;
  const int column = group * 128 + lane * 4;
  float v[4] = {};
  if (column < p.columns) {
    const uint2 raw = __ldcg(reinterpret_cast<const uint2*>(p.x + row * p.stride + column));
    v[0] = cuda::low_bf16(raw.x), v[1] = cuda::high_bf16(raw.x);
    v[2] = cuda::low_bf16(raw.y), v[3] = cuda::high_bf16(raw.y);
  }
  if constexpr (kWeights != Weights::kBf16) {
    const float scale = quantize(v, p.rounding);
    if (lane == 0 && group < p.to.groups) p.to.scales[int64_t{row} * p.to.groups + group] = scale;
  }
  constexpr int kOfLane = columns_of_lane(kWeights), kBlock = 4 * kOfLane;
  const int in_block = column % kBlock, t = in_block / kOfLane, q = in_block % kOfLane / 4;
  uint32_t* const block = p.to.words + int64_t{row} * p.to.columns + column / kBlock * kBlock;
  if constexpr (kWeights == Weights::kFp4) return write_digits(v, block + 8 * t + q);
  uint32_t* const to = block + 16 * q + 4 * t;
  *reinterpret_cast<uint4*>(to) = {upper_word<kWeights>(v[0]), upper_word<kWeights>(v[1]),
                                   upper_word<kWeights>(v[2]), upper_word<kWeights>(v[3])};
}

// --- the sum over a token's experts: eight columns a thread ---

constexpr unsigned kThreads = 128;

__global__ void combine(const __grid_constant__ Combination p) {
  cuda::release_successor();
  cuda::wait_for_predecessor();
  const int64_t t = blockIdx.x, hidden = p.out.extent[1], first = (blockIdx.y * kThreads + threadIdx.x) * 8;
  if (first >= hidden) return;
  cuda::Eight sum{}, y;
  for (int64_t j = 0; j < p.slots; ++j) {
    cuda::read(y, p.routed + (t * p.slots + j) * hidden + first);
    const float weight = p.weight_before_down ? 1.0f : p.weights(t, j);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] = __fmaf_rn(weight, y[i], sum[i]);
  }
  if (p.shared != nullptr) {
    cuda::read(y, p.shared + t * hidden + first);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] = __fadd_rn(sum[i], y[i]);
  }
  cuda::write(sum, reinterpret_cast<uint16_t*>(p.out.data) + t * p.out.stride[0] + first);
}

}  // namespace

void launch_entries(const PartRows& rows, const Lane& lane) {
  cuda::launch(lane, {{1}, kMostExperts, static_cast<size_t>(rows.routed) * 2}, make_entries, rows);
}

void launch_operand(const ConstTensor<2>& x, Weights weights, ScaleRounding rounding, const Operand& operand,
                    const Lane& lane) {
  const OperandParams params{reinterpret_cast<const uint16_t*>(x.data),
                             x.stride[0],
                             static_cast<int>(x.extent[0]),
                             static_cast<int>(x.extent[1]),
                             operand,
                             rounding};
  const int64_t warps = x.extent[0] * operand.columns / 128;
  const cuda::Grid grid{{static_cast<unsigned>((warps + 3) / 4)}, 128};
  if (weights == Weights::kFp8)
    cuda::launch(lane, grid, make_operand<Weights::kFp8>, params);
  else if (weights == Weights::kFp4)
    cuda::launch(lane, grid, make_operand<Weights::kFp4>, params);
  else
    cuda::launch(lane, grid, make_operand<Weights::kBf16>, params);
}

void launch_combine(const Combination& combination, const Lane& lane) {
  const auto eights = static_cast<unsigned>(combination.out.extent[1] / 8);
  cuda::launch(
      lane,
      {{static_cast<unsigned>(combination.out.extent[0]), (eights + kThreads - 1) / kThreads}, kThreads},
      combine, combination);
}

}  // namespace fulgurite::experts
