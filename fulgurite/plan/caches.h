#pragma once
// Where each layer's caches lie in the session's one buffer of them. Offsets and sizes are bytes, each 64-byte aligned; a layer
// has those that it reads and writes, and no room for others.

#include <cstdint>
#include <vector>

#include "fulgurite/core/cache_layout.h"
#include "fulgurite/core/kv_row.h"
#include "fulgurite/model/config.h"
#include "fulgurite/plan/options.h"

namespace fulgurite::plan {

struct CacheRegion {
  int64_t offset = 0;
  int64_t bytes = 0;  // 0: the layer has none
};

struct LayerCaches {
  CacheRegion latent;        // LatentRow [sequences, context]
  CacheRegion window;        // KvRow [sequences, ring]
  CacheRegion entries;       // KvRow [sequences, entries]
  CacheRegion index_keys;    // [sequences, index_rows, index_dim]
  CacheRegion index_scales;  // f32 [sequences, index_rows]; of codes alone
  CacheRegion state;         // of the compressor that makes the entries, f32
  CacheRegion index_state;   // of the one that makes the index keys
  int64_t entry_rows = 0;    // of a sequence: context / ratio, at least 1
  int64_t index_rows = 0;    // context, or entry_rows
};

struct Caches {
  LatentRow latent_row;
  KvRow kv_row;
  DType index_dtype = DType::kF32;
  int64_t ring = 0;  // rows of a sequence's window: no chunk overwrites what its own queries still see
  std::vector<LayerCaches> layers;
  int64_t latent = 0;  // bytes of latents, windows and entries
  int64_t index = 0;   // of index keys and their scales
  int64_t state = 0;   // of compressors
  int64_t total() const { return latent + index + state; }
};

// `options` with the context filled in; numerics resolved.
Caches make_caches(const model::Config& config, const Options& options, const Numerics& numerics);

}  // namespace fulgurite::plan
