#pragma once
// The kernels of the generic rows: a function of an index, called once for each of [0, count), in any order.
// Written so that the same source is a loop to a C++ compiler: in a build without FULGURITE_CUDA the rows of
// a GPU run on the host, slowly, and tests need no GPU. They sum as the references do, in double and in ascending
// order, so that they have the references' bits but for exp, log and sqrt of another library.

#include <algorithm>
#include <cstdint>

#include "fulgurite/core/host_device.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/rounding.h"

#if defined(__CUDACC__)
#include "fulgurite/cuda/check.h"
#endif

namespace fulgurite::cuda {

#if defined(__CUDACC__)

template <class Body>
__global__ void call_for_each(int64_t count, Body body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) body(i);
}

template <class Body>
void for_each(const Lane& lane, int64_t count, const Body& body) {
  constexpr int64_t kThreads = 128, kMostBlocks = int64_t{1} << 20;
  if (count == 0) return;
  const int64_t blocks = std::min((count + kThreads - 1) / kThreads, kMostBlocks);
  call_for_each<<<static_cast<unsigned>(blocks), static_cast<unsigned>(kThreads), 0,
                  static_cast<cudaStream_t>(lane.stream)>>>(count, body);
  launched(lane);
}

#else

template <class Body>
void for_each(const Lane& lane, int64_t count, const Body& body) {
  struct Job {
    const Body& body;
    int64_t count, parts;
  } job{body, count, lane.workers == nullptr ? 1 : lane.workers->threads()};
  const auto part = [](void* context, int thread) {
    const Job& j = *static_cast<const Job*>(context);
    for (int64_t i = j.count * thread / j.parts; i < j.count * (thread + 1) / j.parts; ++i) j.body(i);
  };
  if (lane.workers == nullptr) return part(&job, 0);
  lane.workers->run(part, &job);
}

#endif

// Tokens that go through an operation's launches at once: what they leave each other in scratch memory is theirs alone.
inline constexpr int64_t kChunk = 1024;

// Calls body(first, count) for `tokens` tokens, `most` at a time.
template <class Body>
void for_each_chunk(int64_t tokens, int64_t most, const Body& body) {
  for (int64_t first = 0; first < tokens; first += most) body(first, std::min(most, tokens - first));
}

// The smaller. By value: std::min would take the address of a constant, which device code has not.
FULGURITE_HOST_DEVICE constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Hands out parts of a workspace, each 256-byte aligned. Without memory it counts them.
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(const Lane& lane) : at_(lane.workspace.data()) {}

  template <class T>
  T* take(int64_t count) {
    std::byte* const part = at_ == nullptr ? nullptr : at_ + used_;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    return reinterpret_cast<T*>(part);
  }
  int64_t used() const { return used_; }

 private:
  std::byte* at_ = nullptr;
  int64_t used_ = 0;
};

// What every generic row asks of its setting.
inline Support takes_generic(const Setting& setting) {
  const Target& target = setting.target;
  if (target.kind != DeviceKind::kCuda || target.sm < 80)
    return Refusal{"target " + name(target) + ", takes a GPU from sm80 on"};
  const Numerics& n = setting.numerics;
  return first_refusal({takes(n.mma, {Mma::kExact}),
                        takes(n.rsqrt, {Rsqrt::kCorrect, Rsqrt::kTwoStep, Rsqrt::kError}),
                        takes(n.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16})});
}

// 1 / sqrt(m), as core/rounding.h lists the values of the knob that takes_generic takes.
FULGURITE_HOST_DEVICE inline float reciprocal_sqrt(float m, const Numerics& numerics) {
  if (numerics.rsqrt == Rsqrt::kTwoStep) return 1.0f / std::sqrt(m);
  const float correct = correct_reciprocal_sqrt(m);
  if (numerics.rsqrt == Rsqrt::kCorrect) return correct;
  return static_cast<float>(static_cast<double>(correct) * (1.0 + static_cast<double>(numerics.rsqrt_error)));
}

}  // namespace fulgurite::cuda
