#pragma once
// The buffers of one forward pass, as views of the session's arena cut to the tokens at hand.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/token_place.h"
#include "fulgurite/plan/plan.h"

namespace fulgurite::execute {

struct Activations {
  int64_t tokens = 0;
  View<TokenPlace, 1> places;
  View<int32_t, 1> ids;
  Tensor<2> stream, normed, block;
  Tensor<3> streams;  // hyper-connections: [tokens, count, hidden], and what mixes them
  View<float, 2> post;
  View<float, 3> mix;
  Tensor<2> qkv, q_raw, kv;  // the last two are columns of the first
  Tensor<2> q_latent;
  Tensor<3> q;
  Tensor<3> absorbed, attended, head_outputs, grouped;
  Tensor<3> index_q, index_operand;
  Tensor<2> index_k;
  View<float, 2> index_gate, index_weights;
  View<int32_t, 2> selected;
  View<int32_t, 2> slots;       // of caches in pages; no data otherwise
  View<int32_t, 2> page_table;  // the same: [sequences, pages of one]
  View<int32_t, 2> expert_ids;
  View<float, 2> expert_weights;
  View<float, 3> rotated_q;     // no data unless the plan traces
  View<float, 2> rotated_k;     // the same
  View<float, 2> index_scores;  // the same
  View<float, 3> q_normed;      // the same
};

Activations cut(const plan::Plan& plan, std::byte* arena, int64_t tokens);

// What a pass gets from the host, at its full size: as it lies in the arena, or in a copy of the arena's beginning.
struct PassInputs {
  View<TokenPlace, 1> places;
  View<int32_t, 1> ids;
  View<int32_t, 1> logit_tokens;  // rows of `normed` whose logits are wanted
  View<int32_t, 2> page_table;
  View<double, 1> temperatures;  // of the rows of logits, where the plan has largest_logits
};
PassInputs cut_inputs(const plan::Plan& plan, std::byte* at);

// The inputs of the head and its results, cut to `rows`.
Tensor<2> cut_logit_inputs(const plan::Plan& plan, std::byte* arena, int64_t rows);
View<float, 2> cut_logits(const plan::Plan& plan, std::byte* arena, int64_t rows);

// Outputs of largest_logits, `count` of each of `rows`, which begin at `at` and take `bytes`.
struct LargestOutputs {
  View<double, 1> totals;
  View<int32_t, 1> numbers;
  View<int32_t, 2> ids;
  View<float, 2> values;
  int64_t bytes = 0;
};
LargestOutputs cut_largest(const plan::Plan& plan, std::byte* at, int64_t rows, int64_t count);

// Columns [first, first + count) of the last dimension.
Tensor<3> columns(const Tensor<3>& tensor, int64_t first, int64_t count);
// [tokens, a, b] as [tokens, a * b]; contiguous.
Tensor<2> flat(const Tensor<3>& tensor);
// [tokens, heads, d] as [tokens, groups, heads / groups * d]; contiguous.
Tensor<3> grouped(const Tensor<3>& tensor, int64_t groups);
// Rows [first, first + count).
template <int Rank>
Tensor<Rank> rows(const Tensor<Rank>& tensor, int64_t first, int64_t count) {
  return tensor.slice(0, first, count);
}

}  // namespace fulgurite::execute
