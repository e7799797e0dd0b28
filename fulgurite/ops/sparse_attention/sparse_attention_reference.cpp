#include <cmath>
#include <limits>
#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/core/tensor_core.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::sparse_attention {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
                        takes(numerics.mla, {Mla::kAbsorbed}), takes_mma(numerics)});
}

// --- the softmax and the weighted sum of one head ---

float exponential(float x) { return static_cast<float>(std::exp(static_cast<double>(x))); }

// exp(score - largest); -infinity weighs nothing, beside a largest of -infinity too.
float weight(float score, float largest) { return score == -kInfinity ? 0.0f : exponential(score - largest); }

// A list, or a part of it: its largest score, and sums of weights relative to that.
struct Part {
  float largest = -kInfinity;
  float denominator = 0.0f;
  std::vector<float> sums;
};

struct Head {
  const Numerics& numerics;
  std::span<const float> scores;
  const std::function<float(int64_t j, int64_t c)>& value;
  int64_t columns;
};

float largest_score(std::span<const float> scores) {
  float largest = -kInfinity;
  for (const float score : scores) largest = score > largest ? score : largest;
  return largest;
}

// mma = hopper: the products of a tile, added in groups to the accumulators as they stand: those of the tiles
// before, rescaled, where tiles run on (running); zeros otherwise.
std::vector<float> tensor_core_sums(const Head& head, int64_t first, std::span<const float> p,
                                    const Part& before, float largest) {
  const auto count = static_cast<int64_t>(p.size());
  const bool running = head.numerics.softmax_merge == SoftmaxMerge::kRunning;
  const float rescale = weight(before.largest, largest);
  const auto factors =
      mma_factors(MmaType::kBf16, count, [&](int64_t j) { return p[static_cast<size_t>(j)]; });
  std::vector<float> sums;
  for (int64_t c = 0; c < head.columns; ++c) {
    const auto values =
        mma_factors(MmaType::kBf16, count, [&](int64_t j) { return head.value(first + j, c); });
    const float start = running ? before.sums[static_cast<size_t>(c)] * rescale : 0.0f;
    sums.push_back(mma_sum(MmaType::kBf16, factors, values, start));
  }
  return sums;
}

// Entries [first, first + count) of the list, weighed against `largest`; `before` are the tiles before.
Part weigh_tile(const Head& head, int64_t first, int64_t count, float largest, const Part& before) {
  std::vector<float> p(static_cast<size_t>(count));
  double denominator = 0.0;
  for (int64_t j = 0; j < count; ++j) {
    const float e = weight(head.scores[static_cast<size_t>(first + j)], largest);
    float& rounded = p[static_cast<size_t>(j)];
    rounded = head.numerics.softmax_p == SoftmaxP::kBf16 ? round_to_bf16(e) : e;
    denominator += head.numerics.softmax_denominator == SoftmaxDenominator::kRounded ? rounded : e;
  }
  Part tile{largest, static_cast<float>(denominator), {}};
  if (head.numerics.mma == Mma::kHopper) {
    tile.sums = tensor_core_sums(head, first, p, before, largest);
    return tile;
  }
  std::vector<double> sums(static_cast<size_t>(head.columns), 0.0);
  for (int64_t j = 0; j < count; ++j) {
    const double weight = p[static_cast<size_t>(j)];
    for (int64_t c = 0; c < head.columns; ++c)
      sums[static_cast<size_t>(c)] += weight * static_cast<double>(head.value(first + j, c));
  }
  for (const double sum : sums) tile.sums.push_back(static_cast<float>(sum));
  return tile;
}

// running: the tile was weighed against the new largest already, so that its own factor is 1; its sums on
// tensor cores hold those before it.
void merge(const Numerics& numerics, Part& all, const Part& tile) {
  const float largest = tile.largest > all.largest ? tile.largest : all.largest;
  const float before = weight(all.largest, largest);
  const bool same = tile.largest == largest;
  const float own = same ? 1.0f : weight(tile.largest, largest);
  all.largest = largest;
  all.denominator = std::fma(all.denominator, before, tile.denominator * own);
  if (numerics.mma == Mma::kHopper && numerics.softmax_merge == SoftmaxMerge::kRunning) {
    all.sums = tile.sums;
    return;
  }
  for (size_t c = 0; c < all.sums.size(); ++c) all.sums[c] = all.sums[c] * before + tile.sums[c] * own;
}

// --- one token ---

// The selected rows as attention reads them: [count][latent + rope].
std::vector<float> selected_values(const Problem& problem, const Args& args, int64_t t) {
  std::vector<float> values;
  for (int64_t j = 0; j < selected_rows(args.selected[t]); ++j) {
    const std::byte* const row = args.cache.at(args.places(t).sequence, args.selected(t, j));
    for (int64_t c = 0; c < problem.latent; ++c) values.push_back(args.cache.row.latent_value(row, c));
    for (int64_t r = 0; r < problem.rope; ++r) values.push_back(args.cache.row.rope_value(row, r));
  }
  return values;
}

