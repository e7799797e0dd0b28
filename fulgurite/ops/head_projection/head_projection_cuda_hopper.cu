// A block makes one head's product with up to 128 tokens. The head's weight comes in boxes of 64 latent columns
// and all rows; one thread copies (TMA), two warpgroups multiply. The weight is the tensor core's 64 rows, tokens
// its narrow side.
//
//   from_rows   K are the weight's rows: each box is 64 results of its own, boxes go to the warpgroups in turn
//   to_rows     K are its columns: a box is 64 columns of K, and a warpgroup makes half of the rows

#include <algorithm>

#include "fulgurite/cuda/check.h"
#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/cuda/fragment.h"
#include "fulgurite/cuda/ring.h"
#include "fulgurite/cuda/tma.h"
#include "fulgurite/cuda/wgmma_bf16.h"
#include "fulgurite/ops/head_projection/head_projection_cuda_hopper.h"

namespace fulgurite::head_projection::hopper {
namespace {

using namespace fulgurite::cuda;

constexpr int kBoxColumns = 64, kBoxBytes = 128;  // of a row of a box
constexpr int kGroups = 2, kWarps = 4 * kGroups, kThreads = 32 * (kWarps + 1);
constexpr int kRowsOfMultiply = 64, kStep = 16;
constexpr int kAhead = 3;  // boxes asked for before the predecessor is waited for; x queues behind them

template <Direction kDirectionOf, int kRowsOfHead, int kTokensOfTile>
struct Shape {
  static constexpr bool kFromRows = kDirectionOf == Direction::kFromRows;
  static constexpr int kRows = kRowsOfHead, kTokens = kTokensOfTile;
  static constexpr uint32_t kWeightBytes = kRows * kBoxBytes, kXBytes = kTokens * kBoxBytes;
  // Of x: all of K stays (from_rows), or a box comes with each of the weight.
  static constexpr int kRoom = 225 * 1024 - (kFromRows ? kRows / kBoxColumns * static_cast<int>(kXBytes) : 0);
  static constexpr int kStages =
      std::min(8, kRoom / static_cast<int>(kWeightBytes + (kFromRows ? 0 : kXBytes)));
  static constexpr int kXBoxes = kFromRows ? kRows / kBoxColumns : kStages;
  static constexpr uint32_t kStageBytes = kWeightBytes + (kFromRows ? 0 : kXBytes);
};

template <class S>
struct Shared {
  alignas(1024) uint8_t weight[S::kStages][S::kWeightBytes];
  alignas(1024) uint8_t x[S::kXBoxes][S::kXBytes];
  Barrier full[S::kStages], empty[S::kStages], x_full;
};

struct Maps {
  CUtensorMap weight, x;
};

// --- the thread that copies ---

template <class S>
struct Copier {
  Shared<S>& shared;
  const Maps& maps;
  int head, token;

