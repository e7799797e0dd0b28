#include "fulgurite/ops/compressor/compressor_audit.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/ops/linear/linear_audit.h"
#include "fulgurite/ops/norm/norm_audit.h"

namespace fulgurite::compressor {
namespace {

using Floats = std::vector<float>;

constexpr double kUnit = 0x1p-24;       // of an fp32 rounding
constexpr double kSmallest = 0x1p-149;  // step of fp32's denormals
constexpr double kOverflow = 0x1p+126;  // a sum of larger magnitude may overflow on its way

// What is compared, piece after piece.
struct Comparison {
  Floats actual, expected;
  std::vector<double> bound;

  void add(float is, float should_be, double within) {
    actual.push_back(is);
    expected.push_back(should_be);
    bound.push_back(within);
  }
  audit::OutputReport report(const char* name) const {
    return {name, audit::compare(actual, expected, bound)};
  }
};

// --- u and g ---

void compare_products(const linear::Problem& problem, const Args& args, const PreparedMatrix& weight,
                      int64_t part, const Problem& whole, Comparison& comparison) {
  const int64_t tokens = args.x.extent[0];
  const audit::OwnedTensor<2> products(DType::kF32, {tokens, problem.out});
  linear::kReference.run(problem, {args.x, &weight, products.view()}, {});
  const std::vector<linear::SumBound> sums = linear::sum_bounds(problem, args.x, weight);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < problem.out; ++c) {
      const float ape = part == 0 ? 0.0f : args.ape(args.places(t).position % whole.ratio, c);
      linear::SumBound sum = sums[static_cast<size_t>(t * problem.out + c)];
      sum.sum += static_cast<double>(ape);
      comparison.add(args.projected(t, part, c), load(products.view(), t, c) + ape,
                     linear::rounded_bound(sum, DType::kF32));
    }
  }
}

audit::OutputReport compare_projected(const Problem& problem, const Args& args) {
  Comparison comparison;
  compare_products(value_linear(problem), args, *args.wkv, 0, problem, comparison);
  compare_products(gate_linear(problem), args, *args.wgate, 1, problem, comparison);
  return comparison.report("projected");
}

// --- the averages ---

struct Slots {
  std::vector<double> values;
  Floats gates;
};

Slots slots_of(const Problem& problem, const View<float, 4>& state, TokenPlace place, int64_t c) {
  Slots slots;
  const int64_t own = place.position + 1 - problem.ratio, all = halves(problem) * problem.ratio;
  for (int64_t p = std::max<int64_t>(place.position + 1 - all, 0); p <= place.position; ++p) {
    const int64_t column = p < own || halves(problem) == 1 ? c : problem.dim + c;
    const View<float, 2> row = state[place.sequence][p % state_rows(problem)];
    slots.values.push_back(row(0, column));
    slots.gates.push_back(row(1, column));
  }
  return slots;
}

// The average, and how far a row's may be from it; the bound is negative where nothing is said.
struct Average {
  float value;
  double bound;
};

Average average(const Slots& slots) {
  float largest = -std::numeric_limits<float>::infinity();
  for (const float gate : slots.gates) largest = gate > largest ? gate : largest;
  double weights = 0.0, sum = 0.0, magnitude = 0.0, values = 0.0;
  bool vague = false;
  for (size_t s = 0; s < slots.gates.size(); ++s) {
    const double p = static_cast<float>(std::exp(static_cast<double>(slots.gates[s] - largest)));
    vague = vague || (std::isinf(slots.values[s]) && p < 0x1p-126);  // times what may count as zero
    weights += p;
    sum += p * slots.values[s];
    if (!std::isfinite(slots.values[s])) continue;
    magnitude += p * std::abs(slots.values[s]);
    values += std::abs(slots.values[s]);
  }
  if (vague || magnitude > kOverflow) return {0.0f, -1.0};
  const double exact = sum / weights, share = magnitude / weights;
  const auto count = static_cast<double>(slots.gates.size());
  const double denormal = (values + count * (1.0 + share) + 2.0) * kSmallest;
  const double bound = linear::growth(2.0 * count + 6.0) * share + kUnit * std::abs(exact) + denormal;
  return {static_cast<float>(exact), std::isfinite(exact) ? bound : 0.0};
}

// What the state is after the call, and the averages on the way. `state` is a copy of what was before.
void compare_windows(const Problem& problem, const Args& args, const View<float, 4>& state,
                     Comparison& pooled, Comparison& rows) {
  for (int64_t t = 0; t < args.x.extent[0]; ++t) {
    const TokenPlace place = args.places(t);
    const View<float, 2> row = state[place.sequence][place.position % state_rows(problem)];
    for (int64_t part = 0; part < 2; ++part)
      std::copy_n(&args.projected(t, part, 0), width(problem), &row(part, 0));
    for (int64_t c = 0; c < (ends_window(problem, place.position) ? problem.dim : 0); ++c) {
      const Average exact = average(slots_of(problem, state, place, c));
      const float is = args.pooled(t, c);
      pooled.add(is, exact.bound < 0.0 ? is : exact.value, std::max(exact.bound, 0.0));
    }
  }
  const Floats actual = audit::values(Tensor<4>(args.state)), expected = audit::values(Tensor<4>(state));
  for (size_t i = 0; i < actual.size(); ++i) rows.add(actual[i], expected[i], 0.0);
}

// --- the rows ---

// A row as its readers read it, and the scales of codes.
struct Stored {
  Floats values, scales;
  bool operator==(const Stored&) const = default;
};

