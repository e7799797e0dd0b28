#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/linear/linear_cuda_hopper_quantize.h"

namespace fulgurite::linear::hopper {
namespace {

constexpr int kThreads = 256;

__global__ __launch_bounds__(kThreads) void quantize(const __grid_constant__ Params params) {
  release_successor();
  const int groups = (params.in + kBlock - 1) / kBlock;
  const int64_t index = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kLanesOfGroup,
                token = index / groups;
  const int group = static_cast<int>(index % groups), lane = static_cast<int>(threadIdx.x) % kLanesOfGroup;
  const int column = group * kBlock + lane * kColumnsOfLane;
  const bool inside = token < params.tokens && column < params.in;
  wait_for_predecessor();
  uint4 x{0, 0, 0, 0};
  if (inside) x = __ldcg(reinterpret_cast<const uint4*>(params.x + token * params.x_stride + column));
  const CodedEight eight = quantized(x, params.rounding);
  if (token >= params.tokens) return;
  const Coded to = coded(params);
  if (inside) *reinterpret_cast<uint2*>(to.codes + token * params.in + column) = eight.codes;
  if (lane == 0) to.scales[group * to.scale_stride + token] = eight.scale;
}

}  // namespace

void launch_quantization(const Params& params, cudaStream_t stream) {
  if (params.tokens == 0) return;
  cudaLaunchAttribute attribute = dependent_launch(params.dependent);
  cudaLaunchConfig_t config{};
  const int64_t groups = int64_t{params.tokens} * pieces(params.in, kBlock);
  config.gridDim = {static_cast<unsigned>(pieces(groups, kThreads / kLanesOfGroup)), 1, 1};
  config.blockDim = {kThreads, 1, 1};
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  cuda::check(cudaLaunchKernelEx(&config, quantize, params), "linear, quantization");
}

}  // namespace fulgurite::linear::hopper
