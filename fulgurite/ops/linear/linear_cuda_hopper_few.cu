// Up to 128 tokens: what counts is that weights come from memory without a pause. A block makes 64 rows of the
// weight times all tokens over one part of K; one thread copies (TMA) into a ring, one or two warpgroups multiply,
// each all rows by its share of the tokens: the weight is the tensor core's 64 rows, tokens its narrow side. Where K
// is in parts, a cluster's blocks each do one, and send their sums to the block that adds them, in fixed places.
// With kNeighbours a cluster does two tiles of rows, whose blocks each copy half of the activations for both.

#include "fulgurite/ops/linear/linear_cuda_hopper_few.h"
#include "fulgurite/ops/linear/linear_cuda_hopper_quantize.h"

namespace fulgurite::linear::hopper {
namespace {

// --- the warps that quantize, of a kernel that fuses ---

// Codes of one token's part of K, where the copy engine would have put them: the first row of a tile of 128 columns.
template <class T>
__device__ void quantize_part(Shared<T>& shared, const Params& params, Part part) {
  constexpr int kAtOnce = T::kWarps * 32 / kLanesOfGroup, kTurns = kMostFusedBlocks / kAtOnce;
  const int lane = static_cast<int>(threadIdx.x) % kLanesOfGroup,
            own = static_cast<int>(threadIdx.x) / kLanesOfGroup;
  uint4 x[kTurns];
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    const int block = i * kAtOnce + own, column = (part.first + block) * kBlock + lane * kColumnsOfLane;
    x[i] = {0, 0, 0, 0};
    if (block < part.blocks && column < params.in)
      x[i] = __ldcg(reinterpret_cast<const uint4*>(params.x + column));
  }
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    const int block = i * kAtOnce + own;
    const CodedEight eight = quantized(x[i], params.rounding);
    *reinterpret_cast<uint2*>(&shared.x[block][lane * kColumnsOfLane]) = eight.codes;
    if (lane == 0) shared.scale[block][0] = eight.scale;
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

// A stage may be overwritten, by all blocks that copy into it: the own one, then (lane 1) the neighbour.
template <class T>
__device__ void release(Shared<T>& shared, Rank<T> rank, int stage) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  __syncwarp();
  if (lane == 0) barrier_arrive(&shared.empty[stage]);
  if constexpr (T::kShares) {
    static_assert(T::kTiles == 2);
    const int neighbour = Rank<T>::of(rank.part, rank.tile ^ 1);
    if (lane == 1) arrive_at_having_read(address_in(shared_address(&shared.empty[stage]), neighbour));
  }
}

// `of_x`: where the block's activations are.
template <class T>
__device__ void add_block(Shared<T>& shared, Rank<T> rank, Place<T::kStages>& place, int of_x,
                          float weight_scale, float (&acc)[T::kSums]) {
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
  release(shared, rank, stage);
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

// Parts of a fragment to the block that owns it: part f % kParts of the tile.
template <class T>
__device__ void exchange(Shared<T>& shared, const Params& params, Rank<T> rank, int tile,
                         const float (&acc)[T::kSums]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int j = 0; j < T::kSums / 4; ++j) {
    const int f = first_fragment<T>() + kRowWarps * j, owner = Rank<T>::of(f % T::kParts, rank.tile);
    send(address_in(shared_address(&shared.parts[rank.part][f / T::kParts][lane]), owner),
         {acc[4 * j], acc[4 * j + 1], acc[4 * j + 2], acc[4 * j + 3]},
         address_in(shared_address(&shared.received), owner));
  }
  barrier_wait_cluster(&shared.received, 0);
  for (int owned = warp; owned < T::kOwned; owned += T::kWarps) {
    float4 sum = shared.parts[0][owned][lane];
#pragma unroll
    for (int p = 1; p < T::kParts; ++p) {
      const float4 part = shared.parts[p][owned][lane];
      sum = {__fadd_rn(sum.x, part.x), __fadd_rn(sum.y, part.y), __fadd_rn(sum.z, part.z),
             __fadd_rn(sum.w, part.w)};
    }
    const float d[4] = {sum.x, sum.y, sum.z, sum.w};
    const auto [to, tokens, rows] = target_of(params, tile, owned * T::kParts + rank.part);
    store_transposed(to, params.y_stride, tokens, rows, d);
  }
}

template <class T>
__device__ void multiply_all(Shared<T>& shared, const Params& params, Rank<T> rank) {
  const Turns<T> turns(params, rank);
  const Part part = part_of(params.in, rank.part, T::kParts);
  const auto row_of = [&](int tile) { return min(tile * kRows, params.out - 1); };
  WeightScales scales{params, part.first, part.blocks};
  scales.begin(row_of(turns.first));
  if constexpr (T::kBlocks > 1) cluster_wait();  // all barriers are there
  if constexpr (T::kFuses) {
    wait_for_predecessor();
    quantize_part<T>(shared, params, part);
  }
  Place<T::kStages> place;
  for (int turn = 0; turn < turns.count; ++turn) {
    const int tile = turns.first + turn * turns.step;
    const int row_after = turn + 1 < turns.count ? row_of(tile + turns.step) : -1;
    float acc[T::kSums] = {};
#pragma unroll 1
    for (int block = 0; block < part.blocks; ++block)
      add_block<T>(shared, rank, place, T::kFuses ? block : place.stage,
                   scales.take(row_of(tile), row_after, block), acc);
    if constexpr (T::kParts > 1) {
      exchange<T>(shared, params, rank, tile, acc);
    } else {
      store_tile<T>(params, tile, acc);
    }
  }
}

// By one thread, at addresses that the compiler knows: an initialization elsewhere costs a fence.
template <class T>
__device__ void make_barriers(Shared<T>& shared) {
  begin_ring(shared.full, shared.empty, T::kWarps * T::kTiles);
  barrier_init(&shared.received, 1);
  barrier_init_fence();
  if (T::kParts > 1) barrier_expect(&shared.received, sizeof shared.parts);
}

template <class T>
__global__ __launch_bounds__(T::kThreads, T::kAtOnce) void few(const __grid_constant__ Maps maps,
                                                               const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared<T>& shared = *reinterpret_cast<Shared<T>*>(memory);
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const Rank<T> rank(T::kBlocks > 1 ? static_cast<int>(cluster_rank()) : 0);
  const bool copies = threadIdx.x == T::kWarps * 32;
  if (copies) {
    prefetch_map(&maps.weight);
    prefetch_map(&maps.x);
    make_barriers(shared);
  }
  __syncthreads();
  if constexpr (T::kBlocks > 1) cluster_arrive_relaxed();
  release_successor();
  if (warp < T::kWarps) {
    multiply_all<T>(shared, params, rank);
  } else {
    const Copier<T> copier = copier_of<T>(shared, maps, params, rank);
    if (copies) copy_ahead(copier);
    __syncwarp();
    if constexpr (T::kBlocks > 1) cluster_wait();
    if (copies) copy_all(copier);
  }
}

template <class T>
cudaError_t launch_of(const Params& params, bool dependent, cudaStream_t stream) {
  // Of one part at least half a processor's, so that blocks of a dependent launch do not crowd in pairs on the
  // processors that this one leaves free.
  constexpr size_t kBytes = std::max(sizeof(Shared<T>), T::kParts == 1 ? size_t{120} << 10 : size_t{0});
  static_assert(kBytes <= 232448);
  static const cudaError_t allowed = allow_shared(few<T>, kBytes);
  Maps maps{};
  const cudaError_t error = make_maps(params, kRows, T::kTokens / T::kTiles, &maps);
  if (error != cudaSuccess || allowed != cudaSuccess) return error != cudaSuccess ? error : allowed;
  const int turns = pieces(params.out, kRows * T::kTiles);
  const int clusters = T::kParts > 1 ? turns : std::clamp(params.processors / T::kBlocks, 1, turns);
  cudaLaunchAttribute attributes[] = {dependent_launch(dependent), cluster_of(T::kBlocks)};
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(clusters * T::kBlocks), 1, 1};
  config.blockDim = {T::kThreads, 1, 1};
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = T::kBlocks > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, few<T>, maps, params);
}

