#include "fulgurite/plan/caches.h"

#include <algorithm>

#include "fulgurite/ops/compressor/compressor.h"
#include "fulgurite/plan/bytes.h"

namespace fulgurite::plan {
namespace {

class CacheMaker {
 public:
  CacheMaker(const model::Config& config, const Options& options, const Numerics& numerics, bool in_pages)
      : c_(config), options_(options), numerics_(numerics) {
    if (!in_pages) return;
    caches_.page_tokens = kPageTokens;
    caches_.table_pages = pages_of(options.context, kPageTokens);
    caches_.pages = options.pages > 0 ? options.pages : product({options.sequences, caches_.table_pages});
  }

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

  // Of all sequences.
  int64_t rows(int64_t of_a_sequence) const {
    if (caches_.page_tokens > 0) return product({caches_.pages, caches_.page_tokens});
    return product({options_.sequences, of_a_sequence});
  }

  void take_index(LayerCaches& layer, int64_t of_a_sequence) {
    const int64_t keys = rows(of_a_sequence), key_bytes = c_.index_dim * bits(caches_.index_dtype) / 8;
    const int64_t scale_bytes = caches_.index_dtype == DType::kF8_E4M3 ? sizeof(float) : 0;
    const bool together = caches_.page_tokens > 0;
    layer.index_rows = of_a_sequence;
    layer.index_keys = take(product({keys, key_bytes + (together ? scale_bytes : 0)}), caches_.index);
    if (!together && scale_bytes > 0) layer.index_scales = take(product({keys, scale_bytes}), caches_.index);
  }

  LayerCaches latent_layer(int64_t number) {
    LayerCaches layer;
    layer.latent = take(product({rows(options_.context), caches_.latent_row.bytes()}), caches_.latent);
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

Caches make_caches(const model::Config& config, const Options& options, const Numerics& numerics,
                   bool in_pages) {
  return CacheMaker(config, options, numerics, in_pages).make();
}

}  // namespace fulgurite::plan
