// A block takes 16 experts, up to 16 tokens and one part of K, in steps of 32 columns, which its warps share.
// Each lane loads eight neighbours of a row and of a token's x: columns of two instructions, in the same
// order for both.

#include "fulgurite/cuda/eight.h"
#include "fulgurite/cuda/mma_double.h"
#include "fulgurite/cuda/scaled_double.h"
#include "fulgurite/ops/router/router_cuda_kernels.h"

namespace fulgurite::router {
namespace {

constexpr int kWarps = 8, kStep = 32, kExperts = 16,
              kUnderWay = 2;  // steps whose loads are under way together

template <class X, class W>  // uint16_t: bf16, or float
struct Operands {
  const X* x;
  const W* weight;
  int64_t x_stride, weight_stride;
  int tokens, hidden, experts;
  double* parts;
};

// Rows of A, or a row of B: the eight values at column 8t of a step.
template <class T>
__device__ void read_step(cuda::Eight& v, const T* row, int first, int hidden) {
  const int column = first + static_cast<int>(threadIdx.x) % 4 * 8;
  if (column < hidden) return cuda::read(v, row + column);
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = 0.0f;
}

template <int kTiles>  // of eight tokens
struct Step {
  cuda::Eight weight[2], x[kTiles];
};

constexpr double kOfProduct = 0x1p-792;  // what both ways multiply a product by

template <int kTiles, class WidenWeight, class WidenX>
__device__ void multiply_with(double (&sums)[kTiles][4], const Step<kTiles>& step,
                              const WidenWeight& of_weight, const WidenX& of_x) {
#pragma unroll
  for (int q = 0; q < 8; q += 4) {
    double a[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) a[i] = of_weight(step.weight[i % 2][q + i / 2]);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      double b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) b[i] = of_x(step.x[n][q + i]);
      cuda::mma_double(sums[n], a, b);
    }
  }
}

template <int kTiles>
__device__ void multiply(double (&sums)[kTiles][4], const Step<kTiles>& step) {
  bool finite = cuda::all_finite(step.weight[0]) && cuda::all_finite(step.weight[1]);
#pragma unroll
  for (int n = 0; n < kTiles; ++n) finite = finite && cuda::all_finite(step.x[n]);
  if (__all_sync(~0u, finite))
    multiply_with(sums, step, cuda::scaled_down, cuda::scaled_up);
  else
    multiply_with(
        sums, step, [](float w) { return static_cast<double>(w); },
        [](float x) { return __dmul_rn(x, kOfProduct); });
}

// The sums of a block's warps, ascending, into its part.
template <int kTiles>
__device__ void store_part(const double (&sums)[kTiles][4], double* part, int first_token, int first_expert,
                           int tokens, int experts) {
  __shared__ double of_warps[kWarps][8 * kTiles][kExperts + 1];
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  double(&own)[8 * kTiles][kExperts + 1] = of_warps[threadIdx.x / 32];
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) own[8 * n + 2 * t + i % 2][g + i / 2 * 8] = sums[n][i];
  }
  __syncthreads();
  const int token = static_cast<int>(threadIdx.x) / kExperts,
            expert = static_cast<int>(threadIdx.x) % kExperts;
  if (token >= 8 * kTiles || first_token + token >= tokens || first_expert + expert >= experts) return;
  double sum = 0.0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum = __dadd_rn(sum, of_warps[w][token][expert]);
  part[static_cast<int64_t>(first_token + token) * experts + first_expert + expert] =
      __dmul_rn(sum, 1.0 / kOfProduct);
}

// Rows beyond the last stand for the last, and are not stored.
template <class X, class W, int kTiles>
__global__ void __launch_bounds__(32 * kWarps) multiply_parts(const __grid_constant__ Operands<X, W> p) {
  cuda::release_successor();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32,
            g = lane / 4;
  const int first_expert = static_cast<int>(blockIdx.y) * kExperts,
            first_token = static_cast<int>(blockIdx.z) * 8 * kTiles;
  const W* const rows[2] = {p.weight + min(first_expert + g, p.experts - 1) * p.weight_stride,
                            p.weight + min(first_expert + g + 8, p.experts - 1) * p.weight_stride};
  const int stride = kStep * kWarps * kParts, begin = (static_cast<int>(blockIdx.x) * kWarps + warp) * kStep;
  double sums[kTiles][4] = {};
  bool waits = true;
  for (int first = begin; first < p.hidden || waits; first += stride * kUnderWay) {
    Step<kTiles> steps[kUnderWay];
#pragma unroll
    for (int i = 0; i < kUnderWay; ++i)
#pragma unroll
      for (int r = 0; r < 2; ++r) read_step(steps[i].weight[r], rows[r], first + i * stride, p.hidden);
    if (waits) cuda::wait_for_predecessor();
    waits = false;
#pragma unroll
    for (int i = 0; i < kUnderWay; ++i)
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
        read_step(steps[i].x[n], p.x + min(first_token + 8 * n + g, p.tokens - 1) * p.x_stride,
                  first + i * stride, p.hidden);
#pragma unroll
    for (int i = 0; i < kUnderWay; ++i) multiply(sums, steps[i]);
  }
  store_part(sums, p.parts + static_cast<int64_t>(blockIdx.x) * p.tokens * p.experts, first_token,
             first_expert, p.tokens, p.experts);
}

template <class X, class W>
void launch_tiles(const Args& args, const View<W, 2>& weight, double* parts, const Lane& lane) {
  using Bits = std::conditional_t<sizeof(W) == 2, uint16_t, float>;
  const auto tokens = static_cast<int>(args.x.extent[0]), experts = static_cast<int>(weight.extent[0]);
  const Operands<X, Bits> operands{reinterpret_cast<const X*>(args.x.data),
                                   reinterpret_cast<const Bits*>(weight.data),
                                   args.x.stride[0],
                                   weight.stride[0],
                                   tokens,
                                   static_cast<int>(args.x.extent[1]),
                                   experts,
                                   parts};
  const auto blocks = [&](int tiles) {
    const auto of = [](int count, int size) { return static_cast<unsigned>((count + size - 1) / size); };
    return cuda::Grid{{kParts, of(experts, kExperts), of(tokens, 8 * tiles)}, 32 * kWarps};
  };
  if (tokens <= 8)
    cuda::launch(lane, blocks(1), multiply_parts<X, Bits, 1>, operands);
  else
    cuda::launch(lane, blocks(2), multiply_parts<X, Bits, 2>, operands);
}

template <class X>
void launch_of(const Args& args, double* parts, const Lane& lane) {
  if (const auto* weight = std::get_if<View<const float, 2>>(&args.weight->as))
    launch_tiles<X>(args, *weight, parts, lane);
  else
    launch_tiles<X>(args, std::get<View<const bf16, 2>>(args.weight->as), parts, lane);
}

}  // namespace

void launch_logits(const Args& args, double* parts, const Lane& lane) {
  args.x.dtype == DType::kF32 ? launch_of<float>(args, parts, lane) : launch_of<uint16_t>(args, parts, lane);
}

}  // namespace fulgurite::router
