#include "bench/cuda/linear_probe_reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "bench/cuda/on_all_cores.h"
#include "fulgurite/ops/head_projection/head_projection.h"
#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::probe {
namespace {

Setting setting_of(const std::string& knobs, ScaleRounding rounding) {
  Setting setting{
      {DeviceKind::kCpu, Isa::kPortable},
      parse_numerics("serving" + knobs)
          .resolved(rounding == ScaleRounding::kPow2 ? ActivationScale::kPow2 : ActivationScale::kFp32,
                    IndexQuant::kFp8)};
  if (rounding == ScaleRounding::kDivided) setting.numerics.scale_form = ScaleForm::kDivided;
  return setting;
}

void run_rows(const Fp8Linear& p, const std::string& knobs, const SumOrder& order, int first, int count,
              uint16_t* y) {
  const int64_t groups = (p.in + 127) / 128, blocks = (count + 127) / 128;
  BlockScaled scaled{
      View<const e4m3, 2>(reinterpret_cast<const e4m3*>(p.weight) + int64_t{first} * p.in, {count, p.in}),
      {},
      {128, 128}};
  if (p.exponents != nullptr) {
    scaled.format = ScaleFormat::kE8M0;
    scaled.exponents = {reinterpret_cast<const e8m0*>(p.exponents) + first / 128 * groups, {blocks, groups}};
  } else {
    scaled.scale = {p.scale + first / 128 * groups, {blocks, groups}};
  }
  const PreparedMatrix weight{scaled, count, p.in};
  const linear::Problem problem{setting_of(knobs, p.rounding), p.in,     count,        format_of(weight),
                                linear::Output::kActivation,   p.tokens, std::nullopt, order};
  const View<const bf16, 2> x(reinterpret_cast<const bf16*>(p.x), {p.tokens, p.in}, {p.x_stride, 1});
  linear::kReference.run(problem, {x, &weight, View<bf16, 2>(reinterpret_cast<bf16*>(y), {p.tokens, count})},
                         {});
}

// Pieces of 128 rows, on all cores.
void run_pieces(const Fp8Linear& p, const std::string& knobs, const SumOrder& order, int first, int count,
                uint16_t* y) {
  parallel((count + 127) / 128, [&](int i) {
    const int at = 128 * i, rows = std::min(128, count - at);
    std::vector<uint16_t> piece(static_cast<size_t>(p.tokens) * rows);
    run_rows(p, knobs, order, first + at, rows, piece.data());
    for (int t = 0; t < p.tokens; ++t)
      std::copy_n(piece.data() + static_cast<size_t>(t) * rows, rows,
                  y + static_cast<size_t>(t) * count + at);
  });
}

}  // namespace

void run_linear(const Fp8Linear& p, int first, int count, uint16_t* y) {
  run_pieces(p, ",mma=hopper", {p.parts, 0, SumOrder::Merge::kAscending}, first, count, y);
}

double error_of_linear(const Fp8Linear& p, int first, int count, const uint16_t* found) {
  std::vector<uint16_t> exact(static_cast<size_t>(p.tokens) * count);
  run_pieces(p, "", {}, first, count, exact.data());
  double worst = 0.0;
  for (int t = 0; t < p.tokens; ++t) {
    double error = 0.0, norm = 0.0;
    for (int n = 0; n < count; ++n) {
      const size_t at = static_cast<size_t>(t) * count + n;
      const double a = to_float(bf16{found[at]}), b = to_float(bf16{exact[at]});
      error += (a - b) * (a - b);
      norm += b * b;
    }
    worst = std::max(worst, std::sqrt(error / norm));
  }
  return worst;
}

void run_linear(const Bf16Linear& p, float* y) {
  const auto* const rows = reinterpret_cast<const bf16*>(p.weight);
  const int pieces = std::min(p.out, 128);
  parallel(pieces, [&](int i) {
    const int first = p.out * i / pieces, count = p.out * (i + 1) / pieces - first;
    const PreparedMatrix weight{View<const bf16, 2>(rows + int64_t{first} * p.in, {count, p.in}), count,
                                p.in};
    const linear::Problem problem{setting_of(",mma=hopper", ScaleRounding::kPow2),
                                  p.in,
                                  count,
                                  format_of(weight),
                                  linear::Output::kF32,
                                  p.tokens,
                                  std::nullopt,
                                  {p.parts, p.part_columns, SumOrder::Merge::kAscending}};
    const View<const bf16, 2> x(reinterpret_cast<const bf16*>(p.x), {p.tokens, p.in}, {p.x_stride, 1});
    linear::kReference.run(problem, {x, &weight, View<float, 2>(y + first, {p.tokens, count}, {p.out, 1})},
                           {});
  });
}

void run_heads(const Heads& p, uint16_t* y) {
  const int in = p.from_rows ? p.rows : p.latent, out = p.from_rows ? p.latent : p.rows;
  parallel(p.heads, [&](int h) {
    const bf16* const weights =
        reinterpret_cast<const bf16*>(p.weight) + int64_t{h} * p.rows_per_head * p.latent;
    PreparedMatrix weight{View<const bf16, 2>(weights, {p.rows_per_head, p.latent}), p.rows_per_head,
                          p.latent};
    if (p.codes != nullptr) {
      const int64_t blocks = p.latent / 128, first = int64_t{h} * p.rows_per_head;
      BlockScaled scaled{View<const e4m3, 2>(reinterpret_cast<const e4m3*>(p.codes) + first * p.latent,
                                             {p.rows_per_head, p.latent}),
                         {},
                         {128, 128},
                         ScaleFormat::kE8M0};
      scaled.exponents = {reinterpret_cast<const e8m0*>(p.exponents) + first / 128 * blocks,
                          {p.rows_per_head / 128, blocks}};
      weight.as = scaled;
    }
    const head_projection::Problem problem{
        setting_of(",mma=hopper", ScaleRounding::kPow2),
        p.from_rows ? head_projection::Direction::kFromRows : head_projection::Direction::kToRows,
        1,
        p.rows_per_head,
        p.first_row,
        p.rows,
        p.latent,
        format_of(weight),
        p.tokens};
    const int64_t all = p.heads;
    const View<const bf16, 3> x(reinterpret_cast<const bf16*>(p.x) + int64_t{h} * in, {p.tokens, 1, in},
                                {all * in, in, 1});
    const View<bf16, 3> to(reinterpret_cast<bf16*>(y) + int64_t{h} * out, {p.tokens, 1, out},
                           {all * out, out, 1});
    head_projection::kReference.run(problem, {x, &weight, to}, {});
  });
}

}  // namespace fulgurite::probe
