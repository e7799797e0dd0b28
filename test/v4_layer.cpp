#include "test/v4_layer.h"

#include <cmath>
#include <cstring>
#include <thread>

#include "fulgurite/ops/rotary/rotary_table.h"

namespace fulgurite::test::v4 {
namespace {

constexpr int64_t kPool = 1 << 18;

std::vector<float> uniform(Random& random, int64_t count, double low, double high) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(random.uniform(low, high));
  return values;
}

// Rows cut from a pool of drawn elements, each from a place of its own.
template <class Element, class Draw>
std::vector<std::byte> rows_of_pool(Random& random, int64_t out, int64_t in, const Draw& draw) {
  std::vector<Element> pool(static_cast<size_t>(kPool + in));
  for (Element& element : pool) element = draw();
  std::vector<std::byte> rows(static_cast<size_t>(out * in) * sizeof(Element));
  for (int64_t row = 0; row < out; ++row)
    std::memcpy(rows.data() + static_cast<size_t>(row * in) * sizeof(Element),
                pool.data() + random.below(kPool), static_cast<size_t>(in) * sizeof(Element));
  return rows;
}

// Rows of unit root mean square, as kv_prepare and the compressor write them.
KvCache make_cache(Random& random, const Setting& setting, int64_t sequences, int64_t count) {
  KvCache cache{kv_row(setting.numerics, kHeadDim - kRope, kRope), sequences, count, {}};
  cache.bytes.resize(static_cast<size_t>(cache.row.cache_bytes(sequences, count)));
  std::vector<float> values(kHeadDim);
  for (int64_t s = 0; s < sequences; ++s)
    for (int64_t r = 0; r < count; ++r) {
      for (float& value : values)
        value = to_float(to_bf16(static_cast<float>(random.uniform(-1.7320508, 1.7320508))));
      store_kv_row(cache.rows(), s, r, values, setting.numerics.kv_quant);
    }
  return cache;
}

template <int Rank>
Field<Rank> field_of(const std::vector<float>& values, DType type, std::array<int64_t, Rank> extent) {
  Field<Rank> field(type, extent);
  const Tensor<1> flat = field.template view<1>({static_cast<int64_t>(values.size())});
  for (int64_t i = 0; i < flat.extent[0]; ++i) store(flat, values[static_cast<size_t>(i)], i);
  return field;
}

}  // namespace

template <int Rank>
std::vector<float> Field<Rank>::values() const {
  Field copy = *this;
  const Tensor<2> flat = copy.flat();
  std::vector<float> values;
  for (int64_t i = 0; i < flat.extent[0]; ++i)
    for (int64_t j = 0; j < flat.extent[1]; ++j)
      values.push_back(dtype == DType::kI32 ? static_cast<float>(flat.as<int32_t>()(i, j))
                                            : load(flat, i, j));
  return values;
}
template struct Field<2>;
template struct Field<3>;
template struct Field<4>;

Setting serving() {
  Setting setting = serving_setting();
  setting.numerics = Numerics::serving().resolved(ActivationScale::kPow2, IndexQuant::kFp4);
  return setting;
}

Matrix make_fp8(Random& random, int64_t out, int64_t in, Drawn drawn) {
  // Powers of two that leave the largest code below 448.
  const bool normal = drawn == Drawn::kNormal;
  const int exponent =
      normal ? static_cast<int>(std::ceil(std::log2(32.0 * std::sqrt(static_cast<double>(in))))) : 12;
  const double spread = normal ? 1.0 / std::sqrt(static_cast<double>(in)) : 0.1;
  Matrix matrix;
  matrix.codes = rows_of_pool<e4m3>(random, out, in, [&] {
    const double value = spread * (normal ? random.normal() : random.uniform(-1.0, 1.0));
    return to_e4m3(static_cast<float>(std::ldexp(value, exponent)));
  });
  const int64_t rows = (out + 127) / 128, columns = (in + 127) / 128;
  matrix.exponents.assign(static_cast<size_t>(rows * columns), e8m0{static_cast<uint8_t>(127 - exponent)});
  matrix.view = {BlockScaled{{reinterpret_cast<const e4m3*>(matrix.codes.data()), {out, in}},
                             {},
                             {128, 128},
                             ScaleFormat::kE8M0,
                             {matrix.exponents.data(), {rows, columns}}},
                 out, in};
  return matrix;
}

