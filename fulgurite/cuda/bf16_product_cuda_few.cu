// A block makes 64 or 128 rows of the weight times up to 64 tokens over one part of K; one thread copies (TMA) into a
// ring, one or two warpgroups multiply, each 64 rows by all tokens. Where K is in parts, a cluster's blocks each do
// one, and send their sums to the block that adds them, in fixed places.

#include <algorithm>

#include "fulgurite/cuda/bf16_product_kernels.h"

namespace fulgurite::cuda {
namespace {

constexpr int kMostParts = 8;

template <int kTokensOfTile, int kWarpgroups, int kStagesOfRing>
struct Few {
  static constexpr int kTokens = kTokensOfTile, kStages = kStagesOfRing;
  static constexpr int kWarps = 4 * kWarpgroups, kRows = kRowsOfMultiply * kWarpgroups;
  static constexpr int kThreads = 32 * (kWarps + 1);
  static constexpr int kSums = kTokens / 2, kFragments = kTokens / 8 * kWarps;  // of 16 rows and 8 tokens
  static constexpr bool kMayPart = kWarpgroups == 1;
  static constexpr uint32_t kWeightBytes = kRows * kBoxBytes, kXBytes = kTokens * kBoxBytes;
  // Stages asked for before the predecessor is waited for: activations queue behind them.
  static constexpr int kAhead = std::min(kStages, 8);
};

template <class T>
struct Shared {
  alignas(1024) uint8_t weight[T::kStages][T::kWeightBytes];
  alignas(1024) uint8_t x[T::kStages][T::kXBytes];
  float4 parts[T::kMayPart ? std::max(T::kFragments, kMostParts) : 0]
              [32];  // of the fragments owned, each part's
  Barrier full[T::kStages], empty[T::kStages], received;
};

// What a block does: a part of K of one tile after another.
struct Tile {
  int row, token, group;  // the first two in tiles
};
template <class T>
struct Work {
  int rows, tokens, all;  // tiles
  int first, step, part, first_box, boxes;
  __device__ explicit Work(const Bf16Product& p)
      : rows((p.out + T::kRows - 1) / T::kRows),
        tokens((p.tokens + T::kTokens - 1) / T::kTokens),
        all(rows * tokens * p.groups),
        first(static_cast<int>(blockIdx.x) / p.parts),
        step(static_cast<int>(gridDim.x) / p.parts),
        part(static_cast<int>(blockIdx.x) % p.parts),
        first_box(part * boxes_of_part(p)),
        boxes(min(max(boxes_of(p) - first_box, 0), boxes_of_part(p))) {}
  __device__ Tile tile(int index) const {
    return {index / tokens % rows, index % tokens, index / tokens / rows};
  }
  __device__ int uses() const { return (all - first + step - 1) / step * boxes; }
};

// --- the thread that copies ---

template <class T>
struct Copier {
  Shared<T>& shared;
  const Bf16Maps& maps;
  const Work<T>& work;
  uint64_t of_weight, of_x;

