#include <algorithm>
#include <cmath>
#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/core/tensor_core.h"
#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::linear {
namespace {

Support takes_groups(const Problem& problem) {
  const int64_t columns = problem.weight.block.columns;
  if (kActivationGroup % columns == 0 || columns % kActivationGroup == 0) return std::nullopt;
  return Refusal{"weight in " + describe(problem.weight) +
                 ", the fp8 linear takes blocks whose columns divide 128 or are a multiple of it"};
}

bool hopper(const Problem& problem) { return problem.setting.numerics.mma == Mma::kHopper; }

// What tensor cores multiply here. None: an F32 weight at its exact value, whose products they do not make.
std::optional<MmaType> mma_type(const Problem& problem) {
  if (!hopper(problem)) return std::nullopt;
  if (quantizes(problem)) return MmaType::kE4m3;
  const bool narrow = problem.weight.form == MatrixForm::kBF16 || reading_of(problem) == WeightReading::kBf16;
  return narrow ? std::optional(MmaType::kBf16) : std::nullopt;
}

// Columns that no order of K divides: a promotion's, or an instruction's.
int64_t unit_columns(const Problem& problem) {
  return quantizes(problem) ? group_columns(problem.weight) : mma_columns(MmaType::kBf16);
}

Support takes_mma(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  const Support known = takes(n.mma, {Mma::kExact, Mma::kHopper});
  if (known) return known;
  if (!hopper(problem))
    return problem.order == SumOrder{} ? known : Refusal{"an order of K, takes mma = hopper"};
  if (!quantizes(problem) && n.activation != Activation::kBf16)
    return on_tensor_cores(takes(n.activation, {Activation::kBf16}));
  if (!mma_type(problem) && problem.weight.form != MatrixForm::kF32)
    return on_tensor_cores(Refusal{"weight in " + describe(problem.weight) + " read at its exact value"});
  return takes_order(problem.order, unit_columns(problem));
}

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  const Support common = first_refusal(
      {takes(n.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}), takes_mma(problem)});
  if (common || !quantizes(problem)) return common;
  return first_refusal(
      {takes(n.activation_scale, {ActivationScale::kFp32, ActivationScale::kPow2}), takes_groups(problem)});
}

// What stands on one side of the sums: values as they are multiplied, and of codes their groups' scales.
struct Row {
  std::vector<double> values;
  std::vector<float> scales{};
};

// One token's activations, quantized in groups of 128 columns.
Row quantize(const Problem& problem, const ConstTensor<1>& x) {
  const ScaleRounding rounding = activation_rounding(problem.setting.numerics);
  Row row;
  for (int64_t first = 0; first < problem.in; first += kActivationGroup) {
    std::vector<float> group;
    for (int64_t i = first; i < std::min(problem.in, first + kActivationGroup); ++i)
      group.push_back(load(x, i));
    std::vector<e4m3> codes(group.size());
    row.scales.push_back(quantize_e4m3(group, rounding, codes.data()));
    for (const e4m3 code : codes) row.values.push_back(to_float(code));
  }
  return row;
}

Row activation_row(const Problem& problem, const ConstTensor<1>& x) {
  if (quantizes(problem)) return quantize(problem, x);
  Row row;
  for (int64_t i = 0; i < problem.in; ++i) row.values.push_back(load(x, i));
  return row;
}

Row weight_row(const Problem& problem, const PreparedMatrix& weight, int64_t n) {
  const bool codes = quantizes(problem);
  Row row;
  for (int64_t i = 0; i < problem.in; ++i)
    row.values.push_back(codes ? code_of(weight.as, n, i) : element(weight, reading_of(problem), n, i));
  for (int64_t first = 0; codes && first < problem.in; first += group_columns(problem.weight))
    row.scales.push_back(scale_of(weight.as, n, first));
  return row;
}

// The fp8 linear's sum of one token and a row of the weight.
float sum_of_codes(const Problem& problem, const Row& x, const Row& weight) {
  const auto in = static_cast<size_t>(problem.in),
             columns = static_cast<size_t>(group_columns(problem.weight));
  float acc = 0.0f;
  for (size_t first = 0; first < in; first += columns) {
    double partial = 0.0;
    for (size_t i = first; i < std::min(in, first + columns); ++i) partial += x.values[i] * weight.values[i];
    const float x_scale = x.scales[first / kActivationGroup];
    acc = std::fma(static_cast<float>(partial), x_scale * weight.scales[first / columns], acc);
  }
  return acc;
}

