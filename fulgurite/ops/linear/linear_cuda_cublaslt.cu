// The fp8 linear of NVIDIA's library: codes and scales of the activations as it reads them, then its product. It takes multiples of four
// tokens, so the last one to three are multiplied apart, among four, and copied.

#include <algorithm>

#include "fulgurite/core/quantize.h"
#include "fulgurite/cuda/check.h"
#include "fulgurite/cuda/cublaslt.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/ops/linear/linear_cublaslt.h"
#include "fulgurite/ops/linear/linear_cuda_hopper_quantize.h"
#include "fulgurite/ops/linear/linear_rules.h"

namespace fulgurite::linear {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kFour = cublaslt::kTokens;
static_assert(cublaslt::kLibraryBytes == cuda::kCublasltWorkspace);

struct Quantized {
  const uint16_t* x;
  int64_t x_stride;
  int tokens, padded, in;
  ScaleRounding rounding;
  uint8_t* codes;  // [padded, in]
  float* scales;   // [in / 128, padded]
};

// As Hopper's own, a lane eight columns; tokens beyond the last are zeros.
__global__ __launch_bounds__(kThreads) void quantize(const __grid_constant__ Quantized q) {
  const int groups = (q.in + hopper::kBlock - 1) / hopper::kBlock;
  const int64_t index = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / hopper::kLanesOfGroup,
                token = index / groups;
  const int group = static_cast<int>(index % groups),
            lane = static_cast<int>(threadIdx.x) % hopper::kLanesOfGroup;
  const int column = group * hopper::kBlock + lane * hopper::kColumnsOfLane;
  const bool inside = column < q.in && token < q.padded;
  uint4 x{0, 0, 0, 0};
  if (inside && token < q.tokens)
    x = __ldcg(reinterpret_cast<const uint4*>(q.x + token * q.x_stride + column));
  const cuda::CodedEight eight = hopper::quantized(x, q.rounding);
  if (token >= q.padded) return;
  if (inside) *reinterpret_cast<uint2*>(q.codes + token * q.in + column) = eight.codes;
  if (lane == 0) q.scales[group * int64_t{q.padded} + token] = eight.scale;
}

// Tokens [first, first + tokens) of the call, as `padded`.
void multiply(const Problem& problem, const Args& args, const Lane& lane, int64_t first, int64_t tokens,
              int64_t padded) {
  const auto& weight = std::get<BlockScaled>(args.weight->as);
  const cublaslt::Workspace at = cublaslt::workspace_of(problem);
  std::byte *const memory = lane.workspace.data(), *const last = memory + at.last;
  const Quantized q{reinterpret_cast<const uint16_t*>(args.x.data) + first * args.x.stride[0],
                    args.x.stride[0],
                    static_cast<int>(tokens),
                    static_cast<int>(padded),
                    static_cast<int>(problem.in),
                    activation_rounding(problem.setting.numerics),
                    reinterpret_cast<uint8_t*>(memory + at.codes),
                    reinterpret_cast<float*>(memory + at.scales)};
  auto* const stream = static_cast<cudaStream_t>(lane.stream);
  const int64_t groups = padded * ((problem.in + hopper::kBlock - 1) / hopper::kBlock),
                each = kThreads / hopper::kLanesOfGroup;
  quantize<<<static_cast<unsigned>((groups + each - 1) / each), kThreads, 0, stream>>>(q);
  cuda::check(cudaGetLastError(), "a launch");
  const bool apart = padded != tokens;
  auto* const y = reinterpret_cast<std::byte*>(args.y.data) + first * args.y.stride[0] * 2;
  cuda::run_cublaslt(
      {problem.in, problem.out, cublaslt::planned_tokens(args.x.extent[0])},
      {problem.in, problem.out, padded},
      {q.codes, weight.data.data, q.scales, weight.scale.data, apart ? static_cast<void*>(last) : y,
       weight.data.stride[0], apart ? problem.out : args.y.stride[0], memory},
      lane.stream);
  if (apart)
    cuda::check(cudaMemcpy2DAsync(y, static_cast<size_t>(args.y.stride[0] * 2), last,
                                  static_cast<size_t>(problem.out * 2), static_cast<size_t>(problem.out * 2),
                                  static_cast<size_t>(tokens), cudaMemcpyDeviceToDevice, stream),
                "cudaMemcpy2DAsync");
}

}  // namespace

bool choose_cublaslt(const Problem& problem) {
  if (!cuda::cublaslt_answers()) return true;  // a plan for another machine
  for (int64_t tokens = kFour;; tokens *= 2) {
    if (!cuda::choose_cublaslt({problem.in, problem.out, tokens})) return false;
    if (tokens >= problem.largest_batch) return true;
  }
}

void run_cublaslt(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const auto& weight = std::get<BlockScaled>(args.weight->as);
  cuda::require_aligned(cuda::is_aligned(args.x.data, 2, args.x.stride[0]) &&
                            cuda::is_aligned(args.y.data, 2, args.y.stride[0]) &&
                            cuda::is_aligned(weight.data.data, 1, weight.data.stride[0]),
                        "linear");
  FULGURITE_ASSERT(weight.scale.stride[0] == weight.scale.extent[1], "rows of scales {} apart, expected {}",
                   weight.scale.stride[0], weight.scale.extent[1]);
  const int64_t tokens = args.x.extent[0], whole = tokens / kFour * kFour;
  if (whole > 0) multiply(problem, args, lane, 0, whole, whole);
  if (whole < tokens) multiply(problem, args, lane, whole, tokens - whole, kFour);
  cuda::launched(lane);
}

}  // namespace fulgurite::linear
