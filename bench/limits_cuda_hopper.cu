// The tensor cores of Hopper, by its own instruction (sm_90a).

#include "bench/gpu_limits.h"
#include "bench/stopwatch.h"
#include "fulgurite/cuda/wgmma_bf16.h"

namespace fulgurite::bench {
namespace {

using namespace fulgurite::cuda;

constexpr int kThreads = 128;
constexpr int kSharedBytes = 64 * 128 + 256 * 128 + 1024;  // A and B of an instruction, and what aligns them

// Values of either format with any fraction and sign: what a multiplier's power is spent on.
__device__ void fill_operands(uint8_t* shared, uint32_t mask, uint32_t exponents) {
  auto* const words = reinterpret_cast<uint32_t*>(shared);
  for (uint32_t i = threadIdx.x; i < (kSharedBytes - 1024) / 4; i += blockDim.x)
    words[i] = ((i * 2654435761u) & mask) | exponents;
  __syncthreads();
}

__device__ uint8_t* aligned(uint8_t* memory) {
  return memory + (1024 - shared_address(memory) % 1024) % 1024;
}

struct Bf16Tensor {
  static constexpr int64_t kOperations = int64_t{2} * 64 * 256 * 16;
  static constexpr int kSums = 128;
  static constexpr uint32_t kMask = 0x807F807F, kExponents = 0x3F803F80;
  static __device__ void multiply(float (&d)[kSums], uint64_t a, uint64_t b) {
    WgmmaBf16<256>::multiply<Lie::kAlong, Lie::kAlong>(d, a, b, 1);
  }
};
struct E4m3Tensor {
  static constexpr int64_t kOperations = int64_t{2} * 64 * 256 * 32;
  static constexpr int kSums = 128;
  static constexpr uint32_t kMask = 0x87878787, kExponents = 0x38383838;
  static __device__ void multiply(float (&d)[kSums], uint64_t a, uint64_t b) {
    WgmmaE4m3<256>::multiply(d, a, b, 1);
  }
};

constexpr int kInstructions = 16;  // of a round

template <class Tensor>
__global__ void __launch_bounds__(kThreads) multiply_tiles(int rounds, float* out) {
  extern __shared__ uint8_t memory[];
  uint8_t* const shared = aligned(memory);
  fill_operands(shared, Tensor::kMask, Tensor::kExponents);
  shared_writes_fence();
  __syncthreads();
  const uint64_t a = wgmma_operand(shared), b = wgmma_operand(shared + 64 * 128);
  float sums[Tensor::kSums] = {};
  for (int round = 0; round < rounds; ++round) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kInstructions; ++i) Tensor::multiply(sums, a + i % 4 * 2, b + i % 4 * 2);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_result(sums);
  }
  float sum = 0.0f;
  for (const float value : sums) sum += value;
  if (sum == 0.5f) *out = sum;
}

template <class Tensor>
double tensor_flops(const Stopwatch& watch, unsigned blocks, float* out, cudaStream_t stream) {
  constexpr int kRounds = 500;
  check(
      cudaFuncSetAttribute(multiply_tiles<Tensor>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
      "cudaFuncSetAttribute");
  const double seconds = watch.fastest(
      [&] { multiply_tiles<Tensor><<<blocks, kThreads, kSharedBytes, stream>>>(kRounds, out); });
  return static_cast<double>(Tensor::kOperations) * kInstructions * kRounds * blocks / seconds;
}

}  // namespace

TensorFlops hopper_tensor_flops(void* stream, int processors, float* out) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const Stopwatch watch(queue);
  const auto blocks =
      static_cast<unsigned>(processors * 2);  // one waits for its products while the other's run
  return {tensor_flops<Bf16Tensor>(watch, blocks, out, queue),
          tensor_flops<E4m3Tensor>(watch, blocks, out, queue)};
}

}  // namespace fulgurite::bench
