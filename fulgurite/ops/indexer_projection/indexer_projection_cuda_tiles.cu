// Tiles of tokens times rows of the weight. A block of a cluster meets two parts of K, one after the other, from
// shared memory that one thread keeps filled through the copy engine; the cluster's sums are exchanged so that each
// block adds an eighth of the tile. Clusters take tiles in turn.

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "fulgurite/ops/indexer_projection/indexer_projection_cuda_kernels.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_cuda_wgmma.h"

namespace fulgurite::indexer_projection::cuda {
namespace {

constexpr int kChunk = 64;  // columns of a copy: 128 bytes a row
constexpr int kRowsOfMultiply = 64;

// A tile: rows of the weight, tokens, and how many chunks of each lie in shared memory.
template <int Rows, int Tokens, int WeightSlots, int XSlots>
struct Tile {
  static constexpr int kRows = Rows, kTokens = Tokens, kWeightSlots = WeightSlots, kXSlots = XSlots;
  static constexpr int kRowBlocks = kRows / kRowsOfMultiply;
  static constexpr int kTokenBlocks = kRows == 64 && kTokens == 128 ? 2 : 1;
  static constexpr int kMultiplyTokens = kTokens / kTokenBlocks;
  static constexpr int kWarps = 4 * kRowBlocks * kTokenBlocks;  // that multiply; one more copies
  static constexpr bool kTrades = kWarps == 12;                 // registers, which only whole warpgroups can
  static constexpr int kThreads = kTrades ? 512 : 32 * (kWarps + 1);
  static constexpr int kFragmentsOfWarp = kMultiplyTokens / 8;  // of 16 rows and 8 tokens, 512 bytes
  static constexpr int kOwned = kWarps * kFragmentsOfWarp / kBlocks;
  static constexpr int kWeightBytes = kRows * kChunk * 2, kXBytes = kTokens * kChunk * 2;
};

constexpr int kMostSlots = 14;
struct Barriers {
  uint64_t weight_full[kMostSlots], weight_empty[kMostSlots], x_full[kMostSlots], x_empty[kMostSlots];
  uint64_t received;  // the parts of all blocks, of one tile
  uint64_t may_send;  // all blocks have read those of the tile before
};

template <class T>
struct Shared {
  uint8_t weight[T::kWeightSlots][T::kWeightBytes];
  uint8_t x[T::kXSlots][T::kXBytes];
  float4 parts[kBlocks][T::kOwned][32];
  Barriers barriers;
};

using Wide = Tile<192, 128, 3, 3>;  // both outputs
template <int Tokens>
using Narrow = Tile<64, Tokens, kMostSlots,
                    Tokens == 128  ? 5
                    : Tokens == 64 ? 10
                                   : kMostSlots>;
static_assert(sizeof(Shared<Wide>) <= 232448 && sizeof(Shared<Narrow<128>>) <= 232448 &&
              sizeof(Shared<Narrow<64>>) <= 232448);

struct Maps {
  CUtensorMap x, wk, w;
};

// One block's chunks of a tile: those of its first part, then those of its second.
struct Chunks {
  Part part[2];
  int first, all;
};
__device__ Chunks chunks_of(int hidden, int rank) {
  constexpr int kGroups = kChunk / kGroup;
  Chunks chunks{{part_of(hidden, 2 * rank), part_of(hidden, 2 * rank + 1)}, 0, 0};
  chunks.first = (chunks.part[0].groups + kGroups - 1) / kGroups;
  chunks.all = chunks.first + (chunks.part[1].groups + kGroups - 1) / kGroups;
  return chunks;
}
__device__ int column_of(const Chunks& chunks, int chunk) {
  return chunk < chunks.first ? chunks.part[0].column + chunk * kChunk
                              : chunks.part[1].column + (chunk - chunks.first) * kChunk;
}

// --- the thread that copies ---

__device__ void copy_box(uint32_t to, const CUtensorMap& map, int column, int row, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
      "[%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(column), "r"(row)
      : "memory");
}

template <class T>
__device__ void copy_weight(Shared<T>& shared, const Maps& maps, bool keys, int column, int slot) {
  constexpr int kBlockBytes = kRowsOfMultiply * kChunk * 2;
  const uint32_t barrier = shared_address(&shared.barriers.weight_full[slot]);
  const uint32_t to = shared_address(shared.weight[slot]);
  barrier_expect(barrier, T::kWeightBytes);
#pragma unroll
  for (int i = 0; i < T::kRowBlocks; ++i) {
    const int block = static_cast<int>(blockIdx.y) * T::kRowBlocks + i;
    const bool key = keys && block < kKeyRows / kRowsOfMultiply;
    copy_box(to + i * kBlockBytes, key ? maps.wk : maps.w, column, key ? block * kRowsOfMultiply : 0,
             barrier);
  }
}

// Waits until slot number `use % slots` has been emptied of what it held before.
__device__ void wait_empty(uint64_t* empty, int use, int slots) {
  if (use >= slots) barrier_wait(shared_address(&empty[use % slots]), (use / slots - 1) & 1);
}

template <class T>
__device__ void copy_all(Shared<T>& shared, const Maps& maps, const Params& params, const Chunks& chunks,
                         int tiles) {
  const bool keys = params.wk != nullptr, resident = chunks.all <= T::kWeightSlots;
  const int ahead = min(chunks.all, T::kWeightSlots), clusters = static_cast<int>(gridDim.x) / kBlocks;
  for (const CUtensorMap* map : {&maps.x, &maps.wk, &maps.w})
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
  for (int c = 0; c < ahead; ++c) copy_weight(shared, maps, keys, column_of(chunks, c), c);
  wait_for_predecessor();
  int use = 0;
  for (int tile = static_cast<int>(blockIdx.x) / kBlocks; tile < tiles; tile += clusters) {
    for (int c = 0; c < chunks.all; ++c, ++use) {
      const int column = column_of(chunks, c), slot = use % T::kXSlots;
      if (!resident && use >= ahead) {
        wait_empty(shared.barriers.weight_empty, use, T::kWeightSlots);
        copy_weight(shared, maps, keys, column, use % T::kWeightSlots);
      }
      wait_empty(shared.barriers.x_empty, use, T::kXSlots);
      const uint32_t barrier = shared_address(&shared.barriers.x_full[slot]);
      barrier_expect(barrier, T::kXBytes);
      copy_box(shared_address(shared.x[slot]), maps.x, column, tile * T::kTokens, barrier);
    }
  }
}

// --- the warps that multiply ---

// The chunks of a block in the order in which they come: waits for each, and gives its slots back.
template <class T>
struct Stream {
  Shared<T>& shared;
  int chunks;     // of a tile
  bool resident;  // the weights stay where they are
  int use = 0;