  __device__ void copy_weight(const Tile& tile, int box, int stage) const {
    barrier_expect(&shared.full[stage], T::kWeightBytes + T::kXBytes);
    tensor_load(shared.weight[stage], &maps.weight, (work.first_box + box) * kBoxBytes, tile.row * T::kRows,
                tile.group, &shared.full[stage], of_weight);
  }
  __device__ void copy_x(const Tile& tile, int box, int stage) const {
    tensor_load(shared.x[stage], &maps.x, (work.first_box + box) * kBoxBytes, tile.token * T::kTokens,
                tile.group, &shared.full[stage], of_x);
  }
};

// A box of a tile.
template <class T>
struct Cursor {
  const Work<T>& work;
  int index, box = 0;
  Tile tile;
  __device__ explicit Cursor(const Work<T>& of) : work(of), index(of.first), tile(of.tile(of.first)) {}
  __device__ void advance() {
    if (++box < work.boxes) return;
    box = 0;
    tile = work.tile(index += work.step);
  }
};

template <class T>
__device__ void copy_ahead(const Copier<T>& copier) {
  const int ahead = min(copier.work.uses(), T::kAhead);
  Cursor<T> at(copier.work);
#pragma unroll 1
  for (int use = 0; use < ahead; ++use, at.advance()) copier.copy_weight(at.tile, at.box, use);
}

template <class T>
__device__ void copy_all(const Copier<T>& copier) {
  const int uses = copier.work.uses();
  wait_for_predecessor();
  Cursor<T> at(copier.work);
  Place<T::kStages> place;
#pragma unroll 1
  for (int use = 0; use < uses; ++use, at.advance(), place.advance()) {
    if (use >= T::kStages) barrier_wait(&copier.shared.empty[place.stage], place.parity ^ 1);
    if (use >= T::kAhead) copier.copy_weight(at.tile, at.box, place.stage);
    copier.copy_x(at.tile, at.box, place.stage);
  }
}

// --- the warps that multiply ---

template <class T>
__device__ void add_box(Shared<T>& shared, Place<T::kStages>& place, float (&sum)[T::kSums]) {
  const int stage = place.stage;
  const int first_row = static_cast<int>(threadIdx.x) / 128 * kRowsOfMultiply;
  barrier_wait(&shared.full[stage], place.parity);
  wgmma_fence();
  multiply_box<T::kTokens>(sum, wgmma_operand(shared.weight[stage] + first_row * kBoxBytes),
                           wgmma_operand(shared.x[stage]));
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_result(sum);
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(&shared.empty[stage]);
  place.advance();
}

// Fragment f of a tile: 16 rows f % kWarps, 8 tokens f / kWarps.
template <class T>
__device__ void store_fragment(const Bf16Product& p, const Tile& tile, int f, const float* d) {
  const int token = tile.token * T::kTokens + f / T::kWarps * 8,
            row = tile.row * T::kRows + f % T::kWarps * 16;
  const int tokens = p.tokens - token, rows = p.out - row;  // that are left
  const int64_t at = token * p.y_stride + tile.group * p.y_group_stride + row;
  if (!p.is_f32) return store_transposed(static_cast<uint16_t*>(p.y) + at, p.y_stride, tokens, rows, d);
  float* const to = static_cast<float*>(p.y) + at;
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int t = lane % 4 * 2 + i % 2, r = lane / 4 + i / 2 * 8;
    if (t < tokens && r < rows) to[t * p.y_stride + r] = d[i];
  }
}

// Parts of a fragment to the block that owns it, fragment f to f % parts; who owns one adds its parts, and stores it.
template <class T>
__device__ void exchange(Shared<T>& shared, const Bf16Product& p, const Work<T>& work, const Tile& tile,
                         const float (&sum)[T::kSums]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int j = 0; j < T::kSums / 4; ++j) {
    const int f = warp + T::kWarps * j, owner = f % p.parts;
    float4* const place = &shared.parts[f / p.parts * p.parts + work.part][lane];
    send(address_in(shared_address(place), owner),
         {sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]},
         address_in(shared_address(&shared.received), owner));
  }
  if (work.part >= T::kFragments) return;
  barrier_wait_cluster(&shared.received, 0);
  for (int f = work.part + warp * p.parts; f < T::kFragments; f += T::kWarps * p.parts) {
    const float4(*const parts)[32] = &shared.parts[f / p.parts * p.parts];
    float4 all = parts[0][lane];
    for (int i = 1; i < p.parts; ++i) {
      const float4 part = parts[i][lane];
      all = {__fadd_rn(all.x, part.x), __fadd_rn(all.y, part.y), __fadd_rn(all.z, part.z),
             __fadd_rn(all.w, part.w)};
    }
    const float d[4] = {all.x, all.y, all.z, all.w};
    store_fragment<T>(p, tile, f, d);
  }
}

template <class T>
__device__ void multiply_all(Shared<T>& shared, const Bf16Product& p, const Work<T>& work) {
  Place<T::kStages> place;
  for (int index = work.first; index < work.all; index += work.step) {
    const Tile tile = work.tile(index);
    float sum[T::kSums] = {};
#pragma unroll 1
    for (int box = 0; box < work.boxes; ++box) add_box<T>(shared, place, sum);
    if constexpr (T::kMayPart)
      if (p.parts > 1) {
        exchange<T>(shared, p, work, tile, sum);
        continue;
      }
#pragma unroll
    for (int j = 0; j < T::kSums / 4; ++j)
      store_fragment<T>(p, tile, static_cast<int>(threadIdx.x) / 32 + T::kWarps * j, sum + 4 * j);
  }
}

