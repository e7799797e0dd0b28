#include <algorithm>
#include <cmath>
#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::linear {
namespace {

Support takes_groups(const Problem& problem) {
  const int64_t columns = problem.weight.block.columns;
  if (kActivationGroup % columns == 0 || columns % kActivationGroup == 0) return std::nullopt;
  return Refusal{"weight in " + describe(problem.weight) +
                 ", the fp8 linear takes blocks whose columns divide 128 or are a multiple of it"};
}

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  const Support common =
      first_refusal({takes(n.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
                     takes(n.mma, {Mma::kExact})});
  if (common || !quantizes(problem)) return common;
  return first_refusal(
      {takes(n.activation_scale, {ActivationScale::kFp32, ActivationScale::kPow2}), takes_groups(problem)});
}

// One token's activations, quantized in groups of 128 columns.
struct CodedRow {
  std::vector<e4m3> codes;
  std::vector<float> scales;
};

CodedRow quantize(const Problem& problem, const ConstTensor<1>& x) {
  const ScaleRounding rounding = problem.setting.numerics.activation_scale == ActivationScale::kPow2
                                     ? ScaleRounding::kPow2
                                     : ScaleRounding::kNone;
  CodedRow row{std::vector<e4m3>(static_cast<size_t>(problem.in)), {}};
  for (int64_t first = 0; first < problem.in; first += kActivationGroup) {
    std::vector<float> group;
    for (int64_t i = first; i < std::min(problem.in, first + kActivationGroup); ++i)
      group.push_back(load(x, i));
    row.scales.push_back(quantize_e4m3(group, rounding, &row.codes[static_cast<size_t>(first)]));
  }
  return row;
}

// The fp8 linear's sum of one token and row n of the weight.
float sum_of_codes(const Problem& problem, const CodedRow& x, const PreparedMatrix& weight, int64_t n) {
  const int64_t columns = group_columns(problem.weight);
  float acc = 0.0f;
  for (int64_t first = 0; first < problem.in; first += columns) {
    double partial = 0.0;
    for (int64_t i = first; i < std::min(problem.in, first + columns); ++i)
      partial += static_cast<double>(to_float(x.codes[static_cast<size_t>(i)])) *
                 static_cast<double>(code_of(weight.as, n, i));
    const float x_scale = x.scales[static_cast<size_t>(first / kActivationGroup)];
    acc = std::fma(static_cast<float>(partial), x_scale * scale_of(weight.as, n, first), acc);
  }
  return acc;
}

float sum_of_products(const Problem& problem, const ConstTensor<1>& x, const PreparedMatrix& weight,
                      int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < problem.in; ++i)
    sum += static_cast<double>(load(x, i)) * element(weight, reading_of(problem), n, i);
  return static_cast<float>(sum);
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  for (int64_t t = 0; t < args.x.extent[0]; ++t) {
    if (quantizes(problem)) {
      const CodedRow x = quantize(problem, args.x[t]);
      for (int64_t n = 0; n < problem.out; ++n)
        store(args.y, sum_of_codes(problem, x, *args.weight, n), t, n);
    } else {
      for (int64_t n = 0; n < problem.out; ++n)
        store(args.y, sum_of_products(problem, args.x[t], *args.weight, n), t, n);
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::linear
