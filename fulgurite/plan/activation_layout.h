#pragma once
// Where each activation of a forward pass lies in the session's arena. Offsets are bytes, each 64-byte
// aligned.

#include <cstdint>

#include "fulgurite/core/dtype.h"
#include "fulgurite/model/config.h"
#include "fulgurite/plan/caches.h"
#include "fulgurite/plan/options.h"

namespace fulgurite::plan {

struct ActivationLayout {
  DType dtype = DType::kF32;        // of activations
  DType index_dtype = DType::kF32;  // of index_operand and the index cache
  int64_t places = 0;               // TokenPlace [tokens]
  int64_t ids = 0;                  // i32 [tokens]
  int64_t logit_tokens = 0;         // i32 [logit rows]: the tokens whose logits are wanted
  int64_t page_table = 0;           // i32 [sequences, table_pages], of caches in pages
  int64_t temperatures = 0;         // f64 [logit rows], where tokens are chosen from the largest logits
  int64_t inputs = 0;               // bytes of these five, the arena's first: what a pass gets from the host
  int64_t stream = 0;               // [tokens, hidden]: the residual stream
  int64_t normed = 0;               // [tokens, hidden]: what a block reads
  int64_t block = 0;                // [tokens, hidden]: what a block adds
  int64_t streams = 0;              // [tokens, count, hidden]; `stream` is what they collapse to
  int64_t post = 0;                 // f32 [tokens, count]
  int64_t mix = 0;                  // f32 [tokens, count, count]
  int64_t qkv = 0;                  // [tokens, qkv_width]: what x becomes, queries before their norm and kv
  int64_t q_latent = 0;             // [tokens, q_lora]
  int64_t q = 0;                    // [tokens, heads, nope + rope]
  int64_t absorbed = 0;             // [tokens, heads, kv_lora]
  int64_t attended = 0;             // [tokens, heads, kv_lora]
  int64_t head_outputs = 0;         // [tokens, heads, value]
  int64_t grouped = 0;              // [tokens, o_groups, o_lora]
  int64_t index_q = 0;              // [tokens, index_heads, index_dim]
  int64_t index_operand =
      0;                // index_operand(numerics) [tokens, index_heads, index_dim]: what index_select reads
  int64_t index_k = 0;  // [tokens, index_dim]
  int64_t index_gate = 0;       // f32 [tokens, index_heads]
  int64_t index_weights = 0;    // f32 [tokens, index_heads]
  int64_t selected = 0;         // i32 [tokens, selected_width]
  int64_t slots = 0;            // i32 [tokens, selected_width], of caches in pages
  int64_t expert_ids = 0;       // i32 [tokens, experts_per_token]
  int64_t expert_weights = 0;   // f32 [tokens, experts_per_token]
  int64_t logit_inputs = 0;     // [logit rows, hidden]
  int64_t logits = 0;           // f32 [logit rows, vocabulary]
  int64_t largest_totals = 0;   // f64 [logit rows]: outputs of largest_logits, together
  int64_t largest_numbers = 0;  // i32 [logit rows]
  int64_t largest = 0;          // i32 and f32 [logit rows, largest_width]
  int64_t largest_end = 0;      // of these outputs
  int64_t rotated_q = 0;        // f32 [tokens, index_heads, index_dim], tracing only
  int64_t rotated_k = 0;        // f32 [tokens, index_dim], tracing only
  int64_t index_scores = 0;     // f32 [tokens, score_width], tracing only
  int64_t q_normed = 0;         // f32 [tokens, heads, head_dim], tracing only
  int64_t total = 0;

  int64_t logit_rows = 0;
  int64_t largest_width = 0;  // of a row, at most; 0: logits are the host's to choose from
  int64_t kv_width = 0;       // kv_lora + rope, or head_dim
  int64_t kv_column = 0;  // of qkv; this and qkv_width are multiples of 64, so that rows of both are aligned
  int64_t qkv_width = 0;
  int64_t score_width = 0;     // index keys of a sequence: the most of any layer
  int64_t selected_width = 0;  // min(index_topk, score_width)
};

// chooses_there: the host does not read logits.
ActivationLayout make_activation_layout(const model::Config& config, const Options& options,
                                        const Caches& caches, bool chooses_there);

}  // namespace fulgurite::plan
