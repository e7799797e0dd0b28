#include "fulgurite/plan/prepare.h"

#include <algorithm>
#include <array>

#include "fulgurite/core/quantize.h"
#include "fulgurite/model/expert_table.h"
#include "fulgurite/plan/bytes.h"
#include "fulgurite/plan/device_weights.h"

namespace fulgurite::plan {
namespace {

PreparedMatrix as_stored(const StoredMatrix& matrix) { return {matrix.as, matrix.out, matrix.in}; }

experts::Mlp as_stored(const model::StoredMlp& mlp) {
  return {as_stored(mlp.gate), as_stored(mlp.up), as_stored(mlp.down)};
}

// Hands out 64-byte aligned floats of one buffer, whose size is the plan's prepared bytes; without a buffer it counts them.
class Floats {
 public:
  Floats() = default;
  explicit Floats(const HostBuffer& memory)
      : at_(reinterpret_cast<float*>(memory.bytes().data())),
        left_(memory.size() / static_cast<int64_t>(sizeof(float))) {}

  // Null where they are counted.
  float* take(int64_t count) {
    const int64_t padded = (count + 15) / 16 * 16;
    taken_ += padded;
    if (at_ == nullptr) return nullptr;
    FULGURITE_ASSERT(padded <= left_, "{} floats are prepared, {} are left", padded, left_);
    left_ -= padded;
    return at_ + taken_ - padded;
  }
  int64_t taken() const { return taken_; }

  View<const float, 1> exact(const model::StoredVector& vector) {
    return std::visit([&](const auto& stored) { return exact(stored); }, vector);
  }

  // A matrix that is never quantized: in place where it is stored as f32.
  View<const float, 2> exact(const StoredMatrix& matrix) {
    if (const auto* const f32 = std::get_if<View<const float, 2>>(&matrix.as)) return *f32;
    return exact(std::get<View<const bf16, 2>>(matrix.as));
  }

 private:
  template <class T, int Rank>
  View<const float, Rank> exact(const View<const T, Rank>& stored) {
    int64_t count = 1;
    for (const int64_t extent : stored.extent) count *= extent;
    float* const values = take(count);
    for (int64_t i = 0; values != nullptr && i < count; ++i) {
      if constexpr (std::is_same_v<T, bf16>)
        values[i] = to_float(stored.data[i]);
      else
        values[i] = stored.data[i];
    }
    return {values, stored.extent};
  }

