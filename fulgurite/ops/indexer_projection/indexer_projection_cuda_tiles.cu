// Tiles of tokens times rows of the weight. A block of a cluster meets its parts of K one after the other,
// from shared memory that one thread keeps filled through the copy engine; then the cluster exchanges its
// sums so that each block adds a share of the tile. Clusters take tiles in turn.

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "fulgurite/cuda/wgmma_bf16.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_cuda_copy.h"

namespace fulgurite::indexer_projection::cuda {
namespace {

// What a warpgroup reads of stage 0, as descriptors.
struct Operands {
  uint64_t weight, x;
};

template <class T>
__device__ void multiply(float (&sum)[T::kSums], uint64_t weight, uint64_t x) {
  WgmmaBf16<T::kMultiplyTokens>::template multiply<Lie::kAlong, Lie::kAlong>(sum, weight, x, 1);
}

// The sum of `groups` groups from zero. `reuse`: stages are given back.
template <class T>
__device__ void sum_part(Shared<T>& shared, const Operands& first, int groups, bool reuse, Place<T>& place,
                         float (&sum)[T::kSums]) {
  constexpr uint64_t kStageUnits = T::kStageBytes / 16;
  const auto release = [&](int stage) {
    if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(&shared.empty[stage]));
  };
#pragma unroll
  for (float& value : sum) value = 0.0f;
  int before = -1;
  for (; groups >= kChunkGroups; groups -= kChunkGroups) {
    barrier_wait(shared_address(&shared.full[place.stage]), place.parity);
    const uint64_t a = first.weight + place.stage * kStageUnits, b = first.x + place.stage * kStageUnits;
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kChunkGroups; ++i) multiply<T>(sum, a + 2 * i, b + 2 * i);
    wgmma_commit();
    if (reuse) {
      wgmma_wait<1>();
      if (before >= 0) release(before);
    }
    before = place.stage;
    place.advance();
  }
  wgmma_wait<0>();
  wgmma_result(sum);
  if (reuse && before >= 0) release(before);
  if (groups == 0) return;
  barrier_wait(shared_address(&shared.full[place.stage]), place.parity);
  for (int i = 0; i < groups; ++i) {  // a part's last chunk, of which the rest belongs to the next part
    wgmma_fence();
    multiply<T>(sum, first.weight + place.stage * kStageUnits + 2 * i,
                first.x + place.stage * kStageUnits + 2 * i);
    wgmma_commit();
    wgmma_wait<0>();
  }
  wgmma_result(sum);
  if (reuse) release(place.stage);
  place.advance();
}

template <int Count>
__device__ void add_to(float (&sum)[Count], const float (&left)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) sum[i] = __fadd_rn(left[i], sum[i]);
}

// Count parts from `part` on, added pairwise.
template <int Count, class T>
__device__ void sum_parts(Shared<T>& shared, const Operands& first, int hidden, int part, bool reuse,
                          Place<T>& place, float (&sum)[T::kSums]) {
  if constexpr (Count == 1) {
    sum_part(shared, first, part_of(hidden, part).groups, reuse, place, sum);
  } else {
    float left[T::kSums];
    sum_parts<Count / 2>(shared, first, hidden, part, reuse, place, left);
    sum_parts<Count / 2>(shared, first, hidden, part + Count / 2, reuse, place, sum);
    add_to(sum, left);
  }
}

// The tile's sums of this block, each fragment to the block that adds it: number f to block f % kBlocks.
template <class T>
__device__ void send_fragments(Shared<T>& shared, int rank, const float (&sum)[T::kSums]) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int j = 0; j < T::kFragmentsOfWarp; ++j) {
    const int fragment = warp * T::kFragmentsOfWarp + j, owner = fragment % T::kBlocks;
    send(address_in(shared_address(&shared.parts[rank][fragment / T::kBlocks][lane]), owner),
         {sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]},
         address_in(shared_address(&shared.received), owner));
  }
}

// A fragment's place in the outputs: rows row and row + 8 of tokens token and token + 1.
__device__ void store_fragment(const Params& params, int token, int row, const float4& sum) {
  const int keys = keys_of(params);
  const bool one = token < params.tokens, two = token + 1 < params.tokens;
  if (row < keys && params.wide != nullptr) {
    float* const at = params.wide + token * params.wide_stride + row;
    if (one) at[0] = sum.x, at[8] = sum.z;
    if (two) at[params.wide_stride] = sum.y, at[params.wide_stride + 8] = sum.w;
    return;
  }
  if (row < keys) {
    uint16_t* const at = params.k + token * params.k_stride + row;
    if (one) at[0] = bf16_bits(sum.x), at[8] = bf16_bits(sum.z);
    if (two) at[params.k_stride] = bf16_bits(sum.y), at[params.k_stride + 8] = bf16_bits(sum.w);
    return;
  }
  const int head = row - keys;
  const bool low = head < params.heads, high = head + 8 < params.heads;
  const auto rounded = [&](float value) { return params.round_gate ? bf16_rounded(value) : value; };
  float* const at = params.gate + token * params.gate_stride + head;
  if (one && low) at[0] = rounded(sum.x);
  if (two && low) at[params.gate_stride] = rounded(sum.y);
  if (one && high) at[8] = rounded(sum.z);
  if (two && high) at[params.gate_stride + 8] = rounded(sum.w);
}

