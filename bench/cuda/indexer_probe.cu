// Holds the indexer's kernels against the library's references, bit for bit, and times them.
//   probe check [fast] | probe time [processors] | probe small (for memory checkers)
// Times are of CUDA graphs of many calls whose operands are others each time (more than 200 MB of them), so
// weights come from memory; a time includes one edge between kernels.
//
// Build: nvcc -std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a -I. of these files and of the operations'
// kernels, with the library, fmt and pthread.

#include "bench/cuda/indexer_probe.h"

#include "fulgurite/cuda/number.h"

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

__global__ void convert(uint64_t first, size_t count, uint8_t* e4m3, uint16_t* bf16) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x) {
    const float value =
        __uint_as_float(static_cast<uint32_t>((first + i) * 16 + (hash(first + i) & (i & 1 ? 15 : 0))));
    e4m3[i] = fulgurite::cuda::e4m3_bits(value);
    bf16[i] = fulgurite::cuda::bf16_bits(value);
  }
}
__global__ void widen(float* e4m3, float* e8m0) {
  e4m3[threadIdx.x] = fulgurite::cuda::e4m3_to_float(static_cast<uint8_t>(threadIdx.x));
  e8m0[threadIdx.x] = fulgurite::cuda::e8m0_to_float(static_cast<uint8_t>(threadIdx.x));
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

void check_numbers() {
  const size_t count = size_t{1} << 28;
  Device<uint8_t> codes(count);
  Device<uint16_t> halves(count);
  convert<<<2048, 256>>>(0, count, codes.data, halves.data);
  MUST(cudaDeviceSynchronize());
  const std::vector<uint8_t> e4m3 = codes.download();
  const std::vector<uint16_t> bf16 = halves.download();
  const int pieces = 256;
  std::vector<size_t> wrong(pieces);
  parallel(pieces, [&](int p) {
    for (size_t i = count / pieces * p; i < count / pieces * (p + 1); ++i) {
      const uint32_t bits = static_cast<uint32_t>(i * 16 + (hash(i) & (i & 1 ? 15 : 0)));
      float value;
      std::memcpy(&value, &bits, 4);
      wrong[p] += e4m3_code(value) != e4m3[i] || bf16_code(value) != bf16[i];
    }
  });
  size_t all = 0;
  for (const size_t n : wrong) all += n;
  claim(all == 0, text("numbers: %zu of 2^28 conversions differ", all));
  Device<float> e4m3_values(256), e8m0_values(256);
  widen<<<1, 256>>>(e4m3_values.data, e8m0_values.data);
  const auto a = e4m3_values.download(), b = e8m0_values.download();
  for (int i = 0; i < 256; ++i) {
    const float x = e4m3_value(static_cast<uint8_t>(i)), y = e8m0_value(static_cast<uint8_t>(i));
    claim(std::memcmp(&a[i], &x, 4) == 0 && same(b[i], y), text("numbers: code %d", i));
  }
}

int failed() { return failures; }

}  // namespace fulgurite::probe

int main(int count, char** words) {
  using namespace fulgurite::probe;
  const std::string what = count > 1 ? words[1] : "check";
  const bool fast = count > 2;
  if (what == "check") {
    if (!fast) check_numbers();
    check_projections(fast);
    check_preparations(fast);
  } else if (what == "small") {
    run_small_projections();
    run_small_preparations();
  } else if (what == "time") {
    time_all(count > 2 ? std::atoi(words[2]) : 132);
  }
  report_checks("all");
  return failed() != 0;
}