  __device__ int weight_slot(int at) const { return resident ? at % chunks : at % T::kWeightSlots; }
  __device__ void wait() const {
    const int parity = resident ? 0 : use / T::kWeightSlots & 1;
    barrier_wait(shared_address(&shared.barriers.weight_full[weight_slot(use)]), parity);
    barrier_wait(shared_address(&shared.barriers.x_full[use % T::kXSlots]), use / T::kXSlots & 1);
  }
  __device__ uint64_t weight() const { return operand(shared_address(shared.weight[weight_slot(use)])); }
  __device__ uint64_t x() const { return operand(shared_address(shared.x[use % T::kXSlots])); }
  __device__ void release(int at) const {
    if (threadIdx.x % 32 != 0) return;
    barrier_arrive(shared_address(&shared.barriers.x_empty[at % T::kXSlots]));
    if (!resident) barrier_arrive(shared_address(&shared.barriers.weight_empty[at % T::kWeightSlots]));
  }
};

// A sum of one part over this warpgroup's rows and tokens.
template <class T>
__device__ void sum_part(Stream<T>& stream, int groups, uint64_t row_offset, uint64_t token_offset,
                         float (&sum)[T::kMultiplyTokens / 2]) {
  constexpr int kGroups = kChunk / kGroup;
#pragma unroll
  for (float& value : sum) value = 0.0f;
  for (int chunk = 0; chunk < groups / kGroups; ++chunk, ++stream.use) {
    stream.wait();
    const uint64_t a = stream.weight() + row_offset, b = stream.x() + token_offset;
    multiply_begin();
#pragma unroll
    for (int i = 0; i < kGroups; ++i) multiply<T::kMultiplyTokens>(sum, a + 2 * i, b + 2 * i);
    multiply_commit();
    multiply_wait<1>();
    if (chunk > 0) stream.release(stream.use - 1);
  }
  multiply_wait<0>();
  hold(sum);
  if (groups >= kGroups) stream.release(stream.use - 1);
  if (groups % kGroups == 0) return;
  stream.wait();  // a part's last chunk, of which the rest belongs to the next part
  for (int i = 0; i < groups % kGroups; ++i) {
    multiply_begin();
    multiply<T::kMultiplyTokens>(sum, stream.weight() + row_offset + 2 * i,
                                 stream.x() + token_offset + 2 * i);
    multiply_commit();
    multiply_wait<0>();
  }
  hold(sum);
  stream.release(stream.use++);
}

// The tile's sums of this block, each fragment to the block that adds it: number f to block f % 8.
template <class T>
__device__ void send_fragments(Shared<T>& shared, int rank, const float (&sum)[T::kMultiplyTokens / 2]) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int j = 0; j < T::kFragmentsOfWarp; ++j) {
    const int fragment = warp * T::kFragmentsOfWarp + j, owner = fragment % kBlocks;
    send(address_in(shared_address(&shared.parts[rank][fragment / kBlocks][lane]), owner),
         {sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]},
         address_in(shared_address(&shared.barriers.received), owner));
  }
}

