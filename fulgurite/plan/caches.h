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
  CacheRegion latent;   // LatentRow [sequences, context], or [pages, page_tokens]
  CacheRegion window;   // KvRow [sequences, ring]
  CacheRegion entries;  // KvRow [sequences, entries]
  CacheRegion
      index_keys;  // [sequences, index_rows, index_dim]; in pages: of each the keys, then their scales
  CacheRegion index_scales;  // f32 [sequences, index_rows]; of codes alone, and not in pages
  CacheRegion state;         // of the compressor that makes the entries, f32
  CacheRegion index_state;   // of the one that makes the index keys
  int64_t entry_rows = 0;    // of a sequence: context / ratio, at least 1
  int64_t index_rows = 0;    // context, or entry_rows
};

struct Caches {
  LatentRow latent_row;
  KvRow kv_row;
  DType index_dtype = DType::kF32;
  int64_t page_tokens = 0;  // 0: a sequence's rows lie together
  int64_t pages = 0;        // of each layer's pools; one page number means the same tokens in all
  int64_t table_pages = 0;  // the most that a sequence has
  int64_t ring = 0;         // rows of a sequence's window: no chunk overwrites what its own queries still see
  std::vector<LayerCaches> layers;
  int64_t latent = 0;  // bytes of latents, windows and entries
  int64_t index = 0;   // of index keys and their scales
  int64_t state = 0;   // of compressors
  int64_t total() const { return latent + index + state; }
};

// `options` with the context filled in; numerics resolved.
// `in_pages`: latents and index keys in pages of kPageTokens (core/cache_pages.h), as GPUs read them.
Caches make_caches(const model::Config& config, const Options& options, const Numerics& numerics,
                   bool in_pages);

}  // namespace fulgurite::plan
