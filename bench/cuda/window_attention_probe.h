#pragma once
// What the parts of window_attention_probe share: DeepSeek-V4's attention rows on a GPU.

#include "bench/cuda/probe_kit.h"
#include "fulgurite/core/implementation.h"

namespace fulgurite::probe {

inline Setting setting_of(const std::string& numerics) {
  return {{DeviceKind::kCuda, Isa::kPortable, 90, {13000, 0}},
          parse_numerics(numerics).resolved(ActivationScale::kPow2, IndexQuant::kFp4)};
}

// Memory of the host that the GPU reads and writes as well.
template <class T>
struct Both {
  T* data = nullptr;
  size_t count = 0;
  explicit Both(size_t n) : count(n) {
    MUST(cudaMallocHost(&data, std::max<size_t>(n, 1) * sizeof(T)));
    std::memset(static_cast<void*>(data), 0xCD, n * sizeof(T));
  }
  explicit Both(const std::vector<T>& values) : Both(values.size()) {
    if (count > 0) std::memcpy(static_cast<void*>(data), values.data(), count * sizeof(T));
  }
  Both(const Both&) = delete;
  ~Both() { cudaFreeHost(data); }
};

// A stream and a workspace of NaN; calls wait.
struct OnDevice {
  cudaStream_t stream;
  Device<std::byte> workspace;
  explicit OnDevice(int64_t bytes) : workspace(static_cast<size_t>(bytes)) {
    MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    MUST(cudaMemset(workspace.data, 0xFF, std::max<size_t>(workspace.count, 1)));
    MUST(cudaDeviceSynchronize());
  }
  ~OnDevice() { cudaStreamDestroy(stream); }
  Lane lane(bool waits = true) const {
    Lane lane;
    lane.workspace = {workspace.data, workspace.count};
    lane.stream = stream;
    lane.waits = waits;
    return lane;
  }
};

void check_attention(bool small);
void check_prepared();
void time_attention(bool variants);
void time_prepared();
void time_some();
void profile_attention();

}  // namespace fulgurite::probe