Stored read_entry(const KvRows& cache, int64_t sequence, int64_t entry) {
  Stored stored;
  for (int64_t i = 0; i < cache.row.width(); ++i) stored.values.push_back(cache.value(sequence, entry, i));
  for (int64_t g = 0; g < (cache.row.form == LatentCache::kFp8 ? cache.row.groups() : 0); ++g)
    stored.scales.push_back(to_float(e8m0{std::to_integer<uint8_t>(cache.scales_at(sequence, entry)[g])}));
  return stored;
}

Stored read_key(const IndexKeys& keys, int64_t sequence, int64_t entry) {
  const Tensor<1> row = keys.keys[sequence][entry];
  Stored stored;
  for (int64_t i = 0; i < row.extent[0]; ++i)
    stored.values.push_back(row.dtype == DType::kF8_E4M3 ? to_float(row.as<e4m3>()(i)) : load(row, i));
  if (row.dtype == DType::kF8_E4M3) stored.scales.push_back(keys.scales(sequence, entry));
  return stored;
}

Stored stored_entry(const Problem& problem, const Floats& x) {
  const KvRow row = row_of(problem);
  std::vector<std::byte> bytes(static_cast<size_t>(row.block_bytes()));
  const KvRows cache{row, View<std::byte, 3>(bytes.data(), {1, 1, row.block_bytes()})};
  store_kv_row(cache, 0, 0, x, problem.setting.numerics.kv_quant);
  return read_entry(cache, 0, 0);
}

void round_all(DType type, Floats& x) {
  for (float& value : x) value = round_to(type, value);
}

// The transform by halves: H of the whole from H of the even and of the odd strides, as the contract's
// butterflies.
void hadamard(DType type, Floats& x) {
  for (size_t stride = 1; stride < x.size(); stride *= 2) {
    for (size_t block = 0; block < x.size(); block += 2 * stride) {
      for (size_t i = block; i < block + stride; ++i) {
        const float a = x[i], b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
    }
  }
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(x.size())));
  for (float& value : x) value = value * scale;
  round_all(type, x);
}

Stored stored_key(const Problem& problem, DType type, Floats x) {
  const Numerics& numerics = problem.setting.numerics;
  if (numerics.hadamard == Hadamard::kBoth) hadamard(type, x);
  if (numerics.index_quant == IndexQuant::kFp8) {
    std::vector<e4m3> codes(x.size());
    Stored stored;
    stored.scales = {quantize_e4m3(x, index_rounding(numerics), codes.data())};
    for (const e4m3 code : codes) stored.values.push_back(to_float(code));
    return stored;
  }
  if (numerics.index_quant == IndexQuant::kFp4) round_to_fp4(x);
  round_all(index_operand(numerics), x);
  return {x, {}};
}

// The rows that the norm may make of the average of token t.
std::vector<Stored> possible_rows(const Problem& problem, const Args& args, int64_t t) {
  const DType type = args.x.dtype;
  Floats e(args.pooled[t].data, args.pooled[t].data + problem.dim);
  round_all(type, e);
  const int64_t first = args.places(t).position + 1 - problem.ratio;
  std::vector<Stored> rows;
  for (const float r : norm::possible_roots(norm_of(problem), e)) {
    Floats x;
    for (int64_t i = 0; i < problem.dim; ++i) x.push_back(args.norm(i) * (e[static_cast<size_t>(i)] * r));
    round_all(type, x);
    rotary::rotate(layout_in_force(problem), args.table.cosine[first].data, args.table.sine[first].data,
                   problem.rope, x.data() + problem.dim - problem.rope);
    round_all(type, x);
    rows.push_back(problem.kind == Kind::kEntries ? stored_entry(problem, x) : stored_key(problem, type, x));
  }
  return rows;
}

// Each row against the possible one that it is, or else the first.
void compare_rows(const Problem& problem, const Args& args, Comparison& values, Comparison& scales) {
  for (int64_t t = 0; t < args.x.extent[0]; ++t) {
    const TokenPlace place = args.places(t);
    if (!ends_window(problem, place.position)) continue;
    const int64_t entry = place.position / problem.ratio;
    const Stored actual = problem.kind == Kind::kEntries ? read_entry(args.entries, place.sequence, entry)
                                                         : read_key(args.keys, place.sequence, entry);
    const std::vector<Stored> possible = possible_rows(problem, args, t);
    const auto same = std::find(possible.begin(), possible.end(), actual);
    const Stored& expected = same == possible.end() ? possible.front() : *same;
    for (size_t i = 0; i < actual.values.size(); ++i) values.add(actual.values[i], expected.values[i], 0.0);
    for (size_t i = 0; i < actual.scales.size(); ++i) scales.add(actual.scales[i], expected.scales[i], 0.0);
  }
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  const int64_t tokens = args.x.extent[0];
  const audit::OwnedTensor<4> before = audit::copy_of(ConstTensor<4>(args.state));
  const audit::OwnedTensor<3> projected(DType::kF32, {tokens, 2, width(problem)});
  const audit::OwnedTensor<2> pooled(DType::kF32, {tokens, problem.dim});
  Args traced = args;
  if (!args.projected) traced.projected = projected.view().as<float>();
  if (!args.pooled) traced.pooled = pooled.view().as<float>();
  row.run(problem, traced, lane);

  Comparison averages, state, values, scales;
  compare_windows(problem, traced, before.view().as<float>(), averages, state);
  compare_rows(problem, traced, values, scales);
  const char* const cache = problem.kind == Kind::kEntries ? "entries" : "keys";
  audit::OpReport report;
  report.outputs = {compare_projected(problem, traced), averages.report("pooled"), state.report("state"),
                    values.report(cache), scales.report("scales")};
  return report;
}

}  // namespace fulgurite::compressor
