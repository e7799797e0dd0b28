// A block makes 64 or 128 rows of the weight times 8 to 256 tokens, over all of K. A thread copies codes (TMA) into a
// ring, another one activations into a second; converting warps turn codes into boxes of bf16, which lie beside the
// activations, and one or two warpgroups multiply them, each 64 rows by all tokens.
//
//   codes    ->  [codes]  ->  converting warps  ->  [weight]  ->  products
//   x        ->  [x]                            ->

#include <algorithm>

#include "fulgurite/cuda/bf16_product_kernels.h"
#include "fulgurite/cuda/coded_product.h"
#include "fulgurite/cuda/number.h"

namespace fulgurite::cuda {
namespace {

constexpr int kBlock = 128;                   // columns, and rows, of a scale
constexpr int kBoxes = kBlock / kBoxColumns;  // of a stage of codes
constexpr int kPiece = 16;                    // bytes that are loaded and stored at once

// Converting warps are teams, of which each makes a whole box, and then the one that is kTeams further.
template <int kTokensOfTile, int kWarpgroups, int kCodeStagesOfRing, int kStagesOfRing, int kConvertingWarps,
          int kTeamsOfThem>
struct Coded {
  static constexpr int kTokens = kTokensOfTile, kCodeStages = kCodeStagesOfRing, kStages = kStagesOfRing;
  static constexpr int kWarps = 4 * kWarpgroups, kRows = kRowsOfMultiply * kWarpgroups;
  static constexpr int kCopyingWarp = kWarps, kFirstConverter = kWarps + 4, kConverters = kConvertingWarps;
  static constexpr int kTeams = kTeamsOfThem, kTeamWarps = kConverters / kTeams;
  // A team waits for phases of barriers that it has not all seen; none is more than one behind: a box is made when the
  // one kStages before it has been multiplied, and so has all before that one.
  static_assert(kTeams % kBoxes == 0 && kTeams <= kStages && kTeams + kStages <= kBoxes * kCodeStages);
  static constexpr int kThreads = 32 * (kFirstConverter + kConverters);
  static constexpr int kTokensAtOnce = std::min(kTokens, 128), kHalves = kTokens / kTokensAtOnce;
  static constexpr int kSums = kTokensAtOnce / 2;
  static constexpr bool kMovesRegisters = kHalves > 1 && kThreads > 384;
  static constexpr uint32_t kCodeBytes = kRows * kBlock, kWeightBytes = kRows * kBoxBytes,
                            kXBytes = kTokens * kBoxBytes;
};

template <class T>
struct Shared {
  alignas(1024) uint8_t codes[T::kCodeStages][T::kCodeBytes];
  alignas(1024) uint8_t weight[T::kStages][T::kWeightBytes];
  alignas(1024) uint8_t x[T::kStages][T::kXBytes];
  Barrier codes_full[T::kCodeStages], codes_empty[T::kCodeStages], full[T::kStages], empty[T::kStages];
};

struct CodedMaps {
  CUtensorMap codes, x;
};

// The tiles of a block.
struct Tile {
  int row, token, group;  // the first two in tiles
};
template <class T>
struct Work {
  int rows, tokens, all, blocks;  // tiles; blocks of K
  int first, step;
  __device__ explicit Work(const CodedProduct& p)
      : rows(p.out / T::kRows),
        tokens((p.tokens + T::kTokens - 1) / T::kTokens),
        all(rows * tokens * p.groups),
        blocks(p.in / kBlock),
        first(static_cast<int>(blockIdx.x)),
        step(static_cast<int>(gridDim.x)) {}
  __device__ Tile tile(int index) const {
    return {index / tokens % rows, index % tokens, index / tokens / rows};
  }
};

// --- the threads that copy ---

template <class T>
__device__ void copy_codes(Shared<T>& shared, const CUtensorMap& map, const Work<T>& work) {
  // Tiles of other tokens meet the same weight.
  const uint64_t policy = l2_policy(work.tokens > 1 ? L2Policy::kNormal : L2Policy::kEvictFirst);
  Place<T::kCodeStages> place;
  for (int index = work.first; index < work.all; index += work.step) {
    const Tile tile = work.tile(index);
#pragma unroll 1
    for (int block = 0; block < work.blocks; ++block, place.advance()) {
      Barrier* const full = &shared.codes_full[place.stage];
      barrier_wait(&shared.codes_empty[place.stage], place.parity ^ 1);
      barrier_expect(full, T::kCodeBytes);
      tensor_load(shared.codes[place.stage], &map, block * kBlock, tile.row * T::kRows, tile.group, full,
                  policy);
    }
  }
}

template <class T>
__device__ void copy_x(Shared<T>& shared, const CUtensorMap& map, const Work<T>& work) {
  const uint64_t policy = l2_policy(L2Policy::kNormal);
  Place<T::kStages> place;
  wait_for_predecessor();
  for (int index = work.first; index < work.all; index += work.step) {
    const Tile tile = work.tile(index);
#pragma unroll 1
    for (int box = 0; box < work.blocks * kBoxes; ++box, place.advance()) {
      Barrier* const full = &shared.full[place.stage];
      barrier_wait(&shared.empty[place.stage], place.parity ^ 1);
      barrier_expect(full, T::kXBytes);
      tensor_load(shared.x[place.stage], &map, box * kBoxBytes, tile.token * T::kTokens, tile.group, full,
                  policy);
    }
  }
}

// --- the warps that convert ---

// Two codes, exactly: to halves, whose values are all of e4m3's.
__device__ inline float2 values_of(uint16_t codes) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(codes));
  float2 values;
  asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\ncvt.f32.f16 %0, low;\ncvt.f32.f16 %1, high;\n}"
      : "=f"(values.x), "=f"(values.y)
      : "r"(halves));
  return values;
}

