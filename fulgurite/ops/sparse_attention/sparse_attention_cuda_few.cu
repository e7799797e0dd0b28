// Sparse attention of 8 or 16 heads a block (sparse_attention_cuda.h); 32 heads are two blocks.
//
// Heads are the columns of wgmma and keys, or latent columns, its 64 rows: S^T = K Q^T, O^T = V^T P^T, so that no
// product is padded. Two warpgroups: one multiplies and makes the softmax; the other brings rows through registers, the
// next tile's under way while a tile is in use. A tile's halves (columns 0 .. 255 and rope; 256 .. 511) are filled and
// given back apart. Two blocks share a processor and fill each other's gaps.
// Fences between writes of a tile and wgmma are the reader's: one of a thread that has reads from memory under way would
// wait for them.
// Limits of a tile: 42 kB of rows from memory; 1,100 clocks to read the tile twice from shared memory, 600 to write
// it, and as many again for the rows on their way to registers; about 900 issue slots of each scheduler to make bf16.

#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cuda_parts.h"

namespace fulgurite::sparse_attention {
namespace device {
namespace {

constexpr int kGroupThreads = 128, kThreads = 2 * kGroupThreads, kWarps = 4;
constexpr int kHalfPieces = 4;  // of 64 columns
constexpr int kScoresName = 1;  // a barrier of the warpgroup that multiplies

template <int kHeads>
struct Few {
  Tile keys;
  alignas(1024) uint8_t queries[kPieces * kHeads * 128];
  alignas(1024) uint8_t weights[kHeads * 128];  // P^T, bf16
  float of_warps[kWarps][kHeads];
  Barrier full[2], empty[2];  // of halves
  int counts[2 * kWarps];
};

// Of the warp's 16 keys a thread has lane / 4 and 8 further, of heads 8 j + 2 (lane % 4) + b: elements 4 j +
// b and 4 j + 2 + b. What belongs to a head is [2 j + b].
template <int kHeads>
struct Columns {
  static constexpr int kOwned = kHeads / 4;
  static __device__ __forceinline__ int head(int i) {
    return i / 2 * 8 + 2 * (static_cast<int>(threadIdx.x) % 4) + i % 2;
  }
};

// Over the eight lanes that have a head in common.
template <class Op>
__device__ __forceinline__ float over_keys(float x, const Op& op) {
  x = op(x, __shfl_xor_sync(~0u, x, 4));
  x = op(x, __shfl_xor_sync(~0u, x, 8));
  return op(x, __shfl_xor_sync(~0u, x, 16));
}

template <int kHeads>
struct Attend {
  static constexpr int kOwned = Columns<kHeads>::kOwned;
  const CudaParams& p;
  const Work& w;
  Few<kHeads>& s;
  float o[8][kHeads / 2];  // O^T: 64 latent columns each
  float largest[kOwned], denominator[kOwned];
  float rescale[kOwned];

  __device__ __forceinline__ Attend(const CudaParams& params, const Work& work, Few<kHeads>& shared)
      : p(params), w(work), s(shared) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < kHeads / 2; ++j) o[i][j] = 0.0f;
#pragma unroll
    for (int i = 0; i < kOwned; ++i) {
      largest[i] = minus_infinity();
      denominator[i] = 0.0f;
    }
  }

  // Pieces [first, last) of the sum S of the n-th tile, when their half is there.
  template <int kFirst, int kLast>
  __device__ __forceinline__ void multiply_keys(int n, float (&d)[kHeads / 2]) const {
    const uint64_t k = wgmma_operand(&s.keys), q = wgmma_operand(s.queries);
    barrier_wait(&s.full[kFirst > 0], static_cast<uint32_t>(n) % 2);
    shared_writes_fence();
    wgmma_fence();
#pragma unroll
    for (int i = kFirst * 4; i < kLast * 4; ++i)
      WgmmaBf16<kHeads>::template multiply<Lie::kAlong, Lie::kAlong>(
          d, k + static_cast<uint64_t>(i / 4 * (kPiece >> 4) + 2 * (i % 4)),
          q + static_cast<uint64_t>(i / 4 * kHeads * 8 + 2 * (i % 4)), i > 0);
    wgmma_commit();
  }

