#pragma once
// What the parts of v4_steps_probe share: memory that lies on the host and, alike, on the device.

#include <cuda_runtime.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bench/cuda/probe_kit.h"
#include "fulgurite/audit/report.h"
#include "fulgurite/core/any_view.h"
#include "fulgurite/core/bf16.h"
#include "fulgurite/core/element.h"
#include "fulgurite/core/implementation.h"

namespace fulgurite::probe {

// Tensors of one case, at the same offsets on both sides; with `room` bytes on the device for a workspace.
class Twin {
 public:
  explicit Twin(size_t bytes) : host_(new std::byte[bytes]), size_(bytes) {
    std::memset(host_.get(), 0xCD, bytes);
    MUST(cudaMalloc(&device_, bytes));
    MUST(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  Twin(const Twin&) = delete;
  ~Twin() {
    cudaFree(device_);
    cudaFree(workspace_);
    cudaStreamDestroy(stream_);
  }
  template <class T>
  T* take(int64_t count) {
    T* const at = reinterpret_cast<T*>(host_.get() + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
    if (used_ > size_) MUST(cudaErrorMemoryAllocation);
    return at;
  }
  template <int Rank>
  Tensor<Rank> tensor(DType type, std::array<int64_t, Rank> extent) {
    int64_t count = 1;
    for (const int64_t n : extent) count *= n;
    if (type == DType::kF32) return View<float, Rank>(take<float>(count), extent);
    if (type == DType::kBF16) return View<bf16, Rank>(take<bf16>(count), extent);
    return View<e4m3, Rank>(take<e4m3>(count), extent);
  }
  // The same place on the device.
  template <class T>
  void move(T*& pointer) const {
    if (pointer != nullptr)
      pointer = reinterpret_cast<T*>(device_ + (reinterpret_cast<const std::byte*>(pointer) - host_.get()));
  }
  void upload() const { MUST(cudaMemcpyAsync(device_, host_.get(), used_, cudaMemcpyHostToDevice, stream_)); }
  void download() const {
    MUST(cudaMemcpyAsync(host_.get(), device_, used_, cudaMemcpyDeviceToHost, stream_));
    MUST(cudaStreamSynchronize(stream_));
  }
  Lane lane(int64_t workspace) {
    if (workspace_ == nullptr) {
      MUST(cudaMalloc(&workspace_, static_cast<size_t>(workspace) + 256));
      MUST(cudaMemset(workspace_, 0xFF, static_cast<size_t>(workspace) + 256));
      MUST(cudaDeviceSynchronize());
    }
    Lane lane;
    lane.workspace = {workspace_, static_cast<size_t>(workspace)};
    lane.stream = stream_;
    return lane;
  }
  std::vector<std::byte> bytes() const { return {host_.get(), host_.get() + used_}; }

  inline static thread_local Twin* current = nullptr;

 private:
  std::unique_ptr<std::byte[]> host_;
  std::byte *device_ = nullptr, *workspace_ = nullptr;
  cudaStream_t stream_ = nullptr;
  size_t size_, used_ = 0;
};

struct Random {
  uint64_t at;
  float normal() { return probe::normal(at++); }
};
template <int Rank>
void fill(const Tensor<Rank>& to, Random& random, float scale = 1.0f) {
  int64_t count = 1;
  for (const int64_t n : to.extent) count *= n;
  for (int64_t i = 0; i < count; ++i) {
    const float value = random.normal() * scale;
    if (to.dtype == DType::kF32)
      reinterpret_cast<float*>(to.data)[i] = value;
    else
      reinterpret_cast<bf16*>(to.data)[i] = to_bf16(value);
  }
}

inline Setting cuda_setting(const std::string& numerics) {
  return {{DeviceKind::kCuda, Isa::kPortable, 90, {13000, 0}},
          parse_numerics(numerics).resolved(ActivationScale::kPow2, IndexQuant::kFp4)};
}

// Outputs judged, and those without any difference.
void judged(const audit::OpReport& report, const std::string& what);
void claim_together(bool holds, const std::string& what);
void report_outputs(const char* what);

void check_quotients();
void check_hyper_connections();
void check_compressors();
void check_index();
void run_small_index();
void time_hyper_connections();
void time_compressors();
void time_index();

}  // namespace fulgurite::probe