float sum_of_products(const Row& x, const Row& weight) {
  double sum = 0.0;
  for (size_t i = 0; i < x.values.size(); ++i) sum += x.values[i] * weight.values[i];
  return static_cast<float>(sum);
}

// --- mma = hopper ---

// A Row as tensor cores multiply it.
struct MmaRow {
  std::vector<MmaFactor> factors;
  std::vector<float> scales{};
};

MmaRow mma_row(const Problem& problem, MmaType type, const ConstTensor<1>& x) {
  if (type == MmaType::kBf16) return {mma_factors(type, problem.in, [&](int64_t i) { return load(x, i); })};
  Row row = quantize(problem, x);
  const auto code = [&](int64_t i) { return static_cast<float>(row.values[static_cast<size_t>(i)]); };
  return {mma_factors(type, problem.in, code), std::move(row.scales)};
}

MmaRow mma_row(const Problem& problem, MmaType type, const PreparedMatrix& weight, int64_t n) {
  if (type == MmaType::kBf16)
    return {mma_factors(type, problem.in, [&](int64_t i) {
      return static_cast<float>(element(weight, reading_of(problem), n, i));
    })};
  MmaRow row{mma_factors(type, problem.in, [&](int64_t i) { return code_of(weight.as, n, i); })};
  for (int64_t first = 0; first < problem.in; first += group_columns(problem.weight))
    row.scales.push_back(scale_of(weight.as, n, first));
  return row;
}

// As sum_of_codes, each partial by the tensor cores, from zero.
float sum_of_codes(const Problem& problem, const MmaRow& x, const MmaRow& weight) {
  const int64_t columns = group_columns(problem.weight);
  std::vector<float> sums(static_cast<size_t>(problem.order.parts), 0.0f);
  for (int64_t first = 0; first < problem.in; first += columns) {
    const auto at = static_cast<size_t>(first),
               count = static_cast<size_t>(std::min(columns, problem.in - first));
    const float partial = mma_sum(MmaType::kE4m3, std::span(x.factors).subspan(at, count),
                                  std::span(weight.factors).subspan(at, count));
    const float scale = x.scales[static_cast<size_t>(first / kActivationGroup)] *
                        weight.scales[static_cast<size_t>(first / columns)];
    float& acc = sums[static_cast<size_t>(problem.order.part_of(first, problem.in, columns))];
    acc = std::fma(partial, scale, acc);
  }
  return problem.order.merged(sums);
}

void run_on_tensor_cores(const Problem& problem, const Args& args, MmaType type) {
  std::vector<MmaRow> x;
  for (int64_t t = 0; t < args.x.extent[0]; ++t) x.push_back(mma_row(problem, type, args.x[t]));
  for (int64_t n = 0; n < problem.out; ++n) {
    const MmaRow weight = mma_row(problem, type, *args.weight, n);
    for (int64_t t = 0; t < args.x.extent[0]; ++t) {
      const MmaRow& row = x[static_cast<size_t>(t)];
      store(args.y,
            type == MmaType::kE4m3 ? sum_of_codes(problem, row, weight)
                                   : mma_sum(type, row.factors, weight.factors, problem.order),
            t, n);
    }
  }
}

constexpr int64_t kTokens = 64;  // that meet a row of the weight while it is decoded

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  if (const auto type = mma_type(problem)) return run_on_tensor_cores(problem, args, *type);
  for (int64_t first = 0; first < args.x.extent[0]; first += kTokens) {
    std::vector<Row> x;
    for (int64_t t = first; t < std::min(args.x.extent[0], first + kTokens); ++t)
      x.push_back(activation_row(problem, args.x[t]));
    for (int64_t n = 0; n < problem.out; ++n) {
      const Row weight = weight_row(problem, *args.weight, n);
      for (size_t i = 0; i < x.size(); ++i)
        store(args.y,
              quantizes(problem) ? sum_of_codes(problem, x[i], weight) : sum_of_products(x[i], weight),
              first + static_cast<int64_t>(i), n);
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::linear