  __device__ __forceinline__ int head(int i) const { return w.group * kHeads + Columns<kHeads>::head(i); }
  __device__ __forceinline__ int key(int second) const {
    return static_cast<int>(threadIdx.x) / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4 + 8 * second;
  }

  __device__ __forceinline__ void scale_scores(int tile, float (&d)[kHeads / 2]) const {
    const int left = w.count - tile * kCudaTile;
#pragma unroll
    for (int i = 0; i < kHeads / 2; ++i)
      d[i] = key(i / 2 % 2) < left ? __fmul_rn(d[i], p.scale) : minus_infinity();
    if (p.scores == nullptr) return;
    for (int i = 0; i < kHeads / 2; ++i)
      if (key(i / 2 % 2) < left)
        p.scores[(static_cast<int64_t>(w.token) * p.heads + head(i / 4 * 2 + i % 2)) * p.topk +
                 tile * kCudaTile + key(i / 2 % 2)] = d[i];
  }

  // The largest score of each head so far.
  __device__ __forceinline__ void find_largest(const float (&d)[kHeads / 2]) {
    const auto larger = [](float a, float b) { return fmaxf(a, b); };
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < kOwned; ++i) {
      const float most = over_keys(fmaxf(d[i / 2 * 4 + i % 2], d[i / 2 * 4 + 2 + i % 2]), larger);
      if (lane < 4) s.of_warps[threadIdx.x / 32][Columns<kHeads>::head(i)] = most;
    }
    named_barrier_sync(kScoresName, kGroupThreads);
#pragma unroll
    for (int i = 0; i < kOwned; ++i) {
      const int head = Columns<kHeads>::head(i);
      const float most = fmaxf(fmaxf(s.of_warps[0][head], s.of_warps[1][head]),
                               fmaxf(s.of_warps[2][head], s.of_warps[3][head]));
      const float all = fmaxf(largest[i], most);
      rescale[i] = exponential(largest[i] - weighed_against(all));
      largest[i] = all;
    }
  }

  __device__ __forceinline__ void weigh(float (&d)[kHeads / 2]) {
#pragma unroll
    for (int i = 0; i < kOwned; ++i) {
      float &first = d[i / 2 * 4 + i % 2], &second = d[i / 2 * 4 + 2 + i % 2];
      const float against = weighed_against(largest[i]);
      first = exponential(first - against);
      second = exponential(second - against);
      denominator[i] = __fmaf_rn(denominator[i], rescale[i], first + second);
    }
  }

