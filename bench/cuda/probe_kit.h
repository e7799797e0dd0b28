#pragma once
// What probes share: claims, memory of the device, random values, times.

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "bench/cuda/on_all_cores.h"

namespace fulgurite::probe {

void must(cudaError_t error, int line);
#define MUST(call) fulgurite::probe::must(call, __LINE__)

void claim(bool holds, const std::string& what);
void report_checks(const char* what);

template <class... Values>
std::string text(const char* format, Values... values) {
  char line[300];
  std::snprintf(line, sizeof line, format, values...);
  return line;
}

template <class T>
struct Device {
  T* data = nullptr;
  size_t count = 0;
  explicit Device(size_t n) : count(n) { MUST(cudaMalloc(&data, std::max<size_t>(n, 4) * sizeof(T))); }
  explicit Device(const std::vector<T>& host) : Device(host.size()) { upload(host); }
  Device(const Device&) = delete;
  ~Device() { cudaFree(data); }
  void upload(const std::vector<T>& host) {
    MUST(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> download() const { return download(0, count); }
  std::vector<T> download(size_t first, size_t n) const {
    std::vector<T> host(n);
    MUST(cudaMemcpy(host.data(), data + first, n * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
  void fill(int byte) { MUST(cudaMemset(data, byte, count * sizeof(T))); }
  void poison() { fill(0xCD); }
};

__host__ __device__ inline uint64_t mix(uint64_t i) {
  i = (i + 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull;
  i = (i ^ i >> 27) * 0x94D049BB133111EBull;
  return i ^ i >> 31;
}
__host__ __device__ inline uint32_t hash(uint64_t i) { return static_cast<uint32_t>(mix(i)); }
__host__ __device__ inline float normal(uint64_t i) {  // a sum of four uniforms is close enough
  float sum = 0.0f;
  for (int k = 0; k < 4; ++k) sum += static_cast<float>(hash(4 * i + k) >> 8) * 0x1p-24f - 0.5f;
  return sum * 1.7320508f;
}
__host__ __device__ inline uint16_t normal_bf16(uint64_t i) {
  const float value = normal(i);
#ifdef __CUDA_ARCH__
  return static_cast<uint16_t>(__float_as_uint(value) >> 16);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>(bits >> 16);
#endif
}
void fill(uint16_t* data, size_t count, uint64_t seed);
void fill(float* data, size_t count, uint64_t seed);
std::vector<uint16_t> random_bf16(size_t count, uint64_t seed);
std::vector<float> random_floats(size_t count, uint64_t seed);

inline bool same(float a, float b) { return std::memcmp(&a, &b, 4) == 0 || (std::isnan(a) && std::isnan(b)); }
inline bool nan_bf16(uint16_t a) { return (a & 0x7FFF) > 0x7F80; }
inline bool same(uint16_t a, uint16_t b) { return a == b || (nan_bf16(a) && nan_bf16(b)); }

// Adds to `differ` how many words differ.
void count_differences(const uint32_t* a, const uint32_t* b, size_t count, unsigned* differ);

// Microseconds a call.
struct Time {
  double median, low, high, best;
};
// Of replays of a graph of so many calls; call(i, stream) captures one.
Time time_graph(int calls, const std::function<void(int, cudaStream_t)>& call);

// Operands of many calls, in one pool.
inline constexpr size_t kRotated = size_t{240} << 20;
inline int sets_for(size_t bytes) { return static_cast<int>(std::clamp<size_t>(kRotated / bytes, 2, 256)); }

int failed();  // claims so far

}  // namespace fulgurite::probe