template <class T>
__device__ void make_barriers(Shared<T>& shared, int parts, int part) {
  begin_ring(shared.full, shared.empty, T::kWarps);
  barrier_init(&shared.received, 1);
  barrier_init_fence();
  const int owned = (T::kFragments - part + parts - 1) / parts;  // none: zero
  if (parts > 1) barrier_expect(&shared.received, owned * parts * 32 * static_cast<int>(sizeof(float4)));
}

template <class T>
__global__ __launch_bounds__(T::kThreads, 1) void few(const __grid_constant__ Bf16Maps maps,
                                                      const __grid_constant__ Bf16Product p) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared<T>& shared = *reinterpret_cast<Shared<T>*>(memory);
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const Work<T> work(p);
  const bool copies = threadIdx.x == T::kWarps * 32;
  if (copies) {
    prefetch_map(&maps.weight);
    prefetch_map(&maps.x);
    make_barriers(shared, p.parts, work.part);
  }
  __syncthreads();
  if (p.parts > 1) cluster_arrive_relaxed();
  release_successor();
  if (warp < T::kWarps) {
    if (p.parts > 1) cluster_wait();  // all barriers are there
    multiply_all<T>(shared, p, work);
  } else {
    // Tiles of other tokens meet the same weight.
    const L2Policy once = work.tokens > 1 ? L2Policy::kNormal : L2Policy::kEvictFirst;
    const Copier<T> copier{shared, maps, work, l2_policy(once), l2_policy(L2Policy::kNormal)};
    if (copies) copy_ahead(copier);
    __syncwarp();
    if (p.parts > 1) cluster_wait();
    if (copies) copy_all(copier);
  }
}

template <class T>
cudaError_t launch_of(const Bf16Product& p, cudaStream_t stream) {
  static_assert(sizeof(Shared<T>) <= 232448);
  static const cudaError_t allowed = allow_shared(few<T>, sizeof(Shared<T>));
  Bf16Maps maps{};
  const cudaError_t error = make_maps(p, T::kRows, T::kTokens, &maps);
  if (error != cudaSuccess || allowed != cudaSuccess) return error != cudaSuccess ? error : allowed;
  const int tiles = pieces(p.out, T::kRows) * pieces(p.tokens, T::kTokens) * p.groups;
  const int clusters = p.parts > 1 ? tiles : std::min(tiles, p.processors);
  cudaLaunchAttribute attributes[] = {dependent_launch(p.dependent),
                                      cluster_of(static_cast<unsigned>(p.parts))};
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(clusters * p.parts), 1, 1};
  config.blockDim = {T::kThreads, 1, 1};
  config.dynamicSmemBytes = sizeof(Shared<T>);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = p.parts > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, few<T>, maps, p);
}

}  // namespace

cudaError_t launch_few(const Bf16Product& p, cudaStream_t stream) {
  if (p.parts > 1 ||
      p.tokens > 64) {  // a part of K is short, and half a processor's memory enough for its ring
    if (p.tokens <= 8) return launch_of<Few<8, 1, 8>>(p, stream);
    if (p.tokens <= 16) return launch_of<Few<16, 1, 8>>(p, stream);
    if (p.tokens <= 32) return launch_of<Few<32, 1, 7>>(p, stream);
    return launch_of<Few<64, 1, 6>>(p, stream);
  }
  if (p.tokens <= 8) return launch_of<Few<8, 1, 16>>(p, stream);
  if (p.tokens <= 16) return launch_of<Few<16, 1, 16>>(p, stream);
  // Of many rows 128 at once: activations are read half as often.
  const bool many = p.parts == 1 && pieces(p.out, 128) * p.groups >= 4 * p.processors;
  if (p.tokens <= 32)
    return many ? launch_of<Few<32, 2, 11>>(p, stream) : launch_of<Few<32, 1, 14>>(p, stream);
  return many ? launch_of<Few<64, 2, 9>>(p, stream) : launch_of<Few<64, 1, 12>>(p, stream);
}

cudaError_t launch_product(const Bf16Product& product, cudaStream_t stream) {
  if (product.tokens == 0) return cudaSuccess;
  const bool parts = product.parts == 1 || product.parts == 2 || product.parts == 4 || product.parts == 8;
  if (!parts) return cudaErrorInvalidValue;
  return product.tokens <= 64 || product.out <= 256 ? launch_few(product, stream)
                                                    : launch_tiles(product, stream);
}

}  // namespace fulgurite::cuda
