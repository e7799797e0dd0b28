#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/core/tensor_core.h"
#include "fulgurite/ops/expanded_attention/expanded_attention.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::expanded_attention {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
                        takes(numerics.mla, {Mla::kExpanded}), sparse_attention::takes_mma(numerics),
                        numerics.mma == Mma::kHopper
                            ? on_tensor_cores(takes(numerics.activation, {Activation::kBf16}))
                            : Support{}});
}

// The selected rows of a token as attention reads them, [count][latent + rope].
std::vector<float> selected_values(const Problem& problem, const Args& args, int64_t t) {
  std::vector<float> values;
  for (int64_t j = 0; j < sparse_attention::selected_rows(args.selected[t]); ++j) {
    const std::byte* const row = args.cache.at(args.places(t).sequence, args.selected(t, j));
    for (int64_t c = 0; c < problem.latent; ++c) values.push_back(args.cache.row.latent_value(row, c));
    for (int64_t r = 0; r < problem.rope; ++r) values.push_back(args.cache.row.rope_value(row, r));
  }
  return values;
}

// A head's rows of kv_b as the numerics read them, [nope + value][latent].
std::vector<double> head_weights(const Problem& problem, const Args& args, int64_t h) {
  const WeightReading reading = reading_of(problem.setting.numerics);
  const int64_t rows = problem.nope + problem.value;
  std::vector<double> weights;
  for (int64_t r = h * rows; r < (h + 1) * rows; ++r)
    for (int64_t c = 0; c < problem.latent; ++c) weights.push_back(element(*args.weight, reading, r, c));
  return weights;
}

template <class T>
std::vector<MmaFactor> bf16_factors(const std::vector<T>& values) {
  return mma_factors(MmaType::kBf16, static_cast<int64_t>(values.size()),
                     [&](int64_t i) { return static_cast<float>(values[static_cast<size_t>(i)]); });
}

// One head of one token.
struct Head {
  const Problem& problem;
  std::vector<float> q;
  std::vector<double> weights;
  std::vector<float> rows;
  DType activation;
  std::span<const MmaFactor> mma_weights;  // mma = hopper: the factors of both
  std::span<const MmaFactor> mma_rows;

  int64_t count() const { return static_cast<int64_t>(rows.size()) / (problem.latent + problem.rope); }
  bool hopper() const { return problem.setting.numerics.mma == Mma::kHopper; }
  const float* row(int64_t j) const { return rows.data() + j * (problem.latent + problem.rope); }

  // One element of k or v: the row's latent part with one row of the head's part of kv_b.
  float expand(int64_t weight_row, int64_t j) const {
    const double* const w = weights.data() + weight_row * problem.latent;
    if (hopper()) {
      const auto latent = static_cast<size_t>(problem.latent);
      const auto a = std::span(mma_rows).subspan(static_cast<size_t>(row(j) - rows.data()), latent);
      const auto b = std::span(mma_weights).subspan(static_cast<size_t>(weight_row) * latent, latent);
      return round_to(activation, mma_sum(MmaType::kBf16, a, b));
    }
    double sum = 0.0;
    for (int64_t c = 0; c < problem.latent; ++c) sum += static_cast<double>(row(j)[c]) * w[c];
    return round_to(activation, static_cast<float>(sum));
  }

  // mma = hopper: one accumulation over nope, then rope.
  float mma_score(int64_t j) const {
    const int64_t nope = problem.nope, width = nope + problem.rope;
    const auto a = mma_factors(MmaType::kBf16, width, [&](int64_t i) { return q[static_cast<size_t>(i)]; });
    const auto b = mma_factors(MmaType::kBf16, width, [&](int64_t i) {
      return i < nope ? expand(i, j) : row(j)[problem.latent + i - nope];
    });
    return mma_sum(MmaType::kBf16, a, b) * problem.scale;
  }

  float score(int64_t j) const {
    if (hopper()) return mma_score(j);
    const bool narrow = problem.setting.numerics.qk_operands == QkOperands::kBf16;
    const auto operand = [&](float x) { return static_cast<double>(narrow ? round_to_bf16(x) : x); };
    double sum = 0.0;
    for (int64_t d = 0; d < problem.nope; ++d)
      sum += operand(q[static_cast<size_t>(d)]) * operand(expand(d, j));
    for (int64_t r = 0; r < problem.rope; ++r)
      sum += operand(q[static_cast<size_t>(problem.nope + r)]) * operand(row(j)[problem.latent + r]);
    return static_cast<float>(sum) * problem.scale;
  }

  std::vector<float> attend() const {
    std::vector<float> scores, values, out(static_cast<size_t>(problem.value));
    for (int64_t j = 0; j < count(); ++j) {
      scores.push_back(score(j));
      for (int64_t d = 0; d < problem.value; ++d) values.push_back(expand(problem.nope + d, j));
    }
    const auto value = [&](int64_t j, int64_t d) {
      return values[static_cast<size_t>(j * problem.value + d)];
    };
    sparse_attention::reference_attend(problem.setting.numerics, scores, value, out);
    return out;
  }
};

void run(const Problem& problem, const Args& args, const Lane&) {
  Args typed = args;  // the audit asks for what is not rounded yet: out is of any type here
  typed.out.dtype = activation_type(problem.setting.numerics);
  check(problem, typed);
  const bool hopper = problem.setting.numerics.mma == Mma::kHopper;
  for (int64_t h = 0; h < problem.heads; ++h) {
    const std::vector<double> weights = head_weights(problem, args, h);
    const std::vector<MmaFactor> mma_weights = hopper ? bf16_factors(weights) : std::vector<MmaFactor>();
    for (int64_t t = 0; t < args.q.extent[0]; ++t) {
      std::vector<float> q;
      for (int64_t d = 0; d < problem.nope + problem.rope; ++d) q.push_back(load(args.q, t, h, d));
      const std::vector<float> rows = selected_values(problem, args, t);
      const std::vector<MmaFactor> mma_rows = hopper ? bf16_factors(rows) : std::vector<MmaFactor>();
      const Head head{problem, q, weights, rows, args.q.dtype, mma_weights, mma_rows};
      const std::vector<float> out = head.attend();
      for (int64_t d = 0; d < problem.value; ++d) store(args.out, out[static_cast<size_t>(d)], t, h, d);
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::expanded_attention