// Where a cluster splits K, rings of at most half a processor's memory: of 33 clusters of four, 30 run at once with a
// processor to each block.
template <int kTokens, int kTiles, int kShallow, int kDeep, bool kFuses = false>
cudaError_t launch_tokens(const Params& params, bool dependent, cudaStream_t stream) {
  switch (parts_of(params.in, params.out)) {
    case 1:
      return launch_of<Few<kTokens, 1, kTiles, kDeep, kFuses>>(params, dependent, stream);
    case 2:
      return launch_of<Few<kTokens, 2, kTiles, kShallow, kFuses>>(params, dependent, stream);
    default:
      return launch_of<Few<kTokens, 4, kTiles, kShallow, kFuses>>(params, dependent, stream);
  }
}
}  // namespace

cudaError_t launch_few(const Params& params, bool dependent, cudaStream_t stream) {
  if (params.tokens <= 8) return launch_tokens<8, 1, 12, 12>(params, dependent, stream);
  if (params.tokens <= 16) return launch_tokens<16, 1, 10, 12>(params, dependent, stream);
  if (params.tokens <= 32) return launch_tokens<32, kNeighbours, 8, 12>(params, dependent, stream);
  if (params.tokens <= 64) return launch_tokens<64, kNeighbours, 5, 12>(params, dependent, stream);
  return launch_tokens<128, kNeighbours, 3, 8>(params, dependent, stream);
}

// One token: of more, so few warps quantize slower than a small kernel does beside them.
bool fuses(const Params& params) {
  return params.tokens == 1 &&
         pieces(pieces(params.in, kBlock), parts_of(params.in, params.out)) <= kMostFusedBlocks;
}

cudaError_t launch_fused(const Params& params, cudaStream_t stream) {
  return launch_tokens<8, 1, 11, 12, true>(params, params.dependent, stream);
}

}  // namespace fulgurite::linear::hopper
