// Many tokens: tiles of 256 or 128 tokens and 128 rows of the weight, persistent blocks, one thread that
// copies (TMA) into a ring and two warpgroups that multiply, each 128 or 64 of the tokens. Tokens are the tensor
// core's 64 rows here, so that a thread has two of them, and two factors a promotion. Where K is in parts, their
// sums stay in registers beside the part that is under way, which leaves room for 128 tokens. With kNeighbours
// a cluster's two blocks have neighbouring rows and the same tokens, of which each copies half for both.

#include "fulgurite/cuda/tile_sums.h"
#include "fulgurite/ops/linear/linear_cuda_hopper_kernels.h"

namespace fulgurite::linear::hopper {
namespace {

constexpr int kRows = 128, kGroups = 2, kWarps = 4 * kGroups, kThreads = 32 * kWarps + 128;
constexpr int kRowsOfMultiply = 64, kSums = kRows / 2;
constexpr int kBlocks = kNeighbours;  // of a cluster

template <int kHalvesOfGroup, int kStagesOfRing, bool kPartsOfK>
struct Tile {
  static constexpr int kHalves = kHalvesOfGroup, kStages = kStagesOfRing;
  static constexpr bool kParts = kPartsOfK;
  static constexpr int kTokens = kHalves * kGroups * kRowsOfMultiply;
  static constexpr uint32_t kXBytes = kTokens * kBlock, kWeightBytes = kRows * kBlock,
                            kScaleBytes = kTokens * sizeof(float);
};

template <class T>
struct Shared {
  alignas(1024) uint8_t x[T::kStages][T::kXBytes];
  alignas(1024) uint8_t weight[T::kStages][T::kWeightBytes];
  alignas(16) float scale[T::kStages][T::kTokens];
  Barrier full[T::kStages], empty[T::kStages];
};

// Which tile a block does when: neighbours in time share rows of the weight or tokens, so that both stay in L2.
struct Grid {
  int rows, tokens;  // tiles, of rows a cluster's together
  __device__ int count() const { return rows * tokens; }
  struct At {
    int row, token;
  };
  __device__ At at(int index) const {
    constexpr int kTogether = 8;  // tiles of tokens that a turn goes through
    const int group = index / (kTogether * rows), first = group * kTogether;
    const int together = min(kTogether, tokens - first), inside = index - first * rows;
    return {inside / together, first + inside % together};
  }
};
template <class T>
__device__ Grid grid_of(const Params& params) {
  return {(params.out + kRows * kBlocks - 1) / (kRows * kBlocks),
          (params.tokens + T::kTokens - 1) / T::kTokens};
}

__device__ inline int own_cluster() { return static_cast<int>(blockIdx.x) / kBlocks; }
__device__ inline int all_clusters() { return static_cast<int>(gridDim.x) / kBlocks; }

// --- the thread that copies ---

template <class T>
__device__ void copy_all(Shared<T>& shared, const Maps& maps, const Params& params, int rank) {
  constexpr int kShare = T::kTokens / kBlocks;
  const Grid grid = grid_of<T>(params);
  const Coded from = coded(params);
  const int blocks = (params.in + kBlock - 1) / kBlock;
  const uint64_t kept = l2_policy(L2Policy::kNormal);
  Place<T::kStages> place;
  int use = 0;
  wait_for_predecessor();
  for (int index = own_cluster(); index < grid.count(); index += all_clusters()) {
    const Grid::At at = grid.at(index);
    const int token = at.token * T::kTokens, row = (at.row * kBlocks + rank) * kRows;
#pragma unroll 1
    for (int block = 0; block < blocks; ++block, ++use, place.advance()) {
      const int stage = place.stage;
      Barrier* const full = &shared.full[stage];
      if (use >= T::kStages) barrier_wait(&shared.empty[stage], place.parity ^ 1);
      barrier_expect(full, T::kXBytes + T::kWeightBytes + T::kScaleBytes);
      if constexpr (kBlocks > 1) {
        tensor_load_multicast(shared.x[stage] + rank * kShare * kBlock, &maps.x, block * kBlock,
                              token + rank * kShare, 0, full, (1 << kBlocks) - 1, kept);
      } else {
        tensor_load(shared.x[stage], &maps.x, block * kBlock, token, 0, full, kept);
      }
      tensor_load(shared.weight[stage], &maps.weight, block * kBlock, row, 0, full, kept);
      bulk_load(shared.scale[stage], from.scales + block * from.scale_stride + token, T::kScaleBytes, full,
                kept);
    }
  }
  if constexpr (kBlocks > 1) wait_for_releases(shared.empty, use, place);
}

// --- the warps that multiply ---

// A block of K: each half of the warpgroup's tokens a partial of its own.
template <class T>
__device__ void add_block(Shared<T>& shared, const Place<T::kStages>& place, int first_token,
                          float weight_scale, TileSums (&sums)[T::kHalves]) {
  const int stage = place.stage, row = first_token + static_cast<int>(threadIdx.x) % 128 / 32 * 16 +
                                       static_cast<int>(threadIdx.x) % 32 / 4;
  const uint64_t b = wgmma_operand(shared.weight[stage]);
  barrier_wait(&shared.full[stage], place.parity);
#pragma unroll
  for (int half = 0; half < T::kHalves; ++half) {
    float partial[kSums];
    begin_partial<kRows>(partial,
                         wgmma_operand(shared.x[stage] + (first_token + half * kRowsOfMultiply) * kBlock), b);
    const float* const scale = &shared.scale[stage][row + half * kRowsOfMultiply];
    const float factors[2] = {__fmul_rn(scale[0], weight_scale), __fmul_rn(scale[8], weight_scale)};
    wgmma_wait<0>();
    wgmma_result(partial);
#pragma unroll
    for (int i = 0; i < kSums; ++i)
      sums[half].acc[i] = __fmaf_rn(partial[i], factors[i / 2 % 2], sums[half].acc[i]);
  }
}

// Rows g and g + 8 of a warp's 16: eight columns at once.
__device__ inline void store_sums(const Params& params, int token, int column, const TileSums& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    const int at = token + lane / 4 + 8 * lower;
#pragma unroll
    for (int j = 0; j < kRows / 8; j += 4) {
      const auto pair = [&](int of) {
        const float* const d = &sums.acc[4 * (j + of) + 2 * lower];
        return bf16_pair(d[0], d[1]);
      };
      const uint4 eight = traded(pair(0), pair(1), pair(2), pair(3));
      const int first = column + (j + lane % 4) * 8;
      if (at < params.tokens && first < params.out)
        *reinterpret_cast<uint4*>(params.y + at * params.y_stride + first) = eight;
    }
  }
}

template <class T>
__device__ void multiply_all(Shared<T>& shared, const Params& params, int rank, int parts) {
  const Grid grid = grid_of<T>(params);
  const int blocks = (params.in + kBlock - 1) / kBlock, each = (blocks + parts - 1) / parts;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first_token = __shfl_sync(~0u, warp / 4, 0) * T::kHalves * kRowsOfMultiply;
  const auto row_of = [&](int index) { return (grid.at(index).row * kBlocks + rank) * kRows; };
  const auto scales_of = [&](int index) {  // a cluster's second block may lie beyond the last row
    return index < grid.count() ? min(row_of(index), params.out - 1) : -1;
  };
  WeightScales scales{params, 0, blocks};
  int index = own_cluster();
  scales.begin(scales_of(index));
  Place<T::kStages> place;
  for (; index < grid.count(); index += all_clusters()) {
    const int row = row_of(index), row_after = scales_of(index + all_clusters());
    TileSums sums[T::kHalves], total[T::kHalves];
    int left = each, part = 0;
#pragma unroll 1
    for (int block = 0; block < blocks; ++block, place.advance()) {
      const float weight_scale = scales.take(scales_of(index), row_after, block);
      add_block<T>(shared, place, first_token, weight_scale, sums);
      release_stage<kBlocks>(&shared.empty[place.stage], rank);
      if (T::kParts && (--left == 0 || block + 1 == blocks)) {
        add_part(part++ == 0, sums, total);
        left = each;
      }
    }
#pragma unroll
    for (int half = 0; half < T::kHalves; ++half)
      store_sums(params,
                 grid.at(index).token * T::kTokens + first_token + half * kRowsOfMultiply + warp % 4 * 16,
                 row, T::kParts ? total[half] : sums[half]);
  }
}

template <class T>
__global__ __launch_bounds__(kThreads, 1) void tiles(const __grid_constant__ Maps maps,
                                                     const __grid_constant__ Params params, int parts) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared<T>& shared = *reinterpret_cast<Shared<T>*>(memory);
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  if (threadIdx.x == kWarps * 32) {
    prefetch_map(&maps.weight);
    prefetch_map(&maps.x);
    begin_ring(shared.full, shared.empty, kWarps * kBlocks);
    barrier_init_fence();
  }
  __syncthreads();
  if constexpr (kBlocks > 1) {  // all barriers are there
    cluster_arrive_relaxed();
    cluster_wait();
  }
  release_successor();
  const int rank = kBlocks > 1 ? static_cast<int>(cluster_rank()) : 0;
  if (warp < kWarps) {
    take_registers<232>();
    multiply_all<T>(shared, params, rank, parts);
  } else {
    give_registers<40>();
    if (threadIdx.x == kWarps * 32) copy_all<T>(shared, maps, params, rank);
  }
}