// Adds the fragments that this block owns and writes them.
template <class T>
__device__ void write_fragments(Shared<T>& shared, const Params& params, int rank, int tile) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int owned = warp; owned < T::kOwned; owned += T::kWarps) {
    float4 parts[kBlocks];
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) parts[i] = shared.parts[i][owned][lane];
    const float4 whole = pairwise_sum(parts);
    const int fragment = owned * kBlocks + rank, from = fragment / T::kFragmentsOfWarp, group = from / 4;
    const int token = tile * T::kTokens + group / T::kRowBlocks * T::kMultiplyTokens +
                      fragment % T::kFragmentsOfWarp * 8 + lane % 4 * 2;
    const int row = (static_cast<int>(blockIdx.y) * T::kRowBlocks + group % T::kRowBlocks) * kRowsOfMultiply +
                    from % 4 * 16 + lane / 4;
    store(params, token, row, whole.x);
    store(params, token + 1, row, whole.y);
    store(params, token, row + 8, whole.z);
    store(params, token + 1, row + 8, whole.w);
  }
}

template <class T>
__device__ void multiply_all(Shared<T>& shared, const Params& params, const Chunks& chunks, int rank,
                             int tiles) {
  constexpr uint32_t kExpected = sizeof shared.parts;
  const int clusters = static_cast<int>(gridDim.x) / kBlocks, lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t received = shared_address(&shared.barriers.received);
  const int group = static_cast<int>(threadIdx.x) / 128;  // in units of descriptors, 16 bytes
  const uint64_t row_offset = group % T::kRowBlocks * (kRowsOfMultiply * kChunk * 2 / 16);
  const uint64_t token_offset = group / T::kRowBlocks * (T::kMultiplyTokens * kChunk * 2 / 16);
  Stream<T> stream{shared, chunks.all, chunks.all <= T::kWeightSlots};
  int turn = 0;
  for (int tile = static_cast<int>(blockIdx.x) / kBlocks; tile < tiles; tile += clusters, ++turn) {
    float first[T::kMultiplyTokens / 2], second[T::kMultiplyTokens / 2];
    sum_part(stream, chunks.part[0].groups, row_offset, token_offset, first);
    sum_part(stream, chunks.part[1].groups, row_offset, token_offset, second);
#pragma unroll
    for (int i = 0; i < T::kMultiplyTokens / 2; ++i) second[i] = __fadd_rn(first[i], second[i]);
    if (turn == 0) {
      cluster_wait();
    } else {
      barrier_wait_cluster(shared_address(&shared.barriers.may_send), (turn - 1) & 1);
    }
    send_fragments(shared, rank, second);
    barrier_wait_cluster(received, turn & 1);
    const bool last = tile + clusters >= tiles;
    if (!last && threadIdx.x == 0) barrier_expect(received, kExpected);  // before any block may send again
    write_fragments(shared, params, rank, tile);
    __syncwarp();
    if (!last && lane < kBlocks) arrive_at(address_in(shared_address(&shared.barriers.may_send), lane));
  }
}