  __device__ __forceinline__ void write_weights(const float (&d)[kHeads / 2]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32,
              chunk = 2 * (static_cast<int>(threadIdx.x) / 32) + lane / 8 % 2;
#pragma unroll
    for (int j = 0; j < kHeads / 8; ++j) {
      uint32_t m[2];
#pragma unroll
      for (int r = 0; r < 2; ++r)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(m[r]) : "f"(d[4 * j + 2 * r + 1]), "f"(d[4 * j + 2 * r]));
      write_matrices_across(shared_address(s.weights + (8 * j + lane % 8) * 128 + (chunk ^ lane % 8) * 16),
                            m[0], m[1]);
    }
  }

  __device__ __forceinline__ void rescale_sums() {
    bool any = false;
#pragma unroll
    for (int i = 0; i < kOwned; ++i) any |= rescale[i] != 1.0f;
    if (!__any_sync(~0u, any)) return;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < kHeads / 2; ++j) o[i][j] = __fmul_rn(o[i][j], rescale[j / 4 * 2 + j % 2]);
  }

  template <int kHalf>
  __device__ __forceinline__ void add_values() {
    const uint64_t weights = wgmma_operand(s.weights);
#pragma unroll
    for (int i = kHalf * kHalfPieces; i < (kHalf + 1) * kHalfPieces; ++i) {
      const uint64_t v = wgmma_across(s.keys.pieces[i], kPiece);
#pragma unroll
      for (int k = 0; k < 4; ++k)
        WgmmaBf16<kHeads>::template multiply<Lie::kAcross, Lie::kAlong>(o[i], v + 128 * k, weights + 2 * k,
                                                                        1);
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void give_back(int half) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&s.empty[half]);
  }

  __device__ __forceinline__ void add_tile(int n) {
    float d[kHeads / 2];
    multiply_keys<0, kHalfPieces>(n, d);
    multiply_keys<kHalfPieces, kPieces>(n, d);
    wgmma_wait<0>();
    wgmma_result(d);
    scale_scores(w.first + n, d);
    find_largest(d);
    weigh(d);
    write_weights(d);
    shared_writes_fence();
    named_barrier_sync(kScoresName, kGroupThreads);
    rescale_sums();
    wgmma_fence();
    add_values<0>();
    add_values<1>();
    wgmma_wait<1>();
    give_back(0);
    wgmma_wait<0>();
    give_back(1);
#pragma unroll
    for (int i = 0; i < 8; ++i) wgmma_result(o[i]);
  }

  // The denominators, of all keys.
  __device__ __forceinline__ void whole_denominators() {
    const auto sum = [](float a, float b) { return __fadd_rn(a, b); };
#pragma unroll
    for (int i = 0; i < kOwned; ++i) {
      const float part = over_keys(denominator[i], sum);
      if (threadIdx.x % 32 < 4) s.of_warps[threadIdx.x / 32][Columns<kHeads>::head(i)] = part;
    }
    named_barrier_sync(kScoresName, kGroupThreads);
#pragma unroll
    for (int i = 0; i < kOwned; ++i) {
      const int head = Columns<kHeads>::head(i);
      denominator[i] =
          sum(sum(s.of_warps[0][head], s.of_warps[1][head]), sum(s.of_warps[2][head], s.of_warps[3][head]));
    }
  }

  __device__ __forceinline__ void write_run() const {
#pragma unroll
    for (int i = 0; i < kOwned; ++i) {
      const int64_t run = run_of(p, w.token, w.split, head(i));
      if (threadIdx.x / 4 == 0) ends_of(p)[run] = {largest[i], denominator[i]};
      float* const at = sums_of(p) + run * kCudaLatent + key(0);
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        at[c * 64] = o[c][i / 2 * 4 + i % 2];
        at[c * 64 + 8] = o[c][i / 2 * 4 + 2 + i % 2];
      }
    }
  }

  // bf16, turned in shared memory: rows of 1024 bytes, a head each.
  __device__ __forceinline__ void write_out() const {
    constexpr int kPitch = kCudaLatent * 2 + 16;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    uint8_t* const stage = s.keys.pieces[0];
    float inverse[kOwned];
#pragma unroll
    for (int i = 0; i < kOwned; ++i) inverse[i] = __frcp_rn(denominator[i]);
#pragma unroll
    for (int c = 0; c < 8; ++c)
#pragma unroll
      for (int j = 0; j < kHeads / 8; ++j) {
        uint32_t m[2];
#pragma unroll
        for (int r = 0; r < 2; ++r)
          asm("cvt.rn.bf16x2.f32 %0, %1, %2;"
              : "=r"(m[r])
              : "f"(__fmul_rn(o[c][4 * j + 2 * r + 1], inverse[2 * j + 1])),
                "f"(__fmul_rn(o[c][4 * j + 2 * r], inverse[2 * j])));
        const int column = c * 64 + static_cast<int>(threadIdx.x) / 32 * 16 + lane / 8 % 2 * 8;
        write_matrices_across(shared_address(stage + (8 * j + lane % 8) * kPitch + column * 2), m[0], m[1]);
      }
    named_barrier_sync(kScoresName, kGroupThreads);
    uint16_t* const out = p.out + w.token * p.out_token + w.group * kHeads * p.out_head;
    for (int i = static_cast<int>(threadIdx.x); i < kHeads * 64; i += kGroupThreads)
      *reinterpret_cast<uint4*>(out + i / 64 * p.out_head + i % 64 * 8) =
          *reinterpret_cast<const uint4*>(stage + i / 64 * kPitch + i % 64 * 16);
  }
};

