// Up to 128 tokens: what counts is that weights come from memory without a pause. A block makes 64 rows of the
// weight times all tokens over one part of K; one thread copies (TMA) into a ring, one or two warpgroups multiply,
// each all rows by its share of the tokens: the weight is the tensor core's 64 rows, tokens its narrow side. Where K
// is in parts, a cluster's blocks each do one, and send their sums to the block that adds them, in fixed places.

#include "fulgurite/ops/linear/linear_cuda_hopper_kernels.h"
#include "fulgurite/ops/linear/linear_cuda_hopper_quantize.h"

namespace fulgurite::linear::hopper {
namespace {

constexpr int kRows = 64, kRowWarps = 4;
constexpr int kMostFusedBlocks = 16;  // of a part of K

// kFuses: the block quantizes its part of the activations itself, and keeps it.
template <int kTokensOfTile, int kParts, int kStagesOfRing, bool kFusesBoth = false>
struct Few {
  static constexpr int kTokens = kTokensOfTile, kBlocks = kParts, kStages = kStagesOfRing;
  static constexpr bool kFuses = kFusesBoth;
  static constexpr int kGroups = kTokens >= 16 ? 2 : 1, kWarps = kRowWarps * kGroups, kThreads = 32 * (kWarps + 1);
  static constexpr int kTokensOfGroup = kTokens / kGroups, kSums = kTokensOfGroup / 2;
  static constexpr int kFragments = kTokens / 8 * kRowWarps;  // of 16 rows and 8 tokens
  static constexpr int kOwned = kFragments / kBlocks;         // that a block adds and writes
  static constexpr int kXBlocks = kFuses ? kMostFusedBlocks : kStages;
  static constexpr int kAtOnce = kBlocks > 1 ? 2 : 1;  // blocks on a processor
  static constexpr uint32_t kWeightBytes = kRows * kBlock, kXBytes = kTokens * kBlock,
                            kScaleBytes = kTokens * sizeof(float);
  static constexpr uint32_t kStageBytes = kWeightBytes + (kFuses ? 0 : kXBytes + kScaleBytes);
  // Stages asked for before the predecessor is waited for: activations queue behind them.
  static constexpr int kAhead = kFuses ? kStages : std::min(kStages, 4);
};

template <class T>
struct Shared {
  alignas(1024) uint8_t weight[T::kStages][T::kWeightBytes];
  alignas(1024) uint8_t x[T::kXBlocks][T::kXBytes];
  alignas(16) float scale[T::kXBlocks][T::kTokens];
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
    barrier_expect(full, T::kStageBytes);
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
  const int uses = turns.count() * part.blocks, ahead = min(uses, T::kAhead);
  Cursor at{turns.first};
#pragma unroll 1
  for (int use = 0; use < ahead; ++use, at.advance(part.blocks, turns.step))
    copier.copy_weight(at.tile, at.block, use);
  if constexpr (!T::kFuses) wait_for_predecessor();
  at = {turns.first};
  Place<T::kStages> place;
#pragma unroll 1
  for (int use = 0; use < uses; ++use, at.advance(part.blocks, turns.step), place.advance()) {
    if (use >= T::kStages) barrier_wait(&shared.empty[place.stage], place.parity ^ 1);
    if (use >= ahead) copier.copy_weight(at.tile, at.block, place.stage);
    if constexpr (!T::kFuses) copier.copy_x(at.block, place.stage);
  }
}

// --- the warps that quantize, of a kernel that fuses ---

// Codes of the block's part of K, where the copy engine would have put them: 16-byte pieces at piece ^ (row % 8).
template <class T>
__device__ void quantize_part(Shared<T>& shared, const Params& params, Part part) {
  constexpr int kGroupsAtOnce = T::kWarps * 32 / kLanesOfGroup, kTurns = 4;  // loads under way
  const int groups = part.blocks * params.tokens, lane = static_cast<int>(threadIdx.x) % kLanesOfGroup;
  const int own = static_cast<int>(threadIdx.x) / kLanesOfGroup;
  for (int begin = 0; begin < groups; begin += kTurns * kGroupsAtOnce) {
    uint4 x[kTurns];
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int group = begin + i * kGroupsAtOnce + own, block = group / params.tokens;
      const int column = (part.first + block) * kBlock + lane * kColumnsOfLane;
      x[i] = {0, 0, 0, 0};
      if (group < groups && column < params.in)
        x[i] = __ldcg(reinterpret_cast<const uint4*>(
            params.x + (group - block * params.tokens) * params.x_stride + column));
    }
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int group = begin + i * kGroupsAtOnce + own, block = group / params.tokens,
                token = group - block * params.tokens;
      const CodedEight eight = quantized(x[i], params.rounding);
      if (group >= groups) continue;
      const int piece = lane / 2 ^ token % 8;
      *reinterpret_cast<uint2*>(&shared.x[block][token * kBlock + piece * 16 + lane % 2 * 8]) = eight.codes;
      if (lane == 0) shared.scale[block][token] = eight.scale;
    }
  }
  shared_writes_fence();
  named_barrier_sync(1, T::kWarps * 32);
}

