// Up to 16 tokens: a cluster makes 8 rows of the weight, a warp one part of K. The weights go from memory to
// registers at once, before the predecessor is waited for; then x; then one chain of mma.sync a warp.

#include "fulgurite/cuda/mma_sync.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_cuda_kernels.h"

namespace fulgurite::indexer_projection::cuda {
namespace {

constexpr int kBlocks = 8;     // of a cluster; two parts of K each
constexpr int kRows = 8;       // of the weight, the narrow side of an instruction
constexpr int kInFlight = 28;  // groups whose loads are under way at once: all of a part at hidden = 7168

// Columns 4t .. 4t + 3 of a group: two registers of an operand. The group's columns are permuted alike in
// both.
__device__ uint2 load_weight(const uint16_t* at) {
  uint2 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0, %1}, [%2];"
               : "=r"(value.x), "=r"(value.y)
               : "l"(at));
  return value;
}
__device__ uint2 load_activation(const uint16_t* at) {
  uint2 value;
  asm volatile("ld.global.cg.v2.u32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(at) : "memory");
  return value;
}

// Row `row` of wk and w, null beyond the last.
__device__ const uint16_t* weight_row(const Params& params, int row) {
  const int keys = keys_of(params);
  if (row < keys) return params.wk + row * params.wk_stride;
  return row - keys < params.heads ? params.w + (row - keys) * params.w_stride : nullptr;
}

template <class Load>
__device__ void load_groups(uint2 (&values)[kInFlight], const uint16_t* row, int first, int groups,
                            const Load& load) {
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    values[i] = {0, 0};
    if (row != nullptr && first + i < groups) values[i] = load(row + (first + i) * kGroup);
  }
}

// Nothing is loaded later than here: a barrier of the warp alone, which the compiler moves no load across.
// Without it it saves registers by loading x piecemeal.
__device__ void issue_loads() { asm volatile("bar.sync %0, 32;" ::"r"(threadIdx.x / 32 + 1) : "memory"); }

// Sums of part `part` of rows first_row .. of the weight with 16 tokens (8 where kEight).
template <bool kEight>
__device__ float4 part_sums(const Params& params, int part, int first_row) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const Part columns = part_of(params.hidden, part);
  const auto at = [&](const uint16_t* row) {
    return row == nullptr ? nullptr : row + columns.column + 4 * t;
  };
  const uint16_t* const weight = at(weight_row(params, first_row + g));
  const uint16_t* const x0 = at(g < params.tokens ? params.x + g * params.x_stride : nullptr);
  const uint16_t* const x1 = at(g + 8 < params.tokens ? params.x + (g + 8) * params.x_stride : nullptr);
  float sum[4] = {};
  for (int first = 0; first < columns.groups; first += kInFlight) {
    uint2 b[kInFlight], a0[kInFlight], a1[kInFlight];
    load_groups(b, weight, first, columns.groups, load_weight);
    if (first == 0) wait_for_predecessor();
    load_groups(a0, x0, first, columns.groups, load_activation);
    if (!kEight) load_groups(a1, x1, first, columns.groups, load_activation);
    issue_loads();
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (kEight) a1[i] = {0, 0};
      if (first + i < columns.groups) mma_bf16(sum, {a0[i].x, a1[i].x, a0[i].y, a1[i].y}, {b[i].x, b[i].y});
    }
  }
  return {sum[0], sum[1], sum[2], sum[3]};
}

template <bool kEight>
__global__ __launch_bounds__(64) void few(const __grid_constant__ Params params) {
  __shared__ float4 sums[kParts][32];
  __shared__ uint64_t arrived;
  const int rank = static_cast<int>(cluster_rank()), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (rank == 0 && threadIdx.x == 0) {
    barrier_init(shared_address(&arrived), 1);
    barrier_init_fence();
    barrier_expect(shared_address(&arrived), sizeof sums);
  }
  __syncwarp();
  cluster_arrive_relaxed();
  release_successor();

  const int part = 2 * rank + warp, first_row = static_cast<int>(blockIdx.x) / kBlocks * kRows;
  const float4 sum = part_sums<kEight>(params, part, first_row);
  cluster_wait();  // the first block's barrier is there
  send(address_in(shared_address(&sums[part][lane]), 0), sum, address_in(shared_address(&arrived), 0));
  if (rank != 0 || warp != 0) return;

  barrier_wait_cluster(shared_address(&arrived), 0);
  float4 p[kParts];
#pragma unroll
  for (int i = 0; i < kParts; ++i) p[i] = sums[i][lane];
  const float4 whole = pairwise_sum(p);
  const int token = lane / 4, row = first_row + lane % 4 * 2;
  store(params, token, row, whole.x);
  store(params, token, row + 1, whole.y);
  store(params, token + 8, row, whole.z);
  store(params, token + 8, row + 1, whole.w);
}

}  // namespace

cudaError_t launch_few(const Params& params, cudaStream_t stream) {
  const int rows = keys_of(params) + params.heads;
  cudaLaunchAttribute attributes[] = {cluster_of(kBlocks), dependent_launch(params.dependent)};
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>((rows + kRows - 1) / kRows * kBlocks), 1, 1};
  config.blockDim = {64, 1, 1};
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, params.tokens <= 8 ? few<true> : few<false>, params);
}

}  // namespace fulgurite::indexer_projection::cuda
