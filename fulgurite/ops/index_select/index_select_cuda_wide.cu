// Index logits of bf16 keys on Hopper. A warp holds 32 keys in registers and meets the heads of one query row after
// another, which lie in shared memory as the instruction takes them. Rows of the matrix instruction are keys, its columns
// eight heads: lane t of a quad has heads 8j + 2t and 8j + 2t + 1, which are part t of the head sum.

#include <algorithm>

#include "fulgurite/cuda/fast.h"
#include "fulgurite/cuda/mma_sync.h"
#include "fulgurite/ops/index_select/index_select_cuda.h"

namespace fulgurite::index_select {
namespace {

constexpr int kDim = 128, kGroups = kDim / 16, kWarps = 4, kThreads = 32 * kWarps;
constexpr int kKeys = 32;  // of a warp
constexpr int kMostRows = 4;

// Columns 4t .. 4t + 3 of each group of 16, of keys g, g + 8, g + 16 and g + 24.
using Keys = uint2[4][kGroups];

// Of a query row: columns 4t .. 4t + 3 of two neighbouring groups, of head 8j + g, for each lane 4g + t.
template <int kHeads>
struct Query {
  uint4 operands[kHeads / 8][kGroups / 2][32];
  float weights[kHeads];
};

__device__ void read_keys(const LogitsParams& p, int sequence, int first, Keys& keys) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t key = min(static_cast<int64_t>(first + lane / 4 + 8 * i), p.context - 1);
    const auto* const row =
        reinterpret_cast<const uint2*>(p.wide_keys + sequence * p.sequence_stride + key * p.key_stride);
#pragma unroll
    for (int s = 0; s < kGroups; ++s) keys[i][s] = __ldcg(row + s * 4 + lane % 4);
  }
}

template <int kHeads>
__device__ void read_queries(const LogitsParams& p, int first_row, int rows, Query<kHeads>* queries) {
  constexpr int kPieces = kHeads / 8 * (kGroups / 2) * 32;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < rows * kPieces; i += kThreads) {
    const int row = i / kPieces, piece = i % kPieces, lane = piece % 32, pair = piece / 32 % (kGroups / 2),
              head = piece / 32 / (kGroups / 2) * 8 + lane / 4;
    const auto* const from = reinterpret_cast<const uint2*>(
        p.wide_q + (static_cast<int64_t>(first_row + row) * kHeads + head) * kDim + pair * 32);
    const uint2 low = __ldcg(from + lane % 4), high = __ldcg(from + 4 + lane % 4);
    (&queries[row].operands[0][0][0])[piece] = {low.x, low.y, high.x, high.y};
  }
  for (int i = static_cast<int>(threadIdx.x); i < rows * kHeads; i += kThreads)
    queries[i / kHeads].weights[i % kHeads] =
        __ldcg(p.weights + static_cast<int64_t>(first_row) * kHeads + i);
}

// max(0, x); a NaN stays.
__device__ float relu(float x) {
  float y;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(y) : "f"(x));
  return y;
}

// Part t of the head sums of the lane's four keys.
template <int kHeads>
__device__ void sum_heads(const Keys& keys, const Query<kHeads>& query, float (&sums)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 2
  for (int j = 0; j < kHeads / 8; ++j) {
    float dots[2][4] = {};
#pragma unroll
    for (int pair = 0; pair < kGroups / 2; ++pair) {
      const uint4 b = query.operands[j][pair][lane];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int s = 2 * pair + half;
#pragma unroll
        for (int i = 0; i < 2; ++i)
          cuda::mma_bf16(dots[i],
                         {keys[2 * i][s].x, keys[2 * i + 1][s].x, keys[2 * i][s].y, keys[2 * i + 1][s].y},
                         {half == 0 ? b.x : b.z, half == 0 ? b.y : b.w});
      }
    }
    const float2 weights = *reinterpret_cast<const float2*>(&query.weights[8 * j + 2 * (lane % 4)]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[i] = __fmaf_rn(weights.x, relu(dots[i / 2][i % 2 * 2]), sums[i]);
      sums[i] = __fmaf_rn(weights.y, relu(dots[i / 2][i % 2 * 2 + 1]), sums[i]);
    }
  }
}

