#include "fulgurite/plan/prepare.h"

#include <algorithm>
#include <array>

#include "fulgurite/core/quantize.h"

namespace fulgurite::plan {
namespace {

PreparedMatrix as_stored(const StoredMatrix& matrix) { return {matrix.as, matrix.out, matrix.in}; }

experts::Mlp as_stored(const model::StoredMlp& mlp) {
  return {as_stored(mlp.gate), as_stored(mlp.up), as_stored(mlp.down)};
}

// Hands out 64-byte aligned floats of one buffer, whose size is the plan's prepared bytes.
class Floats {
 public:
  explicit Floats(const HostBuffer& memory)
      : at_(reinterpret_cast<float*>(memory.bytes().data())),
        left_(memory.size() / static_cast<int64_t>(sizeof(float))) {}

  float* take(int64_t count) {
    const int64_t padded = (count + 15) / 16 * 16;
    FULGURITE_ASSERT(padded <= left_, "{} floats are prepared, {} are left", padded, left_);
    float* const taken = at_;
    at_ += padded;
    left_ -= padded;
    return taken;
  }

  View<const float, 1> exact(const model::StoredVector& vector) {
    return std::visit(
        [&](const auto& stored) {
          float* const values = take(stored.extent[0]);
          for (int64_t i = 0; i < stored.extent[0]; ++i) {
            if constexpr (std::is_same_v<std::decay_t<decltype(stored)>, View<const bf16, 1>>)
              values[i] = to_float(stored(i));
            else
              values[i] = stored(i);
          }
          return View<const float, 1>(values, {stored.extent[0]});
        },
        vector);
  }

 private:
  float* at_;
  int64_t left_;
};

constexpr BlockShape kBlock{128, 128};
int64_t blocks_of(int64_t n) { return (n + 127) / 128; }

// One block of `matrix`: codes into `data`, its scale returned.
float quantize_block(const PreparedMatrix& matrix, ScaleRounding rounding, int64_t row, int64_t column,
                     View<e4m3, 2> data) {
  const int64_t rows = std::min(kBlock.rows, matrix.out - row),
                columns = std::min(kBlock.columns, matrix.in - column);
  std::array<float, kBlock.rows * kBlock.columns> values;
  std::array<e4m3, values.size()> codes;
  for (int64_t i = 0; i < rows * columns; ++i)
    values[static_cast<size_t>(i)] =
        static_cast<float>(exact_element(matrix, row + i / columns, column + i % columns));
  const std::span<const float> block(values.data(), static_cast<size_t>(rows * columns));
  const float scale = quantize_e4m3(block, rounding, codes.data());
  for (int64_t i = 0; i < rows * columns; ++i)
    data(row + i / columns, column + i % columns) = codes[static_cast<size_t>(i)];
  return scale;
}

PreparedMatrix quantized(const StoredMatrix& stored, const Numerics& numerics, Floats& floats) {
  const PreparedMatrix matrix = as_stored(stored);
  const auto rounding =
      numerics.activation_scale == ActivationScale::kPow2 ? ScaleRounding::kPow2 : ScaleRounding::kNone;
  const std::array<int64_t, 2> blocks{blocks_of(matrix.out), blocks_of(matrix.in)};
  const View<float, 2> scales(floats.take(blocks[0] * blocks[1]), blocks);
  const View<e4m3, 2> data(reinterpret_cast<e4m3*>(floats.take((matrix.out * matrix.in + 3) / 4)),
                           {matrix.out, matrix.in});
  for (int64_t r = 0; r < blocks[0]; ++r)
    for (int64_t c = 0; c < blocks[1]; ++c)
      scales(r, c) = quantize_block(matrix, rounding, r * kBlock.rows, c * kBlock.columns, data);
  return {BlockScaled{data, scales, kBlock, ScaleFormat::kF32}, matrix.out, matrix.in};
}

void prepare_indexer(const model::StoredIndexer& w, const Numerics& numerics, Floats& floats,
                     PreparedLayer& layer) {
  layer.index_q = as_stored(w.q);
  layer.index_k = as_stored(w.k);
  layer.index_k_norm_weight = floats.exact(w.k_norm_weight);
  layer.index_k_norm_bias = floats.exact(w.k_norm_bias);
  layer.index_gate =
      quantizes_gate(w.gate, numerics) ? quantized(w.gate, numerics, floats) : as_stored(w.gate);
}

// `layer` has room for its experts.
void prepare_layer(const model::StoredLayer& w, bool has_indexer, const Numerics& numerics, Floats& floats,
                   PreparedLayer& layer) {
  layer.attention_norm = floats.exact(w.attention_norm);
  layer.q_a = as_stored(w.q_a);
  layer.q_a_norm = floats.exact(w.q_a_norm);
  layer.q_b = as_stored(w.q_b);
  layer.kv_a = as_stored(w.kv_a);
  layer.kv_a_norm = floats.exact(w.kv_a_norm);
  layer.kv_b = as_stored(w.kv_b);
  layer.o = as_stored(w.o);
  if (has_indexer) prepare_indexer(w.indexer, numerics, floats, layer);
  layer.feed_forward_norm = floats.exact(w.feed_forward_norm);
  layer.shared = as_stored(w.shared);
  if (w.experts.empty()) return;
  layer.router = as_stored(w.router);
  layer.router_bias = floats.exact(w.router_bias);
  for (size_t e = 0; e < w.experts.size(); ++e) layer.experts[e] = as_stored(w.experts[e]);
}

// All but the rotary tables.
void prepare_weights(const model::StoredWeights& stored, const Plan& plan, Floats& floats,
                     PreparedWeights& weights) {
  weights.embedding = as_stored(stored.embedding);
  for (size_t i = 0; i < weights.layers.size(); ++i)
    prepare_layer(stored.layers[i], plan.config.has_indexer(static_cast<int64_t>(i)), plan.numerics, floats,
                  weights.layers[i]);
  weights.final_norm = floats.exact(stored.final_norm);
  weights.head = as_stored(stored.head);
}

}  // namespace

bool quantizes_gate(const StoredMatrix& gate, const Numerics& numerics) {
  return numerics.gate_weight == GateWeight::kFp8 && !has_scales(format_of(gate));
}

int64_t quantized_floats(int64_t out, int64_t in) {
  const auto padded = [](int64_t floats) { return (floats + 15) / 16 * 16; };
  return padded(blocks_of(out) * blocks_of(in)) + padded((out * in + 3) / 4);
}

PreparedWeights prepare(const model::Model& model, const Plan& plan) {
  PreparedWeights weights;
  weights.memory = HostBuffer(plan.bytes.prepared);
  weights.layers.resize(model.weights.layers.size());
  for (size_t i = 0; i < weights.layers.size(); ++i)
    weights.layers[i].experts.resize(model.weights.layers[i].experts.size());
  Floats floats(weights.memory);
  prepare_weights(model.weights, plan, floats, weights);
  const std::array<int64_t, 2> shape{plan.options.context, plan.config.rope / 2};
  const View<float, 2> cosine(floats.take(shape[0] * shape[1]), shape);
  const View<float, 2> sine(floats.take(shape[0] * shape[1]), shape);
  rotary::fill_table(plan.frequencies, cosine, sine);
  weights.rope = {cosine, sine};
  return weights;
}

void prepare_again(const model::Model& model, const Plan& plan, PreparedWeights& weights) {
  Floats floats(weights.memory);
  prepare_weights(model.weights, plan, floats, weights);
}

}  // namespace fulgurite::plan
