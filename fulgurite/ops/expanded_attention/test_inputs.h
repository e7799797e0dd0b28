#pragma once
// Inputs of expanded_attention in any numerics. (Tests only.)

#include <cmath>
#include <limits>

#include "fulgurite/ops/expanded_attention/expanded_attention.h"
#include "fulgurite/ops/expanded_attention/expanded_attention_cases.h"
#include "fulgurite/ops/sparse_attention/test_inputs.h"

namespace fulgurite::expanded_attention {

using inputs::TensorBuffer;
using inputs::Values;
using sparse_attention::Selection;

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr MatrixFormat kBlocks{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};
inline constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
inline const Implementation* const kBoth[] = {&kReference, &kCpu};

template <class... Knob>
Setting expanded(Setting setting, Knob... change) {
  setting.numerics.mla = Mla::kExpanded;
  (change(setting.numerics), ...);
  return setting;
}
inline const Setting kFp32Setting = expanded(test::fp32_setting());
inline const Setting kServing = expanded(test::serving_setting());

// Other numerics that the CPU takes, each knob once.
inline std::vector<Setting> settings() {
  return {kFp32Setting,
          kServing,
          expanded(test::serving_setting(),
                   [](Numerics& n) {
                     n.softmax_tile = SoftmaxTile::k128;
                     n.softmax_denominator = SoftmaxDenominator::kRounded;
                     n.latent_cache = LatentCache::kBf16;
                     n.qk_operands = QkOperands::kFp32;
                   }),
          expanded(test::fp32_setting(),
                   [](Numerics& n) {
                     n.softmax_tile = SoftmaxTile::k64;
                     n.softmax_p = SoftmaxP::kBf16;
                     n.latent_cache = LatentCache::kFp8;
                   }),
          expanded(test::fp16_setting()),
          expanded(test::fp16_setting(), [](Numerics& n) {
            n.latent_cache = LatentCache::kBf16;
            n.qk_operands = QkOperands::kFp32;
          })};
}

struct Inputs {
  Problem problem;
  TensorBuffer<3> q;
  inputs::Weight weight;
  LatentRow row;
  std::vector<std::byte> bytes;
  View<std::byte, 3> rows;
  Selection selection;

  TensorBuffer<3> unwritten() const {
    return inputs::unwritten<3>(q.view.dtype, {q.view.extent[0], problem.heads, problem.value});
  }
  Args args(const Tensor<3>& out) const {
    return {q.view, &weight.matrix, {row, rows}, selection.selected(), selection.places(), out};
  }
  void write(int64_t sequence, int64_t position, const std::vector<float>& values) const {
    sparse_attention::write_row(row, values.data(), rows[sequence][position].data);
  }
};

inline Inputs make_inputs(uint64_t seed, const Case& shape, const MatrixFormat& format, Values values,
                          const Setting& setting) {
  Random random(seed);
  const DType dtype = activation_type(setting.numerics);
  const double width = static_cast<double>((shape.nope + shape.rope) * shape.latent);
  Inputs in;
  in.problem = {setting,     shape.heads,     shape.nope,   shape.rope,
                shape.value, shape.latent,    shape.topk,   static_cast<float>(1.0 / std::sqrt(width)),
                format,      shape.sequences, shape.context};
  in.q = sparse_attention::make_query(random, values, dtype,
                                      {shape.tokens, shape.heads, shape.nope + shape.rope});
  in.weight = inputs::make_weight(random, shape.heads * (shape.nope + shape.value), shape.latent, format);
  in.row = row_of(in.problem);
  in.bytes.resize(static_cast<size_t>(shape.sequences * shape.context * in.row.bytes()));
  in.rows = {in.bytes.data(), {shape.sequences, shape.context, in.row.bytes()}};
  for (int64_t s = 0; s < shape.sequences; ++s)
    for (int64_t i = 0; i < shape.context; ++i)
      in.write(s, i, inputs::make(random, values, shape.latent + shape.rope).elements);
  in.selection =
      sparse_attention::make_selection(random, shape.tokens, shape.topk, shape.sequences, shape.context);
  return in;
}

inline std::vector<float> result(const Implementation& row, const Inputs& in, int threads = 1) {
  const TensorBuffer<3> out = in.unwritten();
  test::run(row, in.problem, in.args(out.view), threads);
  return out.values();
}

}  // namespace fulgurite::expanded_attention
