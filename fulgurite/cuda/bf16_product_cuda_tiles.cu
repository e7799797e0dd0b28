// Tiles of 256 or 128 tokens and 128 rows of the weight, persistent blocks, one thread that copies (TMA) into a ring and
// two warpgroups that multiply, each 128 or 64 of the tokens, which are the tensor core's rows here. Where K is in
// parts, their sums stay in registers beside the part that is under way, which leaves room for 128 tokens. A
// cluster's two blocks have neighbouring rows and the same tokens, of which each copies half for both.

#include <algorithm>

#include "fulgurite/cuda/bf16_product_kernels.h"
#include "fulgurite/cuda/tile_sums.h"

namespace fulgurite::cuda {
namespace {

constexpr int kRows = 128, kGroups = 2, kWarps = 4 * kGroups, kThreads = 32 * kWarps + 128;
constexpr int kBlocks = 2;  // of a cluster

template <int kHalvesOfGroup, int kStagesOfRing, bool kPartsOfK>
struct Tile {
  static constexpr int kHalves = kHalvesOfGroup, kStages = kStagesOfRing;
  static constexpr bool kParts = kPartsOfK;
  static constexpr int kTokens = kHalves * kGroups * kRowsOfMultiply;
  static constexpr uint32_t kXBytes = kTokens * kBoxBytes, kWeightBytes = kRows * kBoxBytes;
};

template <class T>
struct Shared {
  alignas(1024) uint8_t x[T::kStages][T::kXBytes];
  alignas(1024) uint8_t weight[T::kStages][T::kWeightBytes];
  Barrier full[T::kStages], empty[T::kStages];
};

// Which tile a cluster does when: neighbours in time share rows of the weight or tokens, so that both stay in L2.
struct Grid {
  int rows, tokens, groups;  // tiles, of rows a cluster's together
  __device__ int count() const { return rows * tokens * groups; }
  struct At {
    int row, token, group;
  };
  __device__ At at(int index) const {
    constexpr int kTogether = 8;  // tiles of tokens that a turn goes through
    const int of_group = index % (rows * tokens);
    const int turn = of_group / (kTogether * rows), first = turn * kTogether;
    const int together = min(kTogether, tokens - first), inside = of_group - first * rows;
    return {inside / together, first + inside % together, index / (rows * tokens)};
  }
};
template <class T>
__device__ Grid grid_of(const Bf16Product& p) {
  return {(p.out + kRows * kBlocks - 1) / (kRows * kBlocks), (p.tokens + T::kTokens - 1) / T::kTokens,
          p.groups};
}

__device__ inline int own_cluster() { return static_cast<int>(blockIdx.x) / kBlocks; }
__device__ inline int all_clusters() { return static_cast<int>(gridDim.x) / kBlocks; }

// --- the thread that copies ---

template <class T>
__device__ void copy_all(Shared<T>& shared, const Bf16Maps& maps, const Bf16Product& p, int rank) {
  constexpr int kShare = T::kTokens / kBlocks;
  const Grid grid = grid_of<T>(p);
  const int boxes = boxes_of(p);
  const uint64_t kept = l2_policy(L2Policy::kNormal);
  Place<T::kStages> place;
  int use = 0;
  wait_for_predecessor();
  for (int index = own_cluster(); index < grid.count(); index += all_clusters()) {
    const Grid::At at = grid.at(index);
    const int token = at.token * T::kTokens, row = (at.row * kBlocks + rank) * kRows;
#pragma unroll 1
    for (int box = 0; box < boxes; ++box, ++use, place.advance()) {
      const int stage = place.stage;
      Barrier* const full = &shared.full[stage];
      if (use >= T::kStages) barrier_wait(&shared.empty[stage], place.parity ^ 1);
      barrier_expect(full, T::kXBytes + T::kWeightBytes);
      tensor_load_multicast(shared.x[stage] + rank * kShare * kBoxBytes, &maps.x, box * kBoxBytes,
                            token + rank * kShare, at.group, full, (1 << kBlocks) - 1, kept);
      tensor_load(shared.weight[stage], &maps.weight, box * kBoxBytes, row, at.group, full, kept);
    }
  }
  wait_for_releases(shared.empty, use, place);
}

// --- the warps that multiply ---

template <class T>
__device__ void add_box(Shared<T>& shared, const Place<T::kStages>& place, int first_token,
                        TileSums (&sums)[T::kHalves]) {
  const int stage = place.stage;
  barrier_wait(&shared.full[stage], place.parity);
  wgmma_fence();
#pragma unroll
  for (int half = 0; half < T::kHalves; ++half)
    multiply_box<kRows>(sums[half].acc,
                        wgmma_operand(shared.x[stage] + (first_token + half * kRowsOfMultiply) * kBoxBytes),
                        wgmma_operand(shared.weight[stage]));
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int half = 0; half < T::kHalves; ++half) wgmma_result(sums[half].acc);
}

// Rows g and g + 8 of a warp's 16 tokens: of bf16 eight columns at once, of f32 two.
__device__ inline void store_sums(const Bf16Product& p, int group, int token, int column,
                                  const TileSums& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int lower = 0; lower < 2; ++lower) {
    const int at = token + lane / 4 + 8 * lower;
    const int64_t row = at * p.y_stride + group * p.y_group_stride;
#pragma unroll
    for (int j = 0; j < kRows / 8; j += 4) {
      const auto d = [&](int of) { return &sums.acc[4 * (j + of) + 2 * lower]; };
      if (p.is_f32) {
#pragma unroll
        for (int of = 0; of < 4; ++of) {
          const int first = column + (j + of) * 8 + lane % 4 * 2;
          if (at < p.tokens && first < p.out)
            *reinterpret_cast<float2*>(static_cast<float*>(p.y) + row + first) = {d(of)[0], d(of)[1]};
        }
        continue;
      }
      const auto pair = [&](int of) { return bf16_pair(d(of)[0], d(of)[1]); };
      const uint4 eight = traded(pair(0), pair(1), pair(2), pair(3));
      const int first = column + (j + lane % 4) * 8;
      if (at < p.tokens && first < p.out)
        *reinterpret_cast<uint4*>(static_cast<uint16_t*>(p.y) + row + first) = eight;
    }
  }
}

