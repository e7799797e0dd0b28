#include "bench/projection_error.h"

#include <algorithm>

#include "fulgurite/core/element.h"
#include "fulgurite/cpu/parallel_for.h"

namespace fulgurite::bench {
namespace {

constexpr int64_t kQueries = 64;

struct Form {
  const char* what;
  const char* numerics;
};
constexpr Form kForms[] = {
    {"one pass, bf16", "serving"},
    {"one pass, gate rounded to bf16", "serving,gate=bf16"},
    {"two linears, wk in fp8", "serving,indexer_wk=fp8"},
    {"two linears, gate in fp8", "serving,gate_weight=fp8"},
    {"two linears, both in fp8", "serving,indexer_wk=fp8,gate_weight=fp8"},
    {"fp32", "fp32"},
};

// k [tokens, head_dim] as an activation, gate [tokens, heads].
struct Outputs {
  Tensor<2> key;
  View<float, 2> gate;
};

class Experiment {
 public:
  Experiment(const Request& request, const Lane& lane)
      : request_(request),
        s_(request.shape),
        lane_(lane),
        tokens_(s_.index_contexts.front()),
        queries_(std::min(kQueries, tokens_)),
        serving_(setting("serving")) {
    draw();
    sum_in_double();
  }

  ProjectionErrors run() {
    const Outputs exact = rounded_sums();
    const Chosen expected = choose(exact);
    ProjectionErrors errors{tokens_, queries_, problem_of_choice().topk, {}};
    for (const Form& form : kForms) {
      FormError error{form.what, form.numerics, "", {}, {}, {}, {}};
      Outputs made = project(setting(form.numerics), error.implementation);
      error.gate = deviation(made.gate, gate_sums_);
      error.key = deviation(made.key, key_sums_);
      error.by_gate = change(choose({exact.key, made.gate}), expected);
      if (made.key.dtype != DType::kBF16) made.key = as_bf16(made.key);
      error.by_both = change(choose(made), expected);
      errors.forms.push_back(error);
    }
    return errors;
  }

 private:
  Setting setting(const char* numerics) const {
    return {request_.setting.target, parse_numerics(numerics).resolved(s_.activation_scale, s_.index_quant)};
  }

  void draw() {
    Random& random = arena_.random();
    std::vector<double> values;
    const MatrixValues key = drawn_values(values, random, s_.index_dim, s_.hidden);
    key_weight_ = made_weight(encode_e4m3(key, {128, 128}, ScaleFormat::kF32, ScaleRounding::kPow2),
                              kFp8Matrix, s_.index_dim, s_.hidden);
    const MatrixValues gate = drawn_values(values, random, s_.index_heads, s_.hidden);
    gate_weight_ = made_weight(encode_bf16(gate), kBf16Matrix, s_.index_heads, s_.hidden);
    const MatrixValues stored{s_.index_heads, s_.hidden, [&](int64_t row, double* to) {
                                for (int64_t i = 0; i < s_.hidden; ++i)
                                  to[i] = exact_element(gate_weight_.matrix, row, i);
                              }};
    const ScaleRounding rounding =
        s_.activation_scale == ActivationScale::kPow2 ? ScaleRounding::kPow2 : ScaleRounding::kNone;
    gate_codes_ = made_weight(encode_e4m3(stored, {128, 128}, ScaleFormat::kF32, rounding), kFp8Matrix,
                              s_.index_heads, s_.hidden);
    x_ = drawn_activations(arena_, tokens_, s_.hidden);
    wide_x_ = arena_.unwritten<2>(DType::kF32, {tokens_, s_.hidden});
    for (int64_t t = 0; t < tokens_; ++t)
      for (int64_t i = 0; i < s_.hidden; ++i) store(wide_x_, load(x_, t, i), t, i);
    query_ = arena_.drawn<3>(DType::kBF16, {queries_, s_.index_heads, s_.index_dim});
    no_query_ = arena_.drawn<3>(DType::kBF16, {tokens_, 1, s_.index_dim});
    norm_weight_ = arena_.vector(s_.index_dim, 0.5, 1.5);
    norm_bias_ = arena_.vector(s_.index_dim, -0.1, 0.1);
    table_ = arena_.rotary_table(s_.frequencies, tokens_);
    std::vector<TokenPlace> places;
    for (int64_t t = 0; t < tokens_; ++t) places.push_back({0, static_cast<int32_t>(t)});
    places_ = arena_.places(places);
  }

