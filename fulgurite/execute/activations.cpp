#include "fulgurite/execute/activations.h"

namespace fulgurite::execute {
namespace {

template <int Rank>
Tensor<Rank> tensor_at(std::byte* data, DType dtype, std::array<int64_t, Rank> extent) {
  Tensor<Rank> tensor;
  const View<std::byte, Rank> shape(data, extent);  // its strides, in elements
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.extent = shape.extent;
  tensor.stride = shape.stride;
  return tensor;
}

template <class T, int Rank>
View<T, Rank> view_at(std::byte* data, std::array<int64_t, Rank> extent) {
  return {reinterpret_cast<T*>(data), extent};
}

}  // namespace

Activations cut(const plan::Plan& plan, std::byte* arena, int64_t tokens) {
  const plan::ActivationLayout& at = plan.activations;
  const model::Config& c = plan.config;
  const auto base = [&](int64_t offset) { return arena + offset; };
  const auto matrix = [&](int64_t offset, int64_t width) {
    return tensor_at<2>(base(offset), at.dtype, {tokens, width});
  };
  const auto cube = [&](int64_t offset, int64_t heads, int64_t width) {
    return tensor_at<3>(base(offset), at.dtype, {tokens, heads, width});
  };
  Activations a;
  a.tokens = tokens;
  a.places = view_at<TokenPlace, 1>(base(at.places), {tokens});
  a.ids = view_at<int32_t, 1>(base(at.ids), {tokens});
  a.stream = matrix(at.stream, c.hidden);
  a.normed = matrix(at.normed, c.hidden);
  a.block = matrix(at.block, c.hidden);
  if (c.streams) {
    const int64_t count = c.streams->count;
    a.streams = cube(at.streams, count, c.hidden);
    a.post = view_at<float, 2>(base(at.post), {tokens, count});
    a.mix = view_at<float, 3>(base(at.mix), {tokens, count, count});
  }
  const Tensor<2> qkv = matrix(at.qkv, at.qkv_width);
  a.qkv = qkv.slice(1, 0, at.kv_column + at.kv_width);
  a.q_raw = qkv.slice(1, 0, c.q_lora);
  a.kv = qkv.slice(1, at.kv_column, at.kv_width);
  a.q_latent = matrix(at.q_latent, c.q_lora);
  a.q = cube(at.q, c.heads, c.nope + c.rope);
  a.absorbed = cube(at.absorbed, c.heads, c.kv_lora);
  a.attended = cube(at.attended, c.heads, c.kv_lora);
  a.head_outputs = cube(at.head_outputs, c.heads, c.value);
  if (c.window) a.grouped = cube(at.grouped, c.window->o_groups, c.window->o_lora);
  a.index_q = cube(at.index_q, c.index_heads, c.index_dim);
  a.index_operand =
      tensor_at<3>(base(at.index_operand), at.index_dtype, {tokens, c.index_heads, c.index_dim});
  a.index_k = matrix(at.index_k, c.index_dim);
  a.index_gate = view_at<float, 2>(base(at.index_gate), {tokens, c.index_heads});
  a.index_weights = view_at<float, 2>(base(at.index_weights), {tokens, c.index_heads});
  a.selected = view_at<int32_t, 2>(base(at.selected), {tokens, at.selected_width});
  if (plan.caches.page_tokens > 0) {
    a.slots = view_at<int32_t, 2>(base(at.slots), {tokens, at.selected_width});
    a.page_table =
        view_at<int32_t, 2>(base(at.page_table), {plan.options.sequences, plan.caches.table_pages});
  }
  a.expert_ids = view_at<int32_t, 2>(base(at.expert_ids), {tokens, c.experts_per_token});
  a.expert_weights = view_at<float, 2>(base(at.expert_weights), {tokens, c.experts_per_token});
  if (plan.options.tracing == plan::Tracing::kOn) {
    a.rotated_q = view_at<float, 3>(base(at.rotated_q), {tokens, c.index_heads, c.index_dim});
    a.rotated_k = view_at<float, 2>(base(at.rotated_k), {tokens, c.index_dim});
    a.index_scores = view_at<float, 2>(base(at.index_scores), {tokens, at.score_width});
    if (c.window) a.q_normed = view_at<float, 3>(base(at.q_normed), {tokens, c.heads, c.window->head_dim});
  }
  return a;
}

PassInputs cut_inputs(const plan::Plan& plan, std::byte* at) {
  const plan::ActivationLayout& layout = plan.activations;
  const int64_t tokens = plan.options.chunk_tokens;
  const int64_t temperatures = layout.largest_width > 0 ? layout.logit_rows : 0;
  return {view_at<TokenPlace, 1>(at + layout.places, {tokens}),
          view_at<int32_t, 1>(at + layout.ids, {tokens}),
          view_at<int32_t, 1>(at + layout.logit_tokens, {layout.logit_rows}),
          view_at<int32_t, 2>(at + layout.page_table, {plan.options.sequences, plan.caches.table_pages}),
          view_at<double, 1>(at + layout.temperatures, {temperatures})};
}

Tensor<2> cut_logit_inputs(const plan::Plan& plan, std::byte* arena, int64_t rows) {
  return tensor_at<2>(arena + plan.activations.logit_inputs, plan.activations.dtype,
                      {rows, plan.config.hidden});
}

View<float, 2> cut_logits(const plan::Plan& plan, std::byte* arena, int64_t rows) {
  return view_at<float, 2>(arena + plan.activations.logits, {rows, plan.config.vocabulary});
}

LargestOutputs cut_largest(const plan::Plan& plan, std::byte* at, int64_t rows, int64_t count) {
  const plan::ActivationLayout& layout = plan.activations;
  const int64_t ids = layout.largest - layout.largest_totals, values = ids + rows * count * int64_t{4};
  return {view_at<double, 1>(at, {rows}),
          view_at<int32_t, 1>(at + layout.largest_numbers - layout.largest_totals, {rows}),
          view_at<int32_t, 2>(at + ids, {rows, count}), view_at<float, 2>(at + values, {rows, count}),
          values + rows * count * int64_t{4}};
}

Tensor<3> columns(const Tensor<3>& tensor, int64_t first, int64_t count) {
  Tensor<3> part = tensor;
  part.data += first * bits(tensor.dtype) / 8;
  part.extent[2] = count;
  return part;
}

Tensor<2> flat(const Tensor<3>& tensor) {
  return tensor_at<2>(tensor.data, tensor.dtype, {tensor.extent[0], tensor.extent[1] * tensor.extent[2]});
}

Tensor<3> grouped(const Tensor<3>& tensor, int64_t groups) {
  return tensor_at<3>(tensor.data, tensor.dtype,
                      {tensor.extent[0], groups, tensor.extent[1] * tensor.extent[2] / groups});
}

}  // namespace fulgurite::execute
