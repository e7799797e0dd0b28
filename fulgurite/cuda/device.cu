#include "fulgurite/cuda/device.h"

#include "fulgurite/core/error.h"
#include "fulgurite/cuda/cublaslt.h"

#if defined(__CUDACC__)
#include "fulgurite/cuda/check.h"
#endif

namespace fulgurite::cuda {

#if defined(__CUDACC__)

namespace {

constexpr int kOldest = 80;  // compute capability 8.0

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

// --- memory ---

// Waits: the default stream, which clears a GPU's own memory at some later time, is not what sessions' streams wait for.
void* zeroed(void* data, int64_t bytes) {
  check(cudaMemset(data, 0, static_cast<size_t>(bytes)), "cudaMemset");
  check(cudaStreamSynchronize(nullptr), "cudaMemset");
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

// A block copies a row, 4 bytes a thread.
__global__ void gather_kernel(uint32_t* to, const uint32_t* from, const int32_t* rows, int64_t row_words) {
  const int64_t first = int64_t{rows[blockIdx.x]} * row_words;
  for (int64_t i = threadIdx.x; i < row_words; i += blockDim.x)
    to[blockIdx.x * row_words + i] = from[first + i];
}

void gather(void* to, const void* from, const int32_t* rows, int64_t count, int64_t row_bytes, void* stream) {
  FULGURITE_ASSERT(row_bytes % 4 == 0, "rows of {} bytes", row_bytes);
  if (count == 0) return;
  gather_kernel<<<static_cast<unsigned>(count), 256, 0, as_stream(stream)>>>(
      static_cast<uint32_t*>(to), static_cast<const uint32_t*>(from), rows, row_bytes / 4);
  check(cudaGetLastError(), "a launch");
}

void gather_and_wait(void* to, const void* from, const int32_t* rows, int64_t count, int64_t row_bytes,
                     void* stream) {
  gather(to, from, rows, count, row_bytes, stream);
  wait(stream);
}

constexpr Memory kOwn{"gpu",         false, allocate_own, release_own, copy_and_wait,
                      copy_and_wait, copy,  clear,        gather};
// The host may look at any time: nothing is left to be done later.
constexpr Memory kShared{"shared",      true,          allocate_shared, release_shared, copy_and_wait,
                         copy_and_wait, copy_and_wait, clear_and_wait,  gather_and_wait};

// --- the device ---

void* open_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return stream;
}

void close_stream(void* stream) { cudaStreamDestroy(as_stream(stream)); }

// --- recordings ---

void begin_recording(void* stream) {
  // Relaxed: a kernel that is met first is loaded meanwhile.
  check(cudaStreamBeginCapture(as_stream(stream), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
}

void* end_recording(void* stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(as_stream(stream), &graph), "cudaStreamEndCapture");
  cudaGraphExec_t recording = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&recording, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
  check(cudaGraphUpload(recording, as_stream(stream)), "cudaGraphUpload");
  return recording;
}

void replay(void* recording, void* stream) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(recording), as_stream(stream)), "cudaGraphLaunch");
}

void release_recording(void* recording) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(recording)); }

constexpr Accelerator kAccelerator{&kOwn,           &kShared,      open_stream, close_stream,     wait,
                                   begin_recording, end_recording, replay,      release_recording};

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
  device.target = {
      DeviceKind::kCuda, Isa::kPortable, sm, {driver, cublaslt_version()}, properties.multiProcessorCount};
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