// --- the warps that multiply ---

// acc = fma(partial, fp32(sa * sb), acc), a thread's two tokens of each fragment.
template <class T>
__device__ void promote(float (&acc)[T::kSums], const float (&partial)[T::kSums],
                        const float2 (&factors)[T::kSums / 4]) {
#pragma unroll
  for (int i = 0; i < T::kSums; ++i)
    acc[i] = __fmaf_rn(partial[i], i % 2 == 0 ? factors[i / 4].x : factors[i / 4].y, acc[i]);
}

// `of_x`: where the block's activations are.
template <class T>
__device__ void add_block(Shared<T>& shared, Place<T::kStages>& place, int of_x, float weight_scale,
                          float (&acc)[T::kSums]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, stage = place.stage;
  const int first_token = static_cast<int>(threadIdx.x) / 128 * T::kTokensOfGroup;
  barrier_wait(&shared.full[stage], place.parity);
  float partial[T::kSums];
  begin_partial<T::kTokensOfGroup>(partial, wgmma_operand(shared.weight[stage]),
                                   wgmma_operand(shared.x[of_x] + first_token * kBlock));
  float2 factors[T::kSums / 4];
#pragma unroll
  for (int j = 0; j < T::kSums / 4; ++j) {
    factors[j] = *reinterpret_cast<const float2*>(&shared.scale[of_x][first_token + 8 * j + lane % 4 * 2]);
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

// Fragment f of the tile: 16 rows f % 4, 8 tokens f / 4; this warp's first, of which the next are 4 further.
template <class T>
__device__ int first_fragment() {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  return warp / kRowWarps * (T::kTokensOfGroup / 8) * kRowWarps + warp % kRowWarps;
}

struct Target {
  uint16_t* to;
  int tokens, rows;  // that are left
};
__device__ inline Target target_of(const Params& params, int tile, int f) {
  const int token = f / kRowWarps * 8, row = tile * kRows + f % kRowWarps * 16;
  return {params.y + token * params.y_stride + row, params.tokens - token, params.out - row};
}

template <class T>
__device__ void store_tile(const Params& params, int tile, const float (&acc)[T::kSums]) {
  constexpr int kFragments = T::kSums / 4;
#pragma unroll
  for (int j = 0; j < kFragments; j += 2) {
    const auto [to, tokens, rows] = target_of(params, tile, first_fragment<T>() + kRowWarps * j);
    if constexpr (kFragments == 1) {
      store_transposed(to, params.y_stride, tokens, rows, acc);
    } else {
      store_pair_transposed(to, params.y_stride, tokens, rows, acc + 4 * j);
    }
  }
}

// Parts of a fragment to the block that owns it: f % kBlocks.
template <class T>
__device__ void exchange(Shared<T>& shared, const Params& params, int rank, int tile,
                         const float (&acc)[T::kSums]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int j = 0; j < T::kSums / 4; ++j) {
    const int f = first_fragment<T>() + kRowWarps * j, owner = f % T::kBlocks;
    send(address_in(shared_address(&shared.parts[rank][f / T::kBlocks][lane]), owner),
         {acc[4 * j], acc[4 * j + 1], acc[4 * j + 2], acc[4 * j + 3]},
         address_in(shared_address(&shared.received), owner));
  }
  barrier_wait_cluster(&shared.received, 0);
  for (int owned = warp; owned < T::kOwned; owned += T::kWarps) {
    float4 sum = shared.parts[0][owned][lane];
#pragma unroll
    for (int p = 1; p < T::kBlocks; ++p) {
      const float4 part = shared.parts[p][owned][lane];
      sum = {__fadd_rn(sum.x, part.x), __fadd_rn(sum.y, part.y), __fadd_rn(sum.z, part.z),
             __fadd_rn(sum.w, part.w)};
    }
    const float d[4] = {sum.x, sum.y, sum.z, sum.w};
    const auto [to, tokens, rows] = target_of(params, tile, owned * T::kBlocks + rank);
    store_transposed(to, params.y_stride, tokens, rows, d);
  }
}

template <class T>
__device__ void multiply_all(Shared<T>& shared, const Params& params, int rank, Part part) {
  const Turns<T> turns(params);
  WeightScales scales{params.scale, params.scale_stride, part.first, part.blocks};
  scales.begin(turns.first * kRows);
  if constexpr (T::kFuses) {
    wait_for_predecessor();
    quantize_part<T>(shared, params, part);
  }
  Place<T::kStages> place;
  for (int tile = turns.first; tile < turns.tiles; tile += turns.step) {
    const int row_after = tile + turns.step < turns.tiles ? (tile + turns.step) * kRows : -1;
    float acc[T::kSums] = {};
#pragma unroll 1
    for (int block = 0; block < part.blocks; ++block)
      add_block<T>(shared, place, T::kFuses ? block : place.stage, scales.take(tile * kRows, row_after, block), acc);
    if constexpr (T::kBlocks > 1) {
      cluster_wait();  // all barriers are there
      exchange<T>(shared, params, rank, tile, acc);
    } else {
      store_tile<T>(params, tile, acc);
    }
  }
}

// By one thread, at addresses that the compiler knows: an initialization elsewhere costs a fence.
template <class T>
__device__ void make_barriers(Shared<T>& shared) {
#pragma unroll
  for (int i = 0; i < T::kStages; ++i) {
    barrier_init(&shared.full[i], 1);
    barrier_init(&shared.empty[i], T::kWarps);
  }
  barrier_init(&shared.received, 1);
  barrier_init_fence();
  if (T::kBlocks > 1) barrier_expect(&shared.received, sizeof shared.parts);
}

template <class T>
__global__ __launch_bounds__(T::kThreads, T::kAtOnce) void few(const __grid_constant__ Maps maps,
                                                                 const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared<T>& shared = *reinterpret_cast<Shared<T>*>(memory);
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const int rank = T::kBlocks > 1 ? static_cast<int>(cluster_rank()) : 0;
  const Part part = part_of(params.in, rank, T::kBlocks);
  if (threadIdx.x == T::kWarps * 32) {
    prefetch_map(&maps.weight);
    prefetch_map(&maps.x);
    make_barriers(shared);
  }
  __syncthreads();
  if constexpr (T::kBlocks > 1) cluster_arrive_relaxed();
  release_successor();
  if (warp < T::kWarps) return multiply_all<T>(shared, params, rank, part);
  if (threadIdx.x == T::kWarps * 32) copy_all<T>(shared, maps, params, part);
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
  config.blockDim = {T::kThreads, 1, 1};
  config.dynamicSmemBytes = sizeof(Shared<T>);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = T::kBlocks > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, few<T>, maps, params);
}

