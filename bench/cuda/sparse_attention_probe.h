#pragma once
// What the parts of sparse_attention_probe share.

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "fulgurite/ops/sparse_attention/sparse_attention_cuda.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_rules.h"

namespace fulgurite::sparse_attention::probe {

#define CUDA(call)                                                                          \
  do {                                                                                      \
    const cudaError_t error_ = (call);                                                      \
    if (error_ != cudaSuccess) {                                                            \
      std::printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
      std::exit(2);                                                                         \
    }                                                                                       \
  } while (0)

template <class T>
struct Device {
  T* data = nullptr;
  size_t size = 0;
  explicit Device(size_t count) : size(count) {
    CUDA(cudaMalloc(&data, std::max<size_t>(count, 4) * sizeof(T)));
  }
  explicit Device(const std::vector<T>& host) : Device(host.size()) {
    CUDA(cudaMemcpy(data, host.data(), size * sizeof(T), cudaMemcpyHostToDevice));
  }
  Device(const Device&) = delete;
  ~Device() { cudaFree(data); }
  void fill(int byte) { CUDA(cudaMemset(data, byte, size * sizeof(T))); }
  std::vector<T> get() const {
    std::vector<T> host(size);
    CUDA(cudaMemcpy(host.data(), data, size * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
};

inline uint64_t mix(uint64_t i) {
  i = (i + 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull;
  i = (i ^ i >> 27) * 0x94D049BB133111EBull;
  return i ^ i >> 31;
}

// `count` distinct of [0, range), ascending.
std::vector<int32_t> distinct(uint64_t seed, int count, int range);

void expect(bool holds, const std::string& what);

void check(bool small);
void check_same();
void time_decode(const std::string& only);
void time_parts();
void time_prefill();
void run_one(const std::string& name);

}  // namespace fulgurite::sparse_attention::probe