// code * scale of fp32 is exact where bf16 has normal values, and rounded once to those that it has.
__device__ inline uint32_t weights_of(uint16_t codes, float scale) {
  const float2 values = values_of(codes);
  return bf16_pair(__fmul_rn(values.x, scale), __fmul_rn(values.y, scale));
}
__device__ inline uint4 weights_of(uint32_t first, uint32_t second, float scale) {
  const auto lower = [](uint32_t four) { return static_cast<uint16_t>(four); };
  const auto upper = [](uint32_t four) { return static_cast<uint16_t>(four >> 16); };
  return {weights_of(lower(first), scale), weights_of(upper(first), scale), weights_of(lower(second), scale),
          weights_of(upper(second), scale)};
}

// A thread's share of a box, the first or second half of a stage of codes.
template <class T>
__device__ void convert(const uint8_t* codes, uint8_t* weight, int half, int thread, float scale) {
  constexpr int kTogether = 32 * T::kTeamWarps, kPieces = kBoxColumns / kPiece;
  static_assert(kTogether % T::kRows == 0 || T::kRows % kTogether == 0);
#pragma unroll
  for (int i = 0; i < T::kRows * kPieces / kTogether; ++i) {
    const int unit = thread + kTogether * i, row = unit % T::kRows, piece = unit / T::kRows;
    const auto at = [&](int of) { return row * kBoxBytes + (of ^ row % 8) * kPiece; };
    const uint4 sixteen = *reinterpret_cast<const uint4*>(codes + at(half * kPieces + piece));
    *reinterpret_cast<uint4*>(weight + at(2 * piece)) = weights_of(sixteen.x, sixteen.y, scale);
    *reinterpret_cast<uint4*>(weight + at(2 * piece + 1)) = weights_of(sixteen.z, sixteen.w, scale);
  }
}

// Scales of a tile, one block of K after another: the lanes of a warp hold 32.
struct Powers {
  const CodedProduct& p;
  int index = -1, chunk = -1;  // of what is held
  float held = 0.0f;

  __device__ float at(int tile_index, int64_t row_of_blocks, int block) {
    if (tile_index != index || block / 32 != chunk) {
      index = tile_index;
      chunk = block / 32;
      const int own = chunk * 32 + static_cast<int>(threadIdx.x) % 32;
      if (own < p.in / kBlock)
        held = e8m0_to_float(__ldg(p.exponents + row_of_blocks * p.exponents_stride + own));
    }
    return __shfl_sync(~0u, held, block % 32);
  }
};

