#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "fulgurite/core/check.h"
#include "fulgurite/core/element.h"
#include "fulgurite/core/hadamard.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/ops/compressor/compressor.h"

namespace fulgurite::compressor {
namespace {

using Vector = std::vector<float>;

Support takes_ratio(const Problem& problem) {
  if (problem.ratio == 4 || problem.ratio == 128) return std::nullopt;
  return Refusal{fmt::format("ratio = {}, takes 4 or 128", problem.ratio)};
}

Support takes_rows(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  if (problem.kind == Kind::kEntries) return takes_kv_row(numerics);
  if (numerics.index_quant == IndexQuant::kFp4)  // which knows powers of two alone
    return takes(numerics.index_scale, {IndexScale::kPow2});
  return std::nullopt;
}

Support supports(const Problem& problem) {
  return first_refusal({takes_ratio(problem), linear::kReference.supports(value_linear(problem)),
                        linear::kReference.supports(gate_linear(problem)),
                        norm::kReference.supports(norm_of(problem)), takes_rows(problem)});
}

// The products of all tokens, [tokens, width].
Vector products(const linear::Problem& problem, const ConstTensor<2>& x, const PreparedMatrix* weight) {
  Vector y(static_cast<size_t>(x.extent[0] * problem.out));
  linear::kReference.run(problem, {x, weight, View<float, 2>(y.data(), {x.extent[0], problem.out})}, {});
  return y;
}

// u and g of the token, at `from` of the products, into its row of the state.
void take_token(const Problem& problem, const Args& args, int64_t t, const float* u, const float* product) {
  const TokenPlace place = args.places(t);
  const View<float, 2> row = args.state[place.sequence][place.position % state_rows(problem)];
  for (int64_t c = 0; c < width(problem); ++c) {
    row(0, c) = u[c];
    row(1, c) = product[c] + args.ape(place.position % problem.ratio, c);
    if (!args.projected) continue;
    args.projected(t, 0, c) = row(0, c);
    args.projected(t, 1, c) = row(1, c);
  }
}

struct Slot {
  float value, gate;
};

// Of channel c of the window that ends at `place`, A before B.
std::vector<Slot> slots_of(const Problem& problem, const Args& args, TokenPlace place, int64_t c) {
  std::vector<Slot> slots;
  const auto take = [&](int64_t first, int64_t column) {
    for (int64_t p = std::max(first, int64_t{0}); p < first + problem.ratio; ++p) {
      const View<float, 2> row = args.state[place.sequence][p % state_rows(problem)];
      slots.push_back({row(0, column), row(1, column)});
    }
  };
  const int64_t first = place.position + 1 - problem.ratio;
  if (halves(problem) == 2) take(first - problem.ratio, c);
  take(first, (halves(problem) - 1) * problem.dim + c);
  return slots;
}

float average(const std::vector<Slot>& slots) {
  float largest = -std::numeric_limits<float>::infinity();
  for (const Slot& slot : slots) largest = slot.gate > largest ? slot.gate : largest;
  float weights = 0.0f, sum = 0.0f;
  for (const Slot& slot : slots) {
    const float p = static_cast<float>(std::exp(static_cast<double>(slot.gate - largest)));
    weights = weights + p;
    sum = sum + p * slot.value;
  }
  return sum / weights;
}

void round_all(const Problem& problem, Vector& x) {
  for (float& value : x) value = round_to(activation_type(problem.setting.numerics), value);
}

// In fp32 and then rounded, as norm rounds.
void normalize(const Problem& problem, const Args& args, Vector& x) {
  norm::Problem norm = norm_of(problem);
  norm.setting.numerics.activation = Activation::kFp32;
  const View<float, 2> row(x.data(), {1, problem.dim});
  norm::Args norm_args;
  norm_args.x = row;
  norm_args.weight = args.norm;
  norm_args.out = row;
  norm::kReference.run(norm, norm_args, {});
  round_all(problem, x);
}

void write_key(const Problem& problem, const Args& args, int64_t sequence, int64_t entry, Vector x) {
  const Numerics& numerics = problem.setting.numerics;
  const Tensor<1> key = args.keys.keys[sequence][entry];
  if (numerics.hadamard == Hadamard::kBoth) {
    hadamard(x);
    round_all(problem, x);
  }
  if (numerics.index_quant == IndexQuant::kFp8) {
    args.keys.scales(sequence, entry) = quantize_e4m3(x, index_rounding(numerics), key.as<e4m3>().data);
    return;
  }
  if (numerics.index_quant == IndexQuant::kFp4) round_to_fp4(x);
  for (size_t i = 0; i < x.size(); ++i) store(key, x[i], i);
}

// The entry of the window that ends with token t.
void make_entry(const Problem& problem, const Args& args, int64_t t) {
  const TokenPlace place = args.places(t);
  Vector x;
  for (int64_t c = 0; c < problem.dim; ++c) x.push_back(average(slots_of(problem, args, place, c)));
  if (args.pooled) std::copy(x.begin(), x.end(), args.pooled[t].data);
  round_all(problem, x);
  normalize(problem, args, x);
  const int64_t first = place.position + 1 - problem.ratio;
  rotary::rotate(layout_in_force(problem), args.table.cosine[first].data, args.table.sine[first].data,
                 problem.rope, x.data() + problem.dim - problem.rope);
  round_all(problem, x);
  const int64_t entry = first / problem.ratio;
  if (problem.kind == Kind::kEntries)
    store_kv_row(args.entries, place.sequence, entry, x, problem.setting.numerics.kv_quant);
  else
    write_key(problem, args, place.sequence, entry, x);
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const Vector u = products(value_linear(problem), args.x, args.wkv);
  const Vector gate = products(gate_linear(problem), args.x, args.wgate);
  for (int64_t t = 0; t < args.x.extent[0]; ++t) {
    take_token(problem, args, t, u.data() + t * width(problem), gate.data() + t * width(problem));
    if (ends_window(problem, args.places(t).position)) make_entry(problem, args, t);
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::compressor