  // Every output, ascending over the columns of x, beside one another: the compiler's vectors are of outputs.
  void sum_in_double() {
    const int64_t keys = s_.index_dim, outputs = keys + s_.index_heads;
    std::vector<double> weights(static_cast<size_t>(s_.hidden * outputs));  // [hidden, outputs]
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t i = 0; i < s_.hidden; ++i)
        weights[static_cast<size_t>(i * outputs + o)] = o < keys
                                                            ? exact_element(key_weight_.matrix, o, i)
                                                            : exact_element(gate_weight_.matrix, o - keys, i);
    key_sums_.resize(static_cast<size_t>(tokens_ * keys));
    gate_sums_.resize(static_cast<size_t>(tokens_ * s_.index_heads));
    cpu::parallel_for(lane_, tokens_, [&](int64_t begin, int64_t end, int) {
      std::vector<double> sums(static_cast<size_t>(outputs));
      for (int64_t t = begin; t < end; ++t) {
        std::ranges::fill(sums, 0.0);
        const float* const x = wide_x_.as<float>()[t].data;
        for (int64_t i = 0; i < s_.hidden; ++i) {
          const double value = x[i], *const column = weights.data() + i * outputs;
          for (int64_t o = 0; o < outputs; ++o) sums[static_cast<size_t>(o)] += value * column[o];
        }
        std::copy_n(sums.begin(), keys, key_sums_.begin() + t * keys);
        std::copy(sums.begin() + keys, sums.end(), gate_sums_.begin() + t * s_.index_heads);
      }
    });
  }

  Outputs new_outputs(DType type) {
    return {arena_.unwritten<2>(type, {tokens_, s_.index_dim}),
            arena_.unwritten<2>(DType::kF32, {tokens_, s_.index_heads}).as<float>()};
  }

  Outputs rounded_sums() {
    const Outputs outputs = new_outputs(DType::kBF16);
    const View<bf16, 2> key = outputs.key.as<bf16>();
    for (int64_t i = 0; i < key.size(); ++i) key.data[i] = to_bf16(key_sums_[static_cast<size_t>(i)]);
    for (int64_t i = 0; i < outputs.gate.size(); ++i)
      outputs.gate.data[i] = static_cast<float>(gate_sums_[static_cast<size_t>(i)]);
    return outputs;
  }

  Tensor<2> as_bf16(const Tensor<2>& key) {
    const Tensor<2> rounded = arena_.unwritten<2>(DType::kBF16, key.extent);
    for (int64_t t = 0; t < tokens_; ++t)
      for (int64_t d = 0; d < s_.index_dim; ++d) store(rounded, load(key, t, d), t, d);
    return rounded;
  }

  Outputs project(const Setting& setting, std::string& implementation) {
    const bool wide = setting.numerics.activation == Activation::kFp32;
    const Weight& gate = setting.numerics.gate_weight == GateWeight::kFp8 ? gate_codes_ : gate_weight_;
    const Outputs outputs = new_outputs(wide ? DType::kF32 : DType::kBF16);
    implementation =
        run_row(request_.catalog->indexer_projection,
                indexer_projection::Problem{setting, s_.hidden, s_.index_dim, s_.index_heads,
                                            format_of(key_weight_.matrix), format_of(gate.matrix), tokens_},
                indexer_projection::Args{wide ? wide_x_ : x_, &key_weight_.matrix, &gate.matrix, outputs.key,
                                         outputs.gate},
                lane_);
    return outputs;
  }

  // --- the choice ---

