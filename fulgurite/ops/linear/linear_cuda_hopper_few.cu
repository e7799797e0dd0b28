// Up to 64 tokens: what counts is that weights come from memory without a pause. A block makes 64 rows of the
// weight times all tokens over one part of K; one thread copies (TMA) into a ring, four warps multiply: the weight
// is the tensor core's 64 rows, tokens its narrow side. Where K is in parts, a cluster's blocks each do one, and
// send their sums to the block that adds them, in fixed places.

#include "fulgurite/ops/linear/linear_cuda_hopper_kernels.h"

namespace fulgurite::linear::hopper {
namespace {

constexpr int kRows = 64, kWarps = 4, kThreads = (kWarps + 1) * 32;

template <int kTokensOfTile, int kParts, int kStagesOfRing>
struct Few {
  static constexpr int kTokens = kTokensOfTile, kBlocks = kParts, kStages = kStagesOfRing;
  static constexpr int kFragments = kTokens / 8 * kWarps;  // of 16 rows and 8 tokens
  static constexpr int kOwned = kFragments / kBlocks;      // that a block adds and writes
  static constexpr uint32_t kWeightBytes = kRows * kBlock, kXBytes = kTokens * kBlock,
                            kScaleBytes = kTokens * sizeof(float);
};

template <class T>
struct Shared {
  alignas(1024) uint8_t weight[T::kStages][T::kWeightBytes];
  alignas(1024) uint8_t x[T::kStages][T::kXBytes];
  alignas(16) float scale[T::kStages][T::kTokens];
  float4 parts[T::kBlocks > 1 ? T::kBlocks : 0][T::kOwned][32];
  Barrier full[T::kStages], empty[T::kStages], received;
};

// The tiles of a cluster.
template <class T>
struct Turns {
  int first, step, tiles;
  __device__ explicit Turns(const Params& params)
      : first(static_cast<int>(blockIdx.x) / T::kBlocks),
        step(static_cast<int>(gridDim.x) / T::kBlocks),
        tiles((params.out + kRows - 1) / kRows) {}
  __device__ int count() const { return (tiles - first + step - 1) / step; }
};

// --- the thread that copies ---

template <class T>
struct Copier {
  Shared<T>& shared;
  const Maps& maps;
  const Params& params;
  Part part;
  Coded from;
  uint64_t once, kept;  // weights are read once, activations by every block

