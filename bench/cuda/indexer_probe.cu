// Holds the indexer's kernels against the library's references, bit for bit, and times them.
//   probe check [fast] | probe time [processors] | probe small (for memory checkers)
// Times are of CUDA graphs of many calls whose operands are others each time (more than 200 MB of them), so
// weights come from memory; a time includes one edge between kernels.
// ./dev probes builds it.

#include "bench/cuda/indexer_probe.h"

#include "fulgurite/cuda/number.h"

namespace fulgurite::probe {
namespace {

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
