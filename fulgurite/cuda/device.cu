#include "fulgurite/cuda/device.h"

#include "fulgurite/core/error.h"

#if defined(__CUDACC__)
#include "fulgurite/cuda/check.h"
#endif

namespace fulgurite::cuda {

#if defined(__CUDACC__)

namespace {

constexpr int kOldest = 80;  // compute capability 8.0

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

// --- memory ---

void* zeroed(void* data, int64_t bytes) {
  check(cudaMemset(data, 0, static_cast<size_t>(bytes)), "cudaMemset");
  return data;
}

void* allocate_own(int64_t bytes) {
  void* data = nullptr;
  if (cudaMalloc(&data, static_cast<size_t>(bytes)) != cudaSuccess)
    fail(ErrorKind::kMemory, "the GPU gives no {} bytes of memory", bytes);
  return zeroed(data, bytes);
}

void* allocate_shared(int64_t bytes) {
  void* data = nullptr;
  if (cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocDefault) != cudaSuccess)
    fail(ErrorKind::kMemory, "the system gives no {} bytes of pinned memory", bytes);
  return zeroed(data, bytes);
}

void release_own(void* data, int64_t) { cudaFree(data); }
void release_shared(void* data, int64_t) { cudaFreeHost(data); }

void copy(void* to, const void* from, int64_t bytes, void* stream) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, as_stream(stream)),
        "cudaMemcpyAsync");
}

void wait(void* stream) { check(cudaStreamSynchronize(as_stream(stream)), "a kernel"); }

void copy_and_wait(void* to, const void* from, int64_t bytes, void* stream) {
  copy(to, from, bytes, stream);
  wait(stream);
}

void clear(void* at, int64_t bytes, void* stream) {
  check(cudaMemsetAsync(at, 0, static_cast<size_t>(bytes), as_stream(stream)), "cudaMemsetAsync");
}

void clear_and_wait(void* at, int64_t bytes, void* stream) {
  clear(at, bytes, stream);
  wait(stream);
}

constexpr Memory kOwn{"gpu", false, allocate_own, release_own, copy_and_wait, copy_and_wait, copy, clear};
// The host may look at any time: nothing is left to be done later.
constexpr Memory kShared{"shared",      true,          allocate_shared, release_shared,
                         copy_and_wait, copy_and_wait, copy_and_wait,   clear_and_wait};

// --- the device ---

void* open_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return stream;
}

void close_stream(void* stream) { cudaStreamDestroy(as_stream(stream)); }

constexpr Accelerator kAccelerator{&kOwn, &kShared, open_stream, close_stream, wait};

int driver_version() {
  int driver = 0, runtime = 0;
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  if (driver == 0)
    fail(ErrorKind::kDevice, "no NVIDIA driver: expected one of CUDA 13.0 or later, found none");
  if (driver / 1000 < runtime / 1000)
    fail(ErrorKind::kDevice, "the NVIDIA driver is too old: expected one of CUDA {}.0 or later, found {}.{}",
         runtime / 1000, driver / 1000, driver % 1000 / 10);
  return driver;
}

}  // namespace

bool is_built() { return true; }

Device device() {
  const int driver = driver_version();
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess || count == 0)
    fail(ErrorKind::kDevice, "no GPU: {}",
         cudaGetErrorString(status == cudaSuccess ? cudaErrorNoDevice : status));
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  const int sm = properties.major * 10 + properties.minor;
  if (sm < kOldest)
    fail(ErrorKind::kDevice, "{}: expected a GPU of compute capability 8.0 or later, found {}.{}",
         properties.name, properties.major, properties.minor);
  check(cudaSetDevice(0), "cudaSetDevice");
  size_t available = 0, total = 0;
  check(cudaMemGetInfo(&available, &total), "cudaMemGetInfo");
  Device device;
  device.target = {DeviceKind::kCuda, Isa::kPortable, sm, {driver, 0}};
  device.model = properties.name;
  device.available_bytes = static_cast<int64_t>(available);
  device.accelerator = &kAccelerator;
  return device;
}

#else

bool is_built() { return false; }

Device device() { fail(ErrorKind::kDevice, "no GPU: this build has no CUDA kernels (FULGURITE_CUDA = OFF)"); }

#endif

}  // namespace fulgurite::cuda
