// Activations to codes: 16 lanes a token's group of 128 columns, 8 columns a lane.

#include <stdexcept>
#include <string>

#include "fulgurite/ops/linear/linear_cuda_hopper_kernels.h"

namespace fulgurite::linear::hopper {
namespace {

constexpr int kThreads = 256, kLanes = 16, kColumns = 8;

// As core/quantize.h; amax is finite.
template <ScaleRounding kRounding>
__device__ float scale_of(float amax) {
  if constexpr (kRounding == ScaleRounding::kDivided) return __fdiv_rn(fmaxf(amax, 1e-4f), 448.0f);
  return e4m3_scale_of(amax, kRounding == ScaleRounding::kPow2);
}

// The largest magnitude of eight bf16, as bits.
__device__ uint32_t largest(const uint4& x) {
  uint32_t most = 0;
  for (const uint32_t pair : {x.x, x.y, x.z, x.w}) most = max(most, max(pair & 0x7FFFu, pair >> 16 & 0x7FFFu));
  return most;
}

__device__ uint32_t codes_of(uint32_t first, uint32_t second, float scale) {
  const auto code = [&](float value) { return __fdiv_rn(value, scale); };
  return e4m3_pair(code(low_bf16(first)), code(high_bf16(first))) |
         e4m3_pair(code(low_bf16(second)), code(high_bf16(second))) << 16;
}

template <ScaleRounding kRounding>
__global__ __launch_bounds__(kThreads) void quantize(const __grid_constant__ Params params) {
  release_successor();
  const int groups = (params.in + kBlock - 1) / kBlock;
  const int64_t index = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kLanes, token = index / groups;
  const int group = static_cast<int>(index % groups), lane = static_cast<int>(threadIdx.x) % kLanes;
  const int column = group * kBlock + lane * kColumns;
  const bool inside = token < params.tokens && column < params.in;
  wait_for_predecessor();
  uint4 x{0, 0, 0, 0};
  if (inside) x = __ldcg(reinterpret_cast<const uint4*>(params.x + token * params.x_stride + column));
  uint32_t most = largest(x);
  for (int apart = kLanes / 2; apart > 0; apart /= 2) most = max(most, __shfl_xor_sync(~0u, most, apart));
  const bool finite = most < 0x7F80u;
  const float scale = finite ? scale_of<kRounding>(low_bf16(most)) : 1.0f;
  if (token >= params.tokens) return;
  const Coded to = coded(params);
  uint2 codes{codes_of(x.x, x.y, scale), codes_of(x.z, x.w, scale)};
  if (!finite) codes = {0x7F7F7F7Fu, 0x7F7F7F7Fu};
  if (inside) *reinterpret_cast<uint2*>(to.codes + token * params.in + column) = codes;
  if (lane == 0) to.scales[group * to.scale_stride + token] = scale;
}

using Kernel = void (*)(Params);
Kernel kernel_of(ScaleRounding rounding) {
  if (rounding == ScaleRounding::kPow2) return quantize<ScaleRounding::kPow2>;
  return rounding == ScaleRounding::kNone ? quantize<ScaleRounding::kNone> : quantize<ScaleRounding::kDivided>;
}

}  // namespace

void launch_quantization(const Params& params, cudaStream_t stream) {
  if (params.tokens == 0) return;
  cudaLaunchAttribute attribute = dependent_launch(params.dependent);
  cudaLaunchConfig_t config{};
  const int64_t groups = int64_t{params.tokens} * pieces(params.in, kBlock);
  config.gridDim = {static_cast<unsigned>(pieces(groups, kThreads / kLanes)), 1, 1};
  config.blockDim = {kThreads, 1, 1};
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel_of(params.rounding), params);
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("linear, quantization: ") + cudaGetErrorString(error));
}

}  // namespace fulgurite::linear::hopper