template <class T>
cudaError_t launch_of(const Params& params, int parts, bool dependent, cudaStream_t stream) {
  static_assert(sizeof(Shared<T>) <= 232448);
  static const cudaError_t allowed = allow_shared(tiles<T>, sizeof(Shared<T>));
  Maps maps{};
  const cudaError_t error = make_maps(params, kRows, T::kTokens / kBlocks, &maps);
  if (error != cudaSuccess || allowed != cudaSuccess) return error != cudaSuccess ? error : allowed;
  const int turns = pieces(params.out, kRows * kBlocks) * pieces(params.tokens, T::kTokens);
  const int clusters = std::clamp(params.processors / kBlocks, 1, turns);
  cudaLaunchAttribute attributes[] = {dependent_launch(dependent), cluster_of(kBlocks)};
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(clusters * kBlocks), 1, 1};
  config.blockDim = {kThreads, 1, 1};
  config.dynamicSmemBytes = sizeof(Shared<T>);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = kBlocks > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, tiles<T>, maps, params, parts);
}

// Rounds of all clusters that tiles of so many tokens take, in tiles of 128.
int work(const Params& params, int tokens) {
  const int turns = pieces(params.out, kRows * kBlocks) * pieces(params.tokens, tokens);
  return pieces(turns, std::max(params.processors / kBlocks, 1)) * (tokens / 128);
}

}  // namespace

cudaError_t launch_tiles(const Params& params, bool dependent, cudaStream_t stream) {
  const int parts = parts_of(params.in, params.out);
  if (parts > 1) return launch_of<Tile<1, 6, true>>(params, parts, dependent, stream);
  if (work(params, 128) < work(params, 256))
    return launch_of<Tile<1, 6, false>>(params, parts, dependent, stream);
  return launch_of<Tile<2, 4, false>>(params, parts, dependent, stream);
}

}  // namespace fulgurite::linear::hopper
