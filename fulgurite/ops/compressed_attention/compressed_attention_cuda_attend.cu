// Up to 64 heads of a token over a run of its keys (compressed_attention_cuda_parts.h).
//
// Heads are the 64 rows of wgmma; those that a block does not have are zeros. A tile is keys and values in one: eight pieces of 64
// columns. Three warpgroups: one brings rows through registers and makes bf16 of their codes; the others have half of the columns
// each, of the scores' sum and of O, and so read half of a tile each. They give one another their part of the scores through shared
// memory; then both make the same softmax, and P goes from registers into the product.
// Fences between writes of a tile and wgmma are the reader's: one of a thread that has reads from memory under way would wait for
// them.
// Limits of a tile: 37 kB of rows from memory; 2,048 clocks of the tensor cores; about as many of shared memory.

#include "fulgurite/cuda/check.h"
#include "fulgurite/cuda/wgmma_bf16.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_cuda_rows.h"

namespace fulgurite::compressed_attention {
namespace device {
namespace {

// Half of the queries' columns; what no head is, is zero.
__device__ __forceinline__ void bring_queries(const CudaParams& p, const Work& w, Shared& s, int half) {
  const uint16_t* const q = p.q + w.token * p.q_token + w.group * p.block_heads * p.q_head;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) % kGroupThreads; i < kHeads * 8 * kHalfPieces;
       i += kGroupThreads) {
    const int chunk = i % 8, piece = half * kHalfPieces + i / 8 % kHalfPieces, at = i / 8 / kHalfPieces;
    uint8_t* const to = s.queries.pieces[piece] + at * 128 + (chunk ^ at % 8) * 16;
    if (at < p.block_heads)
      copy16(to, q + at * p.q_head + piece * 64 + chunk * 8);
    else
      write16(to, {});
  }
  copies_commit();
}

// Of the warp's 16 heads a thread has lane / 4 and 8 further: [r]; of keys 8 j + 2 (lane % 4) + b: elements 4 j + 2 r + b.
struct Attend {
  const CudaParams& p;
  const Work& w;
  Shared& s;
  const int half;  // the warpgroup
  float o[128];    // of 256 columns
  float largest[2], denominator[2], rescale[2];

  __device__ __forceinline__ Attend(const CudaParams& params, const Work& work, Shared& shared, int warpgroup)
      : p(params), w(work), s(shared), half(warpgroup) {
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i] = 0.0f;
#pragma unroll
    for (int r = 0; r < 2; ++r) largest[r] = minus_infinity(), denominator[r] = 0.0f;
  }

  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ __forceinline__ int row(int r) { return thread() / 32 * 16 + lane() / 4 + 8 * r; }
  __device__ __forceinline__ int head(int r) const { return w.group * p.block_heads + row(r); }
  __device__ __forceinline__ bool has(int r) const { return row(r) < p.block_heads; }

