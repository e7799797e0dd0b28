#pragma once
// Inputs of sparse_attention in any numerics, and the implementations with numerics that they take. (Tests
// only.)

#include <cmath>
#include <limits>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cases.h"
#include "test/op_test.h"

namespace fulgurite::sparse_attention {

using inputs::TensorBuffer;
using inputs::Values;

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// An implementation in numerics that it takes.
struct Way {
  const Implementation* row;
  Setting setting;
  std::string what() const { return fmt::format("{}, {}", row->name, summary(setting.numerics)); }
};

template <class... Knob>
Setting serving_with(Knob... change) {
  Setting setting = test::serving_setting();
  (change(setting.numerics), ...);
  return setting;
}
inline const auto kTile128 = [](Numerics& n) { n.softmax_tile = SoftmaxTile::k128; };
inline const auto kRounded = [](Numerics& n) { n.softmax_denominator = SoftmaxDenominator::kRounded; };
inline const auto kBf16Cache = [](Numerics& n) { n.latent_cache = LatentCache::kBf16; };
inline const auto kFp16 = [](Numerics& n) { n.activation = Activation::kFp16; };
inline const auto kFp32Operands = [](Numerics& n) { n.qk_operands = QkOperands::kFp32; };

inline std::vector<Way> fast_ways() {
  return {{&kCpu, test::fp32_setting()},
          {&kCpuPairs, test::serving_setting()},
          {&kCpuPairs, serving_with(kTile128, kRounded)},
          {&kCpuPairs, serving_with(kBf16Cache, kFp32Operands)},
          {&kCpuPairs, serving_with(kFp16)},
          {&kCpu, serving_with(kFp16, kFp32Operands)},
          {&kCpu, serving_with(kFp16, kFp32Operands, kBf16Cache, kTile128, kRounded)}};
}
inline std::vector<Way> all_ways() {
  std::vector<Way> ways = fast_ways();
  ways.insert(ways.end(), {{&kReference, test::fp32_setting()},
                           {&kReference, test::serving_setting()},
                           {&kReference, test::fp16_setting()}});
  return ways;
}

inline DType activation_of(const Setting& setting) { return activation_type(setting.numerics); }

struct Cache {
  LatentRow row;
  std::vector<std::byte> bytes;
  View<std::byte, 3> rows;
  float* values(int64_t sequence, int64_t position) const {  // of a cache of f32
    return reinterpret_cast<float*>(rows[sequence][position].data);
  }
};

struct Inputs {
  Problem problem;
  TensorBuffer<3> q, q_rope;
  Cache cache;
  Selection selection;

  TensorBuffer<3> unwritten() const {
    return inputs::unwritten<3>(q.view.dtype, {q.view.extent[0], problem.heads, problem.latent});
  }
  Args args(const Tensor<3>& out) const {
    return {q.view, q_rope.view, {cache.row, cache.rows}, selection.selected(), selection.places(), out};
  }
  float cached(int64_t sequence, int64_t position, int64_t c) const {
    return cache.row.latent_value(cache.rows[sequence][position].data, c);
  }
  void write(int64_t sequence, int64_t position, const std::vector<float>& values) const {
    write_row(cache.row, values.data(), cache.rows[sequence][position].data);
  }
};

inline void scale(const Tensor<3>& tensor, float factor) {
  audit::for_each_index<3>(tensor.extent,
                           [&](auto... i) { store(tensor, load(tensor, i...) * factor, i...); });
}

// Beside rows of cancelling values, +-4096, a query of such values has scores whose error is larger than they
// are, and the audit says nothing: there it is N(0, 2^-24).
inline TensorBuffer<3> make_query(Random& random, Values values, DType dtype, std::array<int64_t, 3> extent) {
  const bool small = values == Values::kCancelling;
  TensorBuffer<3> q = inputs::make_tensor(random, small ? Values::kNormal : values, dtype, extent);
  if (small) scale(q.view, 0x1p-12f);
  return q;
}

inline Inputs make_inputs(uint64_t seed, const Case& shape, Values values, const Setting& setting) {
  Random random(seed);
  const DType dtype = activation_of(setting);
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.latent + shape.rope)));
  Inputs in;
  in.problem = {setting, shape.heads,     shape.latent,  shape.rope,  shape.topk,
                scale,   shape.sequences, shape.context, shape.tokens};
  in.q = make_query(random, values, dtype, {shape.tokens, shape.heads, shape.latent});
  in.q_rope = make_query(random, values, dtype, {shape.tokens, shape.heads, shape.rope});
  in.cache.row = row_of(in.problem);
  in.cache.bytes.resize(static_cast<size_t>(shape.sequences * shape.context * in.cache.row.bytes()));
  in.cache.rows = {in.cache.bytes.data(), {shape.sequences, shape.context, in.cache.row.bytes()}};
  for (int64_t s = 0; s < shape.sequences; ++s)
    for (int64_t i = 0; i < shape.context; ++i)
      in.write(s, i, inputs::make(random, values, shape.latent + shape.rope).elements);
  in.selection = make_selection(random, shape.tokens, shape.topk, shape.sequences, shape.context);
  return in;
}

inline std::vector<float> result(const Implementation& row, const Inputs& in, int threads = 1) {
  const TensorBuffer<3> out = in.unwritten();
  test::run(row, in.problem, in.args(out.view), threads);
  return out.values();
}

}  // namespace fulgurite::sparse_attention
