#include "bench/gpu_limits.h"
#include "fulgurite/core/error.h"

#if defined(__CUDACC__)
#include "bench/stopwatch.h"
#include "fulgurite/cuda/mma_sync.h"
#endif

namespace fulgurite::bench {

#if defined(__CUDACC__)

namespace {

using namespace fulgurite::cuda;

// --- memory ---

__global__ void read_all(const uint4* data, int64_t count, uint32_t* out) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  uint4 sum{};
#pragma unroll 8
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const uint4 value = __ldcs(data + i);
    sum.x ^= value.x, sum.y ^= value.y, sum.z ^= value.z, sum.w ^= value.w;
  }
  if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 1) *out = 1;  // the data is zero: never
}

// --- arithmetic: each thread's sums depend on their predecessors alone, and end where they cannot be left out ---

constexpr int kChains = 8;

__global__ void multiply_fragments(int rounds, float* out) {
  uint32_t a[4], b[2];
  for (uint32_t& pair : a) pair = (threadIdx.x * 2654435761u & 0x807F807Fu) | 0x3F803F80u;
  for (uint32_t& pair : b) pair = (threadIdx.x * 40503u & 0x807F807Fu) | 0x3F803F80u;
  float sums[kChains][4] = {};
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) mma_bf16(sums[i], a, b);
  }
  float sum = 0.0f;
  for (const auto& chain : sums) sum += chain[0] + chain[1] + chain[2] + chain[3];
  if (sum == 0.5f) *out = sum;
}

constexpr int kAdders = 32;

__global__ void add_products(int rounds, float* out) {
  float sums[kAdders] = {};
  const float a = 1.0f + static_cast<float>(threadIdx.x) * 0x1p-20f, b = 0x1p-10f;
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kAdders; ++i) sums[i] = fmaf(sums[i], a, b + static_cast<float>(i));
  }
  float sum = 0.0f;
  for (const float value : sums) sum += value;
  if (sum == 0.5f) *out = sum;
}

class Room {
 public:
  explicit Room(size_t bytes) {
    check(cudaMalloc(&data_, bytes), "cudaMalloc");
    check(cudaMemset(data_, 0, bytes), "cudaMemset");
  }
  ~Room() { cudaFree(data_); }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

}  // namespace

Limits measure_gpu_limits(void* stream) {
  constexpr size_t kBytes = size_t{1} << 29;
  constexpr int kRounds = 2000;
  const auto queue = static_cast<cudaStream_t>(stream);
  int processors = 0;
  [[maybe_unused]] int major = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
  const Stopwatch watch(queue);
  const Room room(kBytes), result(64);
  auto* const out = result.as<float>();
  const auto blocks = static_cast<unsigned>(processors);
  Limits limits;
  limits.read_bytes = static_cast<double>(kBytes) / watch.fastest([&] {
    read_all<<<blocks * 16, 256, 0, queue>>>(room.as<uint4>(), kBytes / sizeof(uint4), result.as<uint32_t>());
  });
  limits.fp32_flops = 2.0 * kAdders * kRounds * 256 * blocks * 4 /
                      watch.fastest([&] { add_products<<<blocks * 4, 256, 0, queue>>>(kRounds, out); });
#if defined(FULGURITE_HOPPER)
  if (major == 9) {
    const TensorFlops tensor = hopper_tensor_flops(stream, processors, out);
    limits.pairs_flops = tensor.bf16, limits.codes_flops = tensor.e4m3;
    return limits;
  }
#endif
  constexpr double kOperations = 2.0 * 16 * 8 * 16 * kChains * kRounds * (256 / 32);
  limits.pairs_flops = kOperations * blocks * 4 / watch.fastest([&] {
    multiply_fragments<<<blocks * 4, 256, 0, queue>>>(kRounds, out);
  });
  limits.codes_flops = limits.pairs_flops;  // as pairs
  return limits;
}

#else

Limits measure_gpu_limits(void*) {
  fail(ErrorKind::kDevice, "no GPU: this build has no CUDA kernels (FULGURITE_CUDA = OFF)");
}

#endif

}  // namespace fulgurite::bench