  float* at_ = nullptr;
  int64_t left_ = 0;
  int64_t taken_ = 0;
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
  const ScaleRounding rounding = activation_rounding(numerics);
  const std::array<int64_t, 2> blocks{blocks_of(matrix.out), blocks_of(matrix.in)};
  const View<float, 2> scales(floats.take(blocks[0] * blocks[1]), blocks);
  const View<e4m3, 2> data(reinterpret_cast<e4m3*>(floats.take((matrix.out * matrix.in + 3) / 4)),
                           {matrix.out, matrix.in});
  for (int64_t r = 0; scales.data != nullptr && r < blocks[0]; ++r)
    for (int64_t c = 0; c < blocks[1]; ++c)
      scales(r, c) = quantize_block(matrix, rounding, r * kBlock.rows, c * kBlock.columns, data);
  return {BlockScaled{data, scales, kBlock, ScaleFormat::kF32}, matrix.out, matrix.in};
}

// bf16(code * scale) of every code.
std::array<bf16, 256> rounded_codes(float scale) {
  std::array<bf16, 256> values;
  for (size_t code = 0; code < values.size(); ++code)
    values[code] =
        to_bf16(static_cast<double>(to_float(e4m3{static_cast<uint8_t>(code)})) * static_cast<double>(scale));
  return values;
}

// A block's scale is met once.
void round_blocks(const BlockScaled& matrix, View<bf16, 2> to) {
  const auto [rows, columns] = to.extent;
  const int64_t high = std::min(matrix.block.rows, rows), wide = std::min(matrix.block.columns, columns);
  for (int64_t row = 0; row < rows; row += high)
    for (int64_t column = 0; column < columns; column += wide) {
      const std::array<bf16, 256> values = rounded_codes(matrix.scale_at(row, column));
      for (int64_t r = row; r < std::min(row + high, rows); ++r)
        for (int64_t c = column; c < std::min(column + wide, columns); ++c)
          to(r, c) = values[matrix.data(r, c).bits];
    }
}

// bf16(code * scale), or bf16 of what is stored.
PreparedMatrix rounded(const StoredMatrix& stored, Floats& floats) {
  const View<bf16, 2> values(reinterpret_cast<bf16*>(floats.take((stored.out * stored.in + 1) / 2)),
                             {stored.out, stored.in});
  const PreparedMatrix rounded{View<const bf16, 2>(values), stored.out, stored.in};
  if (values.data == nullptr) return rounded;
  if (const auto* const blocks = std::get_if<BlockScaled>(&stored.as)) {
    round_blocks(*blocks, values);
    return rounded;
  }
  const PreparedMatrix matrix = as_stored(stored);
  for (int64_t r = 0; r < stored.out; ++r)
    for (int64_t c = 0; c < stored.in; ++c)
      values(r, c) = to_bf16(static_cast<float>(element(matrix, WeightReading::kBf16, r, c)));
  return rounded;
}

// In the form that the plan says.
PreparedMatrix prepare_as(const MatrixFormat& form, const StoredMatrix& stored, Floats& floats) {
  const bool copies = form.form == MatrixForm::kBF16 && format_of(stored) != form;
  return copies ? rounded(stored, floats) : as_stored(stored);
}

template <class T>
View<const T, 2> stacked(const View<const T, 2>& upper, const View<const T, 2>& lower, Floats& floats) {
  if (upper.size() == 0) return {};
  const int64_t rows = upper.extent[0] + lower.extent[0], columns = upper.extent[1];
  const int64_t bytes = rows * columns * static_cast<int64_t>(sizeof(T));
  const View<T, 2> both(reinterpret_cast<T*>(floats.take((bytes + 3) / 4)), {rows, columns});
  for (int64_t r = 0; both.data != nullptr && r < rows; ++r) {
    const View<const T, 1> row = r < upper.extent[0] ? upper[r] : lower[r - upper.extent[0]];
    std::copy_n(row.data, columns, both[r].data);
  }
  return both;
}

// As outline_of_joined().
PreparedMatrix joined(const StoredMatrix& upper, const StoredMatrix& lower, Floats& floats) {
  const auto &a = std::get<BlockScaled>(upper.as), &b = std::get<BlockScaled>(lower.as);
  const View<const e4m3, 2> data = stacked(a.data, b.data, floats);
  const View<const float, 2> scale = stacked(a.scale, b.scale, floats);
  return {BlockScaled{data, scale, a.block, a.format, stacked(a.exponents, b.exponents, floats)},
          upper.out + lower.out, upper.in};
}

// q_a and `kv`, as one where the plan has one product of both.
template <class AttentionPlan>
void prepare_inputs(const model::StoredLayer& w, const StoredMatrix& kv, const AttentionPlan& plan,
                    Floats& floats, PreparedLayer& layer, PreparedMatrix& prepared_kv) {
  if (plan.qkv_a) {
    layer.qkv_a = joined(w.q_a, kv, floats);
    return;
  }
  layer.q_a = as_stored(w.q_a);
  prepared_kv = as_stored(kv);
}

PreparedMatrix prepare_gate(const MatrixFormat& form, const StoredMatrix& gate, const Numerics& numerics,
                            Floats& floats) {
  return quantizes_gate(gate, numerics) ? quantized(gate, numerics, floats) : prepare_as(form, gate, floats);
}

PreparedCompressor prepare_compressor(const model::StoredCompressor& w, Floats& floats) {
  return {as_stored(w.kv), as_stored(w.gate), floats.exact(w.ape), floats.exact(w.norm)};
}

PreparedStreams prepare_streams(const std::optional<model::StoredStreams>& w, Floats& floats) {
  if (!w) return {};
  return {floats.exact(w->fn), floats.exact(w->base), floats.exact(w->scale)};
}

void prepare_window(const model::StoredLayer& w, const WindowAttentionPlan& plan, const Numerics& numerics,
                    Floats& floats, PreparedLayer& layer) {
  const model::StoredWindowAttention& window = *w.window;
  prepare_inputs(w, window.kv, plan, floats, layer, layer.window.kv);
  layer.window.kv_norm = floats.exact(window.kv_norm);
  layer.window.sink = floats.exact(window.sink);
  layer.window.o_a = prepare_as(plan.o_a.problem.weight, window.o_a, floats);
  layer.window.o_b = as_stored(window.o_b);
  if (window.compressor) layer.window.compressor = prepare_compressor(*window.compressor, floats);
  if (!w.indexer.compressor) return;
  layer.window.index_keys = prepare_compressor(*w.indexer.compressor, floats);
  layer.index_q = as_stored(w.indexer.q);
  layer.index_gate = prepare_gate(plan.indexer->gate.problem.weight, w.indexer.gate, numerics, floats);
}

void prepare_indexer(const model::StoredIndexer& w, const indexer_projection::Problem& projection,
                     const Numerics& numerics, Floats& floats, PreparedLayer& layer) {
  layer.index_q = as_stored(w.q);
  layer.index_k = prepare_as(projection.wk, w.k, floats);
  layer.index_k_norm_weight = floats.exact(w.k_norm_weight);
  layer.index_k_norm_bias = floats.exact(w.k_norm_bias);
  layer.index_gate = prepare_gate(projection.gate_weight, w.gate, numerics, floats);
}

void prepare_latent(const model::StoredLayer& w, const LatentAttentionPlan& plan, const Numerics& numerics,
                    Floats& floats, PreparedLayer& layer) {
  prepare_inputs(w, w.kv_a, plan, floats, layer, layer.kv_a);
  layer.kv_a_norm = floats.exact(w.kv_a_norm);
  layer.kv_b =
      plan.absorbed ? prepare_as(plan.absorbed->query.problem.weight, w.kv_b, floats) : as_stored(w.kv_b);
  layer.o = as_stored(w.o);
  if (plan.indexer) prepare_indexer(w.indexer, plan.indexer->projection.problem, numerics, floats, layer);
}

// `layer` has room for its experts.
void prepare_layer(const model::StoredLayer& w, const LayerPlan& plan, const Numerics& numerics,
                   Floats& floats, PreparedLayer& layer) {
  layer.attention_norm = floats.exact(w.attention_norm);
  layer.q_a_norm = floats.exact(w.q_a_norm);
  layer.q_b = as_stored(w.q_b);
  if (w.window)
    prepare_window(w, *plan.window, numerics, floats, layer);
  else
    prepare_latent(w, *plan.attention, numerics, floats, layer);
  layer.attention_streams = prepare_streams(w.attention_streams, floats);
  layer.feed_forward_streams = prepare_streams(w.feed_forward_streams, floats);
  layer.feed_forward_norm = floats.exact(w.feed_forward_norm);
  layer.shared = as_stored(w.shared);
  if (w.experts.empty()) return;
  layer.router = as_stored(w.router);
  layer.router_bias = floats.exact(w.router_bias);
  layer.expert_table = w.expert_table;
  for (size_t e = 0; e < w.experts.size(); ++e) layer.experts[e] = as_stored(w.experts[e]);
}

// All but the rotary tables.
void prepare_weights(const model::StoredWeights& stored, const Plan& plan, Floats& floats,
                     PreparedWeights& weights) {
  weights.embedding = as_stored(stored.embedding);
  for (size_t i = 0; i < weights.layers.size(); ++i)
    prepare_layer(stored.layers[i], plan.layers[i], plan.numerics, floats, weights.layers[i]);
  weights.head_streams = prepare_streams(stored.head_streams, floats);
  weights.final_norm = floats.exact(stored.final_norm);
  weights.head = as_stored(stored.head);
}

PreparedWeights with_room(const model::Model& model) {
  PreparedWeights weights;
  weights.layers.resize(model.weights.layers.size());
  for (size_t i = 0; i < weights.layers.size(); ++i)
    weights.layers[i].experts.resize(model.weights.layers[i].experts.size());
  return weights;
}

rotary::Table make_table(const rotary::Frequencies& frequencies, int64_t positions, Floats& floats) {
  const std::array<int64_t, 2> shape{positions, frequencies.dim / 2};
  const View<float, 2> cosine(floats.take(shape[0] * shape[1]), shape);
  const View<float, 2> sine(floats.take(shape[0] * shape[1]), shape);
  if (cosine.data != nullptr) rotary::fill_table(frequencies, cosine, sine);
  return {cosine, sine};
}

void prepare_all(const model::Model& model, const Plan& plan, Floats& floats, PreparedWeights& weights) {
  prepare_weights(model.weights, plan, floats, weights);
  weights.rope = make_table(plan.frequencies, plan.options.context, floats);
  if (plan.config.window)
    weights.compressed_rope = make_table(plan.compressed_frequencies, plan.options.context, floats);
}

}  // namespace

bool quantizes_gate(const StoredMatrix& gate, const Numerics& numerics) {
  return numerics.gate_weight == GateWeight::kFp8 && !has_scales(format_of(gate));
}

MatrixFormat gate_format(const StoredMatrix& gate, const Numerics& numerics) {
  if (!quantizes_gate(gate, numerics)) return format_of(gate);
  return {MatrixForm::kE4M3Blocks, kBlock, ScaleFormat::kF32};
}

PreparedBytes prepared_bytes(const model::Model& model, const Plan& plan) {
  PreparedWeights weights = with_room(model);
  Floats counted;
  prepare_all(model, plan, counted, weights);
  return {product({counted.taken(), sizeof(float)}), device_bytes(weights)};
}

PreparedWeights prepare(const model::Model& model, const Plan& plan) {
  model::require_expert_tables(model);
  PreparedWeights weights = with_room(model);
  weights.memory = HostBuffer(plan.bytes.prepared);
  Floats floats(weights.memory);
  prepare_all(model, plan, floats, weights);
  return weights;
}

void prepare_again(const model::Model& model, const Plan& plan, PreparedWeights& weights) {
  Floats floats(weights.memory);
  prepare_weights(model.weights, plan, floats, weights);
}

}  // namespace fulgurite::plan