  // This half's part of the scores of the n-th tile.
  __device__ __forceinline__ void multiply_keys(int n, float (&d)[32]) const {
    const uint64_t q = wgmma_operand(s.queries.pieces[half * kHalfPieces]),
                   k = wgmma_operand(s.keys[n % 2].pieces[half * kHalfPieces]);
    barrier_wait(&s.full[n % 2][half], static_cast<uint32_t>(n / 2) % 2);
    shared_writes_fence();
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kHalfPieces * 4; ++i) {
      const auto step = static_cast<uint64_t>(i / 4 * (kPiece >> 4) + 2 * (i % 4));
      WgmmaBf16<64>::multiply<Lie::kAlong, Lie::kAlong>(d, q + step, k + step, i > 0);
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void add_other_half(int n, float (&d)[32]) const {
    const int other = half ^ 1;
    if (n > 0) named_barrier_sync(kTaken + half, 2 * kGroupThreads);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      s.scores[half][i][thread()] = {d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]};
    named_barrier_arrive(kGiven + half, 2 * kGroupThreads);
    named_barrier_sync(kGiven + other, 2 * kGroupThreads);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float4 part = s.scores[other][i][thread()];
      d[4 * i] = __fadd_rn(d[4 * i], part.x);
      d[4 * i + 1] = __fadd_rn(d[4 * i + 1], part.y);
      d[4 * i + 2] = __fadd_rn(d[4 * i + 2], part.z);
      d[4 * i + 3] = __fadd_rn(d[4 * i + 3], part.w);
    }
    if (n + 1 < w.tiles()) named_barrier_arrive(kTaken + other, 2 * kGroupThreads);
  }

  __device__ __forceinline__ void scale_scores(int n, float (&d)[32]) const {
    const int left = w.count - (w.first + n) * kTile;
#pragma unroll
    for (int i = 0; i < 32; ++i) d[i] = __fmul_rn(d[i], p.scale);
    if (left >= kTile) return;
#pragma unroll
    for (int i = 0; i < 32; ++i)
      if (i / 4 * 8 + 2 * (lane() % 4) + i % 2 >= left) d[i] = minus_infinity();
  }

  // Scores become weights, which the product takes as bf16: of 16 keys a row of `weights`.
  __device__ __forceinline__ void weigh(float (&d)[32], uint32_t (&weights)[4][4]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float most = largest_of_row(d, r, largest[r]);
      const float against = weighed_against(most);
      rescale[r] = exponential(largest[r] - against);
      largest[r] = most;
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float &a = d[4 * j + 2 * r], &b = d[4 * j + 2 * r + 1];
        a = exponential(a - against);
        b = exponential(b - against);
        sum = __fadd_rn(sum, __fadd_rn(a, b));
      }
      denominator[r] = __fmaf_rn(denominator[r], rescale[r], sum);
    }
#pragma unroll
    for (int i = 0; i < 16; ++i)
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(weights[i / 4][i % 4]) : "f"(d[2 * i + 1]), "f"(d[2 * i]));
  }

  __device__ __forceinline__ void rescale_sums() {
    if (!__any_sync(~0u, rescale[0] != 1.0f || rescale[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i] = __fmul_rn(o[i], rescale[i / 2 % 2]);
  }

  __device__ __forceinline__ void add_values(int n, const uint32_t (&weights)[4][4]) {
    const uint64_t v = wgmma_across(s.keys[n % 2].pieces[half * kHalfPieces], kPiece);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) WgmmaBf16<256>::multiply<Lie::kAcross>(o, weights[k], v + 128 * k, 1);
    wgmma_commit();
  }

  __device__ __forceinline__ void give_back(int n) const {
    __syncwarp();
    if (lane() == 0) barrier_arrive(&s.empty[n % 2][half]);
  }

  __device__ __forceinline__ void add_tiles() {
    float d[32];
    multiply_keys(0, d);
    for (int n = 0; n < w.tiles(); ++n) {
      uint32_t weights[4][4];
      wgmma_wait<0>();
      wgmma_result(d);
      add_other_half(n, d);
      scale_scores(n, d);
      weigh(d, weights);
      rescale_sums();
      add_values(n, weights);
      if (n + 1 < w.tiles()) {
        multiply_keys(n + 1, d);
        wgmma_wait<1>();
      } else {
        wgmma_wait<0>();
      }
      wgmma_result(o);
      give_back(n);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      denominator[r] = __fadd_rn(denominator[r], __shfl_xor_sync(~0u, denominator[r], 1));
      denominator[r] = __fadd_rn(denominator[r], __shfl_xor_sync(~0u, denominator[r], 2));
    }
  }

  __device__ __forceinline__ void write_run() const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (!has(r)) continue;
      const int64_t run = run_of(p, w.token, w.split, head(r));
      if (half == 0 && lane() % 4 == 0) ends_of(p)[run] = {largest[r], denominator[r]};
      if (w.tiles() == 0) continue;  // the merge reads no sums of it
      float* const at = sums_of(p) + run * kColumns + half * 256 + 2 * (lane() % 4);
#pragma unroll
      for (int j = 0; j < 32; ++j)
        *reinterpret_cast<float2*>(at + 8 * j) = {o[4 * j + 2 * r], o[4 * j + 2 * r + 1]};
    }
  }

  // Rows of bf16, laid where this half of the queries was; a warp writes its own heads.
  __device__ __forceinline__ void write_out() {
    named_barrier_sync(kOwn + half, kGroupThreads);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (!has(r)) continue;
      const float inverse = inverse_of(denominator[r], largest[r], __ldg(p.sink + head(r)));
#pragma unroll
      for (int j = 0; j < 32; ++j) {
        float a = __fmul_rn(o[4 * j + 2 * r], inverse), b = __fmul_rn(o[4 * j + 2 * r + 1], inverse);
        if (j >= 24 && half == 1) rotate_back(p, w.place.position, 4 * (j - 24) + lane() % 4, a, b);
        uint32_t pair;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
        uint8_t* const at = s.queries.pieces[half * kHalfPieces + j / 8] + row(r) * 128;
        *reinterpret_cast<uint32_t*>(at + (j % 8 ^ row(r) % 8) * 16 + lane() % 4 * 4) = pair;
      }
    }
    __syncwarp();
    uint16_t* const out = p.out + w.token * p.out_token + half * 256 + lane() * 8;
    for (int i = 0; i < 16; ++i) {
      const int at = thread() / 32 * 16 + i;
      if (at >= p.block_heads) break;
      const uint8_t* const from =
          s.queries.pieces[half * kHalfPieces + lane() / 8] + at * 128 + (lane() % 8 ^ at % 8) * 16;
      *reinterpret_cast<uint4*>(out + (w.group * p.block_heads + at) * p.out_head) =
          *reinterpret_cast<const uint4*>(from);
    }
  }
};