  void prepare(const Outputs& outputs, const Tensor<3>& query, int64_t first, const View<float, 2>& gate,
               const IndexKeys& cache, const Tensor<3>& operand, const View<float, 2>& weights) {
    const int64_t count = tokens_ - first;
    run_row(
        request_.catalog->indexer_prepare,
        indexer_prepare::Problem{serving_, query.extent[1], s_.index_dim, s_.rope, s_.index_rope, 1, tokens_},
        indexer_prepare::Args{query,
                              outputs.key.slice(0, first, count),
                              gate,
                              norm_weight_,
                              norm_bias_,
                              places_.slice(0, first, count),
                              table_,
                              weights,
                              cache,
                              operand,
                              {},
                              {}},
        lane_);
  }

  index_select::Problem problem_of_choice() const {
    return {serving_, s_.index_heads, s_.index_dim, std::min(s_.index_topk, tokens_ / 2),
            1,        tokens_,        queries_};
  }

  // Keys of all tokens first, with a head that nobody reads; then the queries.
  Chosen choose(const Outputs& outputs) {
    Arena arena;
    const DType operand = index_operand(serving_.numerics);
    IndexKeys cache;
    cache.keys = arena.unwritten<3>(operand, {1, tokens_, s_.index_dim});
    cache.scales = arena.unwritten<2>(DType::kF32, {1, tokens_}).as<float>();
    const auto floats = [&](int64_t rows, int64_t columns) {
      return arena.unwritten<2>(DType::kF32, {rows, columns}).template as<float>();
    };
    prepare(outputs, no_query_, 0, outputs.gate.slice(1, 0, 1), cache,
            arena.unwritten<3>(operand, no_query_.extent), floats(tokens_, 1));
    const Tensor<3> query = arena.unwritten<3>(operand, query_.extent);
    const View<float, 2> weights = floats(queries_, s_.index_heads);
    const int64_t first = tokens_ - queries_;
    prepare(outputs, query_, first, outputs.gate.slice(0, first, queries_), cache, query, weights);
    const index_select::Problem problem = problem_of_choice();
    const Chosen chosen{arena_.unwritten<2>(DType::kI32, {queries_, problem.topk}).as<int32_t>(),
                        arena_.unwritten<2>(DType::kF32, {queries_, tokens_}).as<float>()};
    run_row(request_.catalog->index_select, problem,
            index_select::Args{query, weights, cache, places_.slice(0, first, queries_), chosen.selected,
                               chosen.scores},
            lane_);
    return chosen;
  }

  ChoiceChange change(const Chosen& chosen, const Chosen& expected) const {
    ChoiceChange change;
    const int64_t topk = chosen.selected.extent[1];
    for (int64_t q = 0; q < queries_; ++q) {
      const int32_t *const a = chosen.selected[q].data, *const b = expected.selected[q].data;
      std::vector<int32_t> others;
      std::set_difference(a, a + topk, b, b + topk, std::back_inserter(others));
      change.sets += !others.empty();
      change.positions += static_cast<double>(others.size()) / static_cast<double>(queries_);
      const float* const scores = chosen.scores[q].data;
      std::vector<float> seen(scores, scores + tokens_ - queries_ + q + 1);
      std::ranges::sort(seen, std::greater<>());
      const auto last = static_cast<size_t>(topk - 1);
      change.ties += last + 1 < seen.size() && seen[last] == seen[last + 1];
    }
    return change;
  }

  const Request& request_;
  const Shape& s_;
  const Lane lane_;
  const int64_t tokens_, queries_;
  const Setting serving_;
  Arena arena_;
  Weight key_weight_, gate_weight_, gate_codes_;
  Tensor<2> x_, wide_x_;
  Tensor<3> query_, no_query_;
  View<float, 1> norm_weight_, norm_bias_;
  View<TokenPlace, 1> places_;
  rotary::Table table_;
  std::vector<double> key_sums_, gate_sums_;  // [tokens, head_dim], [tokens, heads]
};

}  // namespace

ProjectionErrors projection_errors(const Request& request, const Lane& lane) {
  return Experiment(request, lane).run();
}

}  // namespace fulgurite::bench
