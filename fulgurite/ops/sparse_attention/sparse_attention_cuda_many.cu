// Sparse attention of 64 heads a block (sparse_attention_cuda.h); 128 heads are two blocks.
//
// Heads are the 64 rows of wgmma. Three warpgroups: `scores` makes S = Q K^T, the softmax, and the left half
// of O += P V; `right` the right half; `rows` brings rows into two tiles of shared memory, fp8 ones through
// registers. A tile is keys and values in one. Its halves (columns 0 .. 255 and rope; 256 .. 511) are filled
// and given back apart, so that a tile is refilled while the other is in use:
//
//   scores   | P V left (t) | Q K (t + 1)           | softmax (t + 1) | P V left (t + 1) ...
//   right    |                                      | P V right (t)   |
//
// `right` begins when Q K (t + 1) has ended, so that the tensor cores work under the softmax.
// Limits of a tile: 2,176 clocks of the tensor cores; 2,300 of shared memory (128 bytes a clock).

#include "fulgurite/cuda/check.h"
#include "fulgurite/cuda/tma.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cuda_many_rows.h"

namespace fulgurite::sparse_attention {
namespace device {
namespace {

// --- scores and the left half ---

// Of a warp's 16 heads a thread has heads lane / 4 and 8 further: everywhere [2]. Keys 8 j + 2 (lane % 4) and
// the next are its elements 4 j + 2 r, 4 j + 2 r + 1 of head r.
struct Softmax {
  float largest[2] = {minus_infinity(), minus_infinity()};
  float denominator[2] = {};  // this lane's part
  float rescale[2] = {};      // of the sums before the last tile

  // Scores become weights; of `count` keys.
  __device__ __forceinline__ void weigh(float (&d)[32], float scale, int count) {
    const int key = 2 * (static_cast<int>(threadIdx.x) % 4);
#pragma unroll
    for (int i = 0; i < 32; ++i) d[i] = __fmul_rn(d[i], scale);
    if (count < kCudaTile) {
#pragma unroll
      for (int i = 0; i < 32; ++i)
        if (i / 4 * 8 + key + i % 2 >= count) d[i] = minus_infinity();
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float most = largest_of_row(d, r, largest[r]);
      const float against = weighed_against(most);
      rescale[r] = exponential(largest[r] - against);
      largest[r] = most;
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          float& x = d[4 * j + 2 * r + b];
          x = exponential(x - against);
          sum += x;
        }
      denominator[r] = __fmaf_rn(denominator[r], rescale[r], sum);
    }
  }

  __device__ __forceinline__ float whole_denominator(int r) const {
    const float pair = denominator[r] + __shfl_xor_sync(~0u, denominator[r], 1);
    return pair + __shfl_xor_sync(~0u, pair, 2);
  }
};

// P of a tile: as the A operand in registers, [step of 16 keys].
__device__ __forceinline__ void round_weights(const float (&d)[32], uint32_t (&a)[4][4]) {
#pragma unroll
  for (int k = 0; k < 4; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(a[k][i]) : "f"(d[8 * k + 2 * i + 1]), "f"(d[8 * k + 2 * i]));
}

__device__ __forceinline__ void rescale_sums(float (&o)[128], float first, float second) {
  if (!__any_sync(~0u, first != 1.0f || second != 1.0f)) return;
#pragma unroll
  for (int i = 0; i < 128; ++i) o[i] = __fmul_rn(o[i], i % 4 < 2 ? first : second);
}

__device__ __forceinline__ void keep_scores(const CudaParams& p, const Work& w, int tile,
                                            const float (&d)[32]) {
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
  for (int i = 0; i < 32; ++i) {
    const int head = w.group * kHeads + thread / 32 * 16 + lane / 4 + i % 4 / 2 * 8;
    const int entry = tile * kCudaTile + i / 4 * 8 + 2 * (lane % 4) + i % 2;
    if (entry < w.count)
      p.scores[(static_cast<int64_t>(w.token) * p.heads + head) * p.topk + entry] = __fmul_rn(d[i], p.scale);
  }
}

template <class W>
struct Scores {
  const CudaParams& p;
  const Work& w;
  Many& s;
  Softmax softmax;
  uint32_t a[4][4];