  __device__ void copy_weight(int box) const {
    const int stage = box % S::kStages;
    barrier_expect(&shared.full[stage], S::kStageBytes);
    tensor_load(shared.weight[stage], &maps.weight, box * kBoxBytes, 0, head, &shared.full[stage],
                l2_policy(L2Policy::kNormal));
  }
  __device__ void copy_x(int box, int to, Barrier* full) const {
    tensor_load(shared.x[to], &maps.x, box * kBoxBytes, token, head, full, l2_policy(L2Policy::kNormal));
  }
};

template <class S>
__device__ void copy_all(Shared<S>& shared, const Maps& maps, const Params& params) {
  const Copier<S> copier{shared, maps, static_cast<int>(blockIdx.x),
                         static_cast<int>(blockIdx.y) * S::kTokens};
  const int boxes = params.latent / kBoxColumns, ahead = min(boxes, kAhead);
  for (int box = 0; box < ahead; ++box) copier.copy_weight(box);
  wait_for_predecessor();
  if constexpr (S::kFromRows) {
    barrier_expect(&shared.x_full, S::kXBoxes * S::kXBytes);
    for (int box = 0; box < S::kXBoxes; ++box) copier.copy_x(box, box, &shared.x_full);
  }
  for (int box = 0; box < boxes; ++box) {
    const int stage = box % S::kStages, turn = box / S::kStages;
    if (turn > 0) barrier_wait(&shared.empty[stage], (turn - 1) & 1);
    if (box >= ahead) copier.copy_weight(box);
    if constexpr (!S::kFromRows) copier.copy_x(box, stage, &shared.full[stage]);
  }
}

// --- the warps that multiply ---

// Results of 64 rows of D from `row` on.
template <class S>
__device__ void store_rows(const Params& params, int row, const float (&d)[S::kTokens / 2]) {
  const int head = static_cast<int>(blockIdx.x), token = static_cast<int>(blockIdx.y) * S::kTokens;
  const int first = row + static_cast<int>(threadIdx.x) % 128 / 32 * 16;
  uint16_t* const to = params.y + token * params.y_token_stride + head * params.y_head_stride + first;
  const int left = params.tokens - token;
  if constexpr (S::kTokens == 8) {
    store_transposed(to, params.y_token_stride, left, kRowsOfMultiply, d);
  } else {
#pragma unroll
    for (int j = 0; j < S::kTokens; j += 16)
      store_pair_transposed(to + j * params.y_token_stride, params.y_token_stride, left - j, kRowsOfMultiply,
                            d + j / 2);
  }
}

template <class S>
__device__ void release(Shared<S>& shared, int stage) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(&shared.empty[stage]);
}

template <class S>
__device__ void from_rows(Shared<S>& shared, const Params& params, int group) {
  const int boxes = params.latent / kBoxColumns;
  barrier_wait(&shared.x_full, 0);
  for (int box = group; box < boxes; box += kGroups) {
    const int stage = box % S::kStages;
    float sum[S::kTokens / 2];
    barrier_wait(&shared.full[stage], box / S::kStages & 1);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < S::kRows / kStep; ++k)
      WgmmaBf16<S::kTokens>::template multiply<Lie::kAcross, Lie::kAlong>(
          sum, wgmma_operand(shared.weight[stage]) + 128 * k, wgmma_operand(shared.x[k / 4]) + 2 * (k % 4),
          k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_result(sum);
    release(shared, stage);
    store_rows<S>(params, box * kBoxColumns, sum);
  }
}

template <class S>
__device__ void to_rows(Shared<S>& shared, const Params& params, int group) {
  constexpr int kTiles = S::kRows / kRowsOfMultiply / kGroups;  // of 64 rows
  const int boxes = params.latent / kBoxColumns;
  float sums[kTiles][S::kTokens / 2];
  for (int box = 0; box < boxes; ++box) {
    const int stage = box % S::kStages;
    barrier_wait(&shared.full[stage], box / S::kStages & 1);
    wgmma_fence();
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint64_t a =
          wgmma_operand(shared.weight[stage] + (group * kTiles + tile) * kRowsOfMultiply * kBoxBytes);
#pragma unroll
      for (int k = 0; k < kBoxColumns / kStep; ++k)
        WgmmaBf16<S::kTokens>::template multiply<Lie::kAlong, Lie::kAlong>(
            sums[tile], a + 2 * k, wgmma_operand(shared.x[stage]) + 2 * k, box > 0 || k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) wgmma_result(sums[tile]);
    release(shared, stage);
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
    store_rows<S>(params, (group * kTiles + tile) * kRowsOfMultiply, sums[tile]);
}

template <class S>
__device__ void make_barriers(Shared<S>& shared) {
  begin_ring(shared.full, shared.empty, S::kFromRows ? 4 : kWarps);
  barrier_init(&shared.x_full, 1);
  barrier_init_fence();
}

template <class S>
__global__ __launch_bounds__(kThreads, 1) void project(const __grid_constant__ Maps maps,
                                                       const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared<S>& shared = *reinterpret_cast<Shared<S>*>(memory);
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  if (threadIdx.x == kWarps * 32) {
    prefetch_map(&maps.weight);
    prefetch_map(&maps.x);
    make_barriers(shared);
  }
  __syncthreads();
  release_successor();
  if (warp == kWarps) {
    if (threadIdx.x == kWarps * 32) copy_all(shared, maps, params);
  } else if constexpr (S::kFromRows) {
    from_rows(shared, params, warp / 4);
  } else {
    to_rows(shared, params, warp / 4);
  }
}

// --- launch ---

cudaError_t make_maps(const Params& params, unsigned rows, unsigned tokens, Maps* maps) {
  const auto bytes = [](int64_t elements) { return static_cast<uint64_t>(elements) * sizeof(uint16_t); };
  const auto heads = static_cast<uint64_t>(params.heads);
  const int in = params.direction == Direction::kFromRows ? params.rows : params.latent;
  const ByteTensor weight{params.weight + params.first_row * params.weight_stride,
                          {bytes(params.latent), rows, heads},
                          {bytes(params.weight_stride), bytes(params.weight_stride * params.rows_per_head)},
                          rows};
  const ByteTensor x{params.x,
                     {bytes(in), static_cast<uint64_t>(params.tokens), heads},
                     {bytes(params.x_token_stride), bytes(params.x_head_stride)},
                     tokens};
  const cudaError_t error = make_map(weight, &maps->weight);
  return error == cudaSuccess ? make_map(x, &maps->x) : error;
}

template <class S>
cudaError_t launch_shape(const Params& params, cudaStream_t stream) {
  static_assert(sizeof(Shared<S>) <= 232448);
  static const cudaError_t allowed = cudaFuncSetAttribute(
      project<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sizeof(Shared<S>)));
  Maps maps{};
  const cudaError_t error = make_maps(params, S::kRows, S::kTokens, &maps);
  if (error != cudaSuccess || allowed != cudaSuccess) return error != cudaSuccess ? error : allowed;
  cudaLaunchAttribute attribute = dependent_launch(params.dependent);
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(params.heads),
                    static_cast<unsigned>((params.tokens + S::kTokens - 1) / S::kTokens), 1};
  config.blockDim = {kThreads, 1, 1};
  config.dynamicSmemBytes = sizeof(Shared<S>);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, project<S>, maps, params);
}

