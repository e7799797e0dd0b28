// bf16 weights met by few tokens: the head, and layers that are not quantized. A warp reads a row of the weight once for up to
// eight tokens, whose activations lie in shared memory.
//
// Order of K   lane l of a warp takes the columns c with c / 8 % 32 == l, ascending, acc = fma(x, w, acc) from +0; then the lanes
//              are added pairwise, 16 apart, 8, 4, 2, 1. For any number of tokens.
// Limit        bytes of the weight, once for each eight tokens.

#include "fulgurite/core/element.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/ops/linear/linear_rules.h"

namespace fulgurite::linear {
namespace {

constexpr int kWarps = 8, kStep = 32 * 8;  // of a block; columns that a warp meets at a time
constexpr int kAhead = 4;                  // steps whose weights are asked for together
constexpr int64_t kSharedBytes = 200 << 10;

struct Rows {
  const uint16_t* x;  // [tokens, in]
  int64_t x_stride;
  const uint16_t* weight;  // [out, in]
  int64_t weight_stride;
  std::byte* y;  // [tokens, out], f32 or bf16
  int64_t y_stride;
  int in, out;
  bool wide;  // y is f32
};

__device__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ float high(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }

__device__ void add_products(float& sum, const uint4& x, const uint4& w) {
  const uint32_t a[4] = {x.x, x.y, x.z, x.w}, b[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum = __fmaf_rn(low(a[i]), low(b[i]), sum);
    sum = __fmaf_rn(high(a[i]), high(b[i]), sum);
  }
}

__device__ void store(const Rows& p, int token, int row, float sum) {
  if (p.wide)
    reinterpret_cast<float*>(p.y)[token * p.y_stride + row] = sum;
  else
    reinterpret_cast<bf16*>(p.y)[token * p.y_stride + row] = to_bf16(sum);
}

// Tokens `first` on, kTokens of them; `tokens` may be fewer: what is beyond is computed of zeros, and not stored.
template <int kTokens>
__global__ void __launch_bounds__(32 * kWarps)
    meet_rows(const __grid_constant__ Rows p, int first, int tokens) {
  extern __shared__ uint4 shared_x[];  // [kTokens][in / 8]
  const int pieces = p.in / 8, lane = static_cast<int>(threadIdx.x % 32);
  cuda::release_successor();
  cuda::wait_for_predecessor();
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * pieces; i += static_cast<int>(blockDim.x)) {
    const int t = i / pieces;
    const auto* const row = reinterpret_cast<const uint4*>(p.x + (first + t) * p.x_stride);
    shared_x[i] = t < tokens ? row[i % pieces] : uint4{};
  }
  __syncthreads();
  const int step = static_cast<int>(gridDim.x) * kWarps;
  for (int row = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x / 32); row < p.out;
       row += step) {
    const auto* const w = reinterpret_cast<const uint4*>(p.weight + row * p.weight_stride);
    float sums[kTokens] = {};
    for (int begin = lane; begin < pieces; begin += 32 * kAhead) {
      uint4 ahead[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a)
        ahead[a] = begin + 32 * a < pieces ? __ldcs(w + begin + 32 * a) : uint4{};
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        if (begin + 32 * a >= pieces) break;
#pragma unroll
        for (int t = 0; t < kTokens; ++t)
          add_products(sums[t], shared_x[t * pieces + begin + 32 * a], ahead[a]);
      }
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
#pragma unroll
      for (int apart = 16; apart > 0; apart /= 2)
        sums[t] = __fadd_rn(sums[t], __shfl_xor_sync(~0u, sums[t], apart));
      if (lane == 0 && t < tokens) store(p, first + t, row, sums[t]);
    }
  }
}

template <int kTokens>
void launch(const Rows& rows, int64_t tokens, int multiprocessors, const Lane& lane) {
  const size_t bytes = static_cast<size_t>(kTokens) * static_cast<size_t>(rows.in) * 2;
  cuda::check(cudaFuncSetAttribute(meet_rows<kTokens>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(kSharedBytes)),
              "cudaFuncSetAttribute");
  const auto blocks = static_cast<unsigned>(std::min((rows.out + kWarps - 1) / kWarps, 2 * multiprocessors));
  for (int64_t first = 0; first < tokens; first += kTokens)
    cuda::launch(lane, {{blocks}, 32 * kWarps, bytes}, meet_rows<kTokens>, rows, static_cast<int>(first),
                 static_cast<int>(std::min<int64_t>(kTokens, tokens - first)));
}

}  // namespace

void run_bf16(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const auto& weight = std::get<View<const bf16, 2>>(args.weight->as);
  const int64_t tokens = args.x.extent[0];
  cuda::require_aligned(cuda::is_aligned(args.x.data, 2, args.x.stride[0]) &&
                            cuda::is_aligned(weight.data, 2, weight.stride[0]),
                        "linear");
  const Rows rows{reinterpret_cast<const uint16_t*>(args.x.data),
                  args.x.stride[0],
                  reinterpret_cast<const uint16_t*>(weight.data),
                  weight.stride[0],
                  args.y.data,
                  args.y.stride[0],
                  static_cast<int>(problem.in),
                  static_cast<int>(problem.out),
                  args.y.dtype == DType::kF32};
  const int multiprocessors = problem.setting.target.multiprocessors;
  const int64_t most = std::min(tokens, kSharedBytes / (2 * problem.in));
  if (most >= 8) return launch<8>(rows, tokens, multiprocessors, lane);
  if (most >= 4) return launch<4>(rows, tokens, multiprocessors, lane);
  if (most >= 2) return launch<2>(rows, tokens, multiprocessors, lane);
  launch<1>(rows, tokens, multiprocessors, lane);
}

}  // namespace fulgurite::linear