// Rings of at most half a processor's memory where a cluster splits K: of 33 clusters of four, 30 run at once
// with a processor to each block.
template <int kTokens, int kShallow, int kDeep, bool kFuses = false>
cudaError_t launch_tokens(const Params& params, bool dependent, cudaStream_t stream) {
  switch (parts_of(params.in, params.out)) {
    case 1: return launch_of<Few<kTokens, 1, kDeep, kFuses>>(params, dependent, stream);
    case 2: return launch_of<Few<kTokens, 2, kShallow, kFuses>>(params, dependent, stream);
    default: return launch_of<Few<kTokens, 4, kShallow, kFuses>>(params, dependent, stream);
  }
}

}  // namespace

cudaError_t launch_few(const Params& params, bool dependent, cudaStream_t stream) {
  if (params.tokens <= 8) return launch_tokens<8, 12, 12>(params, dependent, stream);
  if (params.tokens <= 16) return launch_tokens<16, 10, 12>(params, dependent, stream);
  if (params.tokens <= 32) return launch_tokens<32, 8, 12>(params, dependent, stream);
  if (params.tokens <= 64) return launch_tokens<64, 5, 12>(params, dependent, stream);
  return launch_tokens<128, 3, 8>(params, dependent, stream);
}

bool fuses(const Params& params) {
  return params.tokens <= 16 &&
         pieces(pieces(params.in, kBlock), parts_of(params.in, params.out)) <= kMostFusedBlocks;
}

cudaError_t launch_fused(const Params& params, cudaStream_t stream) {
  if (params.tokens <= 8) return launch_tokens<8, 11, 12, true>(params, params.dependent, stream);
  return launch_tokens<16, 8, 12, true>(params, params.dependent, stream);
}

}  // namespace fulgurite::linear::hopper