// By the first warp, a lane a slot.
template <class T>
__device__ void make_barriers(Barriers& barriers) {
  const int lane = static_cast<int>(threadIdx.x);
  if (lane < kMostSlots) {
    barrier_init(shared_address(&barriers.weight_full[lane]), 1);
    barrier_init(shared_address(&barriers.weight_empty[lane]), T::kWarps);
    barrier_init(shared_address(&barriers.x_full[lane]), 1);
    barrier_init(shared_address(&barriers.x_empty[lane]), T::kWarps);
  } else if (lane == kMostSlots) {
    barrier_init(shared_address(&barriers.received), 1);
    barrier_init(shared_address(&barriers.may_send), kBlocks * T::kWarps);
  }
  publish_barriers();
  if (lane == kMostSlots) barrier_expect(shared_address(&barriers.received), sizeof(Shared<T>::parts));
  __syncwarp();
}

template <class T>
__global__ __launch_bounds__(T::kThreads, 1) void tiles_of(const __grid_constant__ Maps maps,
                                                           const __grid_constant__ Params params, int tiles) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared<T>& shared = *reinterpret_cast<Shared<T>*>(memory);
  const int rank = static_cast<int>(cluster_rank());
  const Chunks chunks = chunks_of(params.hidden, rank);
  if (threadIdx.x < 32) make_barriers<T>(shared.barriers);
  __syncthreads();
  cluster_arrive_relaxed();
  release_successor();
  if (threadIdx.x < 32 * T::kWarps) {
    if constexpr (T::kTrades) asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
    multiply_all(shared, params, chunks, rank, tiles);
  } else {
    if constexpr (T::kTrades) asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    if (threadIdx.x == 32 * T::kWarps) copy_all(shared, maps, params, chunks, tiles);
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
cudaError_t launch_tile(const Params& params, cudaStream_t stream) {
  const bool keys = params.wk != nullptr;
  Maps maps{};
  if (!make_map(maps.x, params.x, params.x_stride, params.tokens, params.hidden, T::kTokens) ||
      !make_map(maps.w, params.w, params.w_stride, params.heads, params.hidden, kRowsOfMultiply) ||
      (keys && !make_map(maps.wk, params.wk, params.wk_stride, kKeyRows, params.hidden, kRowsOfMultiply)))
    return cudaErrorInvalidValue;
  const int tiles = (params.tokens + T::kTokens - 1) / T::kTokens;
  const int row_blocks = ((keys ? kKeyRows : 0) + kMostHeads) / T::kRows;
  const int clusters = std::max(1, std::min(tiles, params.processors / (kBlocks * row_blocks)));
  cudaLaunchAttribute attributes[] = {cluster_of(kBlocks), dependent_launch(params.dependent)};
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(clusters * kBlocks), static_cast<unsigned>(row_blocks), 1};
  config.blockDim = {T::kThreads, 1, 1};
  config.dynamicSmemBytes = sizeof(Shared<T>);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  const cudaError_t error = cudaFuncSetAttribute(tiles_of<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(sizeof(Shared<T>)));
  return error != cudaSuccess ? error : cudaLaunchKernelEx(&config, tiles_of<T>, maps, params, tiles);
}

}  // namespace

// Tiles so small that about 128 blocks have one, then the largest. Rows of the weight are split between blocks
// (x is read three times, from L2) while there are few tokens.
cudaError_t launch_tiles(const Params& params, cudaStream_t stream) {
  const bool keys = params.wk != nullptr;
  const int most = keys ? params.tokens : (params.tokens + 3) / 4;  // clusters: 4 or 5 of each third, or 16
  if (keys && params.tokens > 256) return launch_tile<Wide>(params, stream);
  if (most <= 64) return launch_tile<Narrow<16>>(params, stream);
  if (most <= 128) return launch_tile<Narrow<32>>(params, stream);
  if (most <= 256) return launch_tile<Narrow<64>>(params, stream);
  return launch_tile<Narrow<128>>(params, stream);
}

}  // namespace fulgurite::indexer_projection::cuda
