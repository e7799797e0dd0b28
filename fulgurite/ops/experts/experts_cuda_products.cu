// The three products. A warp takes 8 columns of gate and the same of up, or 16 rows of down, for an entry.

#include <cmath>

#include "fulgurite/ops/experts/experts_cuda_stream.h"

namespace fulgurite::experts {
namespace {

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
__global__ void __launch_bounds__(32 * kWarps, kBlocksOfProcessor)
    gate_up(const __grid_constant__ PartRows rows, const __grid_constant__ MatrixShape shape,
            const __grid_constant__ GateUpTable table, const __grid_constant__ Operand x,
            const __grid_constant__ Gating gating, uint16_t* hidden) {
  extern __shared__ __align__(128) std::byte shared[];
  cuda::release_successor();
  cuda::wait_for_predecessor();
  const Entry& entry = rows.entries[blockIdx.x];
  if (entry.count == 0) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int first = (static_cast<int>(blockIdx.y) * kWarps + warp) * kTileRows / 2;
  const Tile tile{{table.gate[entry.expert], table.up[entry.expert]}, {first, first}};
  float sums[4] = {};
  Stream<Form>(shared, rows.tokens, shape, tile, x, entry.count, entry.tokens).sum(sums);
  const int column = first + lane / 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int n = lane % 4 * 2 + i;
    if (n >= entry.count || column >= shape.rows) continue;
    const int to = entry.rows[n];
    const float limit = to < rows.routed ? gating.limit : gating.shared_limit;
    const float before = gating.weight_before_down ? rows.weight_of(to) : 1.0f;
    hidden[int64_t{to} * shape.rows + column] = cuda::bf16_bits(gated(sums[i], sums[2 + i], limit, before));
  }
}

template <class Form>
__global__ void __launch_bounds__(32 * kWarps, kBlocksOfProcessor)
    down(const __grid_constant__ PartRows rows, const __grid_constant__ MatrixShape shape,
         const __grid_constant__ DownTable table, const __grid_constant__ Operand hidden, uint16_t* y) {
  extern __shared__ __align__(128) std::byte shared[];
  cuda::release_successor();
  cuda::wait_for_predecessor();
  const Entry& entry = rows.entries[blockIdx.x];
  if (entry.count == 0) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int first = (static_cast<int>(blockIdx.y) * kWarps + warp) * kTileRows;
  const MatrixAt& matrix = table.down[entry.expert];
  const int rows_there = min(first, shape.rows - kTileRows);  // of tiles beyond the last too
  const Tile tile{{matrix, matrix}, {rows_there, rows_there + 8}};
  float sums[4] = {};
  Stream<Form>(shared, rows.tokens, shape, tile, hidden, entry.count, entry.rows).sum(sums);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int n = lane % 4 * 2 + i % 2, column = first + lane / 4 + i / 2 * 8;
    if (n < entry.count && column < shape.rows)
      y[int64_t{entry.rows[n]} * shape.rows + column] = cuda::bf16_bits(sums[i]);
  }
}

// All of an SM's memory for stages.
template <class Kernel>
void prefer_shared(Kernel* kernel) {
  cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100),
              "an attribute");
}

// Blocks whose warps take `columns` columns of the product each.
template <class Form>
cuda::Grid grid_of(const PartRows& rows, const MatrixShape& shape, int columns) {
  const int of_block = kWarps * columns;
  return {{static_cast<unsigned>(rows.most_entries),
           static_cast<unsigned>((shape.rows + of_block - 1) / of_block)},
          32 * kWarps,
          static_cast<size_t>(kStages * stage_bytes<Form>(rows.tokens))};
}

template <class Form>
void launch_gate_up_of(const PartRows& rows, const MatrixShape& shape, const GateUpTable& table,
                       const Operand& x, const Gating& gating, uint16_t* hidden, const Lane& lane) {
  prefer_shared(gate_up<Form>);
  cuda::launch(lane, grid_of<Form>(rows, shape, kTileRows / 2), gate_up<Form>, rows, shape, table, x, gating,
               hidden);
}

template <class Form>
void launch_down_of(const PartRows& rows, const MatrixShape& shape, const DownTable& table,
                    const Operand& hidden, uint16_t* y, const Lane& lane) {
  prefer_shared(down<Form>);
  cuda::launch(lane, grid_of<Form>(rows, shape, kTileRows), down<Form>, rows, shape, table, hidden, y);
}

}  // namespace

void launch_gate_up(Weights weights, const PartRows& rows, const MatrixShape& shape, const GateUpTable& table,
                    const Operand& x, const Gating& gating, uint16_t* hidden, const Lane& lane) {
  const auto with = [&](auto format) {
    launch_gate_up_of<decltype(format)>(rows, shape, table, x, gating, hidden, lane);
  };
  if (weights == Weights::kFp8) return shape.exponents ? with(Fp8Form<true>{}) : with(Fp8Form<false>{});
  weights == Weights::kFp4 ? with(Fp4Form{}) : with(Bf16Form{});
}

void launch_down(Weights weights, const PartRows& rows, const MatrixShape& shape, const DownTable& table,
                 const Operand& hidden, uint16_t* y, const Lane& lane) {
  const auto with = [&](auto format) {
    launch_down_of<decltype(format)>(rows, shape, table, hidden, y, lane);
  };
  if (weights == Weights::kFp8) return shape.exponents ? with(Fp8Form<true>{}) : with(Fp8Form<false>{});
  weights == Weights::kFp4 ? with(Fp4Form{}) : with(Bf16Form{});
}

}  // namespace fulgurite::experts