// Adds the fragments that this block owns and writes them.
template <class T>
__device__ void write_fragments(Shared<T>& shared, const Params& params, int rank, int tile) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1
  for (int owned = warp; owned < T::kOwned; owned += T::kWarps) {
    float4 parts[T::kBlocks];
#pragma unroll
    for (int i = 0; i < T::kBlocks; ++i) parts[i] = shared.parts[i][owned][lane];
    const int fragment = owned * T::kBlocks + rank, from = fragment / T::kFragmentsOfWarp, group = from / 4;
    const int token = tile * T::kTokens + group / T::kRowBlocks * T::kMultiplyTokens +
                      fragment % T::kFragmentsOfWarp * 8 + lane % 4 * 2;
    const int row = (static_cast<int>(blockIdx.y) * T::kRowBlocks + group % T::kRowBlocks) * kRowsOfMultiply +
                    from % 4 * 16 + lane / 4;
    store_fragment(params, token, row, pairwise_sum(parts));
  }
}

template <class T>
__device__ void multiply_all(Shared<T>& shared, const Params& params, int rank, int tiles) {
  const int clusters = static_cast<int>(gridDim.x) / T::kBlocks, lane = static_cast<int>(threadIdx.x) % 32;
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
  const uint32_t stage = shared_address(shared.stages[0]), received = shared_address(&shared.received);
  const Operands first{
      wgmma_operand(stage + group % T::kRowBlocks * (kRowsOfMultiply * kRowBytes)),
      wgmma_operand(stage + T::kWeightBytes + group / T::kRowBlocks * (T::kMultiplyTokens * kRowBytes))};
  const int own = static_cast<int>(blockIdx.x) / T::kBlocks;
  const bool reuse = own + clusters < tiles || chunks_of_block<T>(params.hidden, rank) > T::kStages;
  Place<T> place;
  int turn = 0;
  for (int tile = own; tile < tiles; tile += clusters, ++turn) {
    float sum[T::kSums];
    sum_parts<T::kPartsOfBlock>(shared, first, params.hidden, rank * T::kPartsOfBlock, reuse, place, sum);
    if (turn == 0) {
      cluster_wait();
    } else {
      barrier_wait_cluster(shared_address(&shared.may_send), (turn - 1) & 1);
    }
    send_fragments(shared, rank, sum);
    barrier_wait_cluster(received, turn & 1);
    const bool last = tile + clusters >= tiles;
    if (!last && threadIdx.x == 0)
      barrier_expect(received, sizeof shared.parts);  // before any block sends again
    write_fragments(shared, params, rank, tile);
    __syncwarp();
    if (!last && lane < T::kBlocks) arrive_at(address_in(shared_address(&shared.may_send), lane));
  }
}

// By one thread, at addresses that the compiler knows: an initialization elsewhere costs a fence.
template <class T>
__device__ void make_barriers(Shared<T>& shared) {
#pragma unroll
  for (int i = 0; i < T::kStages; ++i) {
    barrier_init(shared_address(&shared.full[i]), 1);
    barrier_init(shared_address(&shared.empty[i]), T::kWarps);
  }
  barrier_init(shared_address(&shared.received), 1);
  barrier_init(shared_address(&shared.may_send), T::kBlocks * T::kWarps);
  barrier_init_fence();
  barrier_expect(shared_address(&shared.received), sizeof shared.parts);
}

template <class T>
__global__ __launch_bounds__(T::kThreads, 1) void tiles_of(const __grid_constant__ Maps maps,
                                                           const __grid_constant__ Params params, int tiles) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared<T>& shared = *reinterpret_cast<Shared<T>*>(memory);
  const int rank = static_cast<int>(cluster_rank()),
            warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp == 0) {
    if (elect()) make_barriers(shared);
  } else if (warp == T::kWarps && elect()) {
    for (const CUtensorMap* map : {&maps.x, &maps.wk, &maps.w}) prefetch_map(map);
  }
  __syncthreads();
  cluster_arrive_relaxed();
  release_successor();
  if (warp < T::kWarps) {
    if constexpr (T::kTrades) take_registers<160>();
    multiply_all(shared, params, rank, tiles);
  } else {
    if constexpr (T::kTrades) give_registers<32>();
    if (warp == T::kWarps && elect()) copy_all(shared, maps, params, rank, tiles);
    __syncwarp();
    cluster_wait();
  }
}

// --- launch ---

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode encoder() {
  static const Encode found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(entry)
                                                                         : nullptr;
  }();
  return found;
}