// Adds the quad's parts; each lane of it stores one key.
__device__ void store(const float (&sums)[4], int first, int visible, float* row) {
  const int lane = static_cast<int>(threadIdx.x) % 32, t = lane % 4;
  float own = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float sum = __fadd_rn(sums[i], __shfl_xor_sync(~0u, sums[i], 1));
    sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 2));
    own = t == i ? sum : own;
  }
  const int key = first + lane / 4 + 8 * t;
  if (key < visible) row[key] = own;
}

template <int kHeads>
__global__ void __launch_bounds__(kThreads)
    wide_logits(const __grid_constant__ LogitsParams p, int rows_of_block) {
  extern __shared__ __align__(16) uint8_t memory[];
  auto* const queries = reinterpret_cast<Query<kHeads>*>(memory);
  cuda::release_successor();
  const int first_row = static_cast<int>(blockIdx.y) * rows_of_block,
            rows = min(rows_of_block, p.rows - first_row);
  int longest = 0;
  for (int r = 0; r < rows; ++r) longest = max(longest, (p.places[first_row + r].position + 1) / p.ratio);
  const int step = static_cast<int>(gridDim.x) * kWarps * kKeys;
  int first = (static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32) * kKeys;
  cuda::wait_for_predecessor();
  // Blocks whose keys no row sees, or whose rows need no logits.
  if (longest <= p.skip_visible || static_cast<int>(blockIdx.x) * kWarps * kKeys >= longest) return;
  read_queries<kHeads>(p, first_row, rows, queries);
  __syncthreads();
  for (; first < longest; first += step) {
    Keys keys;
    int sequence = -1;
    for (int r = 0; r < rows; ++r) {
      const TokenPlace place = p.places[first_row + r];
      const int visible = (place.position + 1) / p.ratio;
      if (first >= visible || visible <= p.skip_visible) continue;
      if (place.sequence != sequence) read_keys(p, sequence = place.sequence, first, keys);
      float sums[4] = {};
      sum_heads<kHeads>(keys, queries[r], sums);
      store(sums, first, visible, p.logits + (first_row + r) * p.logits_stride);
    }
  }
}

template <int kHeads>
cudaError_t launch(const LogitsParams& p, cudaStream_t stream) {
  const int rows_of_block = std::clamp(p.rows_together, 1, kMostRows);
  const int groups = (p.rows + rows_of_block - 1) / rows_of_block;
  const auto stripes = static_cast<int>((p.context + kWarps * kKeys - 1) / (kWarps * kKeys));
  const size_t bytes = sizeof(Query<kHeads>) * static_cast<size_t>(rows_of_block);
  // The most of any launch: another thread may set it between this call and the launch.
  const cudaError_t sized =
      cudaFuncSetAttribute(wide_logits<kHeads>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(sizeof(Query<kHeads>) * kMostRows));
  if (sized != cudaSuccess) return sized;
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(std::clamp(3 * p.ctas / groups, 1, stripes)),
                    static_cast<unsigned>(groups), 1};
  config.blockDim = {kThreads, 1, 1};
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute = cuda::dependent_launch(true);
  config.attrs = &attribute;
  config.numAttrs = p.launch == Launch::kProgrammatic ? 1 : 0;
  return cudaLaunchKernelEx(&config, wide_logits<kHeads>, p, rows_of_block);
}

}  // namespace

cudaError_t launch_wide_logits(const LogitsParams& p, cudaStream_t stream) {
  if (p.rows < 0 || p.ctas < 1 || p.ratio < 1 || p.context < 1) return cudaErrorInvalidValue;
  switch (p.heads) {
    case 8:
      return launch<8>(p, stream);
    case 16:
      return launch<16>(p, stream);
    case 32:
      return launch<32>(p, stream);
    case 64:
      return launch<64>(p, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace fulgurite::index_select