Matrix make_bf16(Random& random, int64_t out, int64_t in) {
  const double spread = 1.0 / std::sqrt(static_cast<double>(in));
  Matrix matrix;
  matrix.codes = rows_of_pool<bf16>(random, out, in,
                                    [&] { return to_bf16(static_cast<float>(spread * random.normal())); });
  matrix.view = {View<const bf16, 2>(reinterpret_cast<const bf16*>(matrix.codes.data()), {out, in}), out, in};
  return matrix;
}

Weights make_weights(const Dimensions& d, uint64_t seed, Drawn of_fp8) {
  Random random(seed);
  const int64_t flat = kStreams * d.hidden, width = d.groups * kOutputRank;
  Weights w;
  w.q_a = make_fp8(random, d.q_lora, d.hidden, of_fp8);
  w.q_b = make_fp8(random, d.heads * kHeadDim, d.q_lora, of_fp8);
  w.kv = make_fp8(random, kHeadDim, d.hidden, of_fp8);
  w.o_a = make_fp8(random, width, d.heads * kHeadDim / d.groups, of_fp8);
  w.o_b = make_fp8(random, d.hidden, width, of_fp8);
  w.index_q = make_fp8(random, kIndexHeads * kIndexDim, d.q_lora, of_fp8);
  w.index_gate = make_bf16(random, kIndexHeads, d.hidden);
  w.wkv = make_bf16(random, 2 * kHeadDim, d.hidden);
  w.wgate = make_bf16(random, 2 * kHeadDim, d.hidden);
  w.index_wkv = make_bf16(random, 2 * kIndexDim, d.hidden);
  w.index_wgate = make_bf16(random, 2 * kIndexDim, d.hidden);
  for (int64_t i = 0; i < 24 * flat; ++i)
    w.fn.push_back(static_cast<float>(random.normal() / std::sqrt(static_cast<double>(flat))));
  w.base = uniform(random, 24, -1.0, 1.0);
  w.scale = uniform(random, 3, 0.5, 1.0);
  for (auto& [norm, width_of] : {std::pair{&w.attn_norm, d.hidden},
                                 {&w.q_norm, d.q_lora},
                                 {&w.kv_norm, kHeadDim},
                                 {&w.entry_norm, kHeadDim},
                                 {&w.key_norm, kIndexDim}})
    *norm = uniform(random, width_of, -1.0, 1.0);
  w.ape = uniform(random, 128 * 2 * kHeadDim, -0.1, 0.1);
  w.key_ape = uniform(random, 4 * 2 * kIndexDim, -0.1, 0.1);
  w.sink = uniform(random, d.heads, -1.0, 1.0);
  return w;
}

void project(Side side, const Tensor<2>& x, const Matrix& weight, const Tensor<2>& y) {
  const PreparedMatrix& w = weight.view;
  const linear::Output output = y.dtype == DType::kF32 ? linear::Output::kF32 : linear::Output::kActivation;
  const auto problem_of = [&](int64_t out) {
    return linear::Problem{serving(), w.in, out, format_of(w), output, x.extent[0]};
  };
  if (side == Side::kPlanned || w.out < 256)
    return run_row(side, plan::catalog().linear, problem_of(w.out), linear::Args{x, &w, y});
  const int64_t half = w.out / 256 * 128;
  const auto part = [&](int64_t first, int64_t count) {
    const StoredMatrix rows = rows_of(StoredMatrix{w.as, w.out, w.in}, first, count);
    const PreparedMatrix some{rows.as, rows.out, rows.in};
    run_row(side, plan::catalog().linear, problem_of(count),
            linear::Args{x, &some, y.slice(1, first, count)});
  };
  std::thread other([&] { part(0, half); });
  part(half, w.out - half);
  other.join();
}

namespace {

template <class Bad>
Distance distance(const std::vector<float>& actual, const std::vector<float>& expected, const Bad& bad) {
  EXPECT_EQ(actual.size(), expected.size());
  double beyond = 0.0, difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double a = actual[i], e = expected[i], d = std::fabs(a - e);
    EXPECT_TRUE(std::isfinite(a) && std::isfinite(e)) << i;
    beyond += bad(a, e, d) ? 1.0 : 0.0;
    difference += d * d;
    norm += e * e;
  }
  return {beyond / static_cast<double>(expected.size()), std::sqrt(difference / norm)};
}

}  // namespace