// Boxes of `box` rows and kChunk columns of a bf16 matrix; what lies outside reads as zero.
bool make_map(CUtensorMap& map, const uint16_t* data, int64_t stride, int64_t rows, int hidden,
              unsigned box) {
  const cuuint64_t extent[] = {static_cast<cuuint64_t>(hidden), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t boxes[] = {kChunk, box}, steps[] = {1, 1};
  return encoder() != nullptr &&
         encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<uint16_t*>(data), extent, strides,
                   boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <class T>
cudaLaunchConfig_t config_of(cudaLaunchAttribute (&attributes)[2], bool dependent, cudaStream_t stream) {
  attributes[0] = cluster_of(T::kBlocks);
  attributes[1] = dependent_launch(dependent);
  cudaLaunchConfig_t config{};
  config.gridDim = {T::kBlocks, 1, 1};
  config.blockDim = {T::kThreads, 1, 1};
  config.dynamicSmemBytes = sizeof(Shared<T>);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return config;
}

// The clusters that the device runs at once (clusters lie within parts of it, so not processors / kBlocks).
template <class T>
int most_clusters() {
  static_assert(sizeof(Shared<T>) <= 232448);
  static const int most = [] {
    cudaLaunchAttribute attributes[2];
    const cudaLaunchConfig_t config = config_of<T>(attributes, false, nullptr);
    int clusters = 0;
    if (cudaFuncSetAttribute(tiles_of<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(sizeof(Shared<T>))) != cudaSuccess ||
        cudaOccupancyMaxActiveClusters(&clusters, tiles_of<T>, &config) != cudaSuccess)
      return 0;
    return clusters;
  }();
  return most;
}

template <class T>
cudaError_t launch_tile(const Params& params, cudaStream_t stream) {
  const bool keys = params.wk != nullptr;
  Maps maps{};
  if (!make_map(maps.x, params.x, params.x_stride, params.tokens, params.hidden, T::kTokens) ||
      !make_map(maps.w, params.w, params.w_stride, params.heads, params.hidden, kRowsOfMultiply) ||
      (keys &&
       !make_map(maps.wk, params.wk, params.wk_stride, params.key_rows, params.hidden, kRowsOfMultiply)))
    return cudaErrorInvalidValue;
  const int tiles = (params.tokens + T::kTokens - 1) / T::kTokens;
  const int heads = (params.heads + kRowsOfMultiply - 1) / kRowsOfMultiply * kRowsOfMultiply;
  const int row_blocks = (keys_of(params) + heads) / T::kRows;
  const int most = std::min(most_clusters<T>(), params.processors / T::kBlocks) / row_blocks;
  const int clusters = std::clamp(most, 1, tiles);
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config = config_of<T>(attributes, params.dependent, stream);
  config.gridDim = {static_cast<unsigned>(clusters * T::kBlocks), static_cast<unsigned>(row_blocks), 1};
  return cudaLaunchKernelEx(&config, tiles_of<T>, maps, params, tiles);
}

}  // namespace

// Tiles so small that all processors have one; of an H100's, 12 clusters of eight blocks surely run at once
// (of 15), 26 of four (30), 66 of two. With keys and few tokens the rows of the weight are split between
// clusters too: x is read three times, from L2.
cudaError_t launch_tiles(const Params& params, cudaStream_t stream) {
  const int tokens = params.tokens;
  if (params.wide != nullptr) {  // hundreds of rows: blocks of them fill the processors
    const bool few_rows = params.key_rows + params.heads <= 1024;
    if (tokens <= 16 && few_rows) return launch_tile<Tile<64, 16, 8, 14>>(params, stream);
    if (tokens <= 16) return launch_tile<Tile<64, 16, 4, 20>>(params, stream);
    if (tokens <= 48 && few_rows) return launch_tile<Tile<64, 48, 8, 14>>(params, stream);
    if (tokens <= 48) return launch_tile<Tile<64, 48, 4, 11>>(params, stream);
    if (tokens <= 96) return launch_tile<Tile<64, 96, 4, 8>>(params, stream);
    return launch_tile<Tile<64, 128, 2, 8>>(params, stream);
  }
  if (params.wk != nullptr) {
    if (tokens <= 4 * 16) return launch_tile<Tile<64, 16, 8, 14>>(params, stream);
    if (tokens <= 4 * 48) return launch_tile<Tile<64, 48, 8, 14>>(params, stream);
    if (tokens <= 12 * 48) return launch_tile<Tile<192, 48, 8, 6>>(params, stream);
    if (tokens <= 12 * 96) return launch_tile<Tile<192, 96, 8, 4>>(params, stream);
    if (tokens <= 26 * 80) return launch_tile<Tile<192, 80, 4, 4>>(params, stream);
    return launch_tile<Tile<192, 64, 2, 5>>(params, stream);
  }
  if (tokens <= 12 * 16) return launch_tile<Tile<64, 16, 8, 14>>(params, stream);
  if (tokens <= 12 * 48) return launch_tile<Tile<64, 48, 8, 14>>(params, stream);
  if (tokens <= 12 * 96) return launch_tile<Tile<64, 96, 8, 10>>(params, stream);
  if (tokens <= 26 * 80) return launch_tile<Tile<64, 80, 4, 11>>(params, stream);
  if (tokens <= 66 * 64) return launch_tile<Tile<64, 64, 2, 12>>(params, stream);
  return launch_tile<Tile<64, 128, 2, 8>>(params, stream);
}

}  // namespace fulgurite::indexer_projection::cuda