// mma = hopper: one accumulation over latent, then rope; `keys` are the factors of all rows.
std::vector<float> mma_scores(const Problem& problem, const Args& args, int64_t t, int64_t h,
                              std::span<const MmaFactor> keys) {
  const int64_t latent = problem.latent, width = latent + problem.rope;
  const auto q = mma_factors(MmaType::kBf16, width, [&](int64_t i) {
    return round_to_bf16(i < latent ? load(args.q, t, h, i) : load(args.q_rope, t, h, i - latent));
  });
  std::vector<float> scores;
  for (; !keys.empty(); keys = keys.subspan(q.size()))
    scores.push_back(mma_sum(MmaType::kBf16, q, keys.first(q.size())) * problem.scale);
  return scores;
}

std::vector<float> scores_of(const Problem& problem, const Args& args, int64_t t, int64_t h,
                             std::span<const float> values) {
  const bool narrow = problem.setting.numerics.qk_operands == QkOperands::kBf16;
  const auto operand = [&](float x) { return static_cast<double>(narrow ? round_to_bf16(x) : x); };
  std::vector<double> q;
  for (int64_t c = 0; c < problem.latent; ++c) q.push_back(operand(load(args.q, t, h, c)));
  for (int64_t r = 0; r < problem.rope; ++r) q.push_back(operand(load(args.q_rope, t, h, r)));
  std::vector<float> scores;
  for (; !values.empty(); values = values.subspan(q.size())) {
    double sum = 0.0;
    for (size_t i = 0; i < q.size(); ++i) sum += q[i] * operand(values[i]);
    scores.push_back(static_cast<float>(sum) * problem.scale);
  }
  return scores;
}

void run(const Problem& problem, const Args& args, const Lane&) {
  Args typed = args;  // the audit asks for what is not rounded yet: out is of any type here
  typed.out.dtype = activation_type(problem.setting.numerics);
  check(problem, typed);
  const int64_t width = problem.latent + problem.rope;
  const bool hopper = problem.setting.numerics.mma == Mma::kHopper;
  std::vector<float> out(static_cast<size_t>(problem.latent));
  for (int64_t t = 0; t < args.q.extent[0]; ++t) {
    const std::vector<float> values = selected_values(problem, args, t);
    const auto value = [&](int64_t j, int64_t c) { return values[static_cast<size_t>(j * width + c)]; };
    std::vector<MmaFactor> keys;
    if (hopper)
      for (const float x : values) keys.push_back(mma_factor(MmaType::kBf16, round_to_bf16(x)));
    for (int64_t h = 0; h < problem.heads; ++h) {
      const std::vector<float> scores =
          hopper ? mma_scores(problem, args, t, h, keys) : scores_of(problem, args, t, h, values);
      reference_attend(problem.setting.numerics, scores, value, out);
      for (int64_t c = 0; c < problem.latent; ++c) store(args.out, out[static_cast<size_t>(c)], t, h, c);
    }
  }
}

}  // namespace

Support takes_mma(const Numerics& numerics) {
  if (numerics.mma != Mma::kHopper) return takes(numerics.mma, {Mma::kExact});
  return on_tensor_cores(first_refusal(
      {takes(numerics.qk_operands, {QkOperands::kBf16}), takes(numerics.softmax_p, {SoftmaxP::kBf16}),
       takes(numerics.latent_cache, {LatentCache::kBf16, LatentCache::kFp8})}));
}

void reference_attend(const Numerics& numerics, std::span<const float> scores,
                      const std::function<float(int64_t j, int64_t c)>& value, std::span<float> out,
                      float sink) {
  const Head head{numerics, scores, value, static_cast<int64_t>(out.size())};
  const auto count = static_cast<int64_t>(scores.size());
  const int64_t keys = tile_slots(numerics.softmax_tile, count);
  Part all{-kInfinity, 0.0f, std::vector<float>(out.size())};
  for (int64_t first = 0; first < count; first += keys) {
    const int64_t tile = std::min(keys, count - first);
    float largest = largest_score(scores.subspan(static_cast<size_t>(first), static_cast<size_t>(tile)));
    if (numerics.softmax_merge == SoftmaxMerge::kRunning) largest = std::max(all.largest, largest);
    merge(numerics, all, weigh_tile(head, first, tile, largest, all));
  }
  const float denominator = all.denominator + weight(sink, all.largest);
  for (size_t c = 0; c < out.size(); ++c) out[c] = all.sums[c] / denominator;
}

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::sparse_attention
