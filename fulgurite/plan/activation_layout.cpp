#include "fulgurite/plan/activation_layout.h"

#include <algorithm>

#include "fulgurite/core/cache_layout.h"
#include "fulgurite/core/token_place.h"
#include "fulgurite/plan/bytes.h"

namespace fulgurite::plan {
namespace {

DType dtype_of(Activation activation) {
  switch (activation) {
    case Activation::kFp32:
      return DType::kF32;
    case Activation::kBf16:
      return DType::kBF16;
    case Activation::kFp16:
      return DType::kF16;
  }
  return DType::kF32;
}

// Of a row. Nuclei of language models are smaller; a draw beyond them reads the row itself.
constexpr int64_t kMostLargest = 1024;

class Arena {
 public:
  int64_t take(int64_t bytes) {
    const int64_t offset = total_;
    total_ += (bytes + 63) / 64 * 64;
    return offset;
  }
  int64_t total() const { return total_; }

 private:
  int64_t total_ = 0;
};

}  // namespace

ActivationLayout make_activation_layout(const model::Config& c, const Options& options, const Caches& caches,
                                        bool chooses_there) {
  ActivationLayout at;
  at.dtype = dtype_of(options.numerics.activation);
  at.index_dtype = caches.index_dtype;
  at.logit_rows = options.logits == LogitRows::kAll ? options.chunk_tokens
                                                    : std::min(options.sequences, options.chunk_tokens);
  at.kv_width = c.window ? c.window->head_dim : c.kv_lora + c.rope;
  at.kv_column = (c.q_lora + 63) / 64 * 64;
  at.qkv_width = (at.kv_column + at.kv_width + 63) / 64 * 64;
  for (const LayerCaches& layer : caches.layers) at.score_width = std::max(at.score_width, layer.index_rows);
  at.selected_width = std::min(c.index_topk, at.score_width);
  if (chooses_there) at.largest_width = std::min(kMostLargest, c.vocabulary);
  const int64_t tokens = options.chunk_tokens, element = bits(at.dtype) / 8;
  Arena arena;
  at.places = arena.take(product({tokens, sizeof(TokenPlace)}));
  at.ids = arena.take(product({tokens, 4}));
  at.logit_tokens = arena.take(product({at.logit_rows, 4}));
  if (caches.page_tokens > 0) at.page_table = arena.take(product({options.sequences, caches.table_pages, 4}));
  if (chooses_there) at.temperatures = arena.take(product({at.logit_rows, 8}));
  at.inputs = arena.total();
  at.stream = arena.take(product({tokens, c.hidden, element}));
  at.normed = arena.take(product({tokens, c.hidden, element}));
  at.block = arena.take(product({tokens, c.hidden, element}));
  if (c.streams) {
    at.streams = arena.take(product({tokens, c.streams->count, c.hidden, element}));
    at.post = arena.take(product({tokens, c.streams->count, 4}));
    at.mix = arena.take(product({tokens, c.streams->count, c.streams->count, 4}));
  }
  at.qkv = arena.take(product({tokens, at.qkv_width, element}));
  at.q_latent = arena.take(product({tokens, c.q_lora, element}));
  at.q = arena.take(product({tokens, c.heads, c.nope + c.rope, element}));
  at.absorbed = arena.take(product({tokens, c.heads, c.kv_lora, element}));
  at.attended = arena.take(product({tokens, c.heads, c.kv_lora, element}));
  at.head_outputs = arena.take(product({tokens, c.heads, c.value, element}));
  if (c.window) at.grouped = arena.take(product({tokens, c.window->o_groups, c.window->o_lora, element}));
  at.index_q = arena.take(product({tokens, c.index_heads, c.index_dim, element}));
  at.index_operand = arena.take(product({tokens, c.index_heads, c.index_dim, bits(at.index_dtype) / 8}));
  at.index_k = arena.take(product({tokens, c.index_dim, element}));
  at.index_gate = arena.take(product({tokens, c.index_heads, 4}));
  at.index_weights = arena.take(product({tokens, c.index_heads, 4}));
  at.selected = arena.take(product({tokens, at.selected_width, 4}));
  if (caches.page_tokens > 0) at.slots = arena.take(product({tokens, at.selected_width, 4}));
  at.expert_ids = arena.take(product({tokens, c.experts_per_token, 4}));
  at.expert_weights = arena.take(product({tokens, c.experts_per_token, 4}));
  at.logit_inputs = arena.take(product({at.logit_rows, c.hidden, element}));
  at.logits = arena.take(product({at.logit_rows, c.vocabulary, 4}));
  if (chooses_there) {
    at.largest_totals = arena.take(product({at.logit_rows, 8}));
    at.largest_numbers = arena.take(product({at.logit_rows, 4}));
    at.largest = arena.take(product({at.logit_rows, at.largest_width, 8}));
    at.largest_end = arena.total();
  }
  if (options.tracing == Tracing::kOn) {
    at.rotated_q = arena.take(product({tokens, c.index_heads, c.index_dim, 4}));
    at.rotated_k = arena.take(product({tokens, c.index_dim, 4}));
    at.index_scores = arena.take(product({tokens, at.score_width, 4}));
    if (c.window) at.q_normed = arena.take(product({tokens, c.heads, c.window->head_dim, 4}));
  }
  at.total = arena.total();
  return at;
}

}  // namespace fulgurite::plan
