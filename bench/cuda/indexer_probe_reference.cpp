#include "bench/cuda/indexer_probe_reference.h"

#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"
#include "fulgurite/ops/indexer_projection/indexer_projection.h"

namespace fulgurite::probe {
namespace {

Setting setting_of(const std::string& numerics) {
  return {{DeviceKind::kCpu, Isa::kPortable},
          parse_numerics("serving" + numerics).resolved(ActivationScale::kPow2, IndexQuant::kFp8)};
}

}  // namespace

void project(const Projection& p, int parts, uint16_t* k, float* gate) {
  const auto matrix = [&](const uint16_t* data, int64_t rows) {
    return PreparedMatrix{View<const bf16, 2>(reinterpret_cast<const bf16*>(data), {rows, p.hidden}), rows,
                          p.hidden};
  };
  const bool keys = p.wk != nullptr;
  const PreparedMatrix w = matrix(p.w, p.heads), wk = matrix(keys ? p.wk : p.w, keys ? 128 : p.heads);
  const indexer_projection::Problem problem{
      setting_of(p.round_gate ? ",mma=hopper,gate=bf16" : ",mma=hopper"),
      p.hidden,
      wk.out,
      p.heads,
      format_of(wk),
      format_of(w),
      p.tokens,
      {parts, 0, SumOrder::Merge::kPairwise}};
  constexpr int kEach = 4;
  parallel((p.tokens + kEach - 1) / kEach, [&](int i) {
    const int64_t first = i * kEach, count = std::min<int64_t>(kEach, p.tokens - first);
    std::vector<bf16> unused(static_cast<size_t>(count * wk.out));
    bf16* const k_rows = keys ? reinterpret_cast<bf16*>(k) + first * 128 : unused.data();
    const View<const bf16, 2> x(reinterpret_cast<const bf16*>(p.x) + first * p.x_stride, {count, p.hidden},
                                {p.x_stride, 1});
    indexer_projection::kReference.run(problem,
                                       {x, &wk, &w, View<bf16, 2>(k_rows, {count, wk.out}),
                                        View<float, 2>(gate + first * p.heads, {count, p.heads})},
                                       {});
  });
}

void project_exactly(const Projection& p, int token, int head, double& sum) {
  sum = 0.0;
  for (int i = 0; i < p.hidden; ++i)
    sum += static_cast<double>(to_float(bf16{p.x[token * p.x_stride + i]})) *
           static_cast<double>(to_float(bf16{p.w[static_cast<int64_t>(head) * p.hidden + i]}));
}

void prepare(const Preparation& p, Prepared& result) {
  indexer_prepare::Problem problem{setting_of(p.numerics),
                                   p.heads,
                                   128,
                                   64,
                                   p.interleaved ? rotary::Layout::kInterleaved : rotary::Layout::kHalfSplit,
                                   p.sequences,
                                   p.context,
                                   true,
                                   p.rotates_last ? 64 : 0};
  const auto tokens = static_cast<size_t>(p.tokens), heads = static_cast<size_t>(p.heads);
  result = {std::vector<uint8_t>(tokens * heads * 128), std::vector<uint8_t>(tokens * 128),
            std::vector<float>(tokens * heads), std::vector<float>(tokens)};
  std::vector<e4m3> cache(static_cast<size_t>(p.sequences) * p.context * 128);
  std::vector<float> scales(static_cast<size_t>(p.sequences) * p.context);
  const View<e4m3, 3> keys(cache.data(), {p.sequences, p.context, 128});
  const View<float, 2> key_scales(scales.data(), {p.sequences, p.context});
  constexpr int64_t kEach = 4;
  parallel(static_cast<int>((p.tokens + kEach - 1) / kEach), [&](int i) {
    const int64_t t = i * kEach, n = std::min<int64_t>(kEach, p.tokens - t), h = p.heads;
    indexer_prepare::Args args;
    args.q = View<const bf16, 3>(reinterpret_cast<const bf16*>(p.q.data()) + t * h * 128, {n, h, 128});
    args.k = View<const bf16, 2>(reinterpret_cast<const bf16*>(p.k.data()) + t * 128, {n, 128});
    args.gate = {p.gate.data() + t * h, {n, h}};
    args.k_weight = {p.k_weight.data(), {128}};
    args.k_bias = {p.k_bias.data(), {128}};
    args.places = {reinterpret_cast<const TokenPlace*>(p.places.data()) + t, {n}};
    args.table = {{p.cosine.data(), {p.context, 32}}, {p.sine.data(), {p.context, 32}}};
    args.weights = {result.weights.data() + t * h, {n, h}};
    args.key_cache = {keys, key_scales};
    args.q_operand = View<e4m3, 3>(reinterpret_cast<e4m3*>(result.q_codes.data()) + t * h * 128, {n, h, 128});
    indexer_prepare::kReference.run(problem, args, {});
  });
  for (size_t t = 0; t < tokens; ++t) {
    const int64_t sequence = p.places[2 * t], position = p.places[2 * t + 1];
    for (int64_t i = 0; i < 128; ++i)
      result.k_codes[t * 128 + static_cast<size_t>(i)] = keys(sequence, position, i).bits;
    result.k_scales[t] = key_scales(sequence, position);
  }
}

uint8_t e4m3_code(float value) { return to_e4m3(value).bits; }
uint16_t bf16_code(float value) { return to_bf16(value).bits; }
float e4m3_value(uint8_t code) { return to_float(e4m3{code}); }
float e8m0_value(uint8_t code) { return to_float(e8m0{code}); }

}  // namespace fulgurite::probe