template <class T>
__device__ void convert_all(Shared<T>& shared, const CodedProduct& p, const Work<T>& work) {
  const int own = static_cast<int>(threadIdx.x) - 32 * T::kFirstConverter, lane = own % 32;
  const int team = __shfl_sync(~0u, own / (32 * T::kTeamWarps), 0), thread = own % (32 * T::kTeamWarps);
  const int half = team % kBoxes, boxes = work.blocks * kBoxes;
  Place<T::kCodeStages> codes;
  Place<T::kStages> place;
  for (int i = 0; i < team / kBoxes; ++i) codes.advance();
  for (int i = 0; i < team; ++i) place.advance();
  Powers powers{p};
  int index = work.first, box = team;
  while (true) {
    for (; box >= boxes; box -= boxes) index += work.step;
    if (index >= work.all) return;
    const Tile tile = work.tile(index);
    const int row_of_blocks = tile.group * (p.rows_per_group / kBlock) + tile.row * T::kRows / kBlock;
    const float scale = powers.at(index, row_of_blocks, box / kBoxes);
    barrier_wait(&shared.codes_full[codes.stage], codes.parity);
    barrier_wait(&shared.empty[place.stage], place.parity ^ 1);
    convert<T>(shared.codes[codes.stage], shared.weight[place.stage], half, thread, scale);
    shared_writes_fence();
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(&shared.full[place.stage]);
      barrier_arrive(&shared.codes_empty[codes.stage]);
    }
    box += T::kTeams;
#pragma unroll
    for (int i = 0; i < T::kTeams / kBoxes; ++i) codes.advance();
#pragma unroll
    for (int i = 0; i < T::kTeams; ++i) place.advance();
  }
}

// --- the warps that multiply ---

template <class T>
__device__ void store_tile(const CodedProduct& p, const Tile& tile, int half, const float (&sum)[T::kSums]) {
  const int token = tile.token * T::kTokens + half * T::kTokensAtOnce,
            row = tile.row * T::kRows + static_cast<int>(threadIdx.x) / 32 * 16;
  uint16_t* const to = p.y + token * p.y_stride + tile.group * p.y_group_stride + row;
  const int tokens = p.tokens - token, rows = p.out - row;  // that are left
  if constexpr (T::kTokens == 8) {
    store_transposed(to, p.y_stride, tokens, rows, sum);
  } else {
#pragma unroll
    for (int j = 0; j < T::kTokensAtOnce; j += 16)
      store_pair_transposed(to + j * p.y_stride, p.y_stride, tokens - j, rows, sum + j / 2);
  }
}

// A box's products are under way while the next one is waited for; then the box may be overwritten.
template <class T>
__device__ void multiply_all(Shared<T>& shared, const CodedProduct& p, const Work<T>& work) {
  const int first_row = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0) * kRowsOfMultiply;
  const auto release = [&](int stage) {
    if (threadIdx.x % 32 == 0) barrier_arrive(&shared.empty[stage]);
  };
  Place<T::kStages> place;
  for (int index = work.first; index < work.all; index += work.step) {
    float sums[T::kHalves][T::kSums] = {};
    int before = -1;
#pragma unroll 1
    for (int box = 0; box < work.blocks * kBoxes; ++box, place.advance()) {
      barrier_wait(&shared.full[place.stage], place.parity);
      wgmma_fence();
#pragma unroll
      for (int half = 0; half < T::kHalves; ++half)
        multiply_box<T::kTokensAtOnce>(
            sums[half], wgmma_operand(shared.weight[place.stage] + first_row * kBoxBytes),
            wgmma_operand(shared.x[place.stage] + half * T::kTokensAtOnce * kBoxBytes));
      wgmma_commit();
      wgmma_wait<1>();
      if (before >= 0) release(before);
      before = place.stage;
    }
    wgmma_wait<0>();
#pragma unroll
    for (int half = 0; half < T::kHalves; ++half) wgmma_result(sums[half]);
    release(before);
#pragma unroll
    for (int half = 0; half < T::kHalves; ++half) store_tile<T>(p, work.tile(index), half, sums[half]);
  }
}

template <class T>
__device__ void make_barriers(Shared<T>& shared) {
#pragma unroll
  for (int i = 0; i < T::kCodeStages; ++i) {
    barrier_init(&shared.codes_full[i], 1);
    barrier_init(&shared.codes_empty[i], T::kTeamWarps * kBoxes);
  }
#pragma unroll
  for (int i = 0; i < T::kStages; ++i) {
    barrier_init(&shared.full[i], 1 + T::kTeamWarps);
    barrier_init(&shared.empty[i], T::kWarps);
  }
  barrier_init_fence();
}