template <class T>
__device__ void multiply_all(Shared<T>& shared, const Bf16Product& p, int rank) {
  const Grid grid = grid_of<T>(p);
  const int boxes = boxes_of(p), each = boxes_of_part(p), warp = static_cast<int>(threadIdx.x) / 32;
  const int first_token = __shfl_sync(~0u, warp / 4, 0) * T::kHalves * kRowsOfMultiply;
  Place<T::kStages> place;
  for (int index = own_cluster(); index < grid.count(); index += all_clusters()) {
    const Grid::At at = grid.at(index);
    TileSums sums[T::kHalves], total[T::kHalves];
    int left = each;
    bool first = true;
#pragma unroll 1
    for (int box = 0; box < boxes; ++box, place.advance()) {
      add_box<T>(shared, place, first_token, sums);
      release_stage<kBlocks>(&shared.empty[place.stage], rank);
      if (T::kParts && (--left == 0 || box + 1 == boxes)) {
        add_part(first, sums, total);
        first = false;
        left = each;
      }
    }
#pragma unroll
    for (int half = 0; half < T::kHalves; ++half)
      store_sums(p, at.group, at.token * T::kTokens + first_token + half * kRowsOfMultiply + warp % 4 * 16,
                 (at.row * kBlocks + rank) * kRows, T::kParts ? total[half] : sums[half]);
  }
}

template <class T>
__global__ __launch_bounds__(kThreads, 1) void tiles(const __grid_constant__ Bf16Maps maps,
                                                     const __grid_constant__ Bf16Product p) {
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
  cluster_arrive_relaxed();
  cluster_wait();  // all barriers are there
  release_successor();
  const int rank = static_cast<int>(cluster_rank());
  if (warp < kWarps) {
    take_registers<232>();
    multiply_all<T>(shared, p, rank);
  } else {
    give_registers<40>();
    if (threadIdx.x == kWarps * 32) copy_all<T>(shared, maps, p, rank);
  }
}

template <class T>
cudaError_t launch_of(const Bf16Product& p, cudaStream_t stream) {
  static_assert(sizeof(Shared<T>) <= 232448);
  static const cudaError_t allowed = allow_shared(tiles<T>, sizeof(Shared<T>));
  Bf16Maps maps{};
  const cudaError_t error = make_maps(p, kRows, T::kTokens / kBlocks, &maps);
  if (error != cudaSuccess || allowed != cudaSuccess) return error != cudaSuccess ? error : allowed;
  const int turns = pieces(p.out, kRows * kBlocks) * pieces(p.tokens, T::kTokens) * p.groups;
  const int clusters = std::clamp(p.processors / kBlocks, 1, turns);
  cudaLaunchAttribute attributes[] = {dependent_launch(p.dependent), cluster_of(kBlocks)};
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(clusters * kBlocks), 1, 1};
  config.blockDim = {kThreads, 1, 1};
  config.dynamicSmemBytes = sizeof(Shared<T>);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, tiles<T>, maps, p);
}

// Rounds of all clusters that tiles of so many tokens take, in tiles of 128.
int work(const Bf16Product& p, int tokens) {
  const int turns = pieces(p.out, kRows * kBlocks) * pieces(p.tokens, tokens) * p.groups;
  return pieces(turns, std::max(p.processors / kBlocks, 1)) * (tokens / 128);
}

}  // namespace

cudaError_t launch_tiles(const Bf16Product& p, cudaStream_t stream) {
  if (p.parts > 1) return launch_of<Tile<1, 6, true>>(p, stream);
  if (work(p, 128) < work(p, 256)) return launch_of<Tile<1, 6, false>>(p, stream);
  return launch_of<Tile<2, 4, false>>(p, stream);
}

}  // namespace fulgurite::cuda
