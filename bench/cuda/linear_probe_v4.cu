// Times of DeepSeek-V4's linears, of the head and of o_a.

#include "bench/cuda/linear_probe.h"

namespace fulgurite::probe {
namespace {

using cuda::Bf16Product;
using cuda::CodedProduct;
using Tokens = std::vector<int>;

constexpr double kBytesPerUs = 3.112e6, kFlopsPerUs = 989e6, kFp8FlopsPerUs = 1979e6;
constexpr size_t kRotatedBytes = size_t{300} << 20;

void report(const char* what, int out, int in, int tokens, const Time& time, const Time& chained,
            double bytes, double flops, double rate) {
  const double floor = std::max(bytes / kBytesPerUs, flops / rate);
  std::printf("%-7s %6d %5d M=%-4d %8.2f (%+.2f, %+.2f)  dep. %8.2f  floor %8.2f  %4.2f TB/s %5.0f TFLOP/s\n",
              what, out, in, tokens, time.median, time.low - time.median, time.high - time.median,
              chained.median, floor, bytes / time.median * 1e-6, flops / time.median * 1e-6);
  std::fflush(stdout);
}

template <class Run>
void time_both(const char* what, int groups, int out, int in, int tokens, size_t sets, double bytes,
               double rate, const Run& run) {
  const int calls = static_cast<int>(std::max<size_t>(sets, tokens >= 1024 ? 4 : out > 100000 ? 6 : 48));
  const Time alone = time_graph(calls, [&](int i, cudaStream_t stream) { run(i, stream, false); });
  const Time chained = time_graph(calls, [&](int i, cudaStream_t stream) { run(i, stream, true); });
  report(what, groups * out, in, tokens, alone, chained, bytes, 2.0 * tokens * groups * out * in, rate);
}

void time_product(const char* what, int groups, int out, int in, int tokens, bool is_f32) {
  const size_t elements = size_t(groups) * out * in;
  const size_t sets = std::clamp<size_t>(kRotatedBytes / (2 * elements), 2, 64);
  static Device<uint16_t> weights(size_t{2} * 129280 * 7168);
  static bool filled = false;
  if (!filled) fill(weights.data, weights.count, 3), filled = true;
  Device<uint16_t> x(size_t(tokens) * groups * in);
  fill(x.data, x.count, 4);
  Device<uint8_t> y(size_t(tokens) * groups * out * (is_f32 ? 4 : 2));
  const double bytes = 2.0 * elements + 2.0 * x.count + double(y.count);
  time_both(what, groups, out, in, tokens, sets, bytes, kFlopsPerUs,
            [&](int i, cudaStream_t stream, bool dependent) {
              Bf16Product product =
                  product_of(x.data, weights.data + elements * (i % sets), y.data, tokens, in, out);
              product.is_f32 = is_f32;
              product.dependent = dependent;
              if (groups > 1) product = groups_of(product, groups);
              MUST(cuda::launch_product(product, stream));
            });
}

void time_codes(int groups, int tokens) {
  constexpr int kRows = 1024, kIn = 4096;
  const size_t elements = size_t(groups) * kRows * kIn, sets = std::max<size_t>(kRotatedBytes / elements, 2);
  static Device<uint8_t> codes(kRotatedBytes + (size_t{64} << 20)), exponents(size_t{1} << 16);
  MUST(cudaMemset(codes.data, 0x35, codes.count));
  MUST(cudaMemset(exponents.data, 118, exponents.count));
  Device<uint16_t> x(size_t(tokens) * groups * kIn), y(size_t(tokens) * groups * kRows);
  fill(x.data, x.count, 4);
  time_both("codes", groups, kRows, kIn, tokens, sets, double(elements) + 2.0 * x.count + 2.0 * y.count,
            kFlopsPerUs, [&](int i, cudaStream_t stream, bool dependent) {
              CodedProduct product = coded_of(x.data, codes.data + elements * (i % sets), exponents.data,
                                              y.data, tokens, groups, kRows, kIn);
              product.dependent = dependent;
              MUST(cuda::launch_product(product, stream));
            });
}

// From bf16 activations on: quantization and product.
void time_fp8(int out, int in, int tokens) {
  const size_t elements = size_t(out) * in;
  const size_t sets = std::clamp<size_t>(kRotatedBytes / elements, 2, 64);
  Device<uint8_t> weights(elements * sets), workspace(linear::hopper::workspace_bytes(tokens, in)),
      exponents(size_t{1} << 16);
  MUST(cudaMemset(weights.data, 0x35, weights.count));
  MUST(cudaMemset(exponents.data, 118, exponents.count));
  Device<uint16_t> x(size_t(tokens) * in), y(size_t(tokens) * out);
  fill(x.data, x.count, 4);
  const double bytes = double(elements) + 2.0 * x.count + 2.0 * y.count;
  time_both("e8m0", 1, out, in, tokens, sets, bytes, kFp8FlopsPerUs,
            [&](int i, cudaStream_t stream, bool dependent) {
              auto params = linear_params(x.data, weights.data + elements * (i % sets), nullptr, y.data,
                                          workspace.data, tokens, in, out);
              params.exponents = exponents.data;
              params.dependent = dependent;
              linear::hopper::launch(params, stream);
            });
}

}  // namespace

void time_v4(bool many) {
  const std::pair<int, int> linears[] = {{1024, 4096}, {32768, 1024}, {512, 4096},   {8192, 1024},
                                         {4096, 8192}, {1536, 7168},  {65536, 1536}, {512, 7168},
                                         {8192, 1536}, {7168, 16384}};
  const Tokens few = {1, 8, 16, 32, 64}, more = {128, 256, 1024, 4096};
  for (const int groups : {8, 16})
    for (const int tokens : many ? more : few) time_codes(groups, tokens);
  for (const int groups : {8, 16})
    for (const int tokens : many ? more : few) time_product("o_a", groups, 1024, 4096, tokens, false);
  for (const int tokens : many ? more : few) time_product("gate", 1, 64, 4096, tokens, true);
  for (const int tokens : many ? more : few) time_product("gate", 1, 64, 7168, tokens, true);
  for (const int tokens : many ? more : few) time_product("head", 1, 129280, 4096, tokens, true);
  for (const int tokens : many ? more : few) time_product("head", 1, 129280, 7168, tokens, true);
  for (const int tokens : many ? more : few) time_product("bf16", 1, 7168, 7168, tokens, false);
  for (const auto& [out, in] : linears)
    for (const int tokens : many ? more : few) time_fp8(out, in, tokens);
}

}  // namespace fulgurite::probe