  __device__ void copy_weight(int tile, int block, int stage) const {
    Barrier* const full = &shared.full[stage];
    barrier_expect(full, T::kWeightBytes + T::kXBytes + T::kScaleBytes);
    tensor_load(shared.weight[stage], &maps.weight, (part.first + block) * kBlock, tile * kRows, 0, full, once);
  }
  __device__ void copy_x(int block, int stage) const {
    Barrier* const full = &shared.full[stage];
    const int at = part.first + block;
    tensor_load(shared.x[stage], &maps.x, at * kBlock, 0, 0, full, kept);
    bulk_load(shared.scale[stage], from.scales + at * from.scale_stride, T::kScaleBytes, full, kept);
  }
};

// A block of K of a tile.
struct Cursor {
  int tile, block = 0;
  __device__ void advance(int blocks, int step) {
    if (++block < blocks) return;
    block = 0;
    tile += step;
  }
};

template <class T>
__device__ void copy_all(Shared<T>& shared, const Maps& maps, const Params& params, Part part) {
  const Turns<T> turns(params);
  const Copier<T> copier{shared, maps, params, part, coded(params), l2_policy(L2Policy::kEvictFirst),
                         l2_policy(L2Policy::kNormal)};
  const int uses = turns.count() * part.blocks, ahead = min(uses, T::kStages);
  Cursor at{turns.first};
#pragma unroll 1
  for (int use = 0; use < ahead; ++use, at.advance(part.blocks, turns.step))
    copier.copy_weight(at.tile, at.block, use);
  wait_for_predecessor();
  at = {turns.first};
  Place<T::kStages> place;
#pragma unroll 1
  for (int use = 0; use < uses; ++use, at.advance(part.blocks, turns.step), place.advance()) {
    if (use >= ahead) {
      barrier_wait(&shared.empty[place.stage], place.parity ^ 1);
      copier.copy_weight(at.tile, at.block, place.stage);
    }
    copier.copy_x(at.block, place.stage);
  }
}

// --- the warps that multiply ---

// acc = fma(partial, fp32(sa * sb), acc), a thread's two tokens of each fragment.
template <class T>
__device__ void promote(float (&acc)[T::kTokens / 2], const float (&partial)[T::kTokens / 2],
                        const float2 (&factors)[T::kTokens / 8]) {
#pragma unroll
  for (int j = 0; j < T::kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      acc[4 * j + i] = __fmaf_rn(partial[4 * j + i], i % 2 == 0 ? factors[j].x : factors[j].y, acc[4 * j + i]);
  }
}

template <class T>
__device__ void add_block(Shared<T>& shared, Place<T::kStages>& place, float weight_scale,
                          float (&acc)[T::kTokens / 2]) {
  constexpr int kFragments = T::kTokens / 8;
  const int lane = static_cast<int>(threadIdx.x) % 32, stage = place.stage;
  barrier_wait(&shared.full[stage], place.parity);
  float partial[T::kTokens / 2];
  begin_partial<T::kTokens>(partial, wgmma_operand(shared.weight[stage]), wgmma_operand(shared.x[stage]));
  float2 factors[kFragments];
#pragma unroll
  for (int j = 0; j < kFragments; ++j) {
    factors[j] = *reinterpret_cast<const float2*>(&shared.scale[stage][8 * j + lane % 4 * 2]);
    factors[j].x = __fmul_rn(factors[j].x, weight_scale);
    factors[j].y = __fmul_rn(factors[j].y, weight_scale);
  }
  wgmma_wait<0>();
  wgmma_result(partial);
  __syncwarp();
  if (lane == 0) barrier_arrive(&shared.empty[stage]);
  place.advance();
  promote<T>(acc, partial, factors);
}

// Fragment f of the tile: of warp f % 4, tokens f / 4 * 8 on.
template <class T>
__device__ void store_fragment(const Params& params, int tile, int f, const float* d) {
  const int token = f / kWarps * 8, row = tile * kRows + f % kWarps * 16;
  store_transposed(params.y + token * params.y_stride + row, params.y_stride, params.tokens - token,
                   params.out - row, d);
}

// Parts of a fragment to the block that owns it: f % kBlocks.
template <class T>
__device__ void exchange(Shared<T>& shared, const Params& params, int rank, int tile,
                         const float (&acc)[T::kTokens / 2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int j = 0; j < T::kTokens / 8; ++j) {
    const int f = j * kWarps + warp, owner = f % T::kBlocks;
    send(address_in(shared_address(&shared.parts[rank][f / T::kBlocks][lane]), owner),
         {acc[4 * j], acc[4 * j + 1], acc[4 * j + 2], acc[4 * j + 3]},
         address_in(shared_address(&shared.received), owner));
  }
  barrier_wait_cluster(&shared.received, 0);
  for (int owned = warp; owned < T::kOwned; owned += kWarps) {
    float4 sum = shared.parts[0][owned][lane];
#pragma unroll
    for (int p = 1; p < T::kBlocks; ++p) {
      const float4 part = shared.parts[p][owned][lane];
      sum = {__fadd_rn(sum.x, part.x), __fadd_rn(sum.y, part.y), __fadd_rn(sum.z, part.z),
             __fadd_rn(sum.w, part.w)};
    }
    const float d[4] = {sum.x, sum.y, sum.z, sum.w};
    store_fragment<T>(params, tile, owned * T::kBlocks + rank, d);
  }
}

template <class T>
__device__ void multiply_all(Shared<T>& shared, const Params& params, int rank, Part part) {
  const Turns<T> turns(params);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  WeightScales scales{params.scale, params.scale_stride, part.first, part.blocks};
  scales.begin(turns.first * kRows);
  Place<T::kStages> place;
  for (int tile = turns.first; tile < turns.tiles; tile += turns.step) {
    const int row_after = tile + turns.step < turns.tiles ? (tile + turns.step) * kRows : -1;
    float acc[T::kTokens / 2] = {};
#pragma unroll 1
    for (int block = 0; block < part.blocks; ++block)
      add_block<T>(shared, place, scales.take(tile * kRows, row_after, block), acc);
    if constexpr (T::kBlocks > 1) {
      cluster_wait();  // all barriers are there
      exchange<T>(shared, params, rank, tile, acc);
    } else {
#pragma unroll
      for (int j = 0; j < T::kTokens / 8; ++j)
        store_fragment<T>(params, tile, j * kWarps + warp, acc + 4 * j);
    }
  }
}

// By one thread, at addresses that the compiler knows: an initialization elsewhere costs a fence.
template <class T>
__device__ void make_barriers(Shared<T>& shared) {
#pragma unroll
  for (int i = 0; i < T::kStages; ++i) {
    barrier_init(&shared.full[i], 1);
    barrier_init(&shared.empty[i], kWarps);
  }
  barrier_init(&shared.received, 1);
  barrier_init_fence();
  if (T::kBlocks > 1) barrier_expect(&shared.received, sizeof shared.parts);
}

template <class T>
__global__ __launch_bounds__(kThreads) void few(const __grid_constant__ Maps maps,
                                                const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared<T>& shared = *reinterpret_cast<Shared<T>*>(memory);
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const int rank = T::kBlocks > 1 ? static_cast<int>(cluster_rank()) : 0;
  const Part part = part_of(params.in, rank, T::kBlocks);
  if (threadIdx.x == kWarps * 32) {
    prefetch_map(&maps.weight);
    prefetch_map(&maps.x);
    make_barriers(shared);
  }
  __syncthreads();
  if constexpr (T::kBlocks > 1) cluster_arrive_relaxed();
  release_successor();
  if (warp < kWarps) return multiply_all<T>(shared, params, rank, part);
  if (threadIdx.x == kWarps * 32) copy_all<T>(shared, maps, params, part);
  __syncwarp();
  if constexpr (T::kBlocks > 1) cluster_wait();
}

template <class T>
cudaError_t launch_of(const Params& params, bool dependent, cudaStream_t stream) {
  static_assert(sizeof(Shared<T>) <= 232448);
  static const cudaError_t allowed = allow_shared(few<T>, sizeof(Shared<T>));
  Maps maps{};
  const cudaError_t error = make_maps(params, kRows, T::kTokens, &maps);
  if (error != cudaSuccess || allowed != cudaSuccess) return error != cudaSuccess ? error : allowed;
  const int tiles = pieces(params.out, kRows);
  const int blocks = T::kBlocks > 1 ? tiles * T::kBlocks : std::min(tiles, params.processors);
  cudaLaunchAttribute attributes[] = {dependent_launch(dependent), cluster_of(T::kBlocks)};
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(blocks), 1, 1};
  config.blockDim = {kThreads, 1, 1};
  config.dynamicSmemBytes = sizeof(Shared<T>);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = T::kBlocks > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, few<T>, maps, params);
}

// Rings of at most half a processor's memory where a cluster splits K: of 33 clusters of four, 30 run at once
// with a processor to each block.
template <int kTokens, int kShallow, int kDeep>
cudaError_t launch_tokens(const Params& params, bool dependent, cudaStream_t stream) {
  switch (parts_of(params.in, params.out)) {
    case 1: return launch_of<Few<kTokens, 1, kDeep>>(params, dependent, stream);
    case 2: return launch_of<Few<kTokens, 2, kShallow>>(params, dependent, stream);
    default: return launch_of<Few<kTokens, 4, kShallow>>(params, dependent, stream);
  }
}

}  // namespace

cudaError_t launch_few(const Params& params, bool dependent, cudaStream_t stream) {
  if (params.tokens <= 8) return launch_tokens<8, 12, 12>(params, dependent, stream);
  if (params.tokens <= 16) return launch_tokens<16, 10, 12>(params, dependent, stream);
  if (params.tokens <= 32) return launch_tokens<32, 8, 12>(params, dependent, stream);
  return launch_tokens<64, 5, 12>(params, dependent, stream);
}

}  // namespace fulgurite::linear::hopper
