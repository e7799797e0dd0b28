#pragma once
// What the parts of steps_probe share: memory that host and GPU both read, random values, claims, the two
// settings.

#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/fp16.h"
#include "fulgurite/core/implementation.h"

namespace fulgurite::probe {

inline void must(cudaError_t error, int line) {
  if (error == cudaSuccess) return;
  std::printf("FATAL line %d: %s\n", line, cudaGetErrorString(error));
  std::fflush(stdout);
  std::_Exit(2);
}
#define MUST(call) fulgurite::probe::must(call, __LINE__)

// Memory of the host that the GPU reads and writes as well, of one byte everywhere at first.
template <class T>
struct Shared {
  T* data = nullptr;
  size_t count = 0;
  explicit Shared(size_t n, int byte = 0xCD) : count(n) {
    MUST(cudaMallocHost(&data, std::max<size_t>(n, 1) * sizeof(T)));
    std::memset(static_cast<void*>(data), byte, n * sizeof(T));
  }
  explicit Shared(const std::vector<T>& values) : Shared(values.size()) {
    std::memcpy(static_cast<void*>(data), values.data(), count * sizeof(T));
  }
  Shared(const Shared&) = delete;
  ~Shared() { cudaFreeHost(data); }
};

struct Random {
  uint64_t state;
  uint32_t bits() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>((state >> 22 ^ state) >> (22 + (state >> 61)));
  }
  double uniform() { return bits() * 0x1p-32; }
  float normal() {
    double sum = 0.0;
    for (int i = 0; i < 6; ++i) sum += uniform() - 0.5;
    return static_cast<float>(sum * std::sqrt(2.0));
  }
  int below(int n) { return static_cast<int>(uniform() * n); }
};

// A tensor of activations, rows `gap` elements apart.
struct Activations {
  Shared<std::byte> bytes;
  Tensor<2> view;
  Activations(DType type, int64_t rows, int64_t columns, int64_t gap = 0)
      : bytes(static_cast<size_t>(rows * (columns + gap) * (type == DType::kF32 ? 4 : 2))) {
    view.data = bytes.data;
    view.dtype = type;
    view.extent = {rows, columns};
    view.stride = {columns + gap, 1};
  }
  void set(int64_t row, int64_t column, float value) {
    if (view.dtype == DType::kF32)
      view.as<float>()(row, column) = value;
    else
      view.as<bf16>()(row, column) = to_bf16(value);
  }
  void fill(Random& random, float scale = 1.0f) {
    for (int64_t r = 0; r < view.extent[0]; ++r)
      for (int64_t c = 0; c < view.extent[1]; ++c) set(r, c, random.normal() * scale);
  }
};

inline bool same_value(float a, float b) {
  return std::memcmp(&a, &b, 4) == 0 || (std::isnan(a) && std::isnan(b));
}
// Elements that differ; bytes beside them too.
inline int64_t differing(const Activations& a, const Activations& b) {
  const size_t size = a.view.dtype == DType::kF32 ? 4 : 2;
  int64_t count = 0;
  for (size_t i = 0; i < a.bytes.count; i += size) {
    float x, y;
    if (size == 4) {
      std::memcpy(&x, a.bytes.data + i, 4);
      std::memcpy(&y, b.bytes.data + i, 4);
    } else {
      bf16 p, q;
      std::memcpy(&p, a.bytes.data + i, 2);
      std::memcpy(&q, b.bytes.data + i, 2);
      x = to_float(p), y = to_float(q);
    }
    count += !same_value(x, y);
  }
  return count;
}

inline int failures = 0, checks = 0;
inline bool claim(bool holds, const std::string& what) {
  ++checks;
  if (!holds && ++failures <= 40) std::printf("FAIL %s\n", what.c_str());
  return holds;
}
template <class... Values>
std::string text(const char* format, Values... values) {
  char line[400];
  std::snprintf(line, sizeof line, format, values...);
  return line;
}
inline void report(const char* what, int from_checks, int from_failures) {
  std::printf("%-15s %5d checks, %d failed\n", what, checks - from_checks, failures - from_failures);
  std::fflush(stdout);
}

// A kernel's fault ends the probe, named.
inline void synchronize(const std::string& what) {
  const cudaError_t error = cudaDeviceSynchronize();
  if (error == cudaSuccess) return;
  std::printf("FATAL %s: %s\n", what.c_str(), cudaGetErrorString(error));
  std::fflush(stdout);
  std::_Exit(2);
}

inline Setting setting_of(const std::string& numerics, ActivationScale scale = ActivationScale::kPow2) {
  return {{DeviceKind::kCuda, Isa::kPortable, 90, {13000, 0}},
          parse_numerics(numerics).resolved(scale, IndexQuant::kFp8)};
}

// A row's workspace, on the device.
struct Workspace {
  std::byte* data = nullptr;
  size_t size;
  explicit Workspace(int64_t bytes) : size(static_cast<size_t>(bytes)) {
    MUST(cudaMalloc(&data, std::max<size_t>(size, 256)));
    MUST(cudaMemset(data, 0xFF, std::max<size_t>(size, 256)));  // NaN
  }
  Workspace(const Workspace&) = delete;
  ~Workspace() { cudaFree(data); }
  Lane lane(void* stream = nullptr) const {
    Lane lane;
    lane.workspace = {data, size};
    lane.stream = stream;
    return lane;
  }
};

void check_norms();
void check_latents();
void check_rotations();
void check_embeddings();
void check_routers();
void repeat_experts(int times);  // and the router
void check_experts();
void time_steps();
void time_experts();

}  // namespace fulgurite::probe