  // Pieces [first, last) of the sum S of tile n, when their half is there.
  template <int kFirst, int kLast>
  __device__ __forceinline__ void multiply_keys(int n, float (&d)[32]) const {
    const uint64_t q = wgmma_operand(&s.queries), k = wgmma_operand(&s.keys[n % 2]);
    barrier_wait(&s.full[n % 2][kFirst > 0], phase_of(n));
    wgmma_fence();
#pragma unroll
    for (int i = kFirst * 4; i < kLast * 4; ++i) {
      const uint64_t at = static_cast<uint64_t>(i / 4 * (kPiece >> 4) + 2 * (i % 4));
      WgmmaBf16<64>::multiply<Lie::kAlong, Lie::kAlong>(d, q + at, k + at, i > 0);
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void weigh(int n, float (&d)[32]) {
    wgmma_result(d);
    if (p.scores != nullptr) keep_scores(p, w, w.first + n, d);
    softmax.weigh(d, p.scale, w.count - (w.first + n) * kCudaTile);
    round_weights(d, a);
  }

  // P and its factors, to the other warpgroup.
  __device__ __forceinline__ void share_weights() const {
    const int lane = static_cast<int>(threadIdx.x) % 32, first = static_cast<int>(threadIdx.x) / 32 * 16;
    const int head = first + lane % 16;  // and chunk: of the lane's matrix row
#pragma unroll
    for (int k = 0; k < 4; ++k)
      write_matrices(shared_address(s.weights + head * 128 + ((2 * k + lane / 16) ^ head % 8) * 16), a[k]);
    if (lane % 4 == 0) {
      s.rescale[first + lane / 4] = softmax.rescale[0];
      s.rescale[first + lane / 4 + 8] = softmax.rescale[1];
    }
    shared_writes_fence();
  }

  __device__ __forceinline__ void run(float (&o)[128]) {
    const int tiles = w.last - w.first;
    float d[32];
    if (tiles > 0) {
      multiply_keys<0, kHalfPieces>(0, d);
      multiply_keys<kHalfPieces, kPieces>(0, d);
      wgmma_wait<0>();
      weigh(0, d);
    }
    for (int n = 0; n < tiles; ++n) {
      const bool more = n + 1 < tiles;
      if (n > 0) barrier_wait(&s.weights_read, static_cast<uint32_t>(n - 1) % 2);
      share_weights();
      if constexpr (!W::kLate) named_barrier_arrive(kWeightsFull, 2 * kGroupThreads);
      rescale_sums(o, softmax.rescale[0], softmax.rescale[1]);
      add_values(n, o);
      if (more) multiply_keys<0, kHalfPieces>(n + 1, d);
      give_back(n, more, o);
      if (more) multiply_keys<kHalfPieces, kPieces>(n + 1, d);
      wgmma_wait<0>();
      if constexpr (W::kLate) named_barrier_arrive(kWeightsFull, 2 * kGroupThreads);
      if (more) weigh(n + 1, d);
    }
  }

  __device__ __forceinline__ void add_values(int n, float (&o)[128]) const {
    const uint64_t v = wgmma_across(s.keys[n % 2].pieces[0], kPiece);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) WgmmaBf16<256>::multiply<Lie::kAcross>(o, a[k], v + 128 * k, 1);
    wgmma_commit();
  }

  // The left half of tile n, when its values have been added; `pending`: a product is under way after that.
  __device__ __forceinline__ void give_back(int n, bool pending, float (&o)[128]) const {
    if (pending)
      wgmma_wait<1>();
    else
      wgmma_wait<0>();
    wgmma_result(o);
    give_back_half<W::kBlocks>(s, n, 0);
  }
};

// --- the right half ---

template <int kBlocks>
__device__ __forceinline__ void sum_right(const Work& w, Many& s, float (&o)[128]) {
  const int tiles = w.last - w.first, thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
  const int head = thread / 32 * 16 + lane / 4;
  const uint64_t weights = wgmma_operand(s.weights);
  for (int n = 0; n < tiles; ++n) {
    named_barrier_sync(kWeightsFull, 2 * kGroupThreads);
    rescale_sums(o, s.rescale[head], s.rescale[head + 8]);
    const uint64_t v = wgmma_across(s.keys[n % 2].pieces[kHalfPieces], kPiece);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      WgmmaBf16<256>::multiply<Lie::kAlong, Lie::kAcross>(o, weights + 2 * k, v + 128 * k, 1);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_result(o);
    give_back_half<kBlocks>(s, n, 1);
    if (lane == 0) barrier_arrive(&s.weights_read);
  }
}

// --- results ---

// A row of 1024 bytes a head and half, through memory that no product reads any more: where the queries were,
// and the tile that the last one is not in.
__device__ __forceinline__ void write_run(const CudaParams& p, const Work& w, Many& s, int half,
                                          const float (&o)[128]) {
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32, first = thread / 32 * 16;
  const int tiles = w.last - w.first;
  if (half == 0) named_barrier_sync(kScoresAlone, kGroupThreads);
  if (half == 1)  // the tile before the last has been read in every block
    for (int i = 0; i < 2; ++i) barrier_wait(&s.empty[tiles % 2][i], phase_of(tiles) ^ 1);
  Tile& stage = half == 0 ? s.queries : s.keys[tiles % 2];
  uint8_t* const rows = stage.pieces[0] + first * kRunPitch;
  uint8_t* const at = rows + lane / 4 * kRunPitch + lane % 4 * 8;
#pragma unroll
  for (int i = 0; i < 128; i += 2)
    *reinterpret_cast<float2*>(at + i % 4 / 2 * 8 * kRunPitch + i / 4 * 32) = {o[i], o[i + 1]};
  shared_writes_fence();
  __syncwarp();
  if (lane < 16) {
    const int64_t run = run_of(p, w.token, w.split, w.group * kHeads + first + lane);
    bulk_store(sums_of(p) + run * kCudaLatent + half * 256, rows + lane * kRunPitch, 256 * 4);
    bulk_stores_wait();
  }
}

// bf16 through shared memory (where the queries were), a row of 512 bytes a head and half.
__device__ __forceinline__ void write_out(const CudaParams& p, const Work& w, Many& s, int half,
                                          const float (&o)[128], float first, float second) {
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32, warp = thread / 32;
  uint8_t* const stage = s.queries.pieces[0] + half * (kPieces * kPiece / 2) + warp * 16 * kOutPitch;
#pragma unroll
  for (int j = 0; j < 32; j += 2) {
    uint32_t m[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float factor = i % 2 == 0 ? first : second;
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;"
          : "=r"(m[i])
          : "f"(__fmul_rn(o[4 * j + 2 * i + 1], factor)), "f"(__fmul_rn(o[4 * j + 2 * i], factor)));
    }
    write_matrices(shared_address(stage + lane % 16 * kOutPitch + (j + lane / 16) * 16), m);
  }
  __syncwarp();
  uint16_t* const out =
      p.out + w.token * p.out_token + (w.group * kHeads + warp * 16) * p.out_head + half * 256;
#pragma unroll
  for (int row = 0; row < 16; ++row)
    *reinterpret_cast<uint4*>(out + row * p.out_head + lane * 8) =
        *reinterpret_cast<const uint4*>(stage + row * kOutPitch + lane * 16);
}

__device__ __forceinline__ void end_left(const CudaParams& p, const Work& w, Many& s, const Softmax& softmax,
                                         const float (&o)[128]) {
  const int lane = static_cast<int>(threadIdx.x) % 32,
            head = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
  const float l[2] = {softmax.whole_denominator(0), softmax.whole_denominator(1)};
  if (p.splits > 1) {
    if (lane % 4 == 0)
      for (int r = 0; r < 2; ++r)
        ends_of(p)[run_of(p, w.token, w.split, w.group * kHeads + head + 8 * r)] = {softmax.largest[r], l[r]};
    write_run(p, w, s, 0, o);
    return;
  }
  const float inverse[2] = {__frcp_rn(l[0]), __frcp_rn(l[1])};
  if (lane % 4 == 0)
    for (int r = 0; r < 2; ++r) s.inverse[head + 8 * r] = inverse[r];
  named_barrier_sync(kTogether, 2 * kGroupThreads);
  write_out(p, w, s, 0, o, inverse[0], inverse[1]);
}

__device__ __forceinline__ void end_right(const CudaParams& p, const Work& w, Many& s,
                                          const float (&o)[128]) {
  if (p.splits > 1) return write_run(p, w, s, 1, o);
  const int thread = static_cast<int>(threadIdx.x) % 128, head = thread / 32 * 16 + thread % 32 / 4;
  named_barrier_sync(kTogether, 2 * kGroupThreads);
  write_out(p, w, s, 1, o, s.inverse[head], s.inverse[head + 8]);
}

template <CudaRows kForm, class W>
__global__ void __launch_bounds__(kThreads, 1) many_kernel(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& s = *reinterpret_cast<Many*>(raw);
  constexpr int kBlocks = W::kBlocks;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 4; ++i) {
      barrier_init(&s.full[i / 2][i % 2], 4);  // warps
      barrier_init(&s.empty[i / 2][i % 2], 4 * kBlocks);
    }
    barrier_init(&s.weights_read, 4);
    barrier_init_fence();
  }
  __syncthreads();
  if constexpr (kBlocks == 2) cluster_arrive_relaxed();
  wait_for_predecessor();
  release_successor();
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
  Work w = block_of(p, p.heads / kHeads);
  if (warpgroup == 2) {
    // While the others ask for queries: rows are what is waited for longest.
    count_list<kGroupThreads>(p, s.counts, w, static_cast<int>(threadIdx.x) % kGroupThreads, [] {
      named_barrier_sync(kRowsAlone, kGroupThreads);
      named_barrier_arrive(kCounted, kThreads);
    });
    give_registers<136>();
    if constexpr (kBlocks == 2) cluster_wait();  // the other block's barriers are there
    if constexpr (kForm == CudaRows::kFp8)
      bring_fp8<W>(p, w, s);
    else
      bring_bf16<W>(p, w, s);
    if constexpr (kBlocks == 2) Filling<W>(s).wait_for_readers(w.last - w.first);
  } else {
    copy_queries<kHeads, 2 * kGroupThreads>(p, w.token, w.group * kHeads, s.queries.pieces[0]);
    copies_commit();
    named_barrier_sync(kCounted, kThreads);
    deal_tiles<kGroupThreads / 32>(p, s.counts, w);
    if constexpr (kBlocks == 2) cluster_wait();
    copies_wait<0>();
    shared_writes_fence();
    if (warpgroup == 0) {
      take_registers<208>();
      named_barrier_sync(kTogether, 2 * kGroupThreads);  // queries are there
      float o[128] = {};
      Scores<W> scores{p, w, s, {}, {}};
      scores.run(o);
      end_left(p, w, s, scores.softmax, o);
    } else {
      give_registers<160>();
      named_barrier_sync(kTogether, 2 * kGroupThreads);
      float o[128] = {};
      sum_right<kBlocks>(w, s, o);
      end_right(p, w, s, o);
    }
  }
}

template <CudaRows kForm, class W>
void launch(const CudaParams& p, cudaStream_t stream) {
  static const cudaError_t allowed = cudaFuncSetAttribute(
      many_kernel<kForm, W>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sizeof(Many)));
  cuda::check(allowed, "sparse_attention: shared memory");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(p.tokens * p.splits * (p.heads / kHeads)));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sizeof(Many);
  config.stream = stream;
  cudaLaunchAttribute attributes[] = {dependent_launch(p.dependent), cluster_of(W::kBlocks)};
  config.attrs = attributes;
  config.numAttrs = 2;
  cuda::check(cudaLaunchKernelEx(&config, many_kernel<kForm, W>, p), "sparse_attention: a launch");
}

}  // namespace
}  // namespace device

void launch_many(const CudaParams& p, cudaStream_t stream) {
  if (p.form == CudaRows::kBf16)
    device::launch<CudaRows::kBf16, device::Way<1, true>>(p, stream);
  else if (p.heads == 2 * device::kHeads)  // two blocks share their rows
    device::launch<CudaRows::kFp8, device::Way<2, false>>(p, stream);
  else
    device::launch<CudaRows::kFp8, device::Way<1, true>>(p, stream);
}

}  // namespace fulgurite::sparse_attention
