#pragma once
// Inputs of compressed_attention in any numerics, and the implementations with numerics that they take. (Tests
// only.)

#include <cmath>
#include <limits>

#include "fulgurite/ops/compressed_attention/compressed_attention.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_cases.h"
#include "fulgurite/ops/sparse_attention/test_inputs.h"
#include "test/op_test.h"
#include "test/rotary_inputs.h"

namespace fulgurite::compressed_attention {

using inputs::TensorBuffer;
using inputs::Values;
using sparse_attention::kBf16Cache;
using sparse_attention::kFp16;
using sparse_attention::kFp32Operands;
using sparse_attention::kInfinity;
using sparse_attention::kNaN;
using sparse_attention::kRounded;
using sparse_attention::kTile128;
using sparse_attention::serving_with;

inline const auto kPtoTiles = [](Numerics& n) {  // pypto-lib #361
  n.softmax_merge = SoftmaxMerge::kIndependent;
  n.softmax_denominator = SoftmaxDenominator::kRounded;
  n.qk_operands = QkOperands::kFp32;
};
inline const auto kTiledFp32 = [](Numerics& n) {
  n = Numerics::fp32();
  n.softmax_tile = SoftmaxTile::k64;
  n.softmax_p = SoftmaxP::kBf16;
};

// An implementation in numerics that it takes.
struct Way {
  const Implementation* row;
  Setting setting;
  std::string what() const { return fmt::format("{}, {}", row->name, summary(setting.numerics)); }
};
inline std::vector<Way> fast_ways() {
  return {{&kCpu, test::fp32_setting()},
          {&kCpuPairs, test::serving_setting()},
          {&kCpuPairs, serving_with(kTile128, kRounded)},
          {&kCpuPairs, serving_with(kBf16Cache)},
          {&kCpuPairs, serving_with(kFp16)},
          {&kCpu, serving_with(kFp16, kFp32Operands)},
          {&kCpu, serving_with(kTiledFp32)},
          {&kCpu, serving_with(kFp16, kFp32Operands, kBf16Cache, kTile128, kRounded)}};
}
inline std::vector<Way> all_ways() {
  std::vector<Way> ways = fast_ways();
  ways.insert(ways.end(), {{&kReference, test::fp32_setting()},
                           {&kReference, test::serving_setting()},
                           {&kReference, serving_with(kPtoTiles)},
                           {&kReference, test::fp16_setting()}});
  return ways;
}

struct Cache {
  std::vector<std::byte> bytes;
  KvRows rows;

  Cache() = default;
  Cache(const KvRow& row, int64_t sequences, int64_t count)
      : bytes(static_cast<size_t>(row.cache_bytes(sequences, count))) {
    rows = {row, {bytes.data(), {sequences, KvRow::blocks(count), row.block_bytes()}}};
  }
};

struct Inputs {
  Problem problem;
  TensorBuffer<3> q;
  std::vector<float> sinks;
  Cache window, entries;
  std::vector<TokenPlace> token_places;
  std::vector<int32_t> lists;
  inputs::RotaryTable table;

  int64_t tokens() const { return q.view.extent[0]; }
  TensorBuffer<3> unwritten() const {
    return inputs::unwritten<3>(q.view.dtype, {tokens(), problem.heads, problem.head_dim});
  }
  Args args(const Tensor<3>& out) const {
    return {q.view,
            {sinks.data(), {problem.heads}},
            window.rows,
            entries.rows,
            {lists.data(), {tokens(), problem.topk}},
            inputs::view_of(token_places),
            table.table(),
            out};
  }
  // As kv_prepare and the compressor write: rounded as activations are.
  void write(const Cache& cache, int64_t sequence, int64_t row, std::vector<float> values) const {
    for (float& value : values) value = round_to(q.view.dtype, value);
    store_kv_row(cache.rows, sequence, row, values, problem.setting.numerics.kv_quant);
  }
};

inline Problem problem_of(const Case& shape, const Setting& setting) {
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
  return {setting, shape.heads,     shape.head_dim, shape.rope,      shape.window,  shape.ratio, shape.topk,
          scale,   shape.sequences, shape.ring(),   shape.entries(), shape.context, shape.tokens};
}

// A random subset of what is visible, ascending, padded with -1.
inline void draw_list(Random& random, int64_t visible, int64_t topk, std::vector<int32_t>& lists) {
  int64_t chosen = std::min(visible, topk);
  for (int64_t e = 0, left = chosen; e < visible && left > 0; ++e)
    if (random.below(visible - e) < left) lists.push_back(static_cast<int32_t>(e)), --left;
  for (; chosen < topk; ++chosen) lists.push_back(-1);
}

inline Inputs make_inputs_at(uint64_t seed, const Case& shape, Values values, const Setting& setting,
                             const std::vector<int64_t>& positions) {
  Random random(seed);
  Inputs in;
  in.problem = problem_of(shape, setting);
  in.q = sparse_attention::make_query(random, values, activation_type(setting.numerics),
                                      {shape.tokens, shape.heads, shape.head_dim});
  in.sinks = inputs::make(random, Values::kNormal, shape.heads).elements;
  in.window = Cache(row_of(in.problem), shape.sequences, in.problem.ring);
  in.entries = Cache(row_of(in.problem), shape.sequences, in.problem.entries);
  for (const Cache* const cache : {&in.window, &in.entries})
    for (int64_t s = 0; s < shape.sequences; ++s)
      for (int64_t i = 0; i < (cache == &in.window ? in.problem.ring : in.problem.entries); ++i)
        in.write(*cache, s, i, inputs::make(random, values, shape.head_dim).elements);
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const auto position = static_cast<int32_t>(positions[static_cast<size_t>(t)]);
    in.token_places.push_back({static_cast<int32_t>(t % shape.sequences), position});
    draw_list(random, visible_entries(in.problem, position), shape.topk, in.lists);
  }
  in.table = inputs::make_table(shape.context, shape.rope);
  return in;
}

inline Inputs make_inputs(uint64_t seed, const Case& shape, Values values, const Setting& setting) {
  Random random(seed + 1000);
  std::vector<int64_t> positions;
  for (int64_t t = 0; t < shape.tokens; ++t)
    positions.push_back(t == 0 ? shape.context - 1 : t == 1 ? 0 : random.below(shape.context));
  return make_inputs_at(seed, shape, values, setting, positions);
}

inline std::vector<float> result(const Implementation& row, const Inputs& in, int threads = 1) {
  const TensorBuffer<3> out = in.unwritten();
  test::run(row, in.problem, in.args(out.view), threads);
  return out.values();
}

}  // namespace fulgurite::compressed_attention
