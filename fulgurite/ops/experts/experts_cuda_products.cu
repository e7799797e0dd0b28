// The three products. A block is a warp: 16 columns of gate and the same of up, or 32 rows of down, for an entry.

#include <cmath>

#include "fulgurite/ops/experts/experts_cuda_stream.h"

namespace fulgurite::experts {
namespace {

// Of the entry's rows, that of lane n < count; lanes beyond hold the first.
__device__ int own_row(const PartRows& rows, const Entry& entry) {
  const int n = static_cast<int>(threadIdx.x) % 8;
  return rows.order[entry.first + (n < entry.count ? n : 0)];
}

__device__ float at_most(float g, float limit) { return g > limit ? limit : g; }
__device__ float silu(float g) {
  return __fdiv_rn(g, __fadd_rn(1.0f, static_cast<float>(std::exp(-static_cast<double>(g)))));
}
__device__ float gated(float gate, float up, float limit, float before) {
  const float g = at_most(cuda::bf16_rounded(gate), limit), u = cuda::bf16_rounded(up);
  const float clamped = u < -limit ? -limit : at_most(u, limit);
  return __fmul_rn(__fmul_rn(silu(g), clamped), before);
}

template <class Form>
__global__ void __launch_bounds__(32)
    gate_up(const __grid_constant__ PartRows rows, const __grid_constant__ MatrixShape shape,
            const __grid_constant__ GateUpTable table, const __grid_constant__ Operand x,
            const __grid_constant__ Gating gating, uint16_t* hidden) {
  extern __shared__ __align__(128) std::byte shared[];
  cuda::release_successor();
  cuda::wait_for_predecessor();
  if (static_cast<int>(blockIdx.x) >= *rows.entry_count) return;
  const Entry entry = rows.entries[blockIdx.x];
  const int first = static_cast<int>(blockIdx.y) * kTileRows, row = own_row(rows, entry);
  Stream<Form> stream(shared, rows.tokens, shape, {table.gate[entry.expert], table.up[entry.expert]},
                      {first, first}, x, entry.count, rows.token_of(row));
  float sums[2][4] = {};
  stream.sum(sums);
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int n = 2 * t + i % 2, column = first + g + i / 2 * 8, to = __shfl_sync(~0u, row, n);
    if (n >= entry.count || column >= shape.rows) continue;
    const float limit = to < rows.routed ? gating.limit : gating.shared_limit;
    const float before = gating.weight_before_down ? rows.weight_of(to) : 1.0f;
    hidden[int64_t{to} * shape.rows + column] = cuda::bf16_bits(gated(sums[0][i], sums[1][i], limit, before));
  }
}

template <class Form>
__global__ void __launch_bounds__(32)
    down(const __grid_constant__ PartRows rows, const __grid_constant__ MatrixShape shape,
         const __grid_constant__ DownTable table, const __grid_constant__ Operand hidden, uint16_t* y) {
  extern __shared__ __align__(128) std::byte shared[];
  cuda::release_successor();
  cuda::wait_for_predecessor();
  if (static_cast<int>(blockIdx.x) >= *rows.entry_count) return;
  const Entry entry = rows.entries[blockIdx.x];
  const int first = static_cast<int>(blockIdx.y) * 2 * kTileRows, row = own_row(rows, entry);
  const MatrixAt& matrix = table.down[entry.expert];
  Stream<Form> stream(shared, rows.tokens, shape, {matrix, matrix}, {first, first + kTileRows}, hidden,
                      entry.count, row);
  float sums[2][4] = {};
  stream.sum(sums);
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int n = 2 * t + i % 2, column = first + g + i / 2 * 8, to = __shfl_sync(~0u, row, n);
    if (n < entry.count && column < shape.rows)
      y[int64_t{to} * shape.rows + column] = cuda::bf16_bits(sums[i / 4][i % 4]);
  }
}

// All of an SM's memory for stages.
template <class Kernel>
void prefer_shared(Kernel* kernel) {
  cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100),
              "an attribute");
}

template <class Form>
void launch_gate_up_of(const PartRows& rows, const MatrixShape& shape, const GateUpTable& table,
                       const Operand& x, const Gating& gating, uint16_t* hidden, const Lane& lane) {
  prefer_shared(gate_up<Form>);
  const dim3 blocks(static_cast<unsigned>(rows.most_entries),
                    static_cast<unsigned>((shape.rows + kTileRows - 1) / kTileRows));
  cuda::launch(lane, {blocks, 32, static_cast<size_t>(stream_bytes<Form>(rows.tokens))}, gate_up<Form>, rows,
               shape, table, x, gating, hidden);
}

template <class Form>
void launch_down_of(const PartRows& rows, const MatrixShape& shape, const DownTable& table,
                    const Operand& hidden, uint16_t* y, const Lane& lane) {
  prefer_shared(down<Form>);
  const dim3 blocks(static_cast<unsigned>(rows.most_entries),
                    static_cast<unsigned>((shape.rows + 2 * kTileRows - 1) / (2 * kTileRows)));
  cuda::launch(lane, {blocks, 32, static_cast<size_t>(stream_bytes<Form>(rows.tokens))}, down<Form>, rows,
               shape, table, hidden, y);
}

}  // namespace

void launch_gate_up(Weights weights, const PartRows& rows, const MatrixShape& shape, const GateUpTable& table,
                    const Operand& x, const Gating& gating, uint16_t* hidden, const Lane& lane) {
  const auto with = [&](auto format) {
    launch_gate_up_of<decltype(format)>(rows, shape, table, x, gating, hidden, lane);
  };
  if (weights == Weights::kFp8) return with(Fp8Form{});
  weights == Weights::kFp4 ? with(Fp4Form{}) : with(Bf16Form{});
}

void launch_down(Weights weights, const PartRows& rows, const MatrixShape& shape, const DownTable& table,
                 const Operand& hidden, uint16_t* y, const Lane& lane) {
  const auto with = [&](auto format) {
    launch_down_of<decltype(format)>(rows, shape, table, hidden, y, lane);
  };
  if (weights == Weights::kFp8) return with(Fp8Form{});
  weights == Weights::kFp4 ? with(Fp4Form{}) : with(Bf16Form{});
}

}  // namespace fulgurite::experts