template <class T>
__global__ __launch_bounds__(T::kThreads, 1) void multiply_codes(const __grid_constant__ CodedMaps maps,
                                                                 const __grid_constant__ CodedProduct p) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared<T>& shared = *reinterpret_cast<Shared<T>*>(memory);
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const Work<T> work(p);
  if (threadIdx.x == 32 * T::kCopyingWarp) {
    prefetch_map(&maps.codes);
    prefetch_map(&maps.x);
    make_barriers(shared);
  }
  __syncthreads();
  release_successor();
  if (warp < T::kWarps) {
    if constexpr (T::kMovesRegisters) take_registers<208>();
    multiply_all<T>(shared, p, work);
    return;
  }
  if constexpr (T::kMovesRegisters) give_registers<48>();
  if (warp >= T::kFirstConverter) return convert_all<T>(shared, p, work);
  if (threadIdx.x == 32 * T::kCopyingWarp) copy_codes<T>(shared, maps.codes, work);
  if (threadIdx.x == 32 * (T::kCopyingWarp + 1)) copy_x<T>(shared, maps.x, work);
}

cudaError_t make_maps(const CodedProduct& p, unsigned rows, unsigned tokens, CodedMaps* maps) {
  const auto size = [](int64_t count) { return static_cast<uint64_t>(count); };
  const ByteTensor codes{p.codes,
                         {size(p.in), size(p.out), size(p.groups)},
                         {size(p.codes_stride), size(p.codes_stride * p.rows_per_group)},
                         rows};
  const int64_t x_group_stride = p.groups > 1 ? p.x_group_stride : p.x_stride * p.tokens;
  const ByteTensor x{p.x,
                     {size(2 * p.in), size(p.tokens), size(p.groups)},
                     {size(2 * p.x_stride), size(2 * x_group_stride)},
                     tokens};
  const cudaError_t error = make_map(codes, &maps->codes);
  return error == cudaSuccess ? make_map(x, &maps->x) : error;
}

template <class T>
cudaError_t launch_of(const CodedProduct& p, cudaStream_t stream) {
  static_assert(sizeof(Shared<T>) <= 232448);
  static const cudaError_t allowed = allow_shared(multiply_codes<T>, sizeof(Shared<T>));
  CodedMaps maps{};
  const cudaError_t error = make_maps(p, T::kRows, T::kTokens, &maps);
  if (error != cudaSuccess || allowed != cudaSuccess) return error != cudaSuccess ? error : allowed;
  const int tiles = pieces(p.out, T::kRows) * pieces(p.tokens, T::kTokens) * p.groups;
  cudaLaunchAttribute attribute = dependent_launch(p.dependent);
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(std::min(tiles, p.processors)), 1, 1};
  config.blockDim = {T::kThreads, 1, 1};
  config.dynamicSmemBytes = sizeof(Shared<T>);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, multiply_codes<T>, maps, p);
}

}  // namespace

cudaError_t launch_product(const CodedProduct& p, cudaStream_t stream) {
  if (p.in % kBlock != 0 || p.out % kBlock != 0 || p.rows_per_group % kBlock != 0)
    return cudaErrorInvalidValue;
  if (p.tokens == 0) return cudaSuccess;
  if (p.tokens <= 8) return launch_of<Coded<8, 1, 12, 8, 8, 8>>(p, stream);
  if (p.tokens <= 16) return launch_of<Coded<16, 1, 12, 8, 8, 8>>(p, stream);
  if (p.tokens <= 32) return launch_of<Coded<32, 1, 12, 8, 8, 8>>(p, stream);
  if (p.tokens <= 64) return launch_of<Coded<64, 1, 11, 8, 8, 8>>(p, stream);
  if (p.tokens <= 128) return launch_of<Coded<128, 1, 8, 6, 8, 4>>(p, stream);
  const int tiles = pieces(p.out, 128) * pieces(p.tokens, 256) * p.groups;
  if (pieces(2 * tiles, p.processors) < 2 * pieces(tiles, p.processors))
    return launch_of<Coded<256, 1, 6, 4, 4, 4>>(p, stream);
  return launch_of<Coded<256, 2, 4, 3, 4, 2>>(p, stream);
}

}  // namespace fulgurite::cuda
