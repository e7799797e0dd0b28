#include "fulgurite/plan/caches.h"

#include <algorithm>

#include "fulgurite/ops/compressor/compressor.h"
#include "fulgurite/plan/bytes.h"

namespace fulgurite::plan {
namespace {

class CacheMaker {
 public:
  CacheMaker(const model::Config& config, const Options& options, const Numerics& numerics)
      : c_(config), options_(options), numerics_(numerics) {}

  Caches make() {
    caches_.index_dtype = index_operand(numerics_);
    caches_.latent_row = {numerics_.latent_cache, c_.kv_lora, c_.rope};
    if (c_.window) {
      caches_.kv_row = kv_row(numerics_, c_.nope, c_.rope);
      caches_.ring = std::min(options_.context, c_.window->window - 1 + options_.chunk_tokens);
    }
    for (int64_t layer = 0; layer < c_.layers; ++layer)
      caches_.layers.push_back(c_.window ? window_layer(layer) : latent_layer(layer));
    return caches_;
  }

 private:
  // `part`: the sum that the region counts for.
  CacheRegion take(int64_t bytes, int64_t& part) {
    const CacheRegion region{caches_.total(), bytes};
    part += (bytes + 63) / 64 * 64;
    return region;
  }

  void take_index(LayerCaches& layer, int64_t rows) {
    const int64_t keys = product({options_.sequences, rows});
    layer.index_rows = rows;
    layer.index_keys = take(product({keys, c_.index_dim, bits(caches_.index_dtype) / 8}), caches_.index);
    if (caches_.index_dtype == DType::kF8_E4M3)
      layer.index_scales = take(product({keys, sizeof(float)}), caches_.index);
  }

  LayerCaches latent_layer(int64_t number) {
    LayerCaches layer;
    layer.latent =
        take(product({options_.sequences, options_.context, caches_.latent_row.bytes()}), caches_.latent);
    if (c_.has_indexer(number)) take_index(layer, options_.context);
    return layer;
  }

  CacheRegion take_kv(int64_t rows) {
    return take(product({options_.sequences, KvRow::blocks(rows), caches_.kv_row.block_bytes()}),
                caches_.latent);
  }

  CacheRegion take_state(int64_t ratio, int64_t dim) {
    compressor::Problem problem;
    problem.ratio = ratio;
    problem.dim = dim;
    return take(product({options_.sequences, compressor::state_rows(problem), 2, compressor::width(problem),
                         sizeof(float)}),
                caches_.state);
  }

  LayerCaches window_layer(int64_t number) {
    LayerCaches layer;
    layer.window = take_kv(caches_.ring);
    const int64_t ratio = c_.ratio(number);
    if (ratio == 0) return layer;
    layer.entry_rows = std::max<int64_t>(1, options_.context / ratio);
    layer.entries = take_kv(layer.entry_rows);
    layer.state = take_state(ratio, c_.window->head_dim);
    if (!c_.has_indexer(number)) return layer;
    take_index(layer, layer.entry_rows);
    layer.index_state = take_state(ratio, c_.index_dim);
    return layer;
  }

  const model::Config& c_;
  const Options& options_;
  const Numerics& numerics_;
  Caches caches_;
};

}  // namespace

Caches make_caches(const model::Config& config, const Options& options, const Numerics& numerics) {
  return CacheMaker(config, options, numerics).make();
}

}  // namespace fulgurite::plan