__global__ void __launch_bounds__(kThreads, 1) attend_kernel(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& s = *reinterpret_cast<Shared*>(raw);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      barrier_init(&s.full[i][0], kWarps);
      barrier_init(&s.full[i][1], kWarps + kGroupThreads);  // and copies
      barrier_init(&s.empty[i][0], kWarps);
      barrier_init(&s.empty[i][1], kWarps);
    }
    barrier_init_fence();
  }
  release_successor();
  Work w = work_of(p);
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  wait_for_predecessor();
  int entries = p.ratio == 0 ? 0 : (w.place.position + 1) / p.ratio;
  if (p.topk > 0)
    entries = selected_entries(p, w.token, s.counts);
  else
    __syncthreads();
  deal_tiles(p, entries, w);
  if (warpgroup == 2) {
    give_registers<88>();
    if (w.tiles() > 0) bring(p, w, s);
    return;
  }
  take_registers<208>();
  bring_queries(p, w, s, warpgroup);
  copies_wait<0>();
  shared_writes_fence();
  named_barrier_sync(kOwn + warpgroup, kGroupThreads);  // this half of the queries is there
  Attend a(p, w, s, warpgroup);
  if (w.tiles() > 0) a.add_tiles();
  if (p.splits > 1)
    a.write_run();
  else
    a.write_out();
}

}  // namespace
}  // namespace device

void launch_attend(const CudaParams& p, cudaStream_t stream) {
  static const cudaError_t allowed =
      cudaFuncSetAttribute(device::attend_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(sizeof(device::Shared)));
  cuda::check(allowed, "shared memory");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(p.tokens * p.splits * (p.heads / p.block_heads)));
  config.blockDim = dim3(device::kThreads);
  config.dynamicSmemBytes = sizeof(device::Shared);
  config.stream = stream;
  cudaLaunchAttribute attribute = cuda::dependent_launch(true);
  config.attrs = &attribute;
  config.numAttrs = 1;
  cuda::check(cudaLaunchKernelEx(&config, device::attend_kernel, p), "a launch");
}

}  // namespace fulgurite::compressed_attention
