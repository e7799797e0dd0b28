// Times of both operations.

#include "bench/cuda/indexer_probe.h"
#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_cuda.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_cuda.h"

namespace fulgurite::probe {
namespace {

namespace projection = indexer_projection::cuda;
namespace preparation = indexer_prepare::cuda;

__global__ void nothing() {}
__global__ void large() {}
void report_clusters() {
  for (const unsigned size : {2u, 4u, 8u}) {
    cudaLaunchAttribute attribute = cuda::cluster_of(size);
    cudaLaunchConfig_t config{};
    config.gridDim = {128, 1, 1};
    config.blockDim = {256, 1, 1};
    config.dynamicSmemBytes = 200 << 10;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = 0;
    MUST(cudaFuncSetAttribute(large, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 << 10));
    MUST(cudaOccupancyMaxActiveClusters(&clusters, large, &config));
    std::printf("clusters of %u blocks that run at once: %d\n", size, clusters);
  }
}

void time_projections(const uint16_t* pool, int processors) {
  Device<uint16_t> k(size_t{8192} * 128);
  Device<float> gate(size_t{8192} * 64);
  std::printf("%-22s %28s %28s %28s %10s\n", "projection, us", "all cold (p10, p90)", "x warm",
              "x warm, dependent", "floor");
  for (const bool keys : {false, true}) {
    const int rows = keys ? 192 : 64, hidden = 7168;
    for (const int tokens : {1, 8, 16, 17, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192}) {
      const size_t weight_elements = size_t(rows) * hidden, x_elements = size_t(tokens) * hidden;
      const auto run = [&](bool x_rotates, bool dependent) {
        const int sets = sets_for((weight_elements + (x_rotates ? x_elements : 0)) * 2);
        const int calls = std::max(sets, tokens >= 2048 ? 24 : 64);
        return time_graph(calls, [&](int i, cudaStream_t stream) {
          const int set = i % sets;
          const uint16_t* const weights = pool + weight_elements * set;
          const uint16_t* const x =
              pool + weight_elements * sets + (x_rotates ? x_elements * set : size_t{0});
          projection::Params params;
          params.x = x;
          params.x_stride = params.wk_stride = params.w_stride = hidden;
          params.wk = keys ? weights : nullptr;
          params.w = keys ? weights + size_t{128} * hidden : weights;
          params.k = k.data;
          params.k_stride = 128;
          params.gate = gate.data;
          params.gate_stride = 64;
          params.tokens = tokens;
          params.hidden = hidden;
          params.heads = 64;
          params.processors = processors;
          params.dependent = dependent;
          projection::launch(params, stream);
        });
      };
      const Time cold = run(true, false), warm = run(false, false), dependent = run(false, true);
      const double bytes = 2.0 * (weight_elements + x_elements) + tokens * (256.0 + (keys ? 256.0 : 0.0));
      std::printf(
          "N=%-4d M=%-12d %10.2f (%6.2f, %6.2f)  %10.2f (%6.2f, %6.2f)  %10.2f (%6.2f, %6.2f)  %8.2f\n", rows,
          tokens, cold.median, cold.low, cold.high, warm.median, warm.low, warm.high, dependent.median,
          dependent.low, dependent.high, bytes / 3.112e6);
      std::fflush(stdout);
    }
  }
}

void time_preparations(const uint16_t* pool) {
  const int context = 65536, pages = context / 64;
  Device<float> cosine(size_t{context} * 32), sine(size_t{context} * 32), parameters(256),
      gate(size_t{8192} * 64);
  for (Device<float>* values : {&cosine, &sine, &parameters, &gate}) fill(values->data, values->count, 4);
  Device<uint8_t> codes(size_t{8192} * 64 * 128), cache(size_t{pages} * preparation::kPageBytes);
  Device<float> weights(size_t{8192} * 64);
  std::vector<int32_t> table_host(pages), places_host(2 * context);
  for (int i = 0; i < pages; ++i) table_host[i] = (i * 797) % pages;
  for (int i = 0; i < context; ++i)
    places_host[2 * i] = 0, places_host[2 * i + 1] = static_cast<int32_t>(int64_t{i} * 40503 % context);
  Device<int32_t> table(table_host), places(places_host);
  std::printf("%-22s %28s %28s %28s %10s\n", "prepare, us", "queries and keys", "queries alone",
              "both, dependent", "floor");
  for (const int heads : {64, 32}) {
    for (const int tokens : {1, 8, 16, 64, 512, 2048, 8192}) {
      const size_t q_elements = size_t(tokens) * heads * 128, k_elements = size_t(tokens) * 128;
      const int sets = sets_for((q_elements + k_elements) * 2), calls = std::max(sets, 16);
      const auto run = [&](bool keys, bool dependent) {
        return time_graph(calls, [&](int i, cudaStream_t stream) {
          preparation::Params params;
          params.q = pool + (q_elements + k_elements) * (i % sets);
          params.k = keys ? params.q + q_elements : nullptr;
          params.q_head_stride = params.code_head_stride = params.k_stride = 128;
          params.q_token_stride = params.code_token_stride = heads * 128;
          params.q_codes = codes.data;
          params.gate = gate.data;
          params.weights = weights.data;
          params.gate_stride = params.weights_stride = heads;
          params.k_weight = parameters.data;
          params.k_bias = parameters.data + 128;
          params.key_pages = cache.data;
          params.block_table = table.data;
          params.block_table_stride = pages;
          params.places = reinterpret_cast<const int2*>(places.data) + i * 131 % (context - tokens + 1);
          params.cosine = cosine.data;
          params.sine = sine.data;
          params.tokens = tokens;
          params.heads = heads;
          params.dependent = dependent;
          preparation::launch(params, stream);
        });
      };
      const Time both = run(true, false), alone = run(false, false), dependent = run(true, true);
      const double bytes = tokens * (heads * (256.0 + 128 + 8) + 256 + 132 + 256 + 8);
      std::printf(
          "heads=%-3d M=%-11d %10.2f (%6.2f, %6.2f)  %10.2f (%6.2f, %6.2f)  %10.2f (%6.2f, %6.2f)  %8.2f\n",
          heads, tokens, both.median, both.low, both.high, alone.median, alone.low, alone.high,
          dependent.median, dependent.low, dependent.high, bytes / 3.0e6);
      std::fflush(stdout);
    }
  }
}

}  // namespace

void time_all(int processors) {
  Device<uint16_t> pool((kRotated + (size_t{130} << 20)) / 2);
  fill(pool.data, pool.count, 1);
  MUST(cudaDeviceSynchronize());
  const Time edge = time_graph(256, [](int, cudaStream_t stream) { nothing<<<128, 256, 0, stream>>>(); });
  std::printf("edge, empty kernel 128 x 256: %.2f us\n", edge.median);
  report_clusters();
  time_projections(pool.data, processors);
  if (processors == 132) time_preparations(pool.data);
}

}  // namespace fulgurite::probe
