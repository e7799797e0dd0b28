#include "bench/cuda/probe_kit.h"

#include <chrono>

namespace fulgurite::probe {
namespace {

int failures = 0, checks = 0;

__global__ void fill_bf16(uint16_t* data, size_t count, uint64_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x)
    data[i] = normal_bf16(seed * 0x100000000ull + i);
}
__global__ void fill_floats(float* data, size_t count, uint64_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x)
    data[i] = normal(seed * 0x100000000ull + i);
}
__global__ void count_differing(const uint32_t* a, const uint32_t* b, size_t count, unsigned* differ) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x)
    if (a[i] != b[i]) atomicAdd(differ, 1u);
}

}  // namespace

void must(cudaError_t error, int line) {
  if (error == cudaSuccess) return;
  std::printf("FATAL line %d: %s\n", line, cudaGetErrorString(error));
  std::exit(2);
}
void claim(bool holds, const std::string& what) {
  ++checks;
  if (holds) return;
  if (++failures <= 40) std::printf("FAIL %s\n", what.c_str());
}

void report_checks(const char* what) {
  std::printf("%s: %d checks, %d failed\n", what, checks, failures);
  std::fflush(stdout);
}

void fill(uint16_t* data, size_t count, uint64_t seed) { fill_bf16<<<2048, 256>>>(data, count, seed); }
void fill(float* data, size_t count, uint64_t seed) { fill_floats<<<512, 256>>>(data, count, seed); }

std::vector<uint16_t> random_bf16(size_t count, uint64_t seed) {
  std::vector<uint16_t> values(count);
  const int pieces = 64;
  parallel(pieces, [&](int p) {
    for (size_t i = count * p / pieces; i < count * (p + 1) / pieces; ++i)
      values[i] = normal_bf16(seed * 0x100000000ull + i);
  });
  return values;
}
std::vector<float> random_floats(size_t count, uint64_t seed) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = normal(seed * 0x100000000ull + i);
  return values;
}

void count_differences(const uint32_t* a, const uint32_t* b, size_t count, unsigned* differ) {
  count_differing<<<64, 256>>>(a, b, count, differ);
}

int failed() { return failures; }

Time time_graph(int calls, const std::function<void(int, cudaStream_t)>& call) {
  cudaStream_t stream;
  MUST(cudaStreamCreate(&stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) call(i, stream);
  MUST(cudaStreamEndCapture(stream, &graph));
  MUST(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  MUST(cudaEventCreate(&begin));
  MUST(cudaEventCreate(&end));
  const auto replay = [&] {
    float ms = 0.0f;
    MUST(cudaEventRecord(begin, stream));
    MUST(cudaGraphLaunch(exec, stream));
    MUST(cudaEventRecord(end, stream));
    MUST(cudaEventSynchronize(end));
    MUST(cudaEventElapsedTime(&ms, begin, end));
    return ms * 1e3 / calls;
  };
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(40)) replay();
  std::vector<double> times;
  for (int i = 0; i < 31; ++i) times.push_back(replay());
  std::sort(times.begin(), times.end());
  MUST(cudaGraphExecDestroy(exec));
  MUST(cudaGraphDestroy(graph));
  MUST(cudaStreamDestroy(stream));
  return {times[15], times[3], times[27], times[0]};
}

}  // namespace fulgurite::probe