template <int kHeads>
__device__ __forceinline__ void multiply(const CudaParams& p, const Work& w, Few<kHeads>& s) {
  copy_queries<kHeads, kGroupThreads>(p, w.token, w.group * kHeads, s.queries);
  copies_commit();
  copies_wait<0>();
  shared_writes_fence();
  named_barrier_sync(kScoresName, kGroupThreads);
  Attend<kHeads> a(p, w, s);
  for (int n = 0; n < w.last - w.first; ++n) a.add_tile(n);
  a.whole_denominators();
  if (p.splits > 1)
    a.write_run();
  else
    a.write_out();
}

template <int kHeads>
__device__ __forceinline__ void bring(const CudaParams& p, const Work& w, Few<kHeads>& s) {
  const Rows rows(p, w);
  const int row = (static_cast<int>(threadIdx.x) - kGroupThreads) / 32 * 16;
  const auto slot_of = [&](int n) {
    const int entry = (w.first + n) * kCudaTile + row + static_cast<int>(threadIdx.x) % 16;
    return max(rows.near_slot(entry), 0);  // of an empty list any row, which is not used
  };
  const auto publish = [&](int half) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&s.full[half]);
  };
  Fp8Half<0, 16> left;
  Fp8Half<1, 16> right;
  int slot = slot_of(0);
  left.load(rows, slot);
  right.load(rows, slot);
  slot = slot_of(1);
  for (int n = 0; n < w.last - w.first; ++n) {
    const uint32_t parity = static_cast<uint32_t>(n) % 2 ^ 1;
    barrier_wait(&s.empty[0], parity);
    left.store(s.keys, row);
    publish(0);
    left.load(rows, slot);
    barrier_wait(&s.empty[1], parity);
    right.store(s.keys, row);
    publish(1);
    right.load(rows, slot);
    slot = slot_of(n + 2);
  }
}

template <int kHeads>
__global__ void __launch_bounds__(kThreads, 2) few_kernel(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& s = *reinterpret_cast<Few<kHeads>*>(raw);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      barrier_init(&s.full[i], kWarps);
      barrier_init(&s.empty[i], kWarps);
    }
    barrier_init_fence();
  }
  wait_for_predecessor();
  release_successor();
  Work w = block_of(p, p.heads / kHeads);
  count_list<kThreads>(p, s.counts, w, static_cast<int>(threadIdx.x), [] { __syncthreads(); });
  if (__shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0) == 0)
    multiply<kHeads>(p, w, s);
  else
    bring<kHeads>(p, w, s);
}

template <int kHeads>
void launch(const CudaParams& p, cudaStream_t stream) {
  static const cudaError_t allowed = cudaFuncSetAttribute(
      few_kernel<kHeads>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sizeof(Few<kHeads>)));
  cuda::check(allowed, "sparse_attention: shared memory");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(p.tokens * p.splits * (p.heads / kHeads)));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = sizeof(Few<kHeads>);
  config.stream = stream;
  cudaLaunchAttribute attribute = dependent_launch(p.dependent);
  config.attrs = &attribute;
  config.numAttrs = 1;
  cuda::check(cudaLaunchKernelEx(&config, few_kernel<kHeads>, p), "sparse_attention: a launch");
}

}  // namespace
}  // namespace device

void launch_few(const CudaParams& p, cudaStream_t stream) {
  if (p.block_heads == 8)
    device::launch<8>(p, stream);
  else
    device::launch<16>(p, stream);
}

}  // namespace fulgurite::sparse_attention