template <Direction kDirection, int kRows>
cudaError_t launch_rows(const Params& params, cudaStream_t stream) {
  if (params.tokens <= 8) return launch_shape<Shape<kDirection, kRows, 8>>(params, stream);
  if (params.tokens <= 16) return launch_shape<Shape<kDirection, kRows, 16>>(params, stream);
  if (params.tokens <= 32) return launch_shape<Shape<kDirection, kRows, 32>>(params, stream);
  if (params.tokens <= 64) return launch_shape<Shape<kDirection, kRows, 64>>(params, stream);
  return launch_shape<Shape<kDirection, kRows, 128>>(params, stream);
}

cudaError_t launch_any(const Params& params, cudaStream_t stream) {
  if (!takes(params.direction, params.rows, params.latent)) return cudaErrorInvalidValue;
  if (params.direction == Direction::kFromRows)
    return params.rows == 128 ? launch_rows<Direction::kFromRows, 128>(params, stream)
                              : launch_rows<Direction::kFromRows, 192>(params, stream);
  return params.rows == 128 ? launch_rows<Direction::kToRows, 128>(params, stream)
                            : launch_rows<Direction::kToRows, 256>(params, stream);
}

}  // namespace

bool takes(Direction direction, int64_t rows, int64_t latent) {
  return (rows == 128 || rows == (direction == Direction::kFromRows ? 192 : 256)) && latent > 0 &&
         latent % kBoxColumns == 0;
}

void launch(const Params& params, cudaStream_t stream) {
  if (params.tokens == 0) return;
  fulgurite::cuda::check(launch_any(params, stream), "head_projection");
}

}  // namespace fulgurite::head_projection::hopper
