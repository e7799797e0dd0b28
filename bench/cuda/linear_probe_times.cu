// Times of the fp8 linear and of head_projection. Activations lie in L2, where the operation before left them.

#include "bench/cuda/linear_probe.h"

namespace fulgurite::probe {
namespace {

namespace fp8 = linear::hopper;
namespace absorbed = head_projection::hopper;

constexpr double kBytesPerUs = 3.112e6,
                 kFlopsPerUs = 1434e6;  // read from memory; a library's best fp8 product

__global__ void fill_codes(uint32_t* data, size_t count) {  // magnitudes of 2^-2 to 2^2, no NaN
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x)
    data[i] = (hash(i) & 0x9F9F9F9Fu) + 0x28282828u;
}

struct Shape {
  int in, out;
};
constexpr Shape kShapes[] = {{7168, 2112},  {1536, 24576}, {1536, 8192},
                             {16384, 7168}, {7168, 576},   {7168, 4096}};

struct Pools {
  Device<uint8_t> weights{size_t{480} << 20}, workspace{size_t(fp8::workspace_bytes(4096, 16384))};
  Device<float> scales{size_t{1} << 18};
  Device<uint16_t> x{size_t{4096} * 16384}, y{size_t{4096} * 24576};
  Pools() {
    fill_codes<<<2048, 256>>>(reinterpret_cast<uint32_t*>(weights.data), weights.count / 4);
    fill(x.data, x.count, 7);
    MUST(cudaMemset(scales.data, 0x3A, scales.count * 4));
    MUST(cudaMemset(workspace.data, 0x38, workspace.count));
  }
};

struct Kinds {
  Time whole, chained, apart, product, product_chained, quantization;
};

Kinds time_shape(const Pools& pools, Shape shape, int tokens, int processors) {
  const size_t weight_bytes = size_t(shape.in) * shape.out;
  const int sets = static_cast<int>(std::clamp<size_t>((size_t{300} << 20) / weight_bytes, 2, 64));
  const int calls = std::max(sets, tokens >= 1024 ? 8 : 48);
  const auto timed = [&](const auto& run) {
    return time_graph(calls, [&](int i, cudaStream_t stream) {
      fp8::Params params =
          linear_params(pools.x.data, pools.weights.data + weight_bytes * (i % sets), pools.scales.data,
                        pools.y.data, pools.workspace.data, tokens, shape.in, shape.out);
      params.processors = processors;
      run(params, stream);
    });
  };
  Kinds times;
  times.whole = timed([](const fp8::Params& params, cudaStream_t stream) { fp8::launch(params, stream); });
  times.chained = timed([](fp8::Params params, cudaStream_t stream) {
    params.dependent = true;
    fp8::launch(params, stream);
  });
  times.apart = timed([](const fp8::Params& params, cudaStream_t stream) {
    fp8::launch_quantization(params, stream);
    fp8::launch_product(params, stream);
  });
  times.product = timed(
      [](const fp8::Params& params, cudaStream_t stream) { fp8::launch_product(params, stream, false); });
  times.product_chained =
      timed([](const fp8::Params& params, cudaStream_t stream) { fp8::launch_product(params, stream); });
  times.quantization =
      timed([](const fp8::Params& params, cudaStream_t stream) { fp8::launch_quantization(params, stream); });
  return times;
}

void print(const Time& time) {
  std::printf(" %7.2f (%+.2f, %+.2f)", time.median, time.low - time.median, time.high - time.median);
}

}  // namespace

void time_linears(bool many) {
  const Pools pools;
  std::printf("%-20s %22s %22s %22s %22s %22s %22s %8s\n", "us (p10, p90)", "whole", "dependent", "apart",
              "product", "product, dep.", "quantization", "floor");
  const std::vector<int> batches =
      many ? std::vector{129, 256, 1024, 4096} : std::vector{1, 8, 16, 17, 32, 64, 128};
  for (const Shape shape : kShapes) {
    for (const int tokens : batches) {
      const Kinds times = time_shape(pools, shape, tokens, 132);
      const double weight = double(shape.in) * shape.out, flops = 2.0 * tokens * weight;
      const double bytes = weight + tokens * (shape.in + 2.0 * shape.out);
      std::printf("%5d %5d M=%-4d ", shape.out, shape.in, tokens);
      for (const Time& time : {times.whole, times.chained, times.apart, times.product, times.product_chained,
                               times.quantization})
        print(time);
      std::printf(" %8.2f", std::max(bytes / kBytesPerUs, flops / kFlopsPerUs));
      std::printf(" %5.0f TFLOP/s\n", flops / times.product.median * 1e-6);
      std::fflush(stdout);
    }
  }
}

void time_heads() {
  constexpr int kHeads = 128, kRows = 128, kLatent = 512, kSets = 12;
  const size_t weight_elements = size_t{kHeads} * 2 * kRows * kLatent;
  Device<uint16_t> weights(weight_elements * kSets), x(size_t{512} * kHeads * kLatent * 2),
      y(size_t{512} * kHeads * kLatent);
  fill(weights.data, weights.count, 3);
  fill(x.data, x.count, 4);
  std::printf("%-20s %22s %22s %8s\n", "us (p10, p90)", "one after another", "dependent", "floor");
  for (const bool from_rows : {true, false}) {
    for (const int tokens : {1, 8, 16, 32, 64, 128, 512}) {
      const auto timed = [&](bool dependent) {
        return time_graph(4 * kSets, [&](int i, cudaStream_t stream) {
          absorbed::Params params =
              head_params(from_rows, kRows, x.data, weights.data + weight_elements * (i % kSets), y.data,
                          tokens, kHeads, kLatent);
          params.dependent = dependent;
          absorbed::launch(params, stream);
        });
      };
      const double bytes = double(weight_elements) + 2.0 * tokens * kHeads * (kRows + kLatent);
      std::printf("%s M=%-4d          ", from_rows ? "from_rows" : "to_rows  ", tokens);
      print(timed(false));
      print(timed(true));
      std::printf(" %8.2f\n", bytes / kBytesPerUs);
      std::fflush(stdout);
    }
  }
}

}  // namespace fulgurite::probe