Distance of_projection(const std::vector<float>& actual, const std::vector<float>& expected) {
  return distance(actual, expected,
                  [](double, double e, double d) { return d > 1e-4 + std::fabs(e) / 128.0; });
}
Distance of_output(const std::vector<float>& actual, const std::vector<float>& expected) {
  return distance(actual, expected, [](double a, double e, double d) {
    return d >= 3e-3 && d / std::max(std::fabs(a), std::fabs(e)) > 3e-3;
  });
}

Layer::Layer(const Dimensions& dimensions, const Weights& weights, int64_t ratio,
             std::vector<TokenPlace> places)
    : d_(dimensions), w_(weights), ratio_(ratio), places_(std::move(places)), setting_(serving()) {
  for (const TokenPlace& place : places_) sequences_ = std::max<int64_t>(sequences_, place.sequence + 1);
  cosine_.resize(kContext * kRope / 2), sine_.resize(cosine_.size());
  const rotary::Frequencies frequencies =
      ratio == 0 ? rotary::Frequencies{1e4, kRope, {}}
                 : rotary::Frequencies{1.6e5, kRope, rotary::Yarn{16.0, 65536.0, 32.0, 1.0}};
  rotary::fill_table(frequencies, {cosine_.data(), {kContext, kRope / 2}},
                     {sine_.data(), {kContext, kRope / 2}});
}

rotary::Table Layer::table() const {
  return {{cosine_.data(), {kContext, kRope / 2}}, {sine_.data(), {kContext, kRope / 2}}};
}

Values Layer::inputs(uint64_t seed) const {
  Random random(seed);
  const int64_t t = tokens(), hidden = d_.hidden;
  const DType type = DType::kBF16, f32 = DType::kF32;
  Values v;
  v.streams = field_of<3>(uniform(random, t * kStreams * hidden, -1.0, 1.0), type, {t, kStreams, hidden});
  v.post = v.next_post = {f32, {t, kStreams}};
  v.mix = v.next_mix = {f32, {t, kStreams, kStreams}};
  v.collapsed = v.normed = v.block = v.next_collapsed = {type, {t, hidden}};
  v.q_latent = v.q_latent_normed = {type, {t, d_.q_lora}};
  v.q_raw = v.q = v.attended = {type, {t, d_.heads, kHeadDim}};
  v.kv_raw = {type, {t, kHeadDim}};
  v.window = make_cache(random, setting_, sequences_, ring());
  v.grouped = {type, {t, d_.groups, kOutputRank}};
  v.x_out = {type, {t, kStreams, hidden}};
  if (ratio_ == 0) return v;
  v.entries = make_cache(random, setting_, sequences_, entries());
  const auto state_of = [&](int64_t dim) {
    const int64_t halves = ratio_ == 4 ? 2 : 1, rows = halves * ratio_, width = halves * dim;
    return field_of<4>(uniform(random, sequences_ * rows * 2 * width, -1.5, 1.5), f32,
                       {sequences_, rows, 2, width});
  };
  v.state = state_of(kHeadDim);
  if (ratio_ != 4) return v;
  v.index_state = state_of(kIndexDim);
  std::vector<float> keys = uniform(random, sequences_ * entries() * kIndexDim, -1.7, 1.7);
  round_to_fp4(keys);
  v.index_keys = field_of<3>(keys, type, {sequences_, entries(), kIndexDim});
  v.index_q = v.index_operand = {type, {t, kIndexHeads, kIndexDim}};
  v.index_gate = v.index_weights = {f32, {t, kIndexHeads}};
  v.selected = {DType::kI32, {t, topk()}};
  return v;
}

std::vector<Stage> Layer::stages() {
  std::vector<Stage> stages;
  add_mixing(stages);
  add_projections(stages);
  if (ratio_ != 0) add_entries(stages);
  if (ratio_ == 4) add_indexer(stages);
  add_attention(stages);
  return stages;
}

}  // namespace fulgurite::test::v4
